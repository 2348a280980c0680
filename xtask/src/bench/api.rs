//! `cargo xtask bench api`: the API of the optimized binary under load, beside a single etcd on the same disk.

use anyhow::Result;
use clap::Args;

use crate::build::{self, Profile};
use crate::run::{cargo, run as run_command, target_dir};

/// What to measure and how much.
#[derive(Args)]
pub(crate) struct Options {
    /// What `waggle-bench-api` understands: parts (creates, list, watch, memory) and their options; `-- --help` tells.
    #[arg(trailing_var_arg = true)]
    arguments: Vec<String>,
}

/// Measures it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = std::path::absolute(build::waggle(Profile::Release)?)?;
    let mut command = cargo();
    command.args(["run", "--release", "--locked", "-p", "waggle-bench"]);
    command.args(["--bin", "waggle-bench-api", "--", "--waggle"]);
    command.arg(binary).arg("--folder").arg(target_dir());
    run_command(command.args(&options.arguments))
}
