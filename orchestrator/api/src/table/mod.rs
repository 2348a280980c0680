//! Answers as tables: `meta.k8s.io/v1` Table with the columns that `kubectl get` shows, and PartialObjectMetadata.
//! Columns of each kind are in the files beside; rendering to text is the client's.

pub mod access;
pub mod age;
pub mod batch;
pub mod cluster;
pub mod config;
pub mod extension;
pub mod flow;
pub mod limits;
pub mod network;
pub mod node;
pub mod pod;
pub mod storage;
pub mod workload;

use serde_json::{Value, json};

use crate::walk::text;
use crate::{ListMeta, Resource};

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading, `Ready`.
    pub name: &'static str,
    /// `string`, `integer`.
    pub kind: &'static str,
    /// `name` for the object's name, otherwise empty.
    pub format: &'static str,
    /// For `kubectl explain`-like help.
    pub description: &'static str,
    /// 0 is always shown, higher ones only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The object's name.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    };
    /// How old the object is.
    pub const AGE: Self = Self::text("Age", "Time since the object was created.");

    /// A text.
    pub const fn text(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            kind: "string",
            format: "",
            description,
            priority: 0,
        }
    }

    /// A whole number.
    pub const fn number(name: &'static str, description: &'static str) -> Self {
        Self {
            name,
            kind: "integer",
            format: "",
            description,
            priority: 0,
        }
    }

    /// The same, shown only with `-o wide`.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self {
            priority: 1,
            ..self
        }
    }
}

/// What stands in a column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// Anything else, as it is in the object; null shows nothing.
    Other(Value),
}

impl Cell {
    /// Text, or `<none>` when empty.
    pub fn or_none(text: &str) -> Self {
        if text.is_empty() {
            "<none>".into()
        } else {
            text.into()
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<Cell> for Value {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Text(text) => text.into(),
            Cell::Number(number) => number.into(),
            Cell::Other(value) => value,
        }
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
            Self::Other(Value::Null) => Ok(()),
            Self::Other(value) => value.fmt(f),
        }
    }
}

/// How much of each object a table row carries (query parameter `includeObject`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its PartialObjectMetadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl std::str::FromStr for IncludeObject {
    type Err = crate::Status;
    fn from_str(text: &str) -> Result<Self, crate::Status> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            _ => Err(crate::Status::bad_request(format!(
                "unrecognized includeObject value: {text:?}"
            ))),
        }
    }
}

/// A Table of `objects`. `now` is seconds since the epoch. Watch events carry tables too, with one object each;
/// `headings` may then be left out after the first.
pub fn document<'a>(
    resource: &Resource,
    objects: impl IntoIterator<Item = &'a Value>,
    now: i64,
    include: IncludeObject,
    metadata: &ListMeta,
    headings: bool,
) -> Value {
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| row(resource, object, now, include))
        .collect();
    let columns = if headings {
        columns(resource)
    } else {
        Value::Null
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn columns(resource: &Resource) -> Value {
    let one = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    };
    resource.columns.iter().map(one).collect()
}

fn row(resource: &Resource, object: &Value, now: i64, include: IncludeObject) -> Value {
    let cells: Vec<Value> = resource
        .row_cells(object, now)
        .into_iter()
        .map(Value::from)
        .collect();
    let mut row = json!({ "cells": cells });
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = partial(object),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// The object's PartialObjectMetadata.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// A PartialObjectMetadataList of `objects`.
pub fn partial_list<'a>(
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: &ListMeta,
) -> Value {
    let items: Vec<Value> = objects.into_iter().map(partial).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "items": items,
    })
}

pub(crate) fn name(object: &Value) -> Cell {
    text(object, &["metadata", "name"]).into()
}

/// Columns of a kind that has none of its own.
pub const NAME_AND_AGE: &[Column] = &[Column::NAME, Column::AGE];

/// Cells for them.
pub fn name_and_age(object: &Value, now: i64) -> Vec<Cell> {
    vec![name(object), age(object, now)]
}

/// Columns of a kind that shows when it was made.
pub const NAME_AND_CREATION: &[Column] = &[
    Column::NAME,
    Column::text("Created At", "When the object was created."),
];

/// Cells for them.
pub fn name_and_creation(object: &Value, _now: i64) -> Vec<Cell> {
    let created = text(object, &["metadata", "creationTimestamp"]);
    vec![name(object), created.into()]
}

