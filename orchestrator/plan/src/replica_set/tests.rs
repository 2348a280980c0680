//! Pods made, removed, adopted and released, and the status that follows.

use super::*;
use crate::world::{World, replica_set, running};
use serde_json::{Value, json};

fn step(world: &mut World) -> Plan {
    plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids,
    )
}

fn bound(name: &str, node: Option<&str>, ready: bool) -> Value {
    let mut pod = crate::world::pod(name, "0", "0");
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}]);
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
        pod["status"] = running("10.244.0.9", "2026-01-01T00:00:00Z".parse().unwrap());
    }
    if !ready {
        pod["status"]["conditions"] = json!([]);
    }
    pod
}

fn set(replicas: i32) -> Value {
    let mut set = replica_set("web", replicas);
    set["metadata"]["uid"] = json!("set");
    set
}

#[test]
fn pods_are_made_and_the_status_follows() {
    let mut world = World::new();
    world.put(set(3));
    world.settle(step);
    let pods = world.all("Pod");
    assert_eq!(pods.len(), 3);
    for pod in pods {
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "set");
        assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
        assert_eq!(pod["spec"]["containers"][0]["image"], "web:1");
        let name = pod["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    }
    let status = |world: &World| world.get("ReplicaSet", "shop", "web").unwrap()["status"].clone();
    assert_eq!(
        status(&world),
        json!({"replicas": 3, "fullyLabeledReplicas": 3, "observedGeneration": 1})
    );
    let names: Vec<String> = world
        .all("Pod")
        .iter()
        .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    for name in names {
        world.edit("Pod", "shop", &name, |pod| {
            pod["spec"]["nodeName"] = json!("node1")
        });
    }
    world.agents();
    world.settle(step);
    assert_eq!(status(&world)["readyReplicas"], 3);
    assert_eq!(status(&world)["availableReplicas"], 3);
    assert_eq!(world.refused, 0);
}

#[test]
fn ended_and_deleted_pods_are_replaced() {
    let mut world = World::new();
    world.put(set(2));
    world.put(bound("a", Some("node1"), true));
    world.put(bound("b", Some("node1"), true));
    world.delete("Pod", "shop", "a");
    world.edit("Pod", "shop", "b", |pod| {
        pod["status"]["phase"] = json!("Failed")
    });
    let made = step(&mut world)
        .writes
        .iter()
        .filter(|write| matches!(write, Write::Create(_)))
        .count();
    assert_eq!(made, 2);
}

fn check_removal(pods: &[(&str, Option<&str>, bool)], change: fn(&mut World), expect: &str) {
    let mut world = World::new();
    world.put(set(i32::try_from(pods.len()).unwrap() - 1));
    for (name, node, ready) in pods {
        world.put(bound(name, *node, *ready));
    }
    change(&mut world);
    let writes = step(&mut world).writes;
    let gone: Vec<&String> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Delete { name, .. } => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(gone, [expect]);
}

#[test]
fn the_least_useful_pod_goes_first() {
    let some = Some("node1");
    check_removal(&[("a", some, true), ("b", None, false)], |_| (), "b");
    check_removal(
        &[("a", some, true), ("b", some, false), ("c", some, true)],
        |_| (),
        "b",
    );
    check_removal(
        &[
            ("a", Some("node2"), true),
            ("b", some, true),
            ("c", some, true),
        ],
        |_| (),
        "b",
    );
    check_removal(
        &[("a", some, true), ("b", some, true)],
        |world| {
            world.edit("Pod", "shop", "b", |pod| {
                pod["metadata"]["annotations"] = json!({DELETION_COST: "-5"});
            });
        },
        "b",
    );
    check_removal(
        &[("a", some, true), ("b", some, true)],
        |world| {
            world.edit("Pod", "shop", "b", |pod| {
                pod["status"]["containerStatuses"] = json!([{"name": "main", "restartCount": 3,
                    "image": "", "imageID": "", "ready": true}]);
            });
        },
        "b",
    );
}

#[test]
fn pods_are_adopted_and_released_by_their_labels() {
    let mut world = World::new();
    world.put(set(2));
    world.put(crate::world::pod("stray", "0", "0"));
    world.put(bound("lost", Some("node1"), true));
    world.edit("Pod", "shop", "lost", |pod| {
        pod["metadata"]["labels"]["app"] = json!("other")
    });
    world.settle(step);
    let owners =
        |name: &str| world.get("Pod", "shop", name).unwrap()["metadata"]["ownerReferences"].clone();
    assert_eq!(owners("stray")[0]["uid"], "set");
    assert!(owners("lost").is_null());
    assert_eq!(world.all("Pod").len(), 3);
}

#[test]
fn two_sets_never_adopt_one_pod() {
    let mut world = World::new();
    world.put(set(1));
    world.put(replica_set("twin", 1));
    world.put(crate::world::pod("stray", "0", "0"));
    let plan = step(&mut world);
    assert_eq!(
        plan.writes
            .iter()
            .filter(|write| matches!(write, Write::Patch { .. }))
            .count(),
        1
    );
}

#[test]
fn a_deleted_set_makes_nothing() {
    let mut world = World::new();
    let mut ending = set(2);
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    ending["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    world.put(ending);
    world.put(crate::world::pod("stray", "0", "0"));
    assert!(
        step(&mut world)
            .writes
            .iter()
            .all(|write| matches!(write, Write::UpdateStatus(_)))
    );
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let mut world = World::new();
    let mut patient = set(1);
    patient["spec"]["minReadySeconds"] = json!(10);
    world.put(patient);
    world.put(bound("a", Some("node1"), true));
    world.pass(4);
    let early = step(&mut world);
    assert_eq!(early.again_after, Some(7));
    world.settle(step);
    assert!(
        world.get("ReplicaSet", "shop", "web").unwrap()["status"]["availableReplicas"].is_null()
    );
    world.pass(7);
    world.settle(step);
    assert_eq!(
        world.get("ReplicaSet", "shop", "web").unwrap()["status"]["availableReplicas"],
        1
    );
}
