//! Which tenant a namespace or a Service belongs to, and the status of Tenant objects.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use waggle_model::{DEFAULT_TENANT, SYSTEM_TENANT, TENANT_LABEL};

use crate::identity::Registry;
use crate::{Plan, Snapshot};

/// A waggle.dev/v1 Tenant, as far as planners read it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Metadata.
    pub metadata: ObjectMeta,
    /// Status.
    #[serde(default)]
    pub status: TenantStatus,
}

/// Status of a Tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its number in the kernel's tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// How many namespaces belong to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u32>,
}

/// Tenant of a namespace, given its name and its object.
pub fn of_namespace<'a>(name: &str, namespace: Option<&'a Namespace>) -> &'a str {
    if matches!(name, "kube-system" | "kube-public" | "kube-node-lease") {
        return SYSTEM_TENANT;
    }
    let labels = namespace.and_then(|namespace| namespace.metadata.labels.as_ref());
    labels
        .and_then(|labels| labels.get(TENANT_LABEL))
        .map_or(DEFAULT_TENANT, String::as_str)
}

/// Tenant of a Service, given its namespace's: the API's own Service is the system's.
pub fn of_service<'a>(namespace: &str, name: &str, of_namespace: &'a str) -> &'a str {
    if (namespace, name) == ("default", "kubernetes") {
        SYSTEM_TENANT
    } else {
        of_namespace
    }
}

/// Brings the status of every Tenant up to date.
pub fn plan(_snapshot: &Snapshot, _registry: &Registry, _now: Timestamp) -> Plan {
    Plan::default()
}
