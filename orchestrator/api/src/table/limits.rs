//! Columns of what bounds workloads: autoscalers, disruption budgets, priority classes.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{at, list, number, text};

/// Columns of a HorizontalPodAutoscaler.
pub const HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    Column::NAME,
    Column::text("Reference", "What it scales."),
    Column::text("Targets", "Measured and wanted value of each metric."),
    Column::text("MinPods", "Fewest replicas."),
    Column::number("MaxPods", "Most replicas."),
    Column::number("Replicas", "Replicas when it last looked."),
    Column::AGE,
];

/// Cells of a HorizontalPodAutoscaler.
pub fn horizontal_pod_autoscaler(object: &Value, now: i64) -> Vec<Cell> {
    let target = |field| text(object, &["spec", "scaleTargetRef", field]);
    let least = number(object, &["spec", "minReplicas"]);
    vec![
        name(object),
        format!("{}/{}", target("kind"), target("name")).into(),
        targets(object).into(),
        least
            .map_or_else(|| "<unset>".to_owned(), |least| least.to_string())
            .into(),
        number(object, &["spec", "maxReplicas"]).unwrap_or(0).into(),
        number(object, &["status", "currentReplicas"])
            .unwrap_or(0)
            .into(),
        age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let specs = list(object, &["spec", "metrics"]);
    let seen = list(object, &["status", "currentMetrics"]);
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let mut shown: Vec<String> = specs
        .iter()
        .take(2)
        .enumerate()
        .map(|(index, spec)| target(spec, seen.get(index).unwrap_or(&Value::Null)))
        .collect();
    if specs.len() > 2 {
        shown.push(format!("{} more...", specs.len() - 2));
    }
    shown.join(", ")
}

fn target(spec: &Value, seen: &Value) -> String {
    let source = match text(spec, &["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, current) = (
        at(spec, &[source, "target"]),
        at(seen, &[source, "current"]),
    );
    let label = match source {
        "resource" | "containerResource" => format!("{}: ", text(spec, &[source, "name"])),
        _ => String::new(),
    };
    let unknown = || "<unknown>".to_owned();
    let quantity = |value: &Value| value.as_str().map_or_else(unknown, str::to_owned);
    let percent = |value: &Value| value.as_i64().map_or_else(unknown, |n| format!("{n}%"));
    let (now, then) = if wanted["averageUtilization"].is_number() {
        let field = "averageUtilization";
        (percent(&current[field]), percent(&wanted[field]))
    } else if wanted["averageValue"].is_string() {
        let then = quantity(&wanted["averageValue"]);
        let suffix = if source == "external" || source == "object" {
            " (avg)"
        } else {
            ""
        };
        (quantity(&current["averageValue"]), then + suffix)
    } else {
        (quantity(&current["value"]), quantity(&wanted["value"]))
    };
    format!("{label}{now}/{then}")
}

/// Columns of a PodDisruptionBudget.
pub const POD_DISRUPTION_BUDGET: &[Column] = &[
    Column::NAME,
    Column::text("Min Available", "Fewest pods that must stay."),
    Column::text("Max Unavailable", "Most pods that may be away."),
    Column::number("Allowed Disruptions", "Pods that may be evicted now."),
    Column::AGE,
];

/// Cells of a PodDisruptionBudget.
pub fn pod_disruption_budget(object: &Value, now: i64) -> Vec<Cell> {
    let bound = |field| match at(object, &["spec", field]) {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => "N/A".to_owned(),
    };
    vec![
        name(object),
        bound("minAvailable").into(),
        bound("maxUnavailable").into(),
        number(object, &["status", "disruptionsAllowed"])
            .unwrap_or(0)
            .into(),
        age(object, now),
    ]
}

/// Columns of a PodGroup.
pub const POD_GROUP: &[Column] = &[
    Column::NAME,
    Column::text("Policy", "Whether its pods are placed together."),
    Column::text("Min-Count", "So many of them run together, or none."),
    Column::text("Scheduled", "Whether that many were placed once."),
    Column::AGE,
];

/// Cells of a PodGroup.
pub fn pod_group(object: &Value, now: i64) -> Vec<Cell> {
    let gang = at(object, &["spec", "schedulingPolicy", "gang"]);
    let least = number(gang, &["minCount"]).map_or_else(|| "<none>".to_owned(), |n| n.to_string());
    let rows = at(object, &["status", "conditions"]).as_array();
    let scheduled = rows
        .into_iter()
        .flatten()
        .any(|row| row["type"] == "PodGroupInitiallyScheduled" && row["status"] == "True");
    vec![
        name(object),
        if gang.is_object() { "Gang" } else { "Basic" }.into(),
        least.into(),
        if scheduled { "True" } else { "False" }.into(),
        age(object, now),
    ]
}

/// Columns of a PriorityClass.
pub const PRIORITY_CLASS: &[Column] = &[
    Column::NAME,
    Column::number("Value", "The larger, the more important."),
    Column::text("Global-Default", "For pods that name no class."),
    Column::AGE,
    Column::text("PreemptionPolicy", "Whether its pods may displace others."),
];

/// Cells of a PriorityClass.
pub fn priority_class(object: &Value, now: i64) -> Vec<Cell> {
    let default = at(object, &["globalDefault"]) == true;
    vec![
        name(object),
        number(object, &["value"]).unwrap_or(0).into(),
        if default { "true" } else { "false" }.into(),
        age(object, now),
        Cell::or_none(text(object, &["preemptionPolicy"])),
    ]
}
