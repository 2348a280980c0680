//! What packets cost in the programs themselves, by BPF_PROG_TEST_RUN: a policy verdict by its number of rules, and each
//! program over what it meets.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::Options;
use super::measuring::{Measuring, number};
use crate::bench::statistics::Spread;

/// Rules of one policy.
const RULES: [u32; 4] = [0, 10, 1_000, 10_000];
/// Rounds of each program at a visit.
const RUNS: u32 = 25;

/// `to_pod` at each number of rules.
pub(super) fn policy(options: &Options) -> Result<()> {
    let measuring = Measuring::build(options.profile())?;
    let mut cells: BTreeMap<u32, [Vec<f64>; 3]> = BTreeMap::new();
    for _ in 0..options.rounds {
        for rules in RULES {
            let figures = measuring.visit("policy", rules)?;
            let figures = figures.first().context("no figures")?;
            let cell = cells.entry(rules).or_default();
            cell[0].push(number(figures, &["known_ns", "p50"])?);
            cell[1].push(number(figures, &["asked_ns", "p50"])?);
            cell[2].push(number(figures, &["written_ms"])?);
        }
    }
    println!(
        "a verdict of to_pod, nanoseconds a packet: median of {} visits [lowest, highest]; rules written, milliseconds",
        options.rounds
    );
    println!(
        "{:>8} {:>22} {:>22} {:>22}",
        "rules", "flow known", "rules asked", "written"
    );
    for (rules, [known, asked, written]) in &cells {
        let of = |samples: &[f64]| Spread::of_rounds(samples).context("no samples");
        println!(
            "{rules:>8} {:>22} {:>22} {:>22}",
            format!("{:.0}", of(known)?),
            format!("{:.0}", of(asked)?),
            format!("{:.2}", of(written)?)
        );
    }
    Ok(())
}

/// Each program over each kind of packet.
pub(super) fn forwarding(options: &Options) -> Result<()> {
    let measuring = Measuring::build(options.profile())?;
    let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..options.rounds {
        for (index, figures) in measuring.visit("forwarding", RUNS)?.iter().enumerate() {
            let text = |name: &str| figures[name].as_str().unwrap_or("?").to_owned();
            if rows.len() == index {
                let alone = if figures["repeat"] == 1 {
                    ", run alone"
                } else {
                    ""
                };
                let name = format!("{:<12} {}{alone}", text("program"), text("what"));
                rows.push((name, Vec::new()));
            }
            rows[index].1.push(number(figures, &["ns", "p50"])?);
        }
    }
    println!(
        "the packet programs, nanoseconds a packet: median of {} visits [lowest, highest]",
        options.rounds
    );
    for (name, samples) in &rows {
        let spread = Spread::of_rounds(samples).context("no samples")?;
        println!("{name:<60} {:>22}", format!("{spread:.0}"));
    }
    Ok(())
}
