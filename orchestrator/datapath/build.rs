//! Builds the eBPF programs with the toolchain that `cargo xtask setup` provides and leaves their objects in OUT_DIR.
//!
//! Two toolchains will do: Debian's own rustc, which has a prebuilt core for bpfel-unknown-none, or rustup's nightly
//! with rust-src. Both link with bpf-linker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGET: &str = "bpfel-unknown-none";
const PROGRAMS: [&str; 8] = [
    "socket_lb",
    "from_pod",
    "to_pod",
    "from_uplink",
    "to_uplink",
    "edge",
    "from_tunnel",
    "to_tunnel",
];
const HINT: &str = "run: cargo xtask setup";

/// A compiler for the programs.
struct Toolchain {
    cargo: Vec<&'static str>,
    arguments: Vec<&'static str>,
    environment: Vec<(&'static str, &'static str)>,
}

fn main() {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("../../ebpf");
    for watched in [
        "programs/src",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
        "abi/src",
        "abi/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=WAGGLE_TOOLS");
    let out = PathBuf::from(variable("OUT_DIR"));
    if let Err(fault) = build(&root.join("programs"), &out) {
        println!("cargo::error=eBPF programs: {fault}");
        std::process::exit(1);
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

fn build(programs: &Path, out: &Path) -> Result<(), String> {
    let linker = bpf_linker()?;
    let toolchain = toolchain()?;
    let target_dir = out.join("ebpf");
    let mut command = Command::new(toolchain.cargo[0]);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        // Whatever the outer cargo was told about its own target must not reach the inner one.
        let outer = ["CARGO", "RUST"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        if outer && !["CARGO_HOME", "RUSTUP_HOME"].contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command.args(&toolchain.cargo[1..]).args([
        "build",
        "--release",
        "--locked",
        "--target",
        TARGET,
    ]);
    command
        .args(toolchain.arguments)
        .envs(toolchain.environment);
    command.arg("--config").arg(format!(
        "target.{TARGET}.linker={:?}",
        linker.display().to_string()
    ));
    // Flags from a user's own configuration are for other targets. The verifier wants to know functions' types before it
    // takes them as callbacks.
    command
        .env("CARGO_ENCODED_RUSTFLAGS", "-Clink-arg=--btf")
        .env("CARGO_TARGET_DIR", &target_dir)
        .current_dir(programs);
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}; {HINT}", toolchain.cargo[0]))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).replace('\n', "\ncargo::error="));
    }
    for program in PROGRAMS {
        let object = target_dir.join(TARGET).join("release").join(program);
        let copied = fs::copy(&object, out.join(program));
        copied.map_err(|error| format!("copy {}: {error}", object.display()))?;
    }
    Ok(())
}

/// In PATH, then $WAGGLE_TOOLS/bin, then <user cache>/waggle/tools/bin.
fn bpf_linker() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let cache = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let tools = env::var_os("WAGGLE_TOOLS").map(PathBuf::from);
    env::split_paths(&path)
        .chain(tools.map(|tools| tools.join("bin")))
        .chain(cache.map(|cache| cache.join("waggle/tools/bin")))
        .map(|folder| folder.join("bpf-linker"))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("bpf-linker is neither in PATH nor in the tools folder; {HINT}"))
}

fn toolchain() -> Result<Toolchain, String> {
    if Path::new("/usr/bin/cargo").is_file() && Path::new("/usr/lib/rustlib").join(TARGET).is_dir()
    {
        return Ok(Toolchain {
            cargo: vec!["/usr/bin/cargo"],
            arguments: vec![],
            environment: vec![("RUSTC", "/usr/bin/rustc"), ("RUSTC_BOOTSTRAP", "1")],
        });
    }
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output();
    let source = sysroot
        .ok()
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").is_dir());
    if source {
        return Ok(Toolchain {
            cargo: vec!["rustup", "run", "nightly", "cargo"],
            arguments: vec!["-Zbuild-std=core"],
            environment: vec![],
        });
    }
    Err(format!(
        "neither Debian's rustc with {TARGET} nor rustup's nightly with rust-src is here; {HINT}"
    ))
}
