//! What happens to a node that does not report any more, and to its pods.

use jiff::Timestamp;

use crate::{Plan, Snapshot};

/// How patient the controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Seconds without a heartbeat after which a node's Ready is Unknown.
    pub grace_seconds: u64,
    /// Seconds a pod without a toleration for it stays on an unreachable node before it is evicted, for pods whose
    /// tolerationSeconds was only defaulted.
    pub eviction_delay_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace_seconds: 12,
            eviction_delay_seconds: 5,
        }
    }
}

/// Judges every node by its Lease and its pods by that.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp, _settings: &Settings) -> Plan {
    Plan::default()
}
