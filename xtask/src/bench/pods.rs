//! Pod to pod: one byte there and back over one connection, and bulk. Between two pods of a Waggle node with policy on,
//! over a bare veth pair, and over a bridge with connection tracking; or between pods of two Waggle nodes, of two hosts
//! with routes, and of two hosts with a VXLAN. Rounds are interleaved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::cluster::{BenchCluster, Room, Serving, wait};
use super::pairs::{Joint, Pair};
use super::statistics::Spread;
use crate::build::{self, Profile};
use crate::images;
use crate::run::quiet;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Times that each cell is visited.
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: u32,
    /// Round trips at a visit.
    #[arg(long, default_value_t = 20_000)]
    pub(crate) trips: u32,
    /// Megabytes at a visit.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) megabytes: u32,
}

/// Where the pods are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Both on one node.
    OneNode,
    /// One on each of two.
    TwoNodes,
}

impl Place {
    fn words(self) -> &'static str {
        match self {
            Self::OneNode => "on one node",
            Self::TwoNodes => "of two nodes",
        }
    }

    fn nodes(self) -> u32 {
        match self {
            Self::OneNode => 1,
            Self::TwoNodes => 2,
        }
    }

    fn peers(self) -> [(&'static str, Joint); 2] {
        match self {
            Self::OneNode => [
                ("bare veth", Joint::Veth),
                ("bridge + conntrack", Joint::Bridge),
            ],
            Self::TwoNodes => [
                ("plain routes", Joint::Routes),
                ("kernel VXLAN", Joint::Vxlan),
            ],
        }
    }
}

/// Samples of one cell, one for each visit.
#[derive(Default)]
struct Cell {
    microseconds: Vec<f64>,
    rate: Vec<f64>,
}

impl Cell {
    fn add(&mut self, report: &str) -> Result<()> {
        let report: Value =
            serde_json::from_str(report).with_context(|| format!("no report: {report}"))?;
        let number = |value: &Value| {
            value
                .as_f64()
                .with_context(|| format!("incomplete: {report}"))
        };
        self.microseconds
            .push(number(&report["round_trip_us"]["p50"])?);
        self.rate.push(number(&report["megabytes_per_second"])?);
        Ok(())
    }
}

/// Runs it and prints the table.
pub(crate) fn run(options: &Options, place: Place, profile: Profile) -> Result<()> {
    let binary = build::waggle(profile)?;
    let layout = images::sample_application(profile)?;
    let client = profile.folder().join("shop-client");
    let [one, other] = place.peers();
    let pairs = [
        Pair::create(one.1, client.clone())?,
        Pair::create(other.1, client.clone())?,
    ];
    let waggle = WagglePair::create(binary, &layout, client, place)?;
    let mut cells = [Cell::default(), Cell::default(), Cell::default()];
    for _ in 0..options.rounds {
        cells[0].add(&waggle.pingpong(options.trips, options.megabytes)?)?;
        for (cell, pair) in cells[1..].iter_mut().zip(&pairs) {
            cell.add(&pair.pingpong(options.trips, options.megabytes)?)?;
        }
    }
    print(options, place, &cells)
}

fn print(options: &Options, place: Place, cells: &[Cell; 3]) -> Result<()> {
    println!(
        "pod to pod {}, client and server on one processor: median of {} visits [lowest, highest], {} round trips and {} MB a visit",
        place.words(),
        options.rounds,
        options.trips,
        options.megabytes
    );
    println!(
        "{:<20} {:>24} {:>20} {:>26} {:>20}",
        "joined by", "round trip, us", "waggle's/it", "MB/s", "waggle's/it"
    );
    let ratio = |own: &[f64], other: &[f64]| -> Vec<f64> {
        own.iter()
            .zip(other)
            .map(|(own, other)| own / other)
            .collect()
    };
    let names = ["waggle"]
        .into_iter()
        .chain(place.peers().map(|peer| peer.0));
    for (name, cell) in names.zip(cells) {
        let of = |samples: &[f64]| Spread::of_rounds(samples).context("no samples");
        let time = of(&cell.microseconds)?;
        let times = of(&ratio(&cells[0].microseconds, &cell.microseconds))?;
        let (rate, rates) = (of(&cell.rate)?, of(&ratio(&cells[0].rate, &cell.rate))?);
        println!(
            "{name:<20} {:>24} {:>20} {:>26} {:>20}",
            format!("{time:.2}"),
            format!("{times:.2}"),
            format!("{rate:.0}"),
            format!("{rates:.2}")
        );
    }
    Ok(())
}

/// Two pods, the server on the last node.
struct WagglePair {
    program: PathBuf,
    client: Room,
    target: String,
    _serving: Serving,
    _cluster: BenchCluster,
}

impl WagglePair {
    fn create(binary: PathBuf, layout: &Path, program: PathBuf, place: Place) -> Result<Self> {
        let cluster = BenchCluster::up(binary, layout, place.nodes())?;
        let client = cluster.room("client", 1)?;
        let room = cluster.room("server", place.nodes())?;
        let pair = Self {
            _serving: Serving::start(&mut room.command(&program, &["echo", "--port", "7001"]))?,
            program,
            client,
            target: format!("{}:7001", room.address),
            _cluster: cluster,
        };
        wait("the echo answers", Duration::from_secs(10), || {
            pair.pingpong(10, 1)
        })?;
        Ok(pair)
    }

    fn pingpong(&self, rounds: u32, megabytes: u32) -> Result<String> {
        let arguments = [
            "pingpong",
            "--target",
            &self.target,
            "--rounds",
            &rounds.to_string(),
            "--megabytes",
            &megabytes.to_string(),
        ];
        quiet(&mut self.client.command(&self.program, &arguments))
    }
}
