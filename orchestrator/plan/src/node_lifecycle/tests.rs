//! Nodes that fall silent and come back, and what becomes of their pods.

use serde_json::{Value, json};

use super::*;
use crate::world::{World, running};

const SETTINGS: Settings = Settings {
    grace_seconds: 12,
    eviction_delay_seconds: 5,
    node_eviction_rate: 0.1,
    secondary_node_eviction_rate: 0.01,
    unhealthy_zone_threshold: 0.55,
    large_cluster_size_threshold: 50,
};

fn step(world: &mut World) -> Plan {
    plan(
        &world.snapshot,
        Scope::EVERYTHING,
        &|_| None,
        world.now,
        &SETTINGS,
    )
}

fn beat(world: &mut World, node: &str) {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASE_NAMESPACE},
        "spec": {"renewTime": world.now.to_string()}});
    world.put(lease);
}

fn bound(name: &str, node: &str) -> Value {
    let mut value = crate::world::pod(name, "0", "0");
    value["spec"]["nodeName"] = json!(node);
    value["status"] = running("10.244.0.2", "2026-01-01T00:00:00Z".parse().unwrap());
    let containers = json!({"type": "ContainersReady", "status": "True"});
    value["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(containers);
    value
}

/// Two nodes with a pod each; `b` goes on reporting while `seconds` pass.
fn after_silence(seconds: i64, change: impl FnOnce(&mut World)) -> World {
    let mut world = World::new();
    for name in ["a", "b"] {
        world.put(crate::world::node(name, "4", "4Gi"));
        beat(&mut world, name);
        world.put(bound(&format!("on-{name}"), name));
    }
    change(&mut world);
    world.settle(step);
    world.pass(seconds);
    beat(&mut world, "b");
    world.settle(step);
    world
}

fn taints(world: &World, node: &str) -> Vec<(String, String)> {
    let rows = world.get("Node", "", node).unwrap()["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    rows.iter()
        .map(|row| (text(row, "key"), text(row, "effect")))
        .collect()
}

fn is_ready_pod(world: &World, name: &str) -> bool {
    let (namespace, snapshot) = ("shop", &world.snapshot);
    pod::is_ready(snapshot.pods.get(namespace, name).unwrap())
}

fn is_deleted_pod(world: &World, name: &str) -> bool {
    !world.get("Pod", "shop", name).unwrap()["metadata"]["deletionTimestamp"].is_null()
}

#[test]
fn a_node_that_reports_is_left_alone() {
    let mut world = after_silence(12, |_| ());
    assert_eq!(taints(&world, "a"), []);
    assert!(is_ready_pod(&world, "on-a"));
    assert_eq!(step(&mut world).again_after, Some(1));
}

#[test]
fn a_silent_node_is_unknown_tainted_and_its_pods_are_unready_and_then_replaced() {
    let mut world = after_silence(13, |_| ());
    let node = world.get("Node", "", "a").unwrap();
    assert_eq!(node["status"]["conditions"][0]["status"], "Unknown");
    assert_eq!(
        node["status"]["conditions"].as_array().unwrap().len(),
        1,
        "only what it used to report"
    );
    let unreachable = |effect: &str| (taint::UNREACHABLE.to_owned(), effect.to_owned());
    assert_eq!(
        taints(&world, "a"),
        [unreachable("NoSchedule"), unreachable("NoExecute")]
    );
    assert_eq!(taints(&world, "b"), []);
    assert!(!is_ready_pod(&world, "on-a") && is_ready_pod(&world, "on-b"));
    assert!(!is_deleted_pod(&world, "on-a"));
    assert_eq!(step(&mut world).again_after, Some(6));
    world.pass(6);
    world.settle(step);
    assert!(
        is_deleted_pod(&world, "on-a"),
        "deleted, and still there until its node says that it is gone"
    );
    assert!(!is_deleted_pod(&world, "on-b"));
}

#[test]
fn a_node_that_comes_back_loses_its_taints_and_its_pods_are_ready() {
    let mut world = after_silence(13, |_| ());
    beat(&mut world, "a");
    world.edit("Node", "", "a", |node| {
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}])
    });
    world.settle(step);
    assert_eq!(taints(&world, "a"), []);
    assert!(is_ready_pod(&world, "on-a"));
    world.pass(6);
    assert!(!is_deleted_pod(&world, "on-a"));
}