/// A label selector as a cell; `<none>` when it selects everything.
pub(crate) fn selector(selector: &Value) -> Cell {
    let text = crate::selector::LabelSelector::from_object(selector)
        .map(|selector| selector.to_string())
        .unwrap_or_default();
    Cell::or_none(&text)
}

/// Time since the object was created, as kubectl prints it.
pub(crate) fn age(object: &Value, now: i64) -> Cell {
    age::since(text(object, &["metadata", "creationTimestamp"]), now).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RESOURCES, lookup_name};
    use proptest::prelude::*;

    fn check(kind: &str, object: Value, expect: &[&str]) {
        let row = lookup_name(kind).unwrap();
        let cells: Vec<String> = (row.cells)(&object, 1_000)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(cells, expect, "{kind}");
    }

    #[test]
    fn rows_are_what_kubectl_shows() {
        let meta = json!({"name": "x", "creationTimestamp": "1970-01-01T00:15:00Z"});
        check(
            "deployment",
            json!({"metadata": meta, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "x"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "i:1"}]}}},
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
            &["x", "2/3", "3", "2", "100s", "a", "i:1", "app=x"],
        );
        check(
            "replicaset",
            json!({"metadata": meta, "spec": {"replicas": 3}, "status": {"replicas": 2}}),
            &["x", "3", "2", "0", "100s", "<none>", "<none>", "<none>"],
        );
        check(
            "service",
            json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.96.0.2", "selector": {"a": "b"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
            &[
                "x",
                "NodePort",
                "10.96.0.2",
                "<none>",
                "80:30080/TCP,53/UDP",
                "100s",
                "a=b",
            ],
        );
        check(
            "node",
            json!({"metadata": {"name": "x", "labels": {"node-role.kubernetes.io/worker": ""}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
                    "addresses": [{"type": "InternalIP", "address": "172.30.0.11"}]}}),
            &[
                "x",
                "Ready,SchedulingDisabled",
                "worker",
                "<unknown>",
                "v1",
                "172.30.0.11",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>",
            ],
        );
        check(
            "endpointslice",
            json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 80}],
                "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]}),
            &["x", "IPv4", "80", "1,2,3 + 1 more...", "100s"],
        );
        check(
            "event",
            json!({"metadata": meta, "lastTimestamp": "1970-01-01T00:16:00Z", "type": "Normal", "reason": "Started",
                "involvedObject": {"kind": "Pod", "name": "p"}, "message": "it runs\n", "count": 4}),
            &[
                "40s",
                "Normal",
                "Started",
                "pod/p",
                "",
                "",
                "it runs",
                "<unknown>",
                "4",
                "x",
            ],
        );
        check(
            "secret",
            json!({"metadata": meta, "type": "Opaque", "data": {"a": ""}}),
            &["x", "Opaque", "1", "100s"],
        );
        check(
            "cm",
            json!({"metadata": meta, "data": {"a": ""}, "binaryData": {"b": ""}}),
            &["x", "2", "100s"],
        );
        check(
            "ns",
            json!({"metadata": meta, "status": {"phase": "Active"}}),
            &["x", "Active", "100s"],
        );
        check(
            "lease",
            json!({"metadata": meta, "spec": {"holderIdentity": "n1"}}),
            &["x", "n1", "100s"],
        );
        check(
            "tenant",
            json!({"metadata": meta, "status": {"id": 3, "namespaces": 1}}),
            &["x", "3", "1", "<none>", "100s", "<none>"],
        );
    }

    #[test]
    fn a_table_has_as_many_cells_as_columns() {
        for row in RESOURCES {
            let object = json!({"metadata": {"name": "x"}});
            let table = document(
                row,
                [&object],
                0,
                IncludeObject::Metadata,
                &ListMeta::default(),
                true,
            );
            let columns = table["columnDefinitions"].as_array().unwrap().len();
            assert_eq!(
                table["rows"][0]["cells"].as_array().unwrap().len(),
                columns,
                "{}",
                row.kind
            );
            assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        }
    }

    proptest! {
        #[test]
        fn any_object_has_a_row(index in 0..RESOURCES.len(), object in crate::any_json()) {
            let row = &RESOURCES[index];
            prop_assert_eq!((row.cells)(&object, 0).len(), row.columns.len());
        }
    }
}
