//! What the root tests share: a cluster made by `waggle dev up`, commands against it, waiting for conditions, and a
//! suite that runs its tests in order over one cluster and always takes it down.
#![forbid(unsafe_code)]

mod cluster;
mod command;
mod kubectl;
mod ports;
mod suite;

pub use cluster::{Cluster, Node};
pub use command::{Background, Output, run};
pub use kubectl::Kubectl;
pub use ports::free_ports;
pub use suite::{Suite, eventually, require};
