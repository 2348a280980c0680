//! Programming N services: all of them into a node that has none, and one more; by Waggle's agent code, `nft -f` and
//! `iptables-legacy-restore`. Rounds are interleaved. Waggle's times are from a decoded network state to the rows in the
//! kernel's maps, the peers' are of their commands, which begin with rules as text.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Options;
use super::measuring::{Measuring, number};
use crate::bench::peers::{PlainNode, Rules};
use crate::bench::statistics::Spread;
use crate::build;

/// Services added one by one at a visit to a peer.
const MORE: u32 = 3;

/// Samples: all of them in milliseconds, one more in microseconds.
#[derive(Default)]
struct Cell {
    cold: Vec<f64>,
    more: Vec<f64>,
}

const PEERS: [(&str, Rules); 2] = [("nftables", Rules::Nftables), ("iptables", Rules::Iptables)];

/// Runs it and prints the table.
pub(super) fn run(options: &Options) -> Result<()> {
    let measuring = Measuring::build(options.profile())?;
    build::package("user-center", options.profile())?;
    let plain = PlainNode::create(options.profile().folder().join("shop-client"))?;
    let patience = Duration::from_secs(options.patience);
    println!(
        "programming services: median of {} visits [lowest, highest]",
        options.rounds
    );
    println!(
        "{:>8} {:<10} {:>30} {:>22} {:>34} {:>30}",
        "services", "by", "all of them, ms", "its/waggle's", "one more, us", "its/waggle's"
    );
    let mut gave_up = [None; 2];
    for &count in &options.services {
        let mut cells = [Cell::default(), Cell::default(), Cell::default()];
        let mut notes = Notes::default();
        for _ in 0..options.rounds {
            notes.add(&mut cells[0], &measuring, count)?;
            for (index, (_, rules)) in PEERS.into_iter().enumerate() {
                if gave_up[index].is_none()
                    && !visit(&plain, &mut cells[index + 1], rules, count, patience)?
                {
                    gave_up[index] = Some(count);
                }
            }
        }
        plain.unload()?;
        print(count, &cells, &gave_up, patience)?;
        notes.print(count)?;
    }
    Ok(())
}

/// What Waggle's thread ran of the whole, and what an agent that starts anew needs, milliseconds; its other changes,
/// microseconds.
#[derive(Default)]
struct Notes {
    processor: Vec<f64>,
    moved: Vec<f64>,
    removed: Vec<f64>,
    compared: Vec<f64>,
}

impl Notes {
    fn add(&mut self, cell: &mut Cell, measuring: &Measuring, count: u32) -> Result<()> {
        let figures = measuring.visit("programming", count)?;
        let figures = figures.first().context("no figures")?;
        let median = |what: &str| number(figures, &[what, "p50"]);
        cell.cold.push(number(figures, &["cold_ms"])?);
        cell.more.push(median("added_us")?);
        self.processor
            .push(number(figures, &["cold_processor_ms"])?);
        self.moved.push(median("moved_us")?);
        self.removed.push(median("removed_us")?);
        self.compared
            .push(number(figures, &["restart_compared_ms"])?);
        Ok(())
    }

    fn print(&self, count: u32) -> Result<()> {
        let of = |samples: &[f64]| Spread::of_rounds(samples).context("no samples");
        println!(
            "{count:>8} waggle: all of them {:.1} ms of processor time; another backend {:.0} us, one service less {:.0} us; an agent that starts compares in {:.1} ms",
            of(&self.processor)?,
            of(&self.moved)?,
            of(&self.removed)?,
            of(&self.compared)?
        );
        Ok(())
    }
}

/// False when the peer ran out of time.
fn visit(
    plain: &PlainNode,
    cell: &mut Cell,
    rules: Rules,
    count: u32,
    patience: Duration,
) -> Result<bool> {
    let Some(cold) = plain.program(rules, count, patience)? else {
        return Ok(false);
    };
    cell.cold.push(cold.as_secs_f64() * 1e3);
    for index in count..count + MORE {
        let Some(more) = plain.program_one_more(rules, index, patience)? else {
            return Ok(false);
        };
        cell.more.push(more.as_secs_f64() * 1e6);
    }
    Ok(true)
}

fn print(
    count: u32,
    cells: &[Cell; 3],
    gave_up: &[Option<u32>; 2],
    patience: Duration,
) -> Result<()> {
    let waggle = &cells[0];
    let gave_up = [None, gave_up[0], gave_up[1]];
    for ((name, cell), gave_up) in ["waggle", "nftables", "iptables"]
        .iter()
        .zip(cells)
        .zip(gave_up)
    {
        let shown = |own: &[f64], base: &[f64]| -> Option<(String, String)> {
            let base = Spread::of_rounds(base)?.median;
            let ratios: Vec<f64> = own.iter().map(|own| own / base).collect();
            let (own, ratio) = (Spread::of_rounds(own)?, Spread::of_rounds(&ratios)?);
            Some((format!("{own:.1}"), format!("{ratio:.1}")))
        };
        match (
            shown(&cell.cold, &waggle.cold),
            shown(&cell.more, &waggle.more),
            gave_up,
        ) {
            (Some(cold), Some(more), _) => println!(
                "{count:>8} {name:<10} {:>30} {:>22} {:>34} {:>30}",
                cold.0, cold.1, more.0, more.1
            ),
            (_, _, Some(at)) => println!(
                "{count:>8} {name:<10} not in {} s at {at} services: stopped",
                patience.as_secs()
            ),
            _ => anyhow::bail!("no figures of {name}"),
        }
    }
    Ok(())
}
