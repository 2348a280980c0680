//! Defaults of access rules, storage, quota, ingress and extensions.

use serde_json::{Value, json};

use super::pod;
use crate::walk::{default, has, list_mut, text};

const ACCESS: &str = "rbac.authorization.k8s.io";

pub(crate) fn endpoints(value: &mut Value) {
    for subset in list_mut(value, &["subsets"]) {
        for port in list_mut(subset, &["ports"]) {
            default(port, &[], "protocol", "TCP");
        }
    }
}

pub(crate) fn pod_template(value: &mut Value) {
    if let Some(spec) = value
        .get_mut("template")
        .and_then(|one| one.get_mut("spec"))
    {
        pod::spec(spec);
    }
}

/// What a container gets that asks for nothing: the given default, else the most, else the least.
pub(crate) fn limit_range(value: &mut Value) {
    for item in list_mut(value, &["spec", "limits"]) {
        if text(item, &["type"]) != "Container" {
            continue;
        }
        fill(item, "max", "default");
        fill(item, "default", "defaultRequest");
        fill(item, "min", "defaultRequest");
    }
}

fn fill(item: &mut Value, from: &str, to: &str) {
    let given = item[from].as_object().cloned().unwrap_or_default();
    for (name, amount) in given {
        default(item, &[to], &name, amount);
    }
}

pub(crate) fn persistent_volume(value: &mut Value) {
    default(value, &["spec"], "persistentVolumeReclaimPolicy", "Retain");
    default(value, &["spec"], "volumeMode", "Filesystem");
    if has(value, &["spec", "hostPath"]) {
        default(value, &["spec", "hostPath"], "type", "");
    }
    default(value, &["status"], "phase", "Pending");
}

pub(crate) fn persistent_volume_claim(value: &mut Value) {
    default(value, &["spec"], "volumeMode", "Filesystem");
    default(value, &["status"], "phase", "Pending");
}

pub(crate) fn storage_class(value: &mut Value) {
    default(value, &[], "reclaimPolicy", "Delete");
    default(value, &[], "volumeBindingMode", "Immediate");
}

pub(crate) fn role_binding(value: &mut Value) {
    default(value, &["roleRef"], "apiGroup", ACCESS);
    for subject in list_mut(value, &["subjects"]) {
        if matches!(text(subject, &["kind"]), "User" | "Group") {
            default(subject, &[], "apiGroup", ACCESS);
        }
    }
}

pub(crate) fn webhooks(value: &mut Value) {
    let mutating = text(value, &["kind"]) == "MutatingWebhookConfiguration";
    for hook in list_mut(value, &["webhooks"]) {
        default(hook, &[], "failurePolicy", "Fail");
        default(hook, &[], "matchPolicy", "Equivalent");
        default(hook, &[], "timeoutSeconds", 10);
        default(hook, &[], "namespaceSelector", json!({}));
        default(hook, &[], "objectSelector", json!({}));
        if mutating {
            default(hook, &[], "reinvocationPolicy", "Never");
        }
        if has(hook, &["clientConfig", "service"]) {
            default(hook, &["clientConfig", "service"], "port", 443);
        }
        for rule in list_mut(hook, &["rules"]) {
            default(rule, &[], "scope", "*");
        }
    }
}

pub(crate) fn custom_resource_definition(value: &mut Value) {
    let kind = text(value, &["spec", "names", "kind"]).to_owned();
    if !kind.is_empty() {
        default(value, &["spec", "names"], "singular", kind.to_lowercase());
        default(value, &["spec", "names"], "listKind", format!("{kind}List"));
    }
    default(value, &["spec", "conversion"], "strategy", "None");
}

pub(crate) fn flow_schema(value: &mut Value) {
    default(value, &["spec"], "matchingPrecedence", 1000);
}

pub(crate) fn priority_level(value: &mut Value) {
    match text(value, &["spec", "type"]) {
        "Exempt" => {
            default(value, &["spec", "exempt"], "nominalConcurrencyShares", 0);
            default(value, &["spec", "exempt"], "lendablePercent", 0);
        }
        "Limited" if has(value, &["spec", "limited"]) => {
            default(value, &["spec", "limited"], "nominalConcurrencyShares", 30);
            default(value, &["spec", "limited"], "lendablePercent", 0);
            let queuing = ["spec", "limited", "limitResponse", "queuing"];
            if text(value, &["spec", "limited", "limitResponse", "type"]) == "Queue" {
                for (field, number) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    default(value, &queuing, field, number);
                }
            }
        }
        _ => {}
    }
}
