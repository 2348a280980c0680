//! `cargo xtask bench`: Waggle beside its peers, in one run, interleaved, printed as ratios with their spread.

mod cluster;
mod datapath;
mod density;
mod memory;
mod pairs;
mod peers;
mod planners;
mod pods;
mod podstart;
mod scheduler;
mod server;
mod statistics;
mod vip;

use anyhow::Result;
use clap::Subcommand;

use crate::build::Profile;
use pods::Place;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum What {
    /// Creates, lists and watches through the API, beside a single etcd; memory. Options and parts after `--`.
    Api(server::Options),
    /// The datapath by all that it is measured by: what `vip` and `pods` do, and programming, connections, pods of two nodes,
    /// policy verdicts, forwarding.
    Datapath(datapath::Options),
    /// Real containers of one machine, each with address, name, VIP and policy: memory of each, how fast they come, whether
    /// a sample answers.
    Density(density::Options),
    /// What each planner takes on a cluster at rest, 1,000 nodes and 20,000 pods: all of it, and after one pod's change.
    Planners,
    /// Pod to pod on one node, beside a bare veth pair, and a bridge with netfilter and connection tracking.
    Pods(pods::Options),
    /// Container create + start + wait + delete beside crun and runc; pod created to Running.
    Podstart(podstart::Options),
    /// A server with thousands of nodes that hold real sessions: at rest, when a node fails, under a large Deployment.
    /// Options after `--`.
    Scale(server::Options),
    /// Pods a second from waiting to bound durably, on the cases of Kubernetes' scheduler_perf, beside its floors.
    Scheduler(scheduler::Options),
    /// Connect and one byte there and back through a VIP, beside direct, nftables and iptables.
    Vip(vip::Options),
}

/// Measures it.
pub(crate) fn run(what: &What) -> Result<()> {
    crate::setup::build_tools()?;
    if !matches!(
        what,
        What::Density(_) | What::Scheduler(_) | What::Scale(_) | What::Planners
    ) {
        crate::setup::bench_tools()?;
    }
    match what {
        What::Api(options) => server::run("api", options),
        What::Datapath(options) => datapath::run(options),
        What::Density(options) => density::run(options),
        What::Pods(options) => pods::run(options, Place::OneNode, Profile::Release),
        What::Planners => planners::run(),
        What::Podstart(options) => podstart::run(options),
        What::Scale(options) => server::run("scale", options),
        What::Scheduler(options) => scheduler::run(options),
        What::Vip(options) => vip::run(options, Profile::Release),
    }
}
