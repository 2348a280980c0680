//! An object's life: what is stored when it is created, updated and deleted. Pure: time, uid and random suffix are
//! arguments. A Service's clusterIP is not chosen here.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::walk::{carry, has, list, list_mut, number, remove, set, text};
use crate::{Fault, Resource, Source, Status};

mod delete;

pub use delete::{CLEANUP, DeleteOptions, Deletion, Preconditions, Propagation, prepare_delete};

/// What a new object gets from its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct CreateContext<'a> {
    /// Its creation time.
    pub now: Timestamp,
    /// Its uid, never used before.
    pub uid: &'a str,
    /// What `metadata.generateName` is completed with: 5 random letters and digits.
    pub name_suffix: &'a str,
    /// Namespace of the request's path, empty for a cluster-scoped kind.
    pub namespace: &'a str,
}

/// What an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Main,
    /// Status only.
    Status,
    /// The ephemeral containers of a pod only.
    Ephemeral,
    /// The resources of a pod's containers only.
    Resize,
    /// A signing request's conditions only.
    Approval,
}

/// A moment as objects carry it: RFC 3339 in UTC, whole seconds.
pub fn time_text(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Makes the object to be stored from what a client wants created: name, uid, creation time, defaults. `wanted` is
/// what [`Resource::read`] answered.
///
/// # Errors
/// 400 when the namespace is another than the path's or a name is missing, 422 with every fault otherwise.
pub fn prepare_create(
    resource: &'static Resource,
    wanted: Value,
    context: &CreateContext<'_>,
) -> Result<Value, Status> {
    let (resource, mut value) = kept(resource, wanted, None);
    if value["metadata"].is_null() {
        set(&mut value, &[], "metadata", json!({}));
    }
    settle_namespace(resource, &mut value, context.namespace)?;
    let base = text(&value, &["metadata", "generateName"]).to_owned();
    if text(&value, &["metadata", "name"]).is_empty() && !base.is_empty() {
        let kept: String = base.chars().take(63 - 5).collect();
        set(
            &mut value,
            &["metadata"],
            "name",
            format!("{kept}{}", context.name_suffix),
        );
    }
    if !text(&value, &["metadata", "resourceVersion"]).is_empty() {
        return Err(Status::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for key in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ] {
        remove(&mut value, &["metadata"], key);
    }
    set(&mut value, &["metadata"], "uid", context.uid);
    set(
        &mut value,
        &["metadata"],
        "creationTimestamp",
        time_text(context.now),
    );
    remove(&mut value, &["metadata"], "generation");
    if counts_generations(resource) {
        set(&mut value, &["metadata"], "generation", 1);
    }
    // Nodes register with the status they found; everybody else's status starts empty.
    if resource.has_status() && resource.kind != "Node" {
        remove(&mut value, &[], "status");
    }
    resource.fill_in(&mut value);
    if resource.has_status() && !resource.is_custom() && value["status"].is_null() {
        set(
            &mut value,
            &[],
            "status",
            crate::defaults::first_status(resource.kind),
        );
    }
    refuse(resource, &value, resource.faults(&value, None))?;
    Ok(in_stored_version(resource, value))
}

/// What a client wants, in the form in which it is checked: a view's as the stored kind, everything else as it is.
fn kept(
    resource: &'static Resource,
    wanted: Value,
    old: Option<&Value>,
) -> (&'static Resource, Value) {
    match resource.source {
        Source::View(view) => (resource.stored(), (view.keep)(&wanted, old)),
        _ => (resource, wanted),
    }
}

/// A definition's versions differ in their schemas, and in nothing else, unless a webhook converts between them.
fn in_stored_version(resource: &'static Resource, mut value: Value) -> Value {
    if resource.is_custom() && resource.converter().is_none() {
        set(
            &mut value,
            &[],
            "apiVersion",
            resource.stored().api_version(),
        );
    }
    value
}

/// Makes the object to be stored from the stored one (`resource` may be any version in which it is served) and what a
/// client wants it to be.
///
/// # Errors
/// 409 when `wanted` carries another resourceVersion or uid than `old`, 400 for another name or namespace, 422 with
/// every fault of the result (a status is only the server's and the nodes' to write, and is taken as it is).
pub fn prepare_update(
    resource: &'static Resource,
    old: &Value,
    wanted: Value,
    part: Part,
) -> Result<Value, Status> {
    let (resource, wanted) = kept(resource, wanted, Some(old));
    let old: &Value = &resource.show(old);
    let name = text(old, &["metadata", "name"]);
    same_object(resource, old, &wanted)?;
    let given = text(&wanted, &["metadata", "resourceVersion"]);
    if !given.is_empty() && given != text(old, &["metadata", "resourceVersion"]) {
        return Err(Status::modified(resource, name));
    }
    let uid = text(&wanted, &["metadata", "uid"]);
    if !uid.is_empty() && uid != text(old, &["metadata", "uid"]) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(old, &["metadata", "uid"])
        );
        return Err(Status::conflict(resource, name, &why));
    }
    if part == Part::Approval {
        return approval_part(resource, old, &wanted);
    }
    if part == Part::Status {
        let mut value = status_part(old, &wanted);
        if resource.is_custom() {
            resource.fill_in(&mut value);
            refuse(resource, &value, resource.faults(&value, Some(old)))?;
        }
        return Ok(in_stored_version(resource, value));
    }
    let mut value = match part {
        Part::Ephemeral => ephemeral_part(old, &wanted),
        Part::Resize => resize_part(old, &wanted),
        _ => main_part(resource, old, wanted),
    };
    resource.fill_in(&mut value);
    let faults = match part {
        Part::Ephemeral => crate::validate::ephemeral_containers(&value, old),
        Part::Resize => crate::validate::resize(&value, old),
        _ => resource.faults(&value, Some(old)),
    };
    refuse(resource, &value, faults)?;
    if counts_generations(resource) {
        let before = number(old, &["metadata", "generation"]).unwrap_or(1);
        let same = content(resource, old) == content(resource, &value);
        set(
            &mut value,
            &["metadata"],
            "generation",
            before + i64::from(!same),
        );
    }
    Ok(in_stored_version(resource, value))
}

