//! Controller references: making them, and claiming objects by selector. Who claims what is decided by the callers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;
use serde_json::Value;

use crate::write::{ObjectRef, Propagation, Write};

/// The reference that makes `owner` the controller of an object.
pub(crate) fn controller_reference(owner: &ObjectRef) -> OwnerReference {
    OwnerReference {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// `meta` with `owner` as its controller.
pub(crate) fn adopted(meta: &ObjectMeta, owner: &ObjectRef) -> ObjectMeta {
    let mut meta = meta.clone();
    meta.owner_references
        .get_or_insert_default()
        .push(controller_reference(owner));
    meta
}

/// `meta` without the owner `uid`.
pub(crate) fn released(meta: &ObjectMeta, uid: &str) -> ObjectMeta {
    let mut meta = meta.clone();
    if let Some(owners) = &mut meta.owner_references {
        owners.retain(|owner| owner.uid != uid);
    }
    meta.owner_references = meta.owner_references.filter(|owners| !owners.is_empty());
    meta
}

/// The delete of an object, its own grace kept.
pub(crate) fn delete(
    object: ObjectRef,
    grace_seconds: Option<i64>,
    propagation: Propagation,
) -> Write {
    let ObjectRef {
        api_version,
        kind,
        namespace,
        name,
        uid,
    } = object;
    Write::Delete {
        api_version,
        kind,
        namespace,
        name,
        uid,
        grace_seconds,
        propagation,
    }
}

/// An object as JSON, with apiVersion and kind.
pub(crate) fn json<T: Serialize>(object: &T) -> Value {
    // The types of k8s-openapi have text keys only and no failing serializers but for dates before year 1.
    serde_json::to_value(object).unwrap_or_default()
}
