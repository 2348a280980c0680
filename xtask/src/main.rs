//! The automation door: `cargo xtask <verb>`. Everything that a contributor or a CI runs goes through here; nothing of
//! the product lives here, and no product crate is used.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod clients;
mod debian;
mod deploy;
mod images;
mod kubectl;
mod lint;
mod oci_layout;
mod run;
mod setup;
mod simulate;
mod software;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and runs Waggle")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Finds or installs what building needs, and says what and why.
    Setup,
    /// Builds the eBPF programs and the `waggle` binary.
    Build {
        /// The optimized build, as `build-and-deploy` runs it.
        #[arg(long)]
        release: bool,
    },
    /// Assembles the sample application's images from Debian packages.
    Images {
        /// Those of other people's software instead: `examples/software`.
        #[arg(long)]
        software: bool,
        /// With the optimized build of our own binaries.
        #[arg(long)]
        release: bool,
    },
    /// Formatting, clippy, the layers of the house, licences and sources of dependencies.
    Lint,
    /// All tests: unit, BPF, clusters, kubectl and other clients.
    Test(test::Options),
    /// The planners in clusters under random faults: what must hold is checked after every step.
    Simulate {
        /// How many seeds.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// This seed alone, with its trace.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Builds everything, brings up a cluster of three nodes on this machine and deploys the sample application.
    BuildAndDeploy(deploy::Options),
    /// Removes that cluster and every trace of it.
    Destroy(deploy::DestroyOptions),
    /// Measures Waggle beside its peers.
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup => setup::build_tools(),
        Verb::Build { release } => {
            setup::build_tools()?;
            build::waggle(build::Profile::of(release)).map(drop)
        }
        Verb::Images { software, release } => {
            let layout = if software {
                software::images()?
            } else {
                images::sample_application(build::Profile::of(release))?
            };
            println!("{}", layout.display());
            Ok(())
        }
        Verb::Lint => lint::all(),
        Verb::Test(options) => test::all(&options),
        Verb::Simulate { seeds, seed } => simulate::run_seeds(seeds, seed),
        Verb::BuildAndDeploy(options) => deploy::up(&options),
        Verb::Destroy(options) => deploy::destroy(&options),
        Verb::Bench { what } => bench::run(&what),
    }
}
