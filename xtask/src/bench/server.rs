//! `cargo xtask bench api` and `bench scale`: a process of the optimized server, measured by a binary of `bench`, which
//! has the options.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::run::{cargo, run as run_command, target_dir};

/// What to measure and how much.
#[derive(Args)]
pub(crate) struct Options {
    /// What the measuring binary understands; `-- --help` tells.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Measures by `waggle-bench-WHAT`.
pub(crate) fn run(what: &str, options: &Options) -> Result<()> {
    let waggle = std::path::absolute(build::waggle(Profile::Release)?)?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "waggle-bench"]);
    command.args(["--bin", &format!("waggle-bench-{what}"), "--", "--waggle"]);
    command.arg(waggle).arg("--folder").arg(target_dir());
    run_command(command.args(&options.arguments))
}
