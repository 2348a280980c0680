//! What the compiler does not check: formatting, clippy without warnings, the layers of the house, and which licences and
//! sources dependencies may have.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run::{cargo, quiet, root, run};
use crate::setup;

/// Everything, in order of how quickly it fails.
pub(crate) fn all() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))
        .context("formatting; mend it by: cargo fmt --all")?;
    let metadata = metadata()?;
    layers(&metadata)?;
    dependencies(&metadata)?;
    setup::build_tools()?;
    run(cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut programs = Command::new("cargo");
    programs
        .args(["fmt", "--check"])
        .current_dir(root().join("ebpf/programs"));
    run(&mut programs).context("formatting of ebpf/programs")
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<String>,
}

fn metadata() -> Result<Metadata> {
    let text = quiet(cargo().args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        "x86_64-unknown-linux-gnu",
    ]))?;
    serde_json::from_str(&text).context("cargo metadata")
}

/// Layer of each crate, and what of its own layer it may use beside everything below.
const LAYERS: &[(&str, u8, &[&str])] = &[
    ("waggle", 4, &[]),
    ("waggle-server", 3, &[]),
    // The node's DNS lives in its agent.
    ("waggle-agent", 3, &["waggle-dns"]),
    ("waggle-dns", 3, &[]),
    ("waggle-cli", 3, &[]),
    ("waggle-store", 2, &[]),
    ("waggle-runtime", 2, &[]),
    ("waggle-datapath", 2, &[]),
    ("waggle-plan", 1, &["waggle-api"]),
    ("waggle-policy", 1, &[]),
    ("waggle-api", 1, &[]),
    ("waggle-wire", 1, &[]),
    ("waggle-model", 0, &[]),
    ("waggle-abi", 0, &[]),
];

/// Crates outside the layers and the only crates of the house that they may use.
const BESIDE: &[(&str, &[&str])] = &[
    ("xtask", &[]),
    ("user-center", &[]),
    // Decisions and the store by themselves, without the server between them; the server only as a process, which nodes of
    // its own speak to.
    (
        "waggle-bench",
        &["waggle-plan", "waggle-store", "waggle-wire"],
    ),
    // The BPF tests drive the adapter itself; everything else is tested through the binary.
    (
        "waggle-tests",
        &[
            "waggle-api",
            "waggle-wire",
            "waggle-abi",
            "waggle-model",
            "waggle-policy",
            "waggle-datapath",
        ],
    ),
];

/// Dependencies point down.
fn layers(metadata: &Metadata) -> Result<()> {
    let level: BTreeMap<&str, (u8, &[&str])> = LAYERS
        .iter()
        .map(|&(name, level, peers)| (name, (level, peers)))
        .collect();
    let beside: BTreeMap<&str, &[&str]> = BESIDE.iter().copied().collect();
    let mut faults = Vec::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| metadata.workspace_members.contains(&package.id))
    {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.path.is_some())
        {
            let (name, used) = (package.name.as_str(), dependency.name.as_str());
            let allowed = match (level.get(name), beside.get(name), level.get(used)) {
                (Some((own, peers)), _, Some((other, _))) => other < own || peers.contains(&used),
                (None, Some(allowed), _) => allowed.contains(&used),
                _ => false,
            };
            if !allowed {
                faults.push(format!("{name} must not use {used}"));
            }
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("layers (see ARCHITECTURE.md):\n  {}", faults.join("\n  "))
    }
}

const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "0BSD",
    "CC0-1.0",
    "MIT-0",
    "Unlicense",
    "BSL-1.0",
    "LGPL-2.1-only",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
];

/// Crates that carry a licence file and name none: read, and found to be MIT.
const READ: &[&str] = &["rust-criu"];

/// A second TLS stack or crypto library is weight without use.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
];

fn dependencies(metadata: &Metadata) -> Result<()> {
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let shown = format!("{} {}", package.name, package.version);
        if !metadata.workspace_members.contains(&package.id)
            && package.source.as_deref()
                != Some("registry+https://github.com/rust-lang/crates.io-index")
        {
            faults.push(format!("{shown} does not come from crates.io"));
        }
        if BANNED.contains(&package.name.as_str()) {
            faults.push(format!("{shown} is banned"));
        }
        let read = package.license.is_none() && READ.contains(&package.name.as_str());
        if !read && !package.license.as_deref().is_some_and(licence_fits) {
            faults.push(format!("{shown} has licence {:?}", package.license));
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        bail!("dependencies:\n  {}", faults.join("\n  "))
    }
}

/// Every part of an AND must offer one allowed licence (SPDX expressions; `/` is an old `OR`).
fn licence_fits(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read_as_spdx_means_them() {
        for (expression, fits) in [
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-2.0-only", false),
        ] {
            assert_eq!(licence_fits(expression), fits, "{expression}");
        }
    }
}
