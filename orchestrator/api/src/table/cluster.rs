//! Columns of Namespaces, Tenants, Events and Leases.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{has, list, number, text};

/// Columns of a Namespace.
pub const NAMESPACE: &[Column] = &[
    Column::NAME,
    Column::text("Status", "Active, or Terminating while its objects go."),
    Column::AGE,
];

/// Cells of a Namespace.
pub fn namespace(object: &Value, now: i64) -> Vec<Cell> {
    vec![
        name(object),
        text(object, &["status", "phase"]).into(),
        age(object, now),
    ]
}

/// Columns of a Tenant.
pub const TENANT: &[Column] = &[
    Column::NAME,
    Column::text("Id", "Its number in the kernel's tables."),
    Column::text("Namespaces", "How many namespaces belong to it."),
    Column::text("Enforcing", "How many nodes enforce its newest policy."),
    Column::AGE,
    Column::text("Description", "What it is for.").wide(),
];

/// Cells of a Tenant.
pub fn tenant(object: &Value, now: i64) -> Vec<Cell> {
    let status = |field| {
        Cell::or_none(
            &number(object, &["status", field]).map_or_else(String::new, |n| n.to_string()),
        )
    };
    vec![
        name(object),
        status("id"),
        status("namespaces"),
        status("enforcingNodes"),
        age(object, now),
        Cell::or_none(text(object, &["spec", "description"])),
    ]
}

/// Columns of an Event.
pub const EVENT: &[Column] = &[
    Column::text("Last Seen", "When it happened last."),
    Column::text("Type", "Normal or Warning."),
    Column::text("Reason", "One word for what happened."),
    Column::text("Object", "What it is about."),
    Column::text("Subobject", "Which part of the object.").wide(),
    Column::text("Source", "Who reported it.").wide(),
    Column::text("Message", "What happened."),
    Column::text("First Seen", "When it happened first.").wide(),
    Column::number("Count", "How often it happened.").wide(),
    Column {
        priority: 1,
        ..Column::NAME
    },
];

/// Cells of an Event.
pub fn event(object: &Value, now: i64) -> Vec<Cell> {
    let about = |field| text(object, &["involvedObject", field]);
    let source = [
        text(object, &["source", "component"]),
        text(object, &["source", "host"]),
    ];
    let source: Vec<&str> = source.into_iter().filter(|part| !part.is_empty()).collect();
    let source = if source.is_empty() {
        text(object, &["reportingComponent"]).to_owned()
    } else {
        source.join(", ")
    };
    let count = number(object, &["series", "count"])
        .or_else(|| number(object, &["count"]))
        .unwrap_or(1);
    vec![
        moment(
            object,
            &[
                &["series", "lastObservedTime"],
                &["lastTimestamp"],
                &["eventTime"],
            ],
            now,
        ),
        text(object, &["type"]).into(),
        text(object, &["reason"]).into(),
        format!("{}/{}", about("kind").to_lowercase(), about("name")).into(),
        about("fieldPath").into(),
        source.into(),
        text(object, &["message"]).trim().into(),
        moment(object, &[&["firstTimestamp"], &["eventTime"]], now),
        count.into(),
        name(object),
    ]
}

/// Age of the first of these moments that is there.
fn moment(object: &Value, paths: &[&[&str]], now: i64) -> Cell {
    let found = paths
        .iter()
        .find(|path| has(object, path))
        .map_or("", |path| text(object, path));
    super::age::since(found, now).into()
}

/// Columns of a Lease.
pub const LEASE: &[Column] = &[
    Column::NAME,
    Column::text("Holder", "Who holds it."),
    Column::AGE,
];

/// Cells of a Lease.
pub fn lease(object: &Value, now: i64) -> Vec<Cell> {
    vec![
        name(object),
        text(object, &["spec", "holderIdentity"]).into(),
        age(object, now),
    ]
}

/// `status` of a condition, empty when it isn't there.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = list(object, &["status", "conditions"]);
    all.iter()
        .find(|one| text(one, &["type"]) == kind)
        .map_or("", |one| text(one, &["status"]))
}
