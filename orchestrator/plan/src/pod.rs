//! What a pod's and any object's fields say: readiness, ends, owners. No decisions.

mod fields;
mod needs;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

pub use fields::{Container, ContainerStatus, Place, Pod, PodSpec, PodStatus, Resources, Volume};
pub use needs::Needs;

use crate::ownership;
use crate::write::{ObjectRef, Write};

/// The owner that manages an object.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references
        .as_ref()?
        .iter()
        .find(|owner| owner.controller == Some(true))
}

/// The node a pod is bound to.
pub fn node_name(pod: &Pod) -> Option<&str> {
    let name = pod.place.node_name.as_deref();
    name.filter(|name| !name.is_empty())
}

/// Has ended by itself and won't be started again.
pub fn is_terminated(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// `status.phase`, empty when unknown.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Somebody asked for its end.
pub fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Counts for its owner: neither ended nor about to.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminated(pod) && !is_deleted(pod)
}

/// A condition of its status.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Its Ready condition is True.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Ready for at least `min_ready_seconds`; otherwise the moment when it will be, if it is ready.
pub fn available(
    pod: &Pod,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Result<(), Option<Timestamp>> {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status == "True") else {
        return Err(None);
    };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let since = ready
        .last_transition_time
        .as_ref()
        .map_or(now, |time| time.0);
    let due = after(since, i64::from(min_ready_seconds));
    if due <= now { Ok(()) } else { Err(Some(due)) }
}

/// `moment` plus `seconds`, stopping at the end of time.
pub(crate) fn after(moment: Timestamp, seconds: i64) -> Timestamp {
    moment
        .checked_add(jiff::SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// Changes fields of a pod as it was seen.
pub(crate) fn patch(pod: &Pod, patch: Value) -> Write {
    ownership::patch(reference(pod), &pod.metadata, patch)
}

/// Names a pod.
pub fn reference(pod: &Pod) -> ObjectRef {
    object("v1", "Pod", &pod.metadata)
}

/// Names an object.
pub(crate) fn object(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectRef {
    ObjectRef {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}
