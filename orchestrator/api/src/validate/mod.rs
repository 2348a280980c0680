//! What is wrong with an object, all of it at once. Objects come decoded and defaulted; whatever comes, nothing here
//! panics.

mod access;
mod batch;
mod cluster;
mod config;
mod container;
mod ephemeral;
mod extension;
mod flow;
mod ingress;
mod limits;
mod meta;
mod names;
mod network;
mod network_policy;
mod placement;
mod pod;
mod probe;
mod quota;
mod resize;
mod resources;
mod service;
mod storage;
mod volume;
mod workload;

pub use meta::{MIRROR, PLACEMENT};

use serde_json::Value;

use crate::Fault;

pub(crate) use access::{cluster_role, cluster_role_binding, role, role_binding};
pub(crate) use batch::{cron_job, job};
pub(crate) use cluster::{event, lease, namespace, node, tenant};
pub(crate) use config::{config_map, secret, service_account};
pub(crate) use ephemeral::ephemeral_containers;
pub(crate) use extension::{custom_resource_definition, signing_request, webhooks};
pub(crate) use flow::{flow_schema, priority_level};
pub(crate) use ingress::{endpoints, ingress, ingress_class};
pub(crate) use limits::{
    horizontal_pod_autoscaler, pod_disruption_budget, pod_group, priority_class,
};
pub(crate) use meta::labels_and_annotations;
pub(crate) use names::{label_value, qualified_name};
pub(crate) use network::endpoint_slice;
pub(crate) use network_policy::network_policy;
pub(crate) use pod::pod;
pub(crate) use quota::{limit_range, pod_template, resource_quota, runtime_class};
pub(crate) use resize::resize;
pub(crate) use service::service;
pub(crate) use storage::{persistent_volume, persistent_volume_claim, storage_class};
pub(crate) use workload::{
    controller_revision, daemon_set, deployment, replica_set, replication_controller, stateful_set,
};

/// Faults of an object of which only the metadata has rules. Also for kinds whose rules the type itself says.
pub(crate) fn metadata_only(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    let kind = value["kind"].as_str().unwrap_or_default();
    meta::check(kind, value, old, &mut out);
    out
}

/// A fault when a number that is given is less than `least`.
fn at_least(value: &Value, least: i64, path: &str, out: &mut Vec<Fault>) {
    if value.as_i64().is_some_and(|number| number < least) {
        let detail = format!("must be greater than or equal to {least}");
        out.push(Fault::invalid(path, value.clone(), detail));
    }
}

/// A fault when a text that is given is none of `supported`.
fn one_of(value: &Value, supported: &[&str], path: &str, out: &mut Vec<Fault>) {
    if value
        .as_str()
        .is_some_and(|text| !supported.contains(&text))
    {
        out.push(Fault::not_supported(path, value.clone(), supported));
    }
}

/// A fault unless `value` is a port's number.
fn port_number(value: &Value, path: &str, out: &mut Vec<Fault>) {
    if !value
        .as_i64()
        .is_some_and(|port| (1..=65_535).contains(&port))
    {
        out.push(Fault::invalid(
            path,
            value.clone(),
            "must be between 1 and 65535, inclusive",
        ));
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_fields;
#[cfg(test)]
mod tests_service;
#[cfg(test)]
mod tests_stored;
