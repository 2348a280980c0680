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

/// Makes `owner` the controller of an object as it was seen.
pub(crate) fn adopt(object: ObjectRef, meta: &ObjectMeta, owner: &ObjectRef) -> Write {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.push(controller_reference(owner));
    patch(object, meta, owners_are(Some(owners)))
}

/// Takes the owner `uid` from an object as it was seen.
pub(crate) fn release(object: ObjectRef, meta: &ObjectMeta, uid: &str) -> Write {
    let mut owners = meta.owner_references.clone().unwrap_or_default();
    owners.retain(|owner| owner.uid != uid);
    let rest = (!owners.is_empty()).then_some(owners);
    patch(object, meta, owners_are(rest))
}

fn owners_are(owners: Option<Vec<OwnerReference>>) -> Value {
    serde_json::json!({"metadata": {"ownerReferences": owners}})
}

/// Changes fields of an object as it was seen, by a JSON merge patch; one with a `status` changes nothing else.
pub(crate) fn patch(object: ObjectRef, meta: &ObjectMeta, patch: Value) -> Write {
    Write::Patch {
        object,
        version: meta.resource_version.clone().unwrap_or_default(),
        patch,
    }
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
