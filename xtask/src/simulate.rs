//! The planners in a cluster under random faults, many seeds of it. The simulation is a test of `plan`; this runs it
//! optimized and for longer.

use anyhow::Result;

use crate::run::{cargo, run};

/// Runs `seeds` seeds, or `seed` alone; a failing one prints its trace.
pub(crate) fn run_seeds(seeds: u64, seed: Option<u64>) -> Result<()> {
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "-p",
        "waggle-plan",
        "--lib",
        "simulation::invariants",
        "--",
        "--nocapture",
    ]);
    match seed {
        Some(seed) => command.env("SIMULATION_SEED", seed.to_string()),
        None => command.env("SIMULATION_SEEDS", seeds.to_string()),
    };
    run(&mut command)
}
