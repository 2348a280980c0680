//! Every decision, as a plain function from a snapshot to a plan. Time and randomness are arguments; nothing here does
//! I/O. Replanning on unchanged input is empty.
#![forbid(unsafe_code)]

mod attention;
pub mod autoscaler;
pub mod check;
pub mod cron_job;
pub mod custom_resource_definition;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod endpoints;
pub mod flow_schema;
pub mod garbage;
mod history;
pub mod identity;
mod ids;
pub mod ipam;
pub mod job;
pub mod load_balancer;
pub mod namespace;
pub mod network;
pub mod node_lifecycle;
pub mod node_ports;
mod ownership;
#[cfg(test)]
mod pace;
pub mod pod;
pub mod pod_addresses;
pub mod pod_gc;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_quota;
pub mod resources;
#[cfg(test)]
mod scenario;
pub mod scheduler;
pub mod selector;
pub mod service_account;
pub mod signing_request;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod stateful_set;
pub mod storage;
mod taint;
mod template;
pub mod tenant;
#[cfg(test)]
mod world;
mod write;

pub use attention::Attention;
pub use ids::Ids;
pub use snapshot::{ObjectKey, Scope, Snapshot, Touched};
pub use write::{EventDraft, ObjectRef, Plan, Propagation, Write};
