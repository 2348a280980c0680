//! The part of an object that ownership and deletion need, for any kind.

use jiff::Timestamp;
use serde_json::Value;

use crate::write::ObjectRef;

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name, in the same namespace or cluster-scoped.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// The owner can't go in the foreground before this object.
    pub blocks: bool,
    /// The owner manages this object.
    pub controller: bool,
}

/// Metadata of an object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Which object.
    pub object: ObjectRef,
    /// Owners.
    pub owners: Vec<Owner>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// `metadata.deletionTimestamp`.
    pub deleted: Option<Timestamp>,
}

impl Meta {
    /// Reads it from an object's JSON; what is missing is empty.
    pub fn of(value: &Value) -> Self {
        let metadata = &value["metadata"];
        let rows = |name: &str| {
            metadata[name]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default()
        };
        Self {
            object: ObjectRef {
                api_version: text(&value["apiVersion"]),
                kind: text(&value["kind"]),
                namespace: text(&metadata["namespace"]),
                name: text(&metadata["name"]),
                uid: text(&metadata["uid"]),
            },
            owners: rows("ownerReferences").iter().map(owner).collect(),
            finalizers: rows("finalizers").iter().map(text).collect(),
            deleted: metadata["deletionTimestamp"]
                .as_str()
                .and_then(|moment| moment.parse().ok()),
        }
    }

    /// Has this finalizer.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }
}

fn owner(value: &Value) -> Owner {
    Owner {
        api_version: text(&value["apiVersion"]),
        kind: text(&value["kind"]),
        name: text(&value["name"]),
        uid: text(&value["uid"]),
        blocks: value["blockOwnerDeletion"].as_bool().unwrap_or(false),
        controller: value["controller"].as_bool().unwrap_or(false),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
