//! The per-node agent: observe, diff and execute for the pods of one node; status, probes, streams and the node
//! session. Containers are the supervisor's, packets the datapath's, names the DNS server's; decisions of a cluster
//! are made elsewhere.
#![forbid(unsafe_code)]

mod admin;
mod clock;
mod containers;
mod dial;
mod disk_usage;
mod enrol;
mod events;
mod eviction;
mod flows;
mod folder;
mod health_check;
mod image_gc;
mod kernel;
mod machine;
mod metrics;
mod network;
mod node;
mod options;
mod outbox;
mod persist;
mod pods;
mod pressure;
mod probe;
mod reclaim;
mod refused;
mod session;
mod start;
mod static_pods;
mod streams;

pub use eviction::{EvictionOptions, GracePeriods, Reclaims, Signal, Thresholds};
pub use image_gc::ImageGcOptions;
pub use options::{AgentError, AgentOptions, Reserved};

/// Runs the node until `shutdown` completes. Pods, datapath and supervisor stay behind: the next agent adopts them.
///
/// # Errors
/// [`AgentError`] when the node can't be started, or when it was refused by the cluster for good.
pub async fn run(
    options: AgentOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AgentError> {
    start::run(options, shutdown).await
}
