//! Garbage collection by owner references: what nobody owns any more goes, and a deleted owner goes once the wish in
//! its finalizer (wait for what it owns, or leave it behind) is done.

use jiff::Timestamp;

use crate::ownership::delete;
use crate::snapshot::{Meta, Owner};
use crate::write::Propagation;
use crate::{Plan, Scope, Snapshot, Write};

/// Finalizer of an object that waits for what it owns.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object that leaves behind what it owns.
pub const ORPHAN: &str = "orphan";

/// Deletes what nobody owns any more, and lets deleted owners go once their finalizer's wish is done. The time decides
/// nothing here.
pub fn plan(snapshot: &Snapshot, scope: Scope, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for meta in snapshot.metas_in_scope(scope) {
        if meta.deleted.is_some() {
            finish(snapshot, meta, &mut plan);
        } else if !meta.owners.is_empty() {
            judge(snapshot, meta, &mut plan);
        }
    }
    plan
}

/// What an owner is to what it owns.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// There.
    Solid,
    /// Deleted, and waits for what it owns.
    Waiting,
    /// Not there.
    Absent,
}

fn state(snapshot: &Snapshot, namespace: &str, owner: &Owner) -> State {
    let found = snapshot.meta(&owner.uid);
    // A namespaced owner of another namespace is none: the reference can't mean it.
    let found =
        found.filter(|meta| meta.key.namespace.is_empty() || *meta.key.namespace == *namespace);
    match found {
        Some(meta) if meta.deleted.is_some() && meta.has_finalizer(FOREGROUND) => State::Waiting,
        // About to leave it behind, or to go by itself: its reference is taken away by its own turn.
        Some(_) => State::Solid,
        None if snapshot.covers(&owner.api_version, &owner.kind) => State::Absent,
        None => State::Solid,
    }
}

/// Decides about an object with owners.
fn judge(snapshot: &Snapshot, meta: &Meta, plan: &mut Plan) {
    let states: Vec<(&Owner, State)> = meta
        .owners
        .iter()
        .map(|owner| (owner, state(snapshot, &meta.key.namespace, owner)))
        .collect();
    if states.iter().any(|(_, state)| *state == State::Solid) {
        for (owner, _) in states.iter().filter(|(_, state)| *state != State::Solid) {
            let (object, owner_uid) = (meta.object(), owner.uid.to_string());
            plan.writes.push(Write::RemoveOwner { object, owner_uid });
        }
        return;
    }
    let awaited = states.iter().any(|(_, state)| *state == State::Waiting);
    let owns = snapshot.dependents_of(&meta.uid).next().is_some();
    let propagation = match (meta.has_finalizer(ORPHAN), awaited && owns) {
        (true, _) => Propagation::Orphan,
        // So that the owner, which waits for this object, waits for what this object owns too.
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    };
    plan.writes.push(delete(meta.object(), None, propagation));
}

