//! LimitRanges, ResourceQuotas, PodTemplates, RuntimeClasses.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use serde_json::Value;
use waggle_model::Quantity;

use super::{meta, names, one_of, resources, workload};
use crate::Fault;
use crate::walk::{has, list, members, text};

/// Faults of a LimitRange.
pub(crate) fn limit_range(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("LimitRange", value, old, &mut out);
    let mut seen = BTreeSet::new();
    for (index, item) in list(value, &["spec", "limits"]).iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        let kind = text(item, &["type"]);
        if kind.is_empty() {
            out.push(Fault::required(format!("{path}.type"), ""));
        } else if !["Container", "Pod", "PersistentVolumeClaim"].contains(&kind)
            && !kind.contains('/')
        {
            let detail = "must be a standard limit type or fully qualified";
            out.push(Fault::invalid(format!("{path}.type"), kind, detail));
        }
        if !seen.insert(kind) {
            out.push(Fault::duplicate(format!("{path}.type"), kind));
        }
        for field in [
            "min",
            "max",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            for (name, amount) in members(item, &[field]) {
                let path = format!("{path}.{field}[{name}]");
                resources::quantity(amount.as_str().unwrap_or_default(), false, &path, &mut out);
            }
            if kind == "Pod" && field.starts_with("default") && has(item, &[field]) {
                let detail = "may not be specified when `type` is 'Pod'";
                out.push(Fault::forbidden(format!("{path}.{field}"), detail));
            }
        }
        ordered(item, &path, &mut out);
    }
    out
}

/// min <= defaultRequest <= default <= max, of each resource.
fn ordered(item: &Value, path: &str, out: &mut Vec<Fault>) {
    let order = ["min", "defaultRequest", "default", "max"];
    for (low, less) in order.iter().enumerate() {
        for more in &order[low + 1..] {
            for (name, small) in members(item, &[less]) {
                let (Some(small), Some(large)) = (small.as_str(), item[*more][name].as_str())
                else {
                    continue;
                };
                if let (Ok(least), Ok(most)) =
                    (Quantity::from_str(small), Quantity::from_str(large))
                    && least > most
                {
                    let detail =
                        format!("{less} value {small} is greater than {more} value {large}");
                    out.push(Fault::invalid(
                        format!("{path}.{less}[{name}]"),
                        small,
                        detail,
                    ));
                }
            }
        }
    }
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Faults of a ResourceQuota.
pub(crate) fn resource_quota(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ResourceQuota", value, old, &mut out);
    for (name, amount) in members(value, &["spec", "hard"]) {
        if let Some(rule) = name
            .split('/')
            .all(str::is_empty)
            .then_some("must not be empty")
            .or_else(|| name.contains(' ').then_some("must not contain spaces"))
        {
            out.push(Fault::invalid("spec.hard", name.as_str(), rule));
        }
        let counted = name.starts_with("count/") || !(name.contains('.') || is_amount(name));
        let path = format!("spec.hard[{name}]");
        resources::quantity(
            amount.as_str().unwrap_or_default(),
            counted,
            &path,
            &mut out,
        );
    }
    for (index, scope) in list(value, &["spec", "scopes"]).iter().enumerate() {
        one_of(scope, &SCOPES, &format!("spec.scopes[{index}]"), &mut out);
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["spec", "scopes"], &mut out);
    }
    out
}

fn is_amount(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

/// Faults of a PodTemplate.
pub(crate) fn pod_template(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PodTemplate", value, old, &mut out);
    workload::contained_template(&value["template"], "template", &mut out);
    out
}

/// Faults of a RuntimeClass.
pub(crate) fn runtime_class(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("RuntimeClass", value, old, &mut out);
    let handler = text(value, &["handler"]);
    if let Some(rule) = names::label(handler) {
        out.push(Fault::invalid("handler", handler, rule));
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["handler"], &mut out);
    }
    out
}
