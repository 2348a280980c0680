//! CustomResourceDefinitions: whose names are accepted, what is established, and the end of a deleted one, which its
//! objects precede.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use waggle_api::life::CLEANUP;

use crate::ownership::{delete, json};
use crate::write::Propagation;
use crate::{Plan, Snapshot, Write, pod};

/// Brings the status of every definition up to date and winds down deleted ones.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    // Names go to whoever has them, then to the oldest: in a pass each sees what those before it were given.
    let mut all: Vec<&CustomResourceDefinition> =
        snapshot.definitions.iter().map(AsRef::as_ref).collect();
    all.sort_by_key(|one| {
        (
            one.metadata.creation_timestamp.clone(),
            one.metadata.name.clone(),
        )
    });
    let mut taken: Vec<(String, CustomResourceDefinitionNames)> =
        all.iter().filter_map(|one| accepted(one)).collect();
    for definition in all {
        let status = status(definition, &mut taken, now);
        if Some(&status) != definition.status.as_ref() {
            plan.writes
                .push(Write::UpdateStatus(json(&CustomResourceDefinition {
                    status: Some(status),
                    ..definition.clone()
                })));
        } else if definition.metadata.deletion_timestamp.is_some() {
            end(snapshot, definition, &mut plan);
        }
    }
    plan
}

fn name(definition: &CustomResourceDefinition) -> &str {
    definition.metadata.name.as_deref().unwrap_or_default()
}

/// The names that a definition has already.
fn accepted(
    definition: &CustomResourceDefinition,
) -> Option<(String, CustomResourceDefinitionNames)> {
    let names = definition.status.as_ref()?.accepted_names.clone()?;
    (!names.plural.is_empty()).then(|| (name(definition).to_owned(), names))
}

/// What kinds and paths are told apart by; a group has each once.
fn words(names: &CustomResourceDefinitionNames) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = names.short_names.iter().flatten().cloned().collect();
    all.insert(names.plural.clone());
    all.extend(names.singular.clone());
    all.retain(|one| !one.is_empty());
    all
}

fn kinds(names: &CustomResourceDefinitionNames) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = names.list_kind.iter().cloned().collect();
    all.insert(names.kind.clone());
    all
}

/// The first name that somebody else of the group has.
fn conflict(
    definition: &CustomResourceDefinition,
    taken: &[(String, CustomResourceDefinitionNames)],
) -> Option<String> {
    let wanted = &definition.spec.names;
    let group = format!(".{}", definition.spec.group);
    let others = taken.iter().filter(|(other, names)| {
        other != name(definition) && other.strip_prefix(names.plural.as_str()) == Some(&group)
    });
    let (mut used_words, mut used_kinds) = (BTreeSet::new(), BTreeSet::new());
    for (_, names) in others {
        used_words.extend(words(names));
        used_kinds.extend(kinds(names));
    }
    let word = words(wanted).intersection(&used_words).next().cloned();
    word.or_else(|| kinds(wanted).intersection(&used_kinds).next().cloned())
}

fn status(
    definition: &CustomResourceDefinition,
    taken: &mut Vec<(String, CustomResourceDefinitionNames)>,
    now: Timestamp,
) -> CustomResourceDefinitionStatus {
    let mut status = definition.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions
        .iter()
        .any(|one| one.type_ == "Established" && one.status == "True");
    let conflict = conflict(definition, taken);
    match &conflict {
        None => {
            set(
                conditions,
                now,
                "NamesAccepted",
                "True",
                "NoConflicts",
                "no conflicts found",
            );
            let why = (
                "InitialNamesAccepted",
                "the initial names have been accepted",
            );
            set(conditions, now, "Established", "True", why.0, why.1);
            status.accepted_names = Some(definition.spec.names.clone());
            taken.retain(|(other, _)| other != name(definition));
            taken.push((name(definition).to_owned(), definition.spec.names.clone()));
        }
        Some(word) => {
            let why = format!("{word:?} is already in use");
            set(
                conditions,
                now,
                "NamesAccepted",
                "False",
                "NamesConflict",
                &why,
            );
            // Once established it stays so, under the names that it had.
            if !before {
                let why = "not all names are accepted";
                set(conditions, now, "Established", "False", "NotAccepted", why);
                status.accepted_names.get_or_insert_with(Default::default);
            }
        }
    }
    if definition.metadata.deletion_timestamp.is_some() {
        let why = "CustomResource deletion is in progress";
        set(
            conditions,
            now,
            "Terminating",
            "True",
            "InstanceDeletionInProgress",
            why,
        );
    }
    let versions = status.stored_versions.get_or_insert_default();
    for version in definition.spec.versions.iter().filter(|one| one.storage) {
        if !versions.contains(&version.name) {
            versions.push(version.name.clone());
        }
    }
    status
}

