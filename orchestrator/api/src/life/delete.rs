//! What a DELETE makes of an object: gone at once, or marked and waiting for finalizers, its node, or its dependents.

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::time_text;
use crate::walk::{list, number, set, text};
use crate::{Resource, Status};

/// Finalizer of a deleted CustomResourceDefinition: first its objects go.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// What happens to the objects that a deleted object owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Propagation {
    /// The object goes at once, what it owns afterwards.
    #[default]
    Background,
    /// The object stays, with the finalizer `foregroundDeletion`, until what it owns and blocks it is gone.
    Foreground,
    /// What it owns stays and loses its owner: finalizer `orphan`.
    Orphan,
}

/// Body or query of a DELETE.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds until it is killed; `None` for the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of what it owns; `None` for the kind's default (background).
    pub propagation_policy: Option<Propagation>,
    /// The old way to say [`Propagation::Orphan`] or [`Propagation::Background`].
    pub orphan_dependents: Option<bool>,
    /// What must hold.
    pub preconditions: Option<Preconditions>,
    /// `["All"]`: only say what would happen.
    pub dry_run: Option<Vec<String>>,
}

/// What must hold of an object for it to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its resourceVersion.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// The policy that holds after all ways to say it.
    pub fn propagation(&self) -> Propagation {
        match (self.propagation_policy, self.orphan_dependents) {
            (Some(policy), _) => policy,
            (None, Some(true)) => Propagation::Orphan,
            _ => Propagation::Background,
        }
    }

    /// From a request body; an empty body says nothing.
    ///
    /// # Errors
    /// 400 when it is no DeleteOptions.
    pub fn from_value(body: &Value) -> Result<Self, Status> {
        if body.is_null() {
            return Ok(Self::default());
        }
        Self::deserialize(body)
            .map_err(|error| Status::bad_request(format!("the body is no DeleteOptions: {error}")))
    }
}

/// What becomes of the object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// It goes now.
    Remove,
    /// It is stored like this and goes later.
    Mark(Value),
    /// It is being deleted already and nothing changes.
    Unchanged,
}

/// Namespaces that every cluster has, for good.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

fn is_namespace(resource: &Resource) -> bool {
    resource.kind == "Namespace" && resource.group.is_empty()
}

/// What a DELETE makes of `old`.
///
/// # Errors
/// 403 for a namespace that every cluster has, 409 when a precondition doesn't hold, 422 for a negative grace period.
pub fn prepare_delete(
    resource: &Resource,
    old: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Deletion, Status> {
    let name = text(old, &["metadata", "name"]);
    if is_namespace(resource) && IMMORTAL.contains(&name) {
        let why = "this namespace may not be deleted";
        return Err(Status::forbidden(resource, name, why));
    }
    check_preconditions(resource, old, options)?;
    if options
        .grace_period_seconds
        .is_some_and(|seconds| seconds < 0)
    {
        let fault = crate::Fault::invalid(
            "gracePeriodSeconds",
            options.grace_period_seconds,
            "must be non-negative",
        );
        return Err(Status::invalid(resource, name, &[fault]));
    }
    let grace = grace_seconds(resource, old, options);
    let mut finalizers = finalizers(old, options.propagation());
    let again = !old["metadata"]["deletionTimestamp"].is_null();
    let cleanup = CLEANUP.to_owned();
    if resource.kind == "CustomResourceDefinition" && !again && !finalizers.contains(&cleanup) {
        finalizers.push(cleanup);
    }
    let waits = !finalizers.is_empty()
        || grace > 0
        || (is_namespace(resource) && !list(old, &["spec", "finalizers"]).is_empty());
    if !waits {
        return Ok(Deletion::Remove);
    }
    let marked = mark(resource, old, &finalizers, grace, now);
    Ok(if marked == *old {
        Deletion::Unchanged
    } else {
        Deletion::Mark(marked)
    })
}

fn check_preconditions(
    resource: &Resource,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let Some(wanted) = &options.preconditions else {
        return Ok(());
    };
    let name = text(old, &["metadata", "name"]);
    let facts = [
        ("UID", "uid", &wanted.uid),
        (
            "ResourceVersion",
            "resourceVersion",
            &wanted.resource_version,
        ),
    ];
    for (word, field, wanted) in facts {
        let found = text(old, &["metadata", field]);
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "Precondition failed: {word} in precondition: {wanted}, {word} in object meta: {found}"
            );
            return Err(Status::conflict(resource, name, &why));
        }
    }
    Ok(())
}

/// Only a pod that a node may be running has a grace period.
fn grace_seconds(resource: &Resource, old: &Value, options: &DeleteOptions) -> i64 {
    let bound = !text(old, &["spec", "nodeName"]).is_empty();
    let ended = matches!(text(old, &["status", "phase"]), "Succeeded" | "Failed");
    if resource.kind != "Pod" || !bound || ended {
        return 0;
    }
    let own = number(old, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(30);
    options.grace_period_seconds.unwrap_or(own)
}

/// The finalizers after this DELETE.
fn finalizers(old: &Value, propagation: Propagation) -> Vec<String> {
    let deleted = !old["metadata"]["deletionTimestamp"].is_null();
    let mut all: Vec<String> = list(old, &["metadata", "finalizers"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some("foregroundDeletion"),
        Propagation::Orphan => Some("orphan"),
    };
    if deleted && wanted.is_none() {
        return all;
    }
    all.retain(|one| !matches!(one.as_str(), "foregroundDeletion" | "orphan"));
    all.extend(wanted.map(str::to_owned));
    all
}

fn mark(
    resource: &Resource,
    old: &Value,
    finalizers: &[String],
    grace: i64,
    now: Timestamp,
) -> Value {
    let mut value = old.clone();
    if finalizers.is_empty() {
        crate::walk::remove(&mut value, &["metadata"], "finalizers");
    } else {
        set(&mut value, &["metadata"], "finalizers", json!(finalizers));
    }
    let before = number(old, &["metadata", "deletionGracePeriodSeconds"]);
    let first = old["metadata"]["deletionTimestamp"].is_null();
    // A later DELETE can only bring the end nearer.
    if first || before.is_some_and(|before| grace < before) {
        let end = now
            .checked_add(SignedDuration::from_secs(grace))
            .unwrap_or(Timestamp::MAX);
        set(
            &mut value,
            &["metadata"],
            "deletionTimestamp",
            time_text(end),
        );
        set(
            &mut value,
            &["metadata"],
            "deletionGracePeriodSeconds",
            grace,
        );
        if first && let Some(generation) = number(old, &["metadata", "generation"]) {
            set(&mut value, &["metadata"], "generation", generation + 1);
        }
    }
    if resource.kind == "Namespace" {
        set(&mut value, &["status"], "phase", "Terminating");
    }
    value
}
