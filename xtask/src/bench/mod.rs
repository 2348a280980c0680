//! `cargo xtask bench`: Waggle beside its peers, in one run, interleaved, printed as ratios with their spread.

mod cluster;
mod peers;
mod podstart;
mod statistics;
mod vip;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Container create + start + wait + delete beside crun and runc; pod created to Running.
    Podstart(podstart::Options),
    /// Connect and one byte there and back through a VIP, beside direct, nftables and iptables.
    Vip(vip::Options),
}

/// Measures it.
pub(crate) fn run(what: &What) -> Result<()> {
    crate::setup::build_tools()?;
    crate::setup::bench_tools()?;
    match what {
        What::Podstart(options) => podstart::run(options),
        What::Vip(options) => vip::run(options),
    }
}
