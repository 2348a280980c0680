//! Garbage collection by owner references.

use jiff::Timestamp;

use crate::{Plan, Snapshot};

/// Deletes what nobody owns any more, and lets deleted owners go once their finalizer's wish is done.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp) -> Plan {
    Plan::default()
}
