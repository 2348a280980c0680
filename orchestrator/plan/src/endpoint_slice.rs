//! The EndpointSlice controller.

use jiff::Timestamp;

use crate::{Plan, Snapshot};

/// Label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a slice that names who writes it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY_LABEL`] on the slices of this controller.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Keeps the slices of every Service with a selector.
pub fn plan(_snapshot: &Snapshot, _now: Timestamp) -> Plan {
    Plan::default()
}
