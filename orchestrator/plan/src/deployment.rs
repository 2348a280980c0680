//! The Deployment controller.

use jiff::Timestamp;

use crate::{Plan, Snapshot};

/// Creates, scales and removes the ReplicaSets of every Deployment and writes its status.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp) -> Plan {
    Plan::default()
}
