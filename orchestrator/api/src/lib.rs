//! The Kubernetes API as data: one registry row a resource, defaults, validation, selectors, patches, table columns,
//! discovery and OpenAPI documents, and the Status errors that clients parse. Pure: no sockets, files, clock or
//! randomness.
//!
//! How a request passes through: the body becomes a [`serde_json::Value`] ([`body::parse`]), [`Resource::read`] checks
//! it against the kind's type and drops what the kind doesn't have, [`life`] turns it into the object to be stored
//! (defaults, metadata, validation of the whole), and [`table`] or the object itself is the answer. A patch is applied
//! ([`patch::Patch::apply`]) to the stored object, then read and updated like any other body.
#![forbid(unsafe_code)]

pub mod access;
pub mod admission;
pub mod audit;
pub mod body;
mod cel;
pub mod component;
pub mod custom;
mod decode;
mod defaults;
pub mod discovery;
mod fault;
pub mod flow;
pub mod life;
#[cfg(test)]
mod mutations;
pub mod openapi;
pub mod ownership;
pub mod patch;
mod pattern;
pub mod protobuf;
mod registry;
mod resource;
pub mod scale;
pub mod schedule;
pub mod selector;
pub mod service;
mod status;
pub mod table;
pub mod tenant;
mod validate;
mod walk;

pub use custom::Kinds;
pub use decode::{Decoded, FieldValidation, Read};
pub use fault::{Fault, FaultKind};
pub use life::{
    CreateContext, DeleteOptions, Deletion, Part, Propagation, prepare_create, prepare_delete,
    prepare_update,
};
pub use registry::{RESOURCES, VIEWS, by_kind, find, lookup_name};
pub use resource::{Resource, Source, View};
pub use status::{Cause, Details, ListMeta, Outcome, Status};
pub use table::{Cell, Column};
pub use validate::{MIRROR, PLACEMENT};

/// Any JSON, often with the field names that code here reads.
#[cfg(test)]
pub(crate) fn any_json() -> impl proptest::strategy::Strategy<Value = serde_json::Value> {
    use proptest::prelude::*;
    use serde_json::Value;
    let words = proptest::sample::select(vec![
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "spec",
        "status",
        "template",
        "containers",
        "initContainers",
        "image",
        "ports",
        "containerPort",
        "protocol",
        "port",
        "env",
        "volumes",
        "volumeMounts",
        "mountPath",
        "resources",
        "requests",
        "limits",
        "cpu",
        "selector",
        "matchLabels",
        "replicas",
        "strategy",
        "rollingUpdate",
        "maxSurge",
        "type",
        "conditions",
        "tolerations",
        "key",
        "$patch",
        "readinessProbe",
        "httpGet",
        "data",
        "containerStatuses",
        "state",
        "terminated",
        "clusterIP",
        "kind",
        "apiVersion",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..70_000).prop_map(Value::from),
        "[a-zA-Z0-9./:-]{0,8}".prop_map(Value::from),
        Just(Value::from("delete")),
    ];
    leaf.prop_recursive(6, 64, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(words.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
