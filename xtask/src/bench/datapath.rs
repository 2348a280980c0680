//! `cargo xtask bench datapath`: everything that the datapath is measured by, cell after cell, each beside its peers.

mod api;
mod connections;
mod measuring;
mod programming;
mod verdicts;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::pods::{self, Place};
use super::vip;
use crate::build::Profile;

/// What to measure and how much.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these cells. All when none is named.
    cells: Vec<Cell>,
    /// Numbers of services that are programmed; other cells stop at the largest, and at 10,000.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000, 50_000])]
    services: Vec<u32>,
    /// Times that each cell is visited.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds for which a peer may program; what takes longer is stopped, and larger numbers aren't tried.
    #[arg(long, default_value_t = 120)]
    patience: u64,
    /// With the unoptimized build: quick to build, not what is deployed.
    #[arg(long)]
    dev: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Cell {
    /// Connect and one byte there and back through a VIP: `bench vip`.
    Vip,
    /// Pod to pod on one node: `bench pods`.
    Pods,
    /// Pods of two nodes, beside plain routes and the kernel's VXLAN.
    Across,
    /// Connections a second through a VIP, beside nftables and iptables.
    Connections,
    /// Writing services into the kernel, beside nftables and iptables.
    Programming,
    /// From the API's answer to the kernel.
    Api,
    /// What a policy verdict costs by its number of rules.
    Policy,
    /// What each packet program costs.
    Forwarding,
}

impl Options {
    fn wants(&self, cell: Cell) -> bool {
        self.cells.is_empty() || self.cells.contains(&cell)
    }

    /// The largest number of services.
    fn most(&self) -> u32 {
        self.services.iter().copied().max().unwrap_or(1)
    }

    fn vip(&self) -> vip::Options {
        let services = [1, 1_000, 10_000].into_iter();
        vip::Options {
            services: services.filter(|count| *count <= self.most()).collect(),
            rounds: self.rounds,
            connections: 2_000,
        }
    }

    fn pods(&self) -> pods::Options {
        pods::Options {
            rounds: self.rounds,
            trips: 20_000,
            megabytes: 1_000,
        }
    }

    fn profile(&self) -> Profile {
        Profile::of(!self.dev)
    }
}

/// Runs it and prints the tables.
pub(crate) fn run(options: &Options) -> Result<()> {
    let profile = options.profile();
    for cell in Cell::value_variants() {
        if !options.wants(*cell) {
            continue;
        }
        match cell {
            Cell::Vip => vip::run(&options.vip(), profile)?,
            Cell::Pods => pods::run(&options.pods(), Place::OneNode, profile)?,
            Cell::Across => pods::run(&options.pods(), Place::TwoNodes, profile)?,
            Cell::Connections => connections::run(options)?,
            Cell::Programming => programming::run(options)?,
            Cell::Api => api::run(options)?,
            Cell::Policy => verdicts::policy(options)?,
            Cell::Forwarding => verdicts::forwarding(options)?,
        }
        println!();
    }
    Ok(())
}
