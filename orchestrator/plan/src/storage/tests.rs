//! Claims and volumes in a cluster of two nodes.

use serde_json::{Value, json};

use super::*;
use crate::scheduler;
use crate::world::{World, node, pod as plain_pod};

fn world() -> World {
    let mut world = World::new();
    for name in ["n1", "n2"] {
        let mut node = node(name, "4", "8Gi");
        node["metadata"]["labels"] = json!({"kubernetes.io/hostname": name});
        node["metadata"]["annotations"] = json!({VOLUMES_FOLDER: "/data/volumes"});
        world.put(node);
    }
    world.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer"}));
    world
}

fn claim(name: &str, class: Option<&str>, size: &str) -> Value {
    let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}});
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    claim
}

fn volume(name: &str, size: &str, node: Option<&str>) -> Value {
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "storageClassName": "by-hand",
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": "/mnt"}}});
    if let Some(node) = node {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}});
    }
    volume
}

fn user(name: &str, claim: &str) -> Value {
    let mut pod = plain_pod(name, "100m", "1Mi");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    pod
}

/// Everything that decides about claims and pods, until nothing changes.
fn settle(world: &mut World) {
    let settled = |world: &mut World| {
        world.settle(|world| plan(&world.snapshot, world.now))
            + world.settle(|world| {
                scheduler::plan(
                    &world.snapshot,
                    &Default::default(),
                    &mut Default::default(),
                    world.now,
                )
            })
    };
    for _ in 0..10 {
        if settled(world) == 0 {
            return;
        }
    }
    panic!("it does not settle");
}

fn text<'a>(world: &'a World, kind: &str, name: &str, pointer: &str) -> &'a str {
    let namespace = if kind == "PersistentVolume" {
        ""
    } else {
        "shop"
    };
    let object = world.get(kind, namespace, name).unwrap();
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[test]
fn a_volume_is_made_where_the_first_user_goes_and_holds_later_ones_there() {
    let mut world = world();
    world.put(claim("data", None, "1Gi"));
    settle(&mut world);
    assert_eq!(
        text(
            &world,
            "PersistentVolumeClaim",
            "data",
            "/spec/storageClassName"
        ),
        "local-path"
    );
    assert!(
        world.all("PersistentVolume").is_empty(),
        "it waits for its first user"
    );
    world.put(user("first", "data"));
    settle(&mut world);
    let node = text(&world, "Pod", "first", "/spec/nodeName").to_owned();
    assert!(!node.is_empty(), "{:?}", world.get("Pod", "shop", "first"));
    assert_eq!(
        text(&world, "PersistentVolumeClaim", "data", "/status/phase"),
        "Bound"
    );
    let name = text(&world, "PersistentVolumeClaim", "data", "/spec/volumeName").to_owned();
    assert_eq!(
        text(&world, "PersistentVolume", &name, "/status/phase"),
        "Bound"
    );
    assert_eq!(
        text(&world, "PersistentVolume", &name, "/spec/local/path"),
        format!("/data/volumes/{name}")
    );
    for number in 0..3 {
        let name = format!("later-{number}");
        world.put(user(&name, "data"));
        settle(&mut world);
        assert_eq!(text(&world, "Pod", &name, "/spec/nodeName"), node);
    }
}

#[test]
fn a_volume_goes_with_its_claim_when_its_node_has_removed_the_data() {
    let mut world = world();
    world.put(claim("data", None, "1Gi"));
    world.put(user("first", "data"));
    settle(&mut world);
    let name = text(&world, "PersistentVolumeClaim", "data", "/spec/volumeName").to_owned();
    let node = text(&world, "Pod", "first", "/spec/nodeName").to_owned();
    world.delete("PersistentVolumeClaim", "shop", "data");
    settle(&mut world);
    assert!(
        world.get("PersistentVolumeClaim", "shop", "data").is_some(),
        "a pod uses it"
    );
    world.remove("Pod", "shop", "first");
    settle(&mut world);
    assert!(world.get("PersistentVolumeClaim", "shop", "data").is_none());
    let removed: Vec<&str> = to_remove(&world.snapshot, &node).collect();
    assert_eq!(removed, [name.as_str()]);
    let other = if node == "n1" { "n2" } else { "n1" };
    assert_eq!(to_remove(&world.snapshot, other).count(), 0);
    // A node that is gone has taken the data with it.
    world.remove("Node", "", &node);
    settle(&mut world);
    assert!(world.all("PersistentVolume").is_empty());
}

