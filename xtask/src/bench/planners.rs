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
        "--nocapture",
    ]);
    for size in ["PACE_NODES", "PACE_APPLICATIONS"] {
        command.env(size, "1000");
    }
    run_command(&mut command)
}
