//! `cargo xtask bench scheduler`: the scheduler on the cases of Kubernetes' scheduler_perf, beside its floors.

use anyhow::Result;
use clap::Args;

use crate::run::{cargo, run as run_command};

/// What to measure and how much.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these cases. All when none is named.
    cases: Vec<String>,
    /// Pods that wait together.
    #[arg(long, default_value_t = 1000)]
    batch: usize,
    /// Divides the numbers of nodes and pods.
    #[arg(long, default_value_t = 1)]
    scale: usize,
}

/// Measures it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = cargo();
    command.args(["run", "--release", "-p", "waggle-bench", "--"]);
    command.args(["--batch", &options.batch.to_string()]);
    command.args(["--scale", &options.scale.to_string()]);
    run_command(command.args(&options.cases))
}
