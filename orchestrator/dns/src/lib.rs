//! Cluster DNS of one node: the zone as data ([`Zone`], pure) and the server that answers from it over UDP and TCP
//! and forwards every other name ([`DnsServer`]). Where the network state comes from is the agent's business.
#![forbid(unsafe_code)]

mod forward;
mod server;
mod zone;

pub use forward::Upstream;
pub use server::{DnsError, DnsOptions, DnsServer};
pub use zone::{Answer, TTL, Zone, ZoneOptions};
