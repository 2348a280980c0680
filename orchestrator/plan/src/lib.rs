//! Every decision, as a plain function from a snapshot to a plan. Time and randomness are arguments; nothing here does
//! I/O. Replanning on unchanged input is empty.
#![forbid(unsafe_code)]

pub mod check;
pub mod deployment;
pub mod endpoint_slice;
pub mod garbage;
pub mod identity;
mod ids;
pub mod ipam;
pub mod namespace;
pub mod network;
pub mod node_lifecycle;
mod ownership;
pub mod pod;
pub mod pod_gc;
pub mod replica_set;
pub mod resources;
#[cfg(test)]
mod scenario;
pub mod scheduler;
pub mod selector;
pub mod snapshot;
mod taint;
pub mod tenant;
#[cfg(test)]
mod world;
mod write;

pub use ids::Ids;
pub use snapshot::Snapshot;
pub use write::{EventDraft, ObjectRef, Plan, Propagation, Write};
