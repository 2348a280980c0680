//! Loads, attaches, pins and feeds the eBPF programs (aya); links, addresses and routes (rtnetlink).
//!
//! No decisions: which rows belong into the tables and in which order they change is `waggle-policy`'s. Everything is
//! pinned, so that an agent's death changes nothing; the next agent opens the same [`Datapath`] and goes on.

mod announce;
mod clsact;
mod config;
mod datapath;
mod diag;
mod error;
mod event;
mod hooks;
mod link;
mod maps;
mod netns;
mod pin;
mod program;
mod route;
mod stale;
mod sys;
mod tables;
mod tunnel;

pub use config::{Applied, Attachment, Config, PodLink, Tally};
pub use datapath::{Datapath, Occupancy};
pub use error::DatapathError;
pub use event::{FlowEvent, FlowEvents, Verdict, since_boot};
pub use hooks::PacketHooks;
pub use waggle_abi::{ABI_HASH, Capacity, Reason};
pub use waggle_policy::{
    CapacityFault, Claimant, DnsRedirect, PolicyTally, Refusal, ServiceTally, Table, Tallies,
};

/// Cookie of the calling thread's network namespace (SO_NETNS_COOKIE).
///
/// # Errors
/// When the kernel does not tell.
pub fn netns_cookie_here() -> Result<u64, DatapathError> {
    sys::netns_cookie().map_err(|source| DatapathError::Namespace {
        path: "/proc/thread-self/ns/net".into(),
        source,
    })
}