/// Whether an object that is being deleted has nothing left that keeps it: no finalizers and, for a pod, no grace
/// period that runs on a node. The server then removes it instead of storing it.
pub fn may_go(resource: &Resource, value: &Value) -> bool {
    has(value, &["metadata", "deletionTimestamp"])
        && list(value, &["metadata", "finalizers"]).is_empty()
        && (resource.kind != "Namespace" || list(value, &["spec", "finalizers"]).is_empty())
        && number(value, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) == 0
}

fn refuse(resource: &Resource, value: &Value, faults: Vec<Fault>) -> Result<(), Status> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        resource,
        text(value, &["metadata", "name"]),
        &faults,
    ))
}

/// Kinds whose `metadata.generation` counts changes of their spec.
fn counts_generations(resource: &Resource) -> bool {
    resource.is_custom()
        || matches!(
            resource.kind,
            "Deployment"
                | "ReplicaSet"
                | "Pod"
                | "Tenant"
                | "EndpointSlice"
                | "StatefulSet"
                | "DaemonSet"
                | "ReplicationController"
                | "Job"
                | "CronJob"
                | "HorizontalPodAutoscaler"
                | "PodDisruptionBudget"
                | "PriorityClass"
                | "NetworkPolicy"
                | "Ingress"
                | "IngressClass"
                | "CustomResourceDefinition"
                | "MutatingWebhookConfiguration"
                | "ValidatingWebhookConfiguration"
        )
}

