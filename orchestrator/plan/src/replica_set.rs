//! The ReplicaSet controller.

use jiff::Timestamp;

use crate::{Ids, Plan, Snapshot};

/// Creates, removes, adopts and releases the pods of every ReplicaSet and writes its status.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp, _ids: &mut Ids) -> Plan {
    Plan::default()
}
