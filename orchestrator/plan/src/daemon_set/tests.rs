//! DaemonSets over a cluster in memory: nodes that come, go and refuse; rolling and surging updates; replanning.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::world::{World, node};

fn set(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "log", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "log"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {
                "metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}

fn world(nodes: usize) -> World {
    let mut world = World::new();
    for index in 1..=nodes {
        world.put(node(&format!("n{index}"), "8", "8Gi"));
    }
    world
}

fn step(world: &mut World) -> Vec<String> {
    let plan = plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids,
    );
    world.apply(&plan);
    let bind = crate::scheduler::plan(
        &world.snapshot,
        &Default::default(),
        &mut Default::default(),
        world.now,
    );
    world.apply(&bind);
    pods(world)
}

/// `node image`, sorted.
fn pods(world: &World) -> Vec<String> {
    let mut rows: Vec<String> = world
        .all("Pod")
        .into_iter()
        .map(|pod| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let ending = if pod["metadata"]["deletionTimestamp"].is_string() {
                " ending"
            } else {
                ""
            };
            format!(
                "{} {}{ending}",
                text(&pod["spec"]["nodeName"]),
                text(&pod["spec"]["containers"][0]["image"])
            )
        })
        .collect();
    rows.sort();
    rows
}

fn rest(world: &mut World) {
    for _ in 0..60 {
        let before = pods(world);
        step(world);
        world.agents();
        let idle = plan(
            &world.snapshot,
            Scope::EVERYTHING,
            world.now,
            &mut world.ids,
        )
        .writes
        .is_empty();
        if idle && before == pods(world) {
            return;
        }
    }
    panic!("does not settle");
}

#[test]
fn every_node_that_may_has_one() {
    let mut world = world(2);
    let mut tainted = node("n3", "8", "8Gi");
    tainted["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoSchedule"}]);
    world.put(tainted);
    let mut cordoned = node("n4", "8", "8Gi");
    cordoned["spec"] =
        json!({"unschedulable": true, "taints": [{"key": taint_key(), "effect": "NoSchedule"}]});
    world.put(cordoned);
    world.put(set("a"));
    rest(&mut world);
    assert_eq!(pods(&world), ["n1 a", "n2 a", "n4 a"]);
    let status = world.get("DaemonSet", "shop", "log").unwrap()["status"].clone();
    assert_eq!(
        (
            &status["desiredNumberScheduled"],
            &status["numberAvailable"]
        ),
        (&json!(3), &json!(3))
    );
    world.put(node("n5", "8", "8Gi"));
    rest(&mut world);
    assert_eq!(pods(&world).len(), 4);
    world.edit("Node", "", "n1", |node| {
        node["spec"]["taints"] = json!([{"key": "gpu", "effect": "NoExecute"}])
    });
    assert!(step(&mut world).contains(&"n1 a ending".to_owned()));
    world.remove("Node", "", "n2");
    rest(&mut world);
    assert_eq!(pods(&world), ["n4 a", "n5 a"]);
}

fn taint_key() -> &'static str {
    crate::taint::UNSCHEDULABLE
}

#[test]
fn a_rolling_update_goes_node_by_node() {
    let mut world = world(3);
    world.put(set("a"));
    rest(&mut world);
    world.put(set("b"));
    assert_eq!(step(&mut world), ["n1 a ending", "n2 a", "n3 a"]);
    assert_eq!(step(&mut world), ["n1 a ending", "n2 a", "n3 a"]);
    world.agents();
    assert_eq!(step(&mut world), ["n1 b", "n2 a", "n3 a"]);
    assert_eq!(
        step(&mut world),
        ["n1 b", "n2 a", "n3 a"],
        "waits until the new one is available"
    );
    rest(&mut world);
    assert_eq!(pods(&world), ["n1 b", "n2 b", "n3 b"]);
}

#[test]
fn a_surging_update_starts_the_new_pod_first() {
    let mut world = world(2);
    let surging = |image: &str| {
        let mut one = set(image);
        one["spec"]["updateStrategy"]["rollingUpdate"] =
            json!({"maxSurge": 1, "maxUnavailable": 0});
        one
    };
    world.put(surging("a"));
    rest(&mut world);
    world.put(surging("b"));
    assert_eq!(step(&mut world), ["n1 a", "n1 b", "n2 a"]);
    assert_eq!(step(&mut world), ["n1 a", "n1 b", "n2 a"]);
    world.agents();
    assert!(step(&mut world).contains(&"n1 a ending".to_owned()));
    rest(&mut world);
    assert_eq!(pods(&world), ["n1 b", "n2 b"]);
}

#[test]
fn on_delete_waits_for_somebody() {
    let mut world = world(1);
    let kept = |image: &str| {
        let mut one = set(image);
        one["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        one
    };
    world.put(kept("a"));
    rest(&mut world);
    world.put(kept("b"));
    rest(&mut world);
    assert_eq!(pods(&world), ["n1 a"]);
}

#[test]
fn a_failed_pod_is_replaced_after_a_while() {
    let mut world = world(1);
    world.put(set("a"));
    rest(&mut world);
    let name = world.all("Pod")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    world.edit("Pod", "shop", &name, |pod| {
        pod["status"]["phase"] = json!("Failed")
    });
    let plan = plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids,
    );
    assert_eq!(plan.again_after, Some(RETRY_SECONDS as u64 + 1));
    world.pass(RETRY_SECONDS);
    rest(&mut world);
    let now = world.all("Pod");
    assert!(now.len() == 1 && now[0]["metadata"]["name"] != *name);
}

proptest! {
    #[test]
    fn it_settles_with_one_on_each_node(nodes in 1..5usize, images in proptest::collection::vec(0..3u8, 1..4), surge in any::<bool>()) {
        let mut world = world(nodes);
        for image in images {
            let mut wanted = set(&format!("i{image}"));
            if surge {
                wanted["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxSurge": "50%", "maxUnavailable": 0});
            }
            world.put(wanted);
            step(&mut world);
            step(&mut world);
        }
        rest(&mut world);
        prop_assert_eq!(pods(&world).len(), nodes);
    }
}
