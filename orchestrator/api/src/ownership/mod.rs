//! Who owns which field of an object: `metadata.managedFields`, server-side apply with its conflicts, and what other
//! writers take over by writing. Pure; an object's own rules (defaults, validation) come afterwards.
//!
//! Semantics: <https://kubernetes.io/docs/reference/using-api/server-side-apply/>.

mod apply;
mod compare;
mod entries;
mod fields;
mod merge;
mod shape;

use jiff::Timestamp;
use serde_json::Value;

pub use apply::{Applied, apply};
use compare::changes;
use entries::{Entry, Managers, Operation};
use fields::FieldSet;
use shape::Shape;

use crate::Resource;
use crate::walk::{self, remove};

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// Its name: query parameter `fieldManager`, or the first word of its User-Agent.
    pub manager: &'a str,
    /// `status`, `scale`; empty for the object itself.
    pub subresource: &'a str,
    /// Now.
    pub now: Timestamp,
}

/// Metadata that nobody owns.
const UNOWNED: [&str; 11] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "generation",
    "selfLink",
    "managedFields",
];

/// Writes into `new` who owns its fields after `writer` made it from `old` (or created it). `given` is what the
/// writer's own object said of managedFields: entries replace those known, one empty entry forgets them all.
pub fn track(
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    given: &Value,
    writer: Writer<'_>,
) {
    let known = old.map_or(&Value::Null, |old| &old["metadata"]["managedFields"]);
    let mut managers = match given.as_array().map(Vec::as_slice) {
        None | Some([]) => Managers::read(known),
        Some([Value::Object(one)]) if one.is_empty() => {
            store(new, &Managers::default());
            return;
        }
        Some(_) => Managers::read(given),
    };
    let shape = Shape::of(resource);
    let (before, mut after) = (old.map(tracked).unwrap_or_default(), tracked(new));
    if old.is_none() && resource.has_status() {
        // What a status begins with is nobody's.
        remove(&mut after, &[], "status");
    }
    let change = changes(shape, &before, &after);
    if change.is_empty() {
        store(new, &managers);
        return;
    }
    let taken = change.set.clone();
    managers.release(&taken.union(&change.removed));
    managers.add(
        &Entry {
            manager: writer.manager.to_owned(),
            operation: Operation::Update,
            api_version: resource.api_version(),
            time: Some(writer.now),
            subresource: writer.subresource.to_owned(),
            fields: FieldSet::default(),
        },
        &taken,
    );
    store(new, &managers);
}

/// The managedFields of an object that an admission webhook has made of one that had `before`.
///
/// # Errors
/// A warning when the webhook has spoilt them; those from before hold then.
pub fn after_admission(before: &Value, made: &Value) -> Result<Value, String> {
    let after = &made["metadata"]["managedFields"];
    if after == before || entries::are_valid(after) {
        return Ok(after.clone());
    }
    Err(
        ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating \
         admission controller; please fix your requests"
            .to_owned(),
    )
}

/// Writes an object's managedFields; null for none.
pub fn set(object: &mut Value, entries: Value) {
    if entries.as_array().is_none_or(Vec::is_empty) {
        remove(object, &["metadata"], "managedFields");
    } else {
        walk::set(object, &["metadata"], "managedFields", entries);
    }
}

/// The part of an object whose fields have owners.
fn tracked(object: &Value) -> Value {
    let mut value = object.clone();
    for key in ["apiVersion", "kind"] {
        remove(&mut value, &[], key);
    }
    for key in UNOWNED {
        remove(&mut value, &["metadata"], key);
    }
    if value["metadata"]
        .as_object()
        .is_some_and(serde_json::Map::is_empty)
    {
        remove(&mut value, &[], "metadata");
    }
    value
}

fn store(object: &mut Value, managers: &Managers) {
    set(object, managers.to_value());
}

#[cfg(test)]
mod tests;
