//! Kubernetes' own client libraries for the tests: Python's in a virtual environment, JavaScript's below an npm prefix. Kept in the tools folder
//! under their versions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{quiet, tools_dir};
use crate::setup;

/// Version of Python's `kubernetes`.
const PYTHON: &str = "37.0.2";
/// Version of `@kubernetes/client-node`; the newest that Node 20 loads.
const CLIENT_NODE: &str = "1.4.0";

/// Where they are, fetched when missing.
pub(crate) struct Clients {
    /// A Python that has the package `kubernetes`.
    pub(crate) python: PathBuf,
    /// The module to import.
    pub(crate) client_node: PathBuf,
}

/// Finds or fetches them.
pub(crate) fn fetch() -> Result<Clients> {
    let tools = tools_dir()?;
    let python = kept(
        &tools.join(format!("python-kubernetes-{PYTHON}")),
        |folder| {
            println!("setup: fetching Kubernetes' Python client (tests)");
            // A virtual environment can't be moved: it is made in its place.
            quiet(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
            let mut install = Command::new(folder.join("bin/python"));
            install.args(["-m", "pip", "install", "--quiet"]);
            install.arg(format!("kubernetes=={PYTHON}"));
            quiet(&mut install)
        },
    )?;
    setup::npm()?;
    let node = kept(
        &tools.join(format!("client-node-{CLIENT_NODE}")),
        |folder| {
            println!("setup: fetching Kubernetes' JavaScript client (tests)");
            fs::create_dir_all(folder)?;
            let mut install = Command::new("npm");
            install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
            install.arg(folder);
            quiet(install.arg(format!("@kubernetes/client-node@{CLIENT_NODE}")))
        },
    )?;
    Ok(Clients {
        python: python.join("bin/python"),
        client_node: node.join("node_modules/@kubernetes/client-node/dist/index.js"),
    })
}

/// A folder that was filled to the end once; what broke off is begun again.
fn kept(folder: &Path, fill: impl Fn(&Path) -> Result<String>) -> Result<PathBuf> {
    let complete = folder.join(".complete");
    if !complete.exists() {
        let _ = fs::remove_dir_all(folder);
        fill(folder)?;
        fs::write(&complete, "").with_context(|| format!("write {}", complete.display()))?;
    }
    Ok(folder.to_owned())
}
