//! `cargo xtask bench scale`: the optimized server with thousands of nodes that hold real sessions.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::run::{cargo, run as run_command, target_dir};

/// What to measure and how much.
#[derive(Args)]
pub(crate) struct Options {
    /// Nodes.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Pods in Deployments of twenty, each behind a Service.
    #[arg(long, default_value_t = 100_000)]
    pods: usize,
    /// Pods of the Deployment that is made, rolled and deleted.
    #[arg(long, default_value_t = 10_000)]
    large: usize,
}

/// Measures it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = std::path::absolute(build::waggle(Profile::Release)?)?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "waggle-bench"]);
    command.args(["--bin", "waggle-bench-scale", "--", "--waggle"]);
    command.arg(binary).arg("--folder").arg(target_dir());
    for (name, number) in [
        ("--nodes", options.nodes),
        ("--pods", options.pods),
        ("--large", options.large),
    ] {
        command.args([name, &number.to_string()]);
    }
    run_command(&mut command)
}
