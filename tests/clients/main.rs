//! Clients that others wrote, against a cluster of one node: helm, kube-rs, and Kubernetes' libraries for Python and JavaScript, each
//! with a program beside this file. kubectl has a suite of its own.
#![forbid(unsafe_code)]

mod helm;
mod kube_rs;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Suite, run};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    match Cluster::up("wgt-clients", 1) {
        Ok(cluster) => Suite::new(cluster)
            .test("helm_4", helm::installs_upgrades_and_rolls_back)
            .test("helm_4_hooks_that_fail", helm::hooks_that_fail)
            .test("kube_rs", kube_rs::client_and_runtime)
            .test("python", |cluster| {
                library(cluster, &setting("WAGGLE_PYTHON")?, "objects.py", &[])
            })
            .test("javascript", |cluster| {
                let module = setting("WAGGLE_CLIENT_NODE")?;
                library(cluster, "node", "objects.mjs", &[&module])
            })
            .run(),
        Err(error) => {
            eprintln!("no cluster to test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(variable: &str) -> Result<String> {
    std::env::var(variable).with_context(|| format!("{variable} is not set"))
}

/// A program that ends with 0 and says `done` when it has found everything as it should be.
fn library(cluster: &Cluster, interpreter: &str, program: &str, more: &[&str]) -> Result<()> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("clients")
        .join(program);
    let mut command = Command::new(interpreter);
    command
        .arg(program)
        .arg(cluster.folder().join("kubeconfig"))
        .args(more);
    let said = run(&mut command, Duration::from_secs(150))?.ok()?;
    ensure!(said.lines().last() == Some("done"), "{said}");
    Ok(())
}
