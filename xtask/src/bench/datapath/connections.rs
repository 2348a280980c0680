//! How many connections a second one processor carries through a VIP, client, server and network together: four callers at
//! once, each with one connection after the other; on a Waggle node, and on a plain one under kube-proxy's rules. Rounds
//! are interleaved.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::measuring::number;
use crate::bench::peers::Rules;
use crate::bench::statistics::Spread;
use crate::bench::vip::rooms;

/// Numbers of services.
const SERVICES: [u32; 3] = [1, 1_000, 10_000];
const MILLISECONDS: u32 = 2_000;

/// Runs it and prints the table.
pub(super) fn run(options: &Options) -> Result<()> {
    let (waggle, plain) = rooms(options.profile())?;
    println!(
        "connections a second through a VIP: median of {} visits of {MILLISECONDS} ms [lowest, highest]",
        options.rounds
    );
    println!(
        "{:>8} {:<10} {:>26} {:>20}",
        "services", "node", "connections/s", "waggle's/its"
    );
    for count in SERVICES
        .into_iter()
        .filter(|count| *count <= options.most())
    {
        waggle.services(count)?;
        let mut cells = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            cells[0].push(rate(&waggle.rate(count, MILLISECONDS)?)?);
            for (cell, rules) in [(1, Rules::Nftables), (2, Rules::Iptables)] {
                plain.load(rules, count)?;
                cells[cell].push(rate(&plain.rate(count, MILLISECONDS)?)?);
            }
        }
        plain.unload()?;
        for (name, cell) in ["waggle", "nftables", "iptables"].iter().zip(&cells) {
            let ratios: Vec<f64> = cells[0].iter().zip(cell).map(|(w, own)| w / own).collect();
            let of = |samples: &[f64]| Spread::of_rounds(samples).context("no samples");
            let (rate, ratio) = (of(cell)?, of(&ratios)?);
            println!(
                "{count:>8} {name:<10} {:>26} {:>20}",
                format!("{rate:.0}"),
                format!("{ratio:.2}")
            );
        }
    }
    Ok(())
}

fn rate(report: &str) -> Result<f64> {
    let report: Value =
        serde_json::from_str(report).with_context(|| format!("no report: {report}"))?;
    number(&report, &["connections_per_second"])
}
