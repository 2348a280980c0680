//! `cargo xtask bench`: Waggle beside its peers, in one run, interleaved, printed as ratios with their spread.

mod cluster;
mod pairs;
mod peers;
mod pods;
mod podstart;
mod statistics;
mod vip;

use anyhow::Result;
use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Pod to pod on one node, beside a bare veth pair, and a bridge with netfilter and connection tracking.
    Pods(pods::Options),
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
        What::Pods(options) => pods::run(options),
        What::Podstart(options) => podstart::run(options),
        What::Vip(options) => vip::run(options),
    }
}
