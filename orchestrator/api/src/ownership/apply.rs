//! Server-side apply: one manager's wishes, merged into an object that others write too.

use serde_json::Value;

use super::compare::changes;
use super::entries::{Entry, Managers, Operation};
use super::fields::FieldSet;
use super::merge::{lay_over, take_out};
use super::shape::{Shape, fields_of};
use super::{Writer, store, tracked};
use crate::{Cause, Details, Resource, Status};

/// Owner of what was there before anybody's fields were noted.
const BEFORE: &str = "before-first-apply";

/// What an apply makes of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object, with its managedFields; not yet defaulted or validated.
    pub value: Value,
}

/// Applies `config` to `live`, or makes a new object of it. `force` takes fields from whoever owns them.
///
/// # Errors
/// 409 naming every field that another manager owns and has otherwise; 400 when `config` brings managedFields.
pub fn apply(
    resource: &Resource,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Applied, Status> {
    if config["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|entries| !entries.is_empty())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::of(resource);
    let wanted = tracked(config);
    let mine = fields_of(shape, &wanted);
    let mut entry = Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version: resource.api_version(),
        time: Some(writer.now),
        subresource: writer.subresource.to_owned(),
        fields: mine.clone(),
    };
    let Some(live) = live else {
        let mut value = config.clone();
        let managers = Managers {
            entries: vec![entry],
        };
        store(&mut value, &managers);
        return Ok(Applied { value });
    };
    let before = tracked(live);
    let mut managers = known(resource, live, shape, &before);
    let index = managers
        .entries
        .iter()
        .position(|one| one.same_manager(&entry));
    let last = index.map(|index| managers.entries.remove(index));
    let mut value = live.clone();
    lay_over(shape, &mut value, &wanted);
    if let Some(last) = &last {
        take_out(shape, &mut value, &given_up(&last.fields, &mine, &managers));
    }
    let after = tracked(&value);
    let change = changes(shape, &before, &after);
    let disputed = change.set.intersection(&mine);
    if !force {
        refuse_conflicts(resource, &managers, &disputed)?;
    }
    managers.release(&disputed.union(&change.removed));
    if let Some(last) = last
        && last.fields == entry.fields
        && change.is_empty()
    {
        entry.time = last.time;
    }
    managers.entries.insert(
        index
            .unwrap_or(managers.entries.len())
            .min(managers.entries.len()),
        entry,
    );
    store(&mut value, &managers);
    Ok(Applied { value })
}

/// The managers of an object. One that has none yet belongs to whoever wrote it before.
fn known(resource: &Resource, live: &Value, shape: Shape<'_>, before: &Value) -> Managers {
    let managers = Managers::read(&live["metadata"]["managedFields"]);
    if !managers.entries.is_empty() {
        return managers;
    }
    let mut owned = before.clone();
    crate::walk::remove(&mut owned, &[], "status");
    let entry = Entry {
        manager: BEFORE.to_owned(),
        operation: Operation::Update,
        api_version: resource.api_version(),
        time: live["metadata"]["creationTimestamp"]
            .as_str()
            .and_then(|text| text.parse().ok()),
        subresource: String::new(),
        fields: fields_of(shape, &owned),
    };
    Managers {
        entries: vec![entry],
    }
}

/// What the manager owned, no longer wants, and nobody else owns. An item stays as long as somebody owns something in
/// it.
fn given_up(last: &FieldSet, mine: &FieldSet, others: &Managers) -> FieldSet {
    let mut up = last.difference(mine);
    for entry in &others.entries {
        up = spared(&up, &entry.fields);
    }
    spared(&up, mine)
}

/// `up` without the places that hold something of `others`.
fn spared(up: &FieldSet, others: &FieldSet) -> FieldSet {
    let mut rest = FieldSet {
        own: up.own && others.is_empty(),
        ..FieldSet::default()
    };
    for (step, tree) in &up.below {
        let kept = others
            .below
            .get(step)
            .map_or_else(|| tree.clone(), |others| spared(tree, others));
        rest.put(step, kept);
    }
    rest
}

fn refuse_conflicts(
    resource: &Resource,
    others: &Managers,
    disputed: &FieldSet,
) -> Result<(), Status> {
    let mut causes = Vec::new();
    let mut texts = Vec::new();
    for entry in &others.entries {
        let paths = entry.fields.intersection(disputed).paths();
        if paths.is_empty() {
            continue;
        }
        let who = described(entry);
        for path in &paths {
            causes.push(Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {who}"),
                field: path.clone(),
            });
        }
        texts.push(match paths.as_slice() {
            [only] => format!("conflict with {who}: {only}"),
            all => format!("conflicts with {who}:\n- {}", all.join("\n- ")),
        });
    }
    if causes.is_empty() {
        return Ok(());
    }
    let count = causes.len();
    let plural = if count == 1 { "" } else { "s" };
    let message = format!(
        "Apply failed with {count} conflict{plural}: {}",
        texts.join("\n")
    );
    let mut status = Status::failure(409, "Conflict", message);
    status.details = Some(Box::new(Details {
        group: resource.group.to_owned(),
        causes,
        ..Details::default()
    }));
    Err(status)
}

/// `"kubectl-edit" using apps/v1 at 2026-01-02T03:04:05Z`.
fn described(entry: &Entry) -> String {
    let mut text = format!("{:?}", entry.manager);
    if !entry.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", entry.subresource));
    }
    if entry.operation == Operation::Update {
        text.push_str(&format!(" using {}", entry.api_version));
        if let Some(time) = entry.time {
            text.push_str(&format!(" at {}", crate::life::time_text(time)));
        }
    }
    text
}
