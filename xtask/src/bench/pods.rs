//! Pod to pod on one node: one byte there and back over one connection, and bulk, between two pods of a Waggle node with
//! policy on, over a bare veth pair, and over a bridge with connection tracking. Rounds are interleaved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::cluster::{BenchCluster, wait};
use super::pairs::{Joint, Pair};
use super::statistics::Spread;
use crate::build::{self, Profile};
use crate::images;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Times that each cell is visited.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Round trips at a visit.
    #[arg(long, default_value_t = 20_000)]
    trips: u32,
    /// Megabytes at a visit.
    #[arg(long, default_value_t = 1_000)]
    megabytes: u32,
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
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = build::waggle(Profile::Release)?;
    let layout = images::sample_application(Profile::Release)?;
    let client = Profile::Release.folder().join("shop-client");
    let veth = Pair::create(Joint::Veth, client.clone())?;
    let bridge = Pair::create(Joint::Bridge, client)?;
    let waggle = WagglePair::create(binary, &layout)?;
    let mut cells = [Cell::default(), Cell::default(), Cell::default()];
    for _ in 0..options.rounds {
        cells[0].add(&waggle.pingpong(options.trips, options.megabytes)?)?;
        cells[1].add(&veth.pingpong(options.trips, options.megabytes)?)?;
        cells[2].add(&bridge.pingpong(options.trips, options.megabytes)?)?;
    }
    print(options, &cells)
}

fn print(options: &Options, cells: &[Cell; 3]) -> Result<()> {
    println!(
        "pod to pod on one node, client and server on one processor: median of {} visits [lowest, highest], {} round trips and {} MB a visit",
        options.rounds, options.trips, options.megabytes
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
    for (name, cell) in ["waggle", "bare veth", "bridge + conntrack"]
        .iter()
        .zip(cells)
    {
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

/// Two pods of a node.
struct WagglePair {
    cluster: BenchCluster,
    target: String,
}

const SERVER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: bench}
spec:
  containers: [{name: c, image: "shop/client:1.0", command: [shop-client, echo, --port, "7001"]}]
"#;

impl WagglePair {
    fn create(binary: PathBuf, layout: &Path) -> Result<Self> {
        let cluster = BenchCluster::up(binary, layout)?;
        let target = format!("{}:7001", cluster.with_client(SERVER)?);
        let pair = Self { cluster, target };
        wait("the echo answers", Duration::from_secs(10), || {
            pair.pingpong(10, 1)
        })?;
        Ok(pair)
    }

    fn pingpong(&self, rounds: u32, megabytes: u32) -> Result<String> {
        self.cluster.run_client(&[
            "pingpong",
            "--target",
            &self.target,
            "--rounds",
            &rounds.to_string(),
            "--megabytes",
            &megabytes.to_string(),
        ])
    }
}
