//! `cargo xtask bench planners`: what each planner costs. It is a test of `plan`, which this runs optimized.

use anyhow::Result;

use crate::run::{cargo, run as run_command};

/// Measures it.
pub(crate) fn run() -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "-p",
        "waggle-plan",
        "--lib",
        "pace::",
        "--",
        "--ignored",
        "--nocapture",
    ]);
    run_command(&mut command)
}