fn settle_namespace(resource: &Resource, value: &mut Value, namespace: &str) -> Result<(), Status> {
    let given = text(value, &["metadata", "namespace"]);
    if !resource.namespaced {
        remove(value, &["metadata"], "namespace");
        return Ok(());
    }
    if !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    set(value, &["metadata"], "namespace", namespace);
    Ok(())
}

fn same_object(resource: &Resource, old: &Value, wanted: &Value) -> Result<(), Status> {
    let (old_name, name) = (
        text(old, &["metadata", "name"]),
        text(wanted, &["metadata", "name"]),
    );
    if !name.is_empty() && name != old_name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({old_name})"
        )));
    }
    let namespace = text(wanted, &["metadata", "namespace"]);
    if resource.namespaced
        && !namespace.is_empty()
        && namespace != text(old, &["metadata", "namespace"])
    {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Metadata that no update changes.
const FIXED: [&str; 9] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "generation",
];

fn main_part(resource: &Resource, old: &Value, wanted: Value) -> Value {
    let mut value = wanted;
    for key in FIXED {
        carry(old, &mut value, &["metadata"], key);
    }
    remove(&mut value, &["metadata"], "selfLink");
    // Whose fields are whose is noted by whoever knows the writer.
    carry(old, &mut value, &["metadata"], "managedFields");
    if resource.has_status() {
        carry(old, &mut value, &[], "status");
    }
    if resource.kind == "Service" {
        crate::service::carry_over(old, &mut value);
    }
    if resource.kind == "Pod" && has(old, &["spec", "ephemeralContainers"]) {
        carry(old, &mut value, &["spec"], "ephemeralContainers");
    }
    value
}

fn ephemeral_part(old: &Value, wanted: &Value) -> Value {
    let mut value = old.clone();
    carry(wanted, &mut value, &["spec"], "ephemeralContainers");
    value
}

/// The pod with the wanted resources of the containers that it has.
fn resize_part(old: &Value, wanted: &Value) -> Value {
    let mut value = old.clone();
    for group in ["initContainers", "containers"] {
        for one in list_mut(&mut value, &["spec", group]) {
            let name = text(one, &["name"]).to_owned();
            let all = list(wanted, &["spec", group]);
            if let Some(same) = all.iter().find(|other| text(other, &["name"]) == name) {
                carry(same, one, &[], "resources");
            }
        }
    }
    value
}

fn status_part(old: &Value, wanted: &Value) -> Value {
    let mut value = old.clone();
    carry(wanted, &mut value, &[], "status");
    value
}

/// The signing request with the wanted conditions. What was approved or denied stays so.
fn approval_part(resource: &Resource, old: &Value, wanted: &Value) -> Result<Value, Status> {
    let mut value = old.clone();
    carry(wanted, &mut value, &["status"], "conditions");
    let path = "status.conditions";
    let has = |value: &Value, kind: &str| {
        list(value, &["status", "conditions"])
            .iter()
            .any(|one| one["type"] == kind)
    };
    let mut faults = Vec::new();
    if has(&value, "Approved") && has(&value, "Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        faults.push(Fault::invalid(path, "Denied", detail));
    }
    for kind in ["Approved", "Denied", "Failed"] {
        if has(old, kind) && !has(&value, kind) {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            faults.push(Fault::forbidden(path, detail));
        }
        if kind == "Failed" && has(&value, kind) && !has(old, kind) {
            let detail = "updates may not add a condition of type \"Failed\"";
            faults.push(Fault::forbidden(path, detail));
        }
    }
    refuse(resource, &value, faults)?;
    Ok(value)
}

/// Everything that a new generation is for: the object without metadata, and without its status if that is written
/// apart.
fn content(resource: &Resource, value: &Value) -> Value {
    let mut value = value.clone();
    if resource.has_status() || !resource.is_custom() {
        remove(&mut value, &[], "status");
    }
    remove(&mut value, &[], "metadata");
    value
}

#[cfg(test)]
mod tests;
