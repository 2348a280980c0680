//! Columns of Nodes.

use serde_json::Value;

use super::cluster::condition;
use super::{Cell, Column, age, name};
use crate::walk::{at, list, members, text};

/// Columns.
pub const NODE: &[Column] = &[
    Column::NAME,
    Column::text(
        "Status",
        "Whether it is ready, and whether it takes new pods.",
    ),
    Column::text("Roles", "What it is for."),
    Column::AGE,
    Column::text("Version", "Version of its agent."),
    Column::text("Internal-IP", "Its address inside the cluster.").wide(),
    Column::text("External-IP", "Its address outside the cluster.").wide(),
    Column::text("OS-Image", "Its operating system.").wide(),
    Column::text("Kernel-Version", "Its kernel.").wide(),
    Column::text("Container-Runtime", "What runs its containers.").wide(),
];

/// Cells.
pub fn node(object: &Value, now: i64) -> Vec<Cell> {
    let info = |field| text(object, &["status", "nodeInfo", field]);
    let address = |kind| {
        let all = list(object, &["status", "addresses"]);
        all.iter()
            .find(|one| text(one, &["type"]) == kind)
            .map_or("", |one| text(one, &["address"]))
    };
    let or_unknown = |text: &str| {
        if text.is_empty() {
            Cell::from("<unknown>")
        } else {
            text.into()
        }
    };
    vec![
        name(object),
        status(object).into(),
        roles(object),
        age(object, now),
        info("kubeletVersion").into(),
        Cell::or_none(address("InternalIP")),
        Cell::or_none(address("ExternalIP")),
        or_unknown(info("osImage")),
        or_unknown(info("kernelVersion")),
        or_unknown(info("containerRuntimeVersion")),
    ]
}

fn status(object: &Value) -> String {
    let ready = match condition(object, "Ready") {
        "True" => "Ready",
        "" => "Unknown",
        _ => "NotReady",
    };
    let closed = at(object, &["spec", "unschedulable"]) == true;
    if closed {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    }
}

fn roles(object: &Value) -> Cell {
    let mut roles: Vec<&str> = members(object, &["metadata", "labels"])
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    Cell::or_none(&roles.join(","))
}
