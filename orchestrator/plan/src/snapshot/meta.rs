//! The part of an object that ownership and deletion need, for any kind.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::ObjectKey;
use super::words::Words;
use crate::write::ObjectRef;

/// An owner reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name, in the same namespace or cluster-scoped.
    pub name: Arc<str>,
    /// Uid.
    pub uid: Arc<str>,
    /// The owner can't go in the foreground before this object.
    pub blocks: bool,
    /// The owner manages this object.
    pub controller: bool,
}

/// Metadata of an object of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Where it is found.
    pub key: Arc<ObjectKey>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// Owners.
    pub owners: Box<[Owner]>,
    /// `metadata.finalizers`.
    pub finalizers: Box<[String]>,
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
            key: Arc::new(ObjectKey {
                namespace: text(&metadata["namespace"]).into(),
                api_version: text(&value["apiVersion"]).into(),
                kind: text(&value["kind"]).into(),
                name: text(&metadata["name"]).to_owned(),
            }),
            uid: text(&metadata["uid"]).into(),
            owners: rows("ownerReferences").iter().map(owner).collect(),
            finalizers: rows("finalizers")
                .iter()
                .map(|one| text(one).to_owned())
                .collect(),
            deleted: metadata["deletionTimestamp"]
                .as_str()
                .and_then(|moment| moment.parse().ok()),
        }
    }

    /// Which object, for a write.
    pub fn object(&self) -> ObjectRef {
        let key = self.key.as_ref();
        ObjectRef {
            api_version: key.api_version.to_string(),
            kind: key.kind.to_string(),
            namespace: key.namespace.to_string(),
            name: key.name.clone(),
            uid: self.uid.to_string(),
        }
    }

    /// Exchanges the words that other objects have as well for those that are kept.
    pub(super) fn share(&mut self, words: &mut Words) {
        if let Some(key) = Arc::get_mut(&mut self.key) {
            for word in [&mut key.namespace, &mut key.api_version, &mut key.kind] {
                words.share(word);
            }
        }
        for owner in &mut self.owners {
            for word in [
                &mut owner.api_version,
                &mut owner.kind,
                &mut owner.name,
                &mut owner.uid,
            ] {
                words.share(word);
            }
        }
    }

    /// Has this finalizer.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }
}

fn owner(value: &Value) -> Owner {
    Owner {
        api_version: text(&value["apiVersion"]).into(),
        kind: text(&value["kind"]).into(),
        name: text(&value["name"]).into(),
        uid: text(&value["uid"]).into(),
        blocks: value["blockOwnerDeletion"].as_bool().unwrap_or(false),
        controller: value["controller"].as_bool().unwrap_or(false),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
