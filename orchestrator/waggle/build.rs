//! Puts the commit that is built into `WAGGLE_COMMIT`; empty outside a git checkout.

use std::path::PathBuf;
use std::process::Command;

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(arguments)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "--short=9", "HEAD"]).unwrap_or_default();
    println!("cargo::rustc-env=WAGGLE_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // A commit moves HEAD's log; without one (a fresh clone, a worktree) HEAD itself is watched.
    for name in ["logs/HEAD", "HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            .map(PathBuf::from)
            .filter(|path| path.exists())
        {
            println!("cargo::rerun-if-changed={}", path.display());
            break;
        }
    }
}
