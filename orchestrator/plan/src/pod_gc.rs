//! Removal of pods that nobody will finish.

use jiff::Timestamp;

use crate::{Plan, Snapshot};

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many ended pods are kept, the youngest.
    pub terminated_kept: usize,
    /// Seconds a pod's node must have been missing.
    pub missing_node_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            terminated_kept: 12_500,
            missing_node_seconds: 40,
        }
    }
}

/// Removes ended pods beyond the kept ones, pods of missing nodes, and deleted pods that were never bound.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp, _settings: &Settings) -> Plan {
    Plan::default()
}