fn check_eviction(tolerations: Value, early: bool, late: bool) {
    let mut world = after_silence(13, |world| {
        world.edit("Pod", "shop", "on-a", |pod| {
            pod["spec"]["tolerations"] = tolerations.clone()
        });
    });
    let mut deleted = |seconds: i64| {
        world.pass(seconds);
        beat(&mut world, "b");
        world.settle(step);
        is_deleted_pod(&world, "on-a")
    };
    assert_eq!((deleted(6), deleted(60)), (early, late), "{tolerations}");
}

#[test]
fn tolerations_decide_how_long_a_pod_stays() {
    let toleration = |seconds: Value| json!([{"key": taint::UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
    check_eviction(json!([]), true, true);
    check_eviction(toleration(json!(300)), true, true);
    check_eviction(toleration(json!(20)), false, true);
    check_eviction(toleration(json!(3600)), false, false);
    check_eviction(json!([{"operator": "Exists"}]), false, false);
    check_eviction(toleration(json!(0)), true, true);
}

#[test]
fn nobody_is_evicted_when_no_node_reports() {
    let mut world = after_silence(0, |_| ());
    world.pass(100);
    world.settle(step);
    world.pass(100);
    world.settle(step);
    assert_eq!(
        taints(&world, "a"),
        [(taint::UNREACHABLE.to_owned(), "NoSchedule".to_owned())]
    );
    assert!(!is_deleted_pod(&world, "on-a") && !is_deleted_pod(&world, "on-b"));
}

/// Nodes of zones (`a1` is in zone `a`), each with a pod; those of `silent` stop reporting, the others go on for so many
/// seconds.
fn after_partition(nodes: &[&str], silent: &[&str], seconds: usize) -> World {
    let mut world = World::new();
    for name in nodes {
        let mut value = crate::world::node(name, "4", "4Gi");
        value["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!(name[..1]);
        world.put(value);
        beat(&mut world, name);
        world.put(bound(&format!("on-{name}"), name));
    }
    world.settle(step);
    for _ in 0..seconds {
        world.pass(1);
        for name in nodes.iter().filter(|name| !silent.contains(name)) {
            beat(&mut world, name);
        }
        world.settle(step);
    }
    world
}

fn evicted<'a>(world: &World, nodes: &[&'a str]) -> Vec<&'a str> {
    let gone = |name: &&&str| is_deleted_pod(world, &format!("on-{name}"));
    nodes.iter().filter(gone).copied().collect()
}

#[test]
fn nodes_are_given_up_one_after_the_other() {
    let nodes = ["a1", "a2", "a3", "a4", "a5"];
    let after = |seconds| evicted(&after_partition(&nodes, &["a2", "a4"], seconds), &nodes).len();
    assert_eq!((after(17), after(18), after(27), after(28)), (0, 1, 1, 2));
}

#[test]
fn a_partition_does_not_evict_what_is_behind_it() {
    let nodes = ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3"];
    let world = after_partition(&nodes, &["a1", "a2", "a3", "a4"], 600);
    assert_eq!(evicted(&world, &nodes), [""; 0]);
    assert!(!is_ready_pod(&world, "on-a1"), "but Services leave them");
    assert_eq!(
        taints(&world, "a1"),
        [(taint::UNREACHABLE.to_owned(), "NoSchedule".to_owned())]
    );
}

#[test]
fn a_zone_that_is_gone_is_given_up_when_others_report() {
    let nodes = ["a1", "a2", "a3", "b1"];
    let world = after_partition(&nodes, &["a1", "a2", "a3"], 45);
    assert_eq!(evicted(&world, &nodes), ["a1", "a2", "a3"]);
    let world = after_partition(&nodes, &nodes, 600);
    assert_eq!(evicted(&world, &nodes), [""; 0]);
}

#[test]
fn a_taint_of_somebody_else_evicts_at_once_and_stays() {
    let world = after_silence(1, |world| {
        world.edit("Node", "", "a", |node| {
            node["spec"]["taints"] = json!([{"key": "mine", "effect": "NoExecute"}])
        });
    });
    assert!(is_deleted_pod(&world, "on-a") && !is_deleted_pod(&world, "on-b"));
    assert_eq!(
        taints(&world, "a"),
        [("mine".to_owned(), "NoExecute".to_owned())]
    );
}

#[test]
fn conditions_and_cordons_become_taints() {
    let world = after_silence(1, |world| {
        world.edit("Node", "", "a", |node| {
            node["spec"]["unschedulable"] = json!(true);
            node["status"]["conditions"] =
                json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]);
        });
    });
    let keys: Vec<String> = taints(&world, "a")
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(
        keys,
        ["node.kubernetes.io/disk-pressure", taint::UNSCHEDULABLE]
    );
    assert!(!is_deleted_pod(&world, "on-a"));
}

