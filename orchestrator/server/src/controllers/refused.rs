//! What people are told when a planned write is refused: an event on the object that it was for.

use serde_json::Value;
use waggle_api::Status;
use waggle_plan::{EventDraft, ObjectRef, Write};

/// Whom a write is for, kept while the write is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purpose {
    object: ObjectRef,
    reason: &'static str,
    what: String,
}

impl Purpose {
    /// The object that a write changes; for a new object, the one that wants it.
    pub(super) fn of(write: &Write) -> Self {
        let changed = |value: &Value, reason| Self {
            object: named(value, &value["metadata"]),
            reason,
            what: "it can't be updated".to_owned(),
        };
        match write {
            Write::Create(value) => Self::of_new(value),
            Write::Update(value) | Write::UpdateStatus(value) => changed(value, "FailedUpdate"),
            Write::Bind {
                namespace,
                name,
                uid,
                node,
            } => Self {
                object: reference("v1", "Pod", namespace, name, uid),
                reason: "FailedBinding",
                what: format!("it can't be bound to node {node}"),
            },
            Write::Gang(binds) => binds.first().map_or_else(
                || Self::of_new(&Value::Null),
                |first| Self {
                    what: "its gang can't be bound".to_owned(),
                    ..Self::of(first)
                },
            ),
            Write::Delete {
                api_version,
                kind,
                namespace,
                name,
                uid,
                ..
            } => Self {
                object: reference(api_version, kind, namespace, name, uid),
                reason: "FailedDelete",
                what: "it can't be deleted".to_owned(),
            },
            Write::Patch { object, .. }
            | Write::RemoveFinalizer { object, .. }
            | Write::RemoveOwner { object, .. } => Self {
                object: object.clone(),
                reason: "FailedUpdate",
                what: "it can't be updated".to_owned(),
            },
        }
    }

    fn of_new(value: &Value) -> Self {
        let metadata = &value["metadata"];
        let owners = metadata["ownerReferences"].as_array();
        let owner = owners
            .into_iter()
            .flatten()
            .find(|owner| owner["controller"] == true);
        let mut object = owner.map_or_else(|| named(value, metadata), |owner| named(owner, owner));
        object.namespace = text(&metadata["namespace"]);
        let kind = text(&value["kind"]);
        let name = text(&metadata["name"]);
        Self {
            object,
            reason: "FailedCreate",
            what: format!("{kind} {name} can't be created"),
        }
    }

    /// The event.
    pub(super) fn event(self, status: &Status) -> EventDraft {
        EventDraft {
            object: self.object,
            warning: true,
            reason: self.reason,
            message: format!("{}: {status}", self.what),
            component: "waggle-controllers",
        }
    }
}

/// An object by its kind and its metadata; in an owner reference both are one.
fn named(kind: &Value, metadata: &Value) -> ObjectRef {
    let of = |field: &str| text(&metadata[field]);
    ObjectRef {
        api_version: text(&kind["apiVersion"]),
        kind: text(&kind["kind"]),
        namespace: of("namespace"),
        name: of("name"),
        uid: of("uid"),
    }
}

fn reference(api_version: &str, kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_is_refused_is_told_at_its_owner() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "web-1", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true}]},
        });
        let refusal = Status::failure(403, "Forbidden", "exceeded quota");
        let event = Purpose::of(&Write::Create(pod)).event(&refusal);
        let owner = reference("apps/v1", "ReplicaSet", "shop", "web", "u");
        assert_eq!((event.object, event.reason), (owner, "FailedCreate"));
        assert_eq!(event.message, "Pod web-1 can't be created: exceeded quota");
    }

    #[test]
    fn a_change_is_told_at_the_object() {
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": "n"}});
        let refusal = Status::failure(507, "InsufficientStorage", "full");
        let event = Purpose::of(&Write::UpdateStatus(node)).event(&refusal);
        assert_eq!(event.object, reference("v1", "Node", "", "node1", "n"));
        assert_eq!(event.reason, "FailedUpdate");
    }
}
