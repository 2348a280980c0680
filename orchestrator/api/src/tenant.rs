//! `waggle.dev/v1` Tenant: who a namespace belongs to. Its numbers and counts are written by the server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tenant: a department whose namespaces can't be reached from other tenants' unless a Service is exported. A
/// namespace belongs to the tenant that its label `waggle.dev/tenant` names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "dev.waggle.v1.Tenant")]
pub struct Tenant {
    /// `waggle.dev/v1`.
    #[serde(default)]
    pub api_version: String,
    /// `Tenant`.
    #[serde(default)]
    pub kind: String,
    /// Standard metadata. The name is the tenant's.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<TenantSpec>,
    /// What was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TenantStatus>,
}

impl k8s_openapi::Resource for Tenant {
    const API_VERSION: &'static str = "waggle.dev/v1";
    const GROUP: &'static str = "waggle.dev";
    const KIND: &'static str = "Tenant";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "tenants";
    type Scope = k8s_openapi::ClusterResourceScope;
}

impl k8s_openapi::Metadata for Tenant {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is wanted of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "dev.waggle.v1.TenantSpec")]
pub struct TenantSpec {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is for, and whom to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What was seen of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "dev.waggle.v1.TenantStatus")]
pub struct TenantStatus {
    /// Its number in the kernel's tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// How many namespaces belong to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u32>,
    /// How many nodes enforce the newest policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcing_nodes: Option<u32>,
    /// The newest policy generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What holds of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}
