//! Words that every room shares, as types that can't hold an invalid value: names, quantities, identities,
//! generations and the network state of a cluster. No Kubernetes objects, no wire format, no kernel layout.
#![forbid(unsafe_code)]

mod identity;
mod name;
pub mod network;
mod quantity;

pub use identity::{Generation, IdentityId, PolicyId, ServiceId, TenantId};
pub use name::{ClusterName, InvalidName, Namespace, NodeName, ObjectName, PodKey, TenantName};
pub use quantity::{Bytes, InvalidQuantity, MilliCpu, Quantity};

/// Label on a Namespace that says which tenant it belongs to; absent means [`DEFAULT_TENANT`].
pub const TENANT_LABEL: &str = "waggle.dev/tenant";
/// Annotation on a Service: comma-separated tenants that may reach it, or `*`.
pub const EXPORT_ANNOTATION: &str = "waggle.dev/export-to";
/// Annotation on a Service: `true` lets the backend's node answer clients outside directly (DSR).
pub const DIRECT_RETURN_ANNOTATION: &str = "waggle.dev/direct-return";
/// Annotation on a Service of type LoadBalancer: addresses of the pool that it would like, comma-separated.
pub const LOAD_BALANCER_IPS_ANNOTATION: &str = "waggle.dev/load-balancer-ips";
/// spec.loadBalancerClass of the Services that Waggle's own pool serves; so does the absence of a class.
pub const LOAD_BALANCER_CLASS: &str = "waggle.dev/load-balancer";
/// Tenant of a Namespace without [`TENANT_LABEL`].
pub const DEFAULT_TENANT: &str = "default";
/// Tenant of the cluster's own Services and of nodes; reachable from everywhere.
pub const SYSTEM_TENANT: &str = "system";