#[test]
fn a_lease_that_is_renewed_to_less_than_it_said_is_looked_at() {
    let mut world = after_silence(0, |_| ());
    world.pass(300);
    beat(&mut world, "a");
    beat(&mut world, "b");
    world.settle(step);
    // The clock is set back, and the renewal is seen late.
    world.pass(-300);
    let seen = world.snapshot.position();
    beat(&mut world, "a");
    world.pass(13);
    let found = plan(
        &world.snapshot,
        Scope::since(seen),
        &|_| None,
        world.now,
        &SETTINGS,
    );
    assert_eq!(found.writes, step(&mut world).writes);
    assert_eq!(found.writes.len(), 1, "its node is lost");
}

#[test]
fn what_was_not_touched_is_not_looked_at_before_its_time() {
    let nodes = ["a1", "a2", "a3"];
    let mut world = after_partition(&nodes, &[], 1);
    let part = |world: &World, seen| {
        plan(
            &world.snapshot,
            Scope::since(seen),
            &|_| None,
            world.now,
            &SETTINGS,
        )
    };
    let seen = world.snapshot.position();
    beat(&mut world, "a1");
    let quiet = part(&world, seen);
    assert_eq!(
        (quiet.writes.len(), quiet.again_after),
        (0, None),
        "no lease is looked at"
    );
    world.edit("Pod", "shop", "on-a1", |pod| {
        pod["status"]["conditions"][1]["reason"] = json!(NODE_LOST);
        pod["status"]["conditions"][1]["status"] = json!("False");
    });
    assert_eq!(part(&world, seen).writes.len(), 1, "the pod is ready again");
    world.settle(step);
    // A condition of one node says how fast another is given up.
    let nodes = ["a1", "a2", "a3", "a4", "a5", "b1"];
    let mut world = after_partition(&nodes, &["a1", "a2", "a3"], 60);
    assert_eq!(evicted(&world, &nodes), [""; 0]);
    let seen = world.snapshot.position();
    assert_eq!(part(&world, seen).writes, []);
    for name in ["a6", "a7"] {
        let mut value = crate::world::node(name, "4", "4Gi");
        value["metadata"]["labels"]["topology.kubernetes.io/zone"] = json!("a");
        world.put(value);
        beat(&mut world, name);
    }
    let given_up = part(&world, seen);
    assert_eq!(given_up.writes, step(&mut world).writes);
    assert_eq!(given_up.writes.len(), 1, "one of the silent nodes");
}

#[test]
fn a_node_that_was_heard_of_is_alive_though_its_lease_is_older() {
    let mut world = after_silence(0, |_| ());
    world.pass(13);
    let spoke = world.now - jiff::SignedDuration::from_secs(3);
    let heard = |node: &str| (node == "a").then_some(spoke);
    let plan = plan(
        &world.snapshot,
        Scope::EVERYTHING,
        &heard,
        world.now,
        &SETTINGS,
    );
    let marked: Vec<&Value> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::UpdateStatus(value) => Some(&value["metadata"]["name"]),
            _ => None,
        })
        .collect();
    assert_eq!(marked, ["b"], "nobody heard of the other one");
    assert_eq!(
        plan.again_after,
        Some(10),
        "twelve seconds after it was heard of, and past them"
    );
}
