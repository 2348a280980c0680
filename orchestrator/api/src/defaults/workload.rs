//! Defaults of the kinds that own pods beside Deployments and ReplicaSets, and of autoscalers and priority classes.

use serde_json::{Value, json};

use super::template;
use crate::walk::{at, default, has, list, list_mut, members, number, set, text};

const JOB_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];

pub(crate) fn stateful_set(value: &mut Value) {
    default(value, &["spec"], "replicas", 1);
    default(value, &["spec"], "revisionHistoryLimit", 10);
    default(value, &["spec"], "podManagementPolicy", "OrderedReady");
    default(value, &["spec", "updateStrategy"], "type", "RollingUpdate");
    if text(value, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        let rolling = ["spec", "updateStrategy", "rollingUpdate"];
        default(value, &rolling, "partition", 0);
    }
    let retention = ["spec", "persistentVolumeClaimRetentionPolicy"];
    default(value, &retention, "whenDeleted", "Retain");
    default(value, &retention, "whenScaled", "Retain");
    for claim in list_mut(value, &["spec", "volumeClaimTemplates"]) {
        set(claim, &[], "apiVersion", "v1");
        set(claim, &[], "kind", "PersistentVolumeClaim");
        default(claim, &["spec"], "volumeMode", "Filesystem");
        default(claim, &["status"], "phase", "Pending");
    }
    template(value);
}

pub(crate) fn daemon_set(value: &mut Value) {
    default(value, &["spec"], "revisionHistoryLimit", 10);
    default(value, &["spec", "updateStrategy"], "type", "RollingUpdate");
    if text(value, &["spec", "updateStrategy", "type"]) == "RollingUpdate" {
        let rolling = ["spec", "updateStrategy", "rollingUpdate"];
        default(value, &rolling, "maxUnavailable", 1);
        default(value, &rolling, "maxSurge", 0);
    }
    template(value);
}

pub(crate) fn replication_controller(value: &mut Value) {
    default(value, &["spec"], "replicas", 1);
    let labels = at(value, &["spec", "template", "metadata", "labels"]).clone();
    if labels.as_object().is_some_and(|all| !all.is_empty()) {
        if members(value, &["spec", "selector"]).next().is_none() {
            set(value, &["spec"], "selector", labels.clone());
        }
        if members(value, &["metadata", "labels"]).next().is_none() {
            set(value, &["metadata"], "labels", labels);
        }
    }
    template(value);
}

/// A Job; the labels by which it finds its pods follow from its uid unless the client chooses its own.
pub(crate) fn job(value: &mut Value) {
    if !has(value, &["spec"]) {
        return;
    }
    if !has(value, &["spec", "completions"]) && !has(value, &["spec", "parallelism"]) {
        default(value, &["spec"], "completions", 1);
    }
    default(value, &["spec"], "parallelism", 1);
    let per_index = has(value, &["spec", "backoffLimitPerIndex"]);
    let limit = if per_index { i32::MAX } else { 6 };
    default(value, &["spec"], "backoffLimit", limit);
    default(value, &["spec"], "completionMode", "NonIndexed");
    default(value, &["spec"], "suspend", false);
    default(value, &["spec"], "manualSelector", false);
    let replacement = if has(value, &["spec", "podFailurePolicy"]) {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default(value, &["spec"], "podReplacementPolicy", replacement);
    for rule in list_mut(value, &["spec", "podFailurePolicy", "rules"]) {
        for pattern in list_mut(rule, &["onPodConditions"]) {
            default(pattern, &[], "status", "True");
        }
    }
    job_selector(value);
    let labels = at(value, &["spec", "template", "metadata", "labels"]).clone();
    if members(value, &["metadata", "labels"]).next().is_none() && labels.is_object() {
        set(value, &["metadata"], "labels", labels);
    }
    template(value);
}

fn job_selector(value: &mut Value) {
    let uid = text(value, &["metadata", "uid"]).to_owned();
    let own = at(value, &["spec", "manualSelector"]) == true;
    if own
        || uid.is_empty()
        || has(value, &["spec", "selector"])
        || !has(value, &["spec", "template"])
    {
        return;
    }
    let name = text(value, &["metadata", "name"]).to_owned();
    let labels = ["spec", "template", "metadata", "labels"];
    for key in UID_LABELS {
        set(value, &labels, key, uid.clone());
    }
    for key in JOB_LABELS {
        set(value, &labels, key, name.clone());
    }
    let selector = json!({"matchLabels": {UID_LABELS[0]: uid}});
    set(value, &["spec"], "selector", selector);
}

pub(crate) fn cron_job(value: &mut Value) {
    default(value, &["spec"], "concurrencyPolicy", "Allow");
    default(value, &["spec"], "suspend", false);
    default(value, &["spec"], "successfulJobsHistoryLimit", 3);
    default(value, &["spec"], "failedJobsHistoryLimit", 1);
    if let Some(job) = crate::walk::at_mut(value, &["spec", "jobTemplate"]) {
        template(job);
    }
}

pub(crate) fn horizontal_pod_autoscaler(value: &mut Value) {
    default(value, &["spec"], "minReplicas", 1);
    if list(value, &["spec", "metrics"]).is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let metric = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        set(value, &["spec"], "metrics", metric);
    }
    if !has(value, &["spec", "behavior"]) {
        return;
    }
    let (percent, pods) = (
        json!({"type": "Percent", "value": 100, "periodSeconds": 15}),
        json!({"type": "Pods", "value": 4, "periodSeconds": 15}),
    );
    let up = ["spec", "behavior", "scaleUp"];
    default(value, &up, "stabilizationWindowSeconds", 0);
    default(value, &up, "selectPolicy", "Max");
    default(value, &up, "policies", json!([pods, percent]));
    let down = ["spec", "behavior", "scaleDown"];
    default(value, &down, "selectPolicy", "Max");
    default(value, &down, "policies", json!([percent]));
}

pub(crate) fn priority_class(value: &mut Value) {
    default(value, &[], "preemptionPolicy", "PreemptLowerPriority");
    if number(value, &["value"]).is_none() {
        default(value, &[], "value", 0);
    }
}