fn set(
    conditions: &mut Vec<CustomResourceDefinitionCondition>,
    now: Timestamp,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
) {
    let new = CustomResourceDefinitionCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..Default::default()
    };
    match conditions.iter_mut().find(|one| one.type_ == kind) {
        Some(old)
            if old.status == value && old.reason == new.reason && old.message == new.message => {}
        Some(old) => {
            let since = old
                .last_transition_time
                .clone()
                .filter(|_| old.status == value);
            *old = CustomResourceDefinitionCondition {
                last_transition_time: since.or(new.last_transition_time.clone()),
                ..new
            };
        }
        None => conditions.push(new),
    }
}

/// First the objects, then the definition.
fn end(snapshot: &Snapshot, definition: &CustomResourceDefinition, plan: &mut Plan) {
    let meta = &definition.metadata;
    let waits = meta.finalizers.iter().flatten().any(|one| one == CLEANUP);
    // A definition whose names were never accepted has no objects: those of the names are another's.
    if !waits {
        return;
    }
    let prefix = format!("{}/", definition.spec.group);
    let kind = &definition.spec.names.kind;
    let mine = |object: &crate::ObjectKey| {
        *object.kind == **kind && object.api_version.starts_with(&prefix)
    };
    let established = accepted(definition).is_some();
    let mut left = snapshot
        .metas()
        .filter(|meta| established && mine(&meta.key))
        .peekable();
    if left.peek().is_none() {
        plan.writes.push(Write::RemoveFinalizer {
            object: pod::object("apiextensions.k8s.io/v1", "CustomResourceDefinition", meta),
            finalizer: CLEANUP.to_owned(),
        });
    }
    for meta in left.filter(|meta| meta.deleted.is_none()) {
        plan.writes
            .push(delete(meta.object(), None, Propagation::Background));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::{Value, json};

    fn definition(plural: &str, kind: &str, short: &str) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.example.com"), "uid": plural, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List"),
                    "shortNames": [short]},
                "versions": [{"name": "v1", "served": true, "storage": true}]}})
    }

    fn settle(world: &mut World) {
        world.settle(|world| plan(&world.snapshot, world.now));
    }

    fn condition(world: &World, name: &str, kind: &str) -> String {
        let found = world.get("CustomResourceDefinition", "", name).unwrap();
        let all = found["status"]["conditions"].as_array().unwrap();
        let one = all.iter().find(|one| one["type"] == kind).unwrap();
        one["status"].as_str().unwrap().to_owned()
    }

    #[test]
    fn names_go_to_the_first_and_to_the_next_when_it_is_gone() {
        let mut world = World::new();
        world.put(definition("widgets", "Widget", "w"));
        settle(&mut world);
        world.put(definition("wheels", "Wheel", "w"));
        settle(&mut world);
        assert_eq!(
            condition(&world, "widgets.example.com", "Established"),
            "True"
        );
        assert_eq!(
            condition(&world, "wheels.example.com", "NamesAccepted"),
            "False"
        );
        assert_eq!(
            condition(&world, "wheels.example.com", "Established"),
            "False"
        );
        assert_eq!(plan(&world.snapshot, world.now).writes, []);
        world.delete("CustomResourceDefinition", "", "widgets.example.com");
        settle(&mut world);
        assert_eq!(
            condition(&world, "wheels.example.com", "Established"),
            "True"
        );
    }

    #[test]
    fn objects_go_before_their_definition() {
        let mut world = World::new();
        world.put(definition("widgets", "Widget", "w"));
        settle(&mut world);
        world.put(json!({"apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": "a", "namespace": "shop", "uid": "a"}}));
        world.edit(
            "CustomResourceDefinition",
            "",
            "widgets.example.com",
            |value| {
                value["metadata"]["finalizers"] = json!([CLEANUP]);
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            },
        );
        let first = plan(&world.snapshot, world.now);
        assert!(
            matches!(&first.writes[..], [Write::UpdateStatus(_)]),
            "{first:?}"
        );
        settle(&mut world);
        assert!(
            world
                .get("CustomResourceDefinition", "", "widgets.example.com")
                .is_none()
        );
        assert!(world.all("Widget").is_empty());
    }
}
