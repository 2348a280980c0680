//! Columns of Deployments, ReplicaSets and the other kinds that keep pods running.

use serde_json::Value;

use super::{Cell, Column, age, name};
use crate::selector::LabelSelector;
use crate::walk::{at, list, number, text};

pub(super) const CONTAINERS: Column = Column::text("Containers", "Names of the containers.").wide();
pub(super) const IMAGES: Column = Column::text("Images", "Images of the containers.").wide();
pub(super) const SELECTOR: Column = Column::text("Selector", "Which pods belong to it.").wide();

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
    cells.extend(template(object, &["spec"]));
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
    cells.extend(template(object, &["spec"]));
    cells
}

/// Columns of a StatefulSet.
pub const STATEFUL_SET: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Ready pods of wanted ones."),
    Column::AGE,
    CONTAINERS,
    IMAGES,
];

/// Cells of a StatefulSet.
pub fn stateful_set(object: &Value, now: i64) -> Vec<Cell> {
    let ready = number(object, &["status", "readyReplicas"]).unwrap_or(0);
    let wanted = number(object, &["spec", "replicas"]).unwrap_or(1);
    let [containers, images, _] = template(object, &["spec"]);
    vec![
        name(object),
        format!("{ready}/{wanted}").into(),
        age(object, now),
        containers,
        images,
    ]
}

/// Columns of a DaemonSet.
pub const DAEMON_SET: &[Column] = &[
    Column::NAME,
    Column::number("Desired", "Nodes that should run a pod."),
    Column::number("Current", "Nodes that have one."),
    Column::number("Ready", "Nodes whose pod is ready."),
    Column::number("Up-to-date", "Nodes whose pod is of the newest template."),
    Column::number(
        "Available",
        "Nodes whose pod has been ready for long enough.",
    ),
    Column::text("Node Selector", "Labels of the nodes it is for."),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Cells of a DaemonSet.
pub fn daemon_set(object: &Value, now: i64) -> Vec<Cell> {
    let status = |field| Cell::from(number(object, &["status", field]).unwrap_or(0));
    let nodes = LabelSelector::from_map(at(object, &["spec", "template", "spec", "nodeSelector"]));
    let mut cells = vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        Cell::or_none(&nodes.to_string()),
        age(object, now),
    ];
    cells.extend(template(object, &["spec"]));
    cells
}

/// Columns of a ReplicationController.
pub const REPLICATION_CONTROLLER: &[Column] = REPLICA_SET;

/// Cells of a ReplicationController.
pub fn replication_controller(object: &Value, now: i64) -> Vec<Cell> {
    let mut cells = replica_set(object, now);
    let selector = LabelSelector::from_map(at(object, &["spec", "selector"]));
    cells.pop();
    cells.push(Cell::or_none(&selector.to_string()));
    cells
}

/// Columns of a ControllerRevision.
pub const CONTROLLER_REVISION: &[Column] = &[
    Column::NAME,
    Column::text("Controller", "Whose past it is."),
    Column::number("Revision", "Which, counted up."),
    Column::AGE,
];

/// Cells of a ControllerRevision.
pub fn controller_revision(object: &Value, now: i64) -> Vec<Cell> {
    let owners = list(object, &["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|one| one["controller"] == true);
    let owner = owner.map_or_else(String::new, |one| {
        let version = text(one, &["apiVersion"]);
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = text(one, &["kind"]).to_lowercase();
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", text(one, &["name"]))
    });
    vec![
        name(object),
        Cell::or_none(&owner),
        number(object, &["revision"]).unwrap_or(0).into(),
        age(object, now),
    ]
}

/// Names and images of the containers of the template in `spec`, and the selector in `spec`.
pub(super) fn template(object: &Value, spec: &[&str]) -> [Cell; 3] {
    let spec = at(object, spec);
    let containers = list(spec, &["template", "spec", "containers"]);
    let joined = |field| {
        let all: Vec<&str> = containers.iter().map(|one| text(one, &[field])).collect();
        Cell::or_none(&all.join(","))
    };
    let selector = LabelSelector::from_object(&spec["selector"]).unwrap_or_default();
    [
        joined("name"),
        joined("image"),
        Cell::or_none(&selector.to_string()),
    ]
}

/// Columns of a PodTemplate.
pub const POD_TEMPLATE: &[Column] = &[
    Column::NAME,
    Column::text("Containers", "Names of the containers."),
    Column::text("Images", "Images of the containers."),
    Column::text("Pod Labels", "Labels of its pods."),
];

/// Cells of a PodTemplate.
pub fn pod_template(object: &Value, _now: i64) -> Vec<Cell> {
    let containers = list(object, &["template", "spec", "containers"]);
    let each = |field: &str| {
        let texts: Vec<&str> = containers.iter().map(|one| text(one, &[field])).collect();
        Cell::from(texts.join(","))
    };
    let labels: Vec<String> = crate::walk::members(object, &["template", "metadata", "labels"])
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        name(object),
        each("name"),
        each("image"),
        Cell::or_none(&labels.join(",")),
    ]
}
