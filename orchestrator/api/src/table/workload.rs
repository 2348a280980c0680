//! Columns of Deployments and ReplicaSets.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::selector::LabelSelector;
use crate::walk::{at, list, number, text};

const CONTAINERS: Column = Column::text("Containers", "Names of the containers.").wide();
const IMAGES: Column = Column::text("Images", "Images of the containers.").wide();
const SELECTOR: Column = Column::text("Selector", "Which pods belong to it.").wide();

/// Columns of a Deployment.
pub const DEPLOYMENT: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Ready pods of wanted ones."),
    Column::number("Up-to-date", "Pods made from the newest template."),
    Column::number("Available", "Pods that have been ready for long enough."),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a Deployment.
pub fn deployment(object: &Value, now: i64) -> Vec<Cell> {
    let status = |field| number(object, &["status", field]).unwrap_or(0);
    let wanted = number(object, &["spec", "replicas"]).unwrap_or(1);
    let mut cells = vec![
        name(object),
        format!("{}/{wanted}", status("readyReplicas")).into(),
        status("updatedReplicas").into(),
        status("availableReplicas").into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

/// Columns of a ReplicaSet.
pub const REPLICA_SET: &[Column] = &[
    Column::NAME,
    Column::number("Desired", "Wanted pods."),
    Column::number("Current", "Pods that exist."),
    Column::number("Ready", "Pods that are ready."),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a ReplicaSet.
pub fn replica_set(object: &Value, now: i64) -> Vec<Cell> {
    let status = |field| number(object, &["status", field]).unwrap_or(0);
    let mut cells = vec![
        name(object),
        number(object, &["spec", "replicas"]).unwrap_or(1).into(),
        status("replicas").into(),
        status("readyReplicas").into(),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

fn template(object: &Value) -> [Cell; 3] {
    let containers = list(object, &["spec", "template", "spec", "containers"]);
    let joined = |field| {
        let all: Vec<&str> = containers.iter().map(|one| text(one, &[field])).collect();
        Cell::or_none(&all.join(","))
    };
    let selector =
        LabelSelector::from_object(at(object, &["spec", "selector"])).unwrap_or_default();
    [
        joined("name"),
        joined("image"),
        Cell::or_none(&selector.to_string()),
    ]
}
