//! Columns of ConfigMaps, Secrets and ServiceAccounts.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::walk::{list, members, text};

fn count(number: usize) -> Cell {
    i64::try_from(number).unwrap_or(i64::MAX).into()
}

const DATA: Column = Column::number("Data", "How many entries it has.");

/// Columns of a ConfigMap.
pub const CONFIG_MAP: &[Column] = &[Column::NAME, DATA, Column::AGE];

/// Cells of a ConfigMap.
pub fn config_map(object: &Value, now: i64) -> Vec<Cell> {
    let entries = members(object, &["data"]).count() + members(object, &["binaryData"]).count();
    vec![name(object), count(entries), age(object, now)]
}

/// Columns of a Secret.
pub const SECRET: &[Column] = &[
    Column::NAME,
    Column::text("Type", "What the data is for."),
    DATA,
    Column::AGE,
];

/// Cells of a Secret.
pub fn secret(object: &Value, now: i64) -> Vec<Cell> {
    let entries = members(object, &["data"]).count();
    vec![
        name(object),
        text(object, &["type"]).into(),
        count(entries),
        age(object, now),
    ]
}

/// Columns of a ServiceAccount.
pub const SERVICE_ACCOUNT: &[Column] = &[
    Column::NAME,
    Column::number("Secrets", "How many Secrets it names."),
    Column::AGE,
];

/// Cells of a ServiceAccount.
pub fn service_account(object: &Value, now: i64) -> Vec<Cell> {
    vec![
        name(object),
        count(list(object, &["secrets"]).len()),
        age(object, now),
    ]
}

/// Columns of a ResourceQuota.
pub const RESOURCE_QUOTA: &[Column] = &[
    Column::NAME,
    Column::text("Request", "Used and allowed requests."),
    Column::text("Limit", "Used and allowed limits."),
    Column::AGE,
];

/// Cells of a ResourceQuota: `cpu: 1/2, pods: 3/10`.
pub fn resource_quota(object: &Value, now: i64) -> Vec<Cell> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in members(object, &["spec", "hard"]) {
        let used = match text(object, &["status", "used", resource]) {
            "" => "0",
            used => used,
        };
        let line = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") {
            limits.push(line);
        } else {
            requests.push(line);
        }
    }
    vec![
        name(object),
        requests.join(", ").into(),
        limits.join(", ").into(),
        age(object, now),
    ]
}
