//! The VIP benchmark: in one client process, connect + one byte there and back + close, direct and through a VIP in
//! turn; on a Waggle node, and on a plain node under kube-proxy's rules. Rounds over all cells are interleaved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::cluster::{BenchCluster, Room, Serving, wait};
use super::peers::{PlainNode, Rules, vip};
use super::statistics::Spread;
use crate::build::{self, Profile};
use crate::images;
use crate::run::quiet;

/// Services up to which nftables is measured: `nft -f` takes a minute for these, and the square of that for more.
const NFTABLES_LIMIT: u32 = 10_000;

/// From here on a Service of Waggle's has this many ports: it is service ports that are counted, and so many Services take an
/// API long to make.
const MANY: u32 = 10_000;
const PORTS: u32 = 100;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Numbers of services.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000])]
    pub(crate) services: Vec<u32>,
    /// Times that each cell is visited.
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Connections each way at a visit.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) connections: u32,
}

/// Samples of one cell, one for each visit: medians in microseconds.
#[derive(Default)]
struct Cell {
    direct: Vec<f64>,
    vip: Vec<f64>,
    difference: Vec<f64>,
}

impl Cell {
    fn add(&mut self, report: &str) -> Result<()> {
        let report: Value =
            serde_json::from_str(report).with_context(|| format!("no report: {report}"))?;
        let median = |what: &str| {
            report[what]["p50"]
                .as_f64()
                .with_context(|| format!("no {what}: {report}"))
        };
        self.direct.push(median("direct_us")?);
        self.vip.push(median("vip_us")?);
        self.difference.push(median("difference_us")?);
        Ok(())
    }
}

/// Runs it and prints the table.
pub(crate) fn run(options: &Options, profile: Profile) -> Result<()> {
    let (waggle, plain) = rooms(profile)?;
    println!(
        "connect + 1 byte + close, microseconds: median of {} visits [lowest, highest], {} connections each way a visit",
        options.rounds, options.connections
    );
    println!(
        "{:>8} {:<10} {:>24} {:>24} {:>24} {:>20}",
        "services", "node", "direct", "VIP", "VIP - direct", "VIP/waggle's"
    );
    for &count in &options.services {
        waggle.services(count)?;
        let mut cells = [Cell::default(), Cell::default(), Cell::default()];
        for _ in 0..options.rounds {
            cells[0].add(&waggle.race(count, options.connections)?)?;
            for (cell, rules) in [(1, Rules::Nftables), (2, Rules::Iptables)] {
                if rules == Rules::Nftables && count > NFTABLES_LIMIT {
                    continue;
                }
                plain.load(rules, count)?;
                cells[cell]
                    .add(&plain.race(&format!("{}:80", vip(count - 1)), options.connections)?)?;
            }
        }
        plain.unload()?;
        print(count, &cells)?;
    }
    Ok(())
}

/// A Waggle node and a plain one.
pub(crate) fn rooms(profile: Profile) -> Result<(WaggleNode, PlainNode)> {
    let binary = build::waggle(profile)?;
    let layout = images::sample_application(profile)?;
    let client = profile.folder().join("shop-client");
    let plain = PlainNode::create(client.clone())?;
    Ok((WaggleNode::create(binary, &layout, client)?, plain))
}

fn print(count: u32, cells: &[Cell; 3]) -> Result<()> {
    for (name, cell) in ["waggle", "nftables", "iptables"].iter().zip(cells) {
        if cell.vip.is_empty() {
            println!("{count:>8} {name:<10} {:>24}", "takes too long to load");
            continue;
        }
        let of = |samples: &[f64]| Spread::of_rounds(samples).context("no samples");
        let ratios: Vec<f64> = cell
            .vip
            .iter()
            .zip(&cells[0].vip)
            .map(|(own, waggle)| own / waggle)
            .collect();
        let (direct, vip, difference, ratio) = (
            of(&cell.direct)?,
            of(&cell.vip)?,
            of(&cell.difference)?,
            of(&ratios)?,
        );
        let cells = [
            format!("{direct:.1}"),
            format!("{vip:.1}"),
            format!("{difference:.2}"),
            format!("{ratio:.2}"),
        ];
        println!(
            "{count:>8} {name:<10} {:>24} {:>24} {:>24} {:>20}",
            cells[0], cells[1], cells[2], cells[3]
        );
    }
    Ok(())
}

fn ports_of_each(count: u32) -> u32 {
    if count < MANY { 1 } else { PORTS }
}

/// The last service port of Waggle's node.
fn last_of(count: u32) -> String {
    let each = ports_of_each(count);
    format!("{}:{}", vip(count / each - 1), 79 + each)
}

/// A node with a server and a client, each in its pod, and N services of which the last is measured.
pub(crate) struct WaggleNode {
    program: PathBuf,
    client: Room,
    server: String,
    _serving: Serving,
    cluster: BenchCluster,
}

impl WaggleNode {
    fn create(binary: PathBuf, layout: &Path, program: PathBuf) -> Result<Self> {
        let cluster = BenchCluster::up(binary, layout, 1)?;
        let (client, room) = (cluster.room("client", 1)?, cluster.room("server", 1)?);
        let serving = Serving::start(&mut room.command(&program, &["answer", "--port", "7000"]))?;
        Ok(Self {
            program,
            client,
            server: format!("{}:7000", room.address),
            _serving: serving,
            cluster,
        })
    }

    fn run_client(&self, arguments: &[&str]) -> Result<String> {
        quiet(&mut self.client.command(&self.program, arguments))
    }

    /// Makes it `count` services and waits until the last one answers.
    pub(crate) fn services(&self, count: u32) -> Result<()> {
        let each = ports_of_each(count);
        let port = |number| format!("{{name: p{number}, port: {number}, targetPort: 7000}}");
        let ports: Vec<String> = (80..80 + each).map(port).collect();
        let ports = ports.join(", ");
        let manifest = |index| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{index}, namespace: bench}}\nspec: {{clusterIP: {}, \
                 selector: {{app: server}}, ports: [{ports}]}}\n",
                vip(index)
            )
        };
        let services = (0..count / each).map(manifest);
        self.cluster
            .apply(&services.collect::<Vec<_>>().join("---\n"))?;
        wait("the last service answers", Duration::from_secs(300), || {
            self.race(count, 10)
        })
        .map(drop)
    }

    /// Connections in a second to the last of `count` services.
    pub(crate) fn rate(&self, count: u32, milliseconds: u32) -> Result<String> {
        let vip = last_of(count);
        let milliseconds = milliseconds.to_string();
        self.run_client(&["rate", "--target", &vip, "--milliseconds", &milliseconds])
    }

    fn race(&self, count: u32, connections: u32) -> Result<String> {
        let vip = last_of(count);
        let connections = connections.to_string();
        self.run_client(&[
            "race",
            "--direct",
            &self.server,
            "--vip",
            &vip,
            "--rounds",
            &connections,
        ])
    }
}