#[test]
fn the_smallest_volume_that_fits_is_bound_and_kept() {
    let mut world = world();
    for (name, size) in [("large", "10Gi"), ("small", "1Gi"), ("middle", "5Gi")] {
        world.put(volume(name, size, Some("n2")));
    }
    world.put(claim("data", Some("by-hand"), "2Gi"));
    world.put(user("first", "data"));
    settle(&mut world);
    assert_eq!(
        text(&world, "PersistentVolumeClaim", "data", "/spec/volumeName"),
        "middle"
    );
    assert_eq!(text(&world, "Pod", "first", "/spec/nodeName"), "n2");
    assert_eq!(
        text(&world, "PersistentVolume", "small", "/status/phase"),
        "Available"
    );
    world.remove("Pod", "shop", "first");
    world.delete("PersistentVolumeClaim", "shop", "data");
    settle(&mut world);
    assert_eq!(
        text(&world, "PersistentVolume", "middle", "/status/phase"),
        "Released"
    );
}

#[test]
fn a_pod_without_its_claim_says_so() {
    let mut world = world();
    world.put(user("first", "nothing"));
    world.put(claim("large", Some("by-hand"), "2Gi"));
    world.put(user("second", "large"));
    settle(&mut world);
    for (pod, expect) in [("first", "not found"), ("second", "unbound immediate")] {
        let said = text(&world, "Pod", pod, "/status/conditions/0/message");
        assert!(said.contains(expect), "{said}");
    }
}

fn message<'a>(world: &'a World, pod: &str) -> &'a str {
    let whole = text(world, "Pod", pod, "/status/conditions/0/message");
    whole.split(" preemption: ").next().unwrap_or_default()
}

#[test]
fn a_claim_for_one_pod_alone_is_used_by_one_pod() {
    let mut world = world();
    let mut own = claim("data", None, "1Gi");
    own["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    world.put(own);
    for name in ["one", "two"] {
        world.put(user(name, "data"));
    }
    settle(&mut world);
    let bound = ["one", "two"].map(|name| !text(&world, "Pod", name, "/spec/nodeName").is_empty());
    assert_eq!(bound, [true, false]);
    assert_eq!(
        message(&world, "two"),
        "0/2 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and \
         ReadWriteOncePod access mode, 1 node(s) had volume node affinity conflict."
    );
    world.remove("Pod", "shop", "one");
    settle(&mut world);
    assert!(!text(&world, "Pod", "two", "/spec/nodeName").is_empty());
}

#[test]
fn volumes_keep_pods_in_their_zone() {
    let mut world = world();
    for (name, zone) in [("n1", "east"), ("n2", "west")] {
        world.edit("Node", "", name, |node| {
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(zone);
        });
    }
    let mut far = volume("far", "1Gi", None);
    far["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "north__west"});
    world.put(far);
    world.put(claim("data", Some("by-hand"), "1Gi"));
    settle(&mut world);
    world.put(user("one", "data"));
    settle(&mut world);
    assert_eq!(text(&world, "Pod", "one", "/spec/nodeName"), "n2");
    let cordon = |node: &mut Value| node["spec"]["unschedulable"] = json!(true);
    world.edit("Node", "", "n2", cordon);
    world.put(user("two", "data"));
    settle(&mut world);
    assert_eq!(
        message(&world, "two"),
        "0/2 nodes are available: 1 node(s) had no available volume zone, 1 node(s) were unschedulable."
    );
}

#[test]
fn two_pods_are_not_promised_one_volume() {
    let mut world = world();
    world.put(
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "by-hand"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    world.put(volume("v1", "1Gi", Some("n1")));
    world.put(volume("v2", "1Gi", Some("n2")));
    for name in ["one", "two", "three"] {
        world.put(claim(name, Some("by-hand"), "1Gi"));
        world.put(user(name, name));
    }
    settle(&mut world);
    let node = |name: &str| text(&world, "Pod", name, "/spec/nodeName").to_owned();
    let mut nodes = ["one", "two", "three"].map(node);
    nodes.sort();
    assert_eq!(nodes, ["", "n1", "n2"]);
}