/// Takes a deleted object's finalizers when their wish is done.
fn finish(snapshot: &Snapshot, meta: &Meta, plan: &mut Plan) {
    let finalizer = |name: &str| Write::RemoveFinalizer {
        object: meta.object(),
        finalizer: name.to_owned(),
    };
    let uid = &meta.uid;
    let mine = |other: &Meta| {
        let namespace = &meta.key.namespace;
        namespace.is_empty() || *namespace == other.key.namespace
    };
    if meta.has_finalizer(ORPHAN) {
        let mut left = snapshot
            .dependents_of(uid)
            .filter(|other| mine(other))
            .peekable();
        if left.peek().is_none() {
            plan.writes.push(finalizer(ORPHAN));
        }
        for other in left {
            let (object, owner_uid) = (other.object(), uid.to_string());
            plan.writes.push(Write::RemoveOwner { object, owner_uid });
        }
    }
    if meta.has_finalizer(FOREGROUND) {
        let blocks = |other: &Meta| {
            other
                .owners
                .iter()
                .any(|owner| owner.uid == *uid && owner.blocks)
        };
        if !snapshot
            .dependents_of(uid)
            .any(|other| mine(other) && blocks(other))
        {
            plan.writes.push(finalizer(FOREGROUND));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::{Value, json};

    fn object(kind: &str, name: &str, owners: &[(&str, &str)]) -> Value {
        let version = if kind == "ReplicaSet" || kind == "Deployment" {
            "apps/v1"
        } else {
            "v1"
        };
        let owners: Vec<Value> = owners
            .iter()
            .map(|(kind, uid)| {
                let version = if *kind == "ConfigMap" { "v1" } else { "apps/v1" };
                json!({"apiVersion": version, "kind": kind, "name": "x", "uid": uid, "controller": true,
                    "blockOwnerDeletion": true})
            })
            .collect();
        let spec = match kind {
            "ReplicaSet" => json!({"selector": {}, "replicas": 0}),
            "Deployment" => json!({"selector": {}, "template": {}}),
            _ => json!({"containers": []}),
        };
        json!({"apiVersion": version, "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": "shop", "uid": name, "ownerReferences": owners}})
    }

    fn family() -> World {
        let mut world = World::new();
        world.put(object("Deployment", "d", &[]));
        world.put(object("ReplicaSet", "r", &[("Deployment", "d")]));
        world.put(object("Pod", "p", &[("ReplicaSet", "r")]));
        world
    }

    fn settle(world: &mut World) {
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
    }

    fn left(world: &World) -> Vec<&'static str> {
        let kinds = ["Deployment", "ReplicaSet", "Pod"];
        kinds
            .into_iter()
            .filter(|kind| !world.all(kind).is_empty())
            .collect()
    }

    fn delete_with(world: &mut World, name: &str, finalizer: &str) {
        world.edit("Deployment", "shop", name, |value| {
            value["metadata"]["finalizers"] = json!([finalizer]);
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
    }

    #[test]
    fn a_whole_family_stays_as_it_is() {
        let world = family();
        assert_eq!(
            plan(&world.snapshot, Scope::EVERYTHING, world.now).writes,
            []
        );
    }

    #[test]
    fn background_deletion_runs_down_the_family() {
        let mut world = family();
        world.delete("Deployment", "shop", "d");
        settle(&mut world);
        assert_eq!(left(&world), Vec::<&str>::new());
    }

    #[test]
    fn foreground_deletion_keeps_the_owner_until_the_last() {
        let mut world = family();
        world.edit("Pod", "shop", "p", |pod| {
            pod["spec"]["nodeName"] = json!("node1")
        });
        delete_with(&mut world, "d", FOREGROUND);
        let first = plan(&world.snapshot, Scope::EVERYTHING, world.now);
        assert!(
            matches!(&first.writes[..], [Write::Delete { kind, propagation: Propagation::Foreground, .. }] if kind == "ReplicaSet"),
            "{first:?}"
        );
        world.edit("ReplicaSet", "shop", "r", |set| {
            set["metadata"]["finalizers"] = json!([FOREGROUND]);
            set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        });
        settle(&mut world);
        assert_eq!(
            left(&world),
            ["Deployment", "ReplicaSet", "Pod"],
            "the pod's node has not ended it yet"
        );
        world.agents();
        settle(&mut world);
        assert_eq!(left(&world), Vec::<&str>::new());
    }

    #[test]
    fn orphans_lose_their_owner_and_stay() {
        let mut world = family();
        delete_with(&mut world, "d", ORPHAN);
        settle(&mut world);
        assert_eq!(left(&world), ["ReplicaSet", "Pod"]);
        assert_eq!(
            world.get("ReplicaSet", "shop", "r").unwrap()["metadata"]["ownerReferences"],
            json!([])
        );
    }

    #[test]
    fn one_owner_left_is_enough() {
        let mut world = World::new();
        world.put(object("ConfigMap", "c", &[]));
        world.put(object(
            "Pod",
            "p",
            &[("ReplicaSet", "gone"), ("ConfigMap", "c")],
        ));
        settle(&mut world);
        let owners = &world.get("Pod", "shop", "p").unwrap()["metadata"]["ownerReferences"];
        assert_eq!(owners.as_array().unwrap().len(), 1);
    }

    #[test]
    fn owners_of_unknown_kinds_are_taken_to_exist() {
        let mut world = World::new();
        world.put(object("Pod", "p", &[("Widget", "elsewhere")]));
        assert_eq!(
            plan(&world.snapshot, Scope::EVERYTHING, world.now).writes,
            []
        );
    }
}
