//! What Kubernetes fills in where a client says nothing. Every function is idempotent.

mod pod;
mod service;
mod stored;
mod workload;

use serde_json::{Value, json};

use crate::walk::{default, has, object, set, text};

pub(crate) use pod::{pod, quality_of_service};
pub(crate) use service::service;
pub(crate) use stored::{
    custom_resource_definition, endpoints, flow_schema, limit_range, persistent_volume,
    persistent_volume_claim, pod_template, priority_level, role_binding, storage_class, webhooks,
};
pub(crate) use workload::{
    cron_job, daemon_set, horizontal_pod_autoscaler, job, priority_class, replication_controller,
    stateful_set,
};

pub(crate) fn nothing(_: &mut Value) {}

/// What a status says before anybody wrote one: Kubernetes' own kinds always have one, with the numbers that are never left out.
pub(crate) fn first_status(kind: &str) -> Value {
    match kind {
        "DaemonSet" => json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }),
        "HorizontalPodAutoscaler" => json!({"currentMetrics": null, "desiredReplicas": 0}),
        "Ingress" => json!({"loadBalancer": {}}),
        "PodDisruptionBudget" => json!({
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
        }),
        "ReplicaSet" | "ReplicationController" => json!({"replicas": 0}),
        "StatefulSet" => json!({"replicas": 0, "availableReplicas": 0}),
        _ => json!({}),
    }
}

pub(crate) fn namespace(value: &mut Value) {
    let name = text(value, &["metadata", "name"]).to_owned();
    set(
        value,
        &["metadata", "labels"],
        "kubernetes.io/metadata.name",
        name,
    );
    if !has(value, &["metadata", "deletionTimestamp"]) {
        default(value, &["spec"], "finalizers", json!(["kubernetes"]));
    }
    default(value, &["status"], "phase", "Active");
}

pub(crate) fn secret(value: &mut Value) {
    default(value, &[], "type", "Opaque");
    // stringData is write-only: its texts become data.
    let Some(Value::Object(texts)) = object(value, &[]).and_then(|map| map.remove("stringData"))
    else {
        return;
    };
    for (key, content) in texts {
        let encoded =
            k8s_openapi::ByteString(content.as_str().unwrap_or_default().as_bytes().to_vec());
        set(
            value,
            &["data"],
            &key,
            serde_json::to_value(encoded).unwrap_or_default(),
        );
    }
}

pub(crate) fn deployment(value: &mut Value) {
    default(value, &["spec"], "replicas", 1);
    default(value, &["spec"], "revisionHistoryLimit", 10);
    default(value, &["spec"], "progressDeadlineSeconds", 600);
    default(value, &["spec", "strategy"], "type", "RollingUpdate");
    if text(value, &["spec", "strategy", "type"]) == "RollingUpdate" {
        default(
            value,
            &["spec", "strategy", "rollingUpdate"],
            "maxUnavailable",
            "25%",
        );
        default(
            value,
            &["spec", "strategy", "rollingUpdate"],
            "maxSurge",
            "25%",
        );
    }
    template(value);
}

pub(crate) fn replica_set(value: &mut Value) {
    default(value, &["spec"], "replicas", 1);
    template(value);
}

/// Defaults of `spec.template`.
fn template(value: &mut Value) {
    if let Some(template) = value
        .get_mut("spec")
        .and_then(|spec| spec.get_mut("template"))
    {
        default(template, &[], "metadata", json!({}));
        if let Some(spec) = template.get_mut("spec") {
            pod::spec(spec);
        }
    }
}

pub(crate) fn endpoint_slice(value: &mut Value) {
    for port in crate::walk::list_mut(value, &["ports"]) {
        default(port, &[], "name", "");
        default(port, &[], "protocol", "TCP");
    }
}

pub(crate) fn network_policy(value: &mut Value) {
    default(value, &["spec"], "podSelector", json!({}));
    let types = if crate::walk::list(value, &["spec", "egress"]).is_empty() {
        json!(["Ingress"])
    } else {
        json!(["Ingress", "Egress"])
    };
    if crate::walk::list(value, &["spec", "policyTypes"]).is_empty() {
        set(value, &["spec"], "policyTypes", types);
    }
    for direction in ["ingress", "egress"] {
        for rule in crate::walk::list_mut(value, &["spec", direction]) {
            for port in crate::walk::list_mut(rule, &["ports"]) {
                default(port, &[], "protocol", "TCP");
            }
        }
    }
}
