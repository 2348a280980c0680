//! Autoscalers over a cluster in memory: proportion, tolerance, bounds, windows and rates.

use serde_json::json;

use super::*;
use crate::world::{World, deployment, running};

fn world(replicas: i32, behavior: Value) -> World {
    let mut world = World::new();
    let mut web = deployment("web", replicas, "web:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "100m"}});
    world.put(web);
    let mut spec = json!({"minReplicas": 1, "maxReplicas": 10,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]});
    if behavior.is_object() {
        spec["behavior"] = behavior;
    }
    world.put(json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web", "namespace": "shop"}, "spec": spec}));
    pods(&mut world);
    world
}

/// As many ready pods as the Deployment asks for.
fn pods(world: &mut World) {
    let replicas = world.get("Deployment", "shop", "web").unwrap()["spec"]["replicas"]
        .as_i64()
        .unwrap();
    let there: Vec<String> = world
        .all("Pod")
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    there
        .iter()
        .for_each(|name| world.remove("Pod", "shop", name));
    for index in 0..replicas {
        let mut pod = crate::world::pod(&format!("web-{index}"), "100m", "0");
        pod["status"] = running("10.0.0.1", world.now);
        world.put(pod);
    }
}

/// Every pod uses so many thousandths of a core for some looks; the numbers of replicas that follow.
fn run(world: &mut World, memories: &mut Memories, milli: i64, looks: usize) -> Vec<i64> {
    let mut sizes = Vec::new();
    for _ in 0..looks {
        world.pass(15);
        let usage: Usage = world
            .all("Pod")
            .iter()
            .map(|pod| {
                let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
                (
                    ("shop".to_owned(), name),
                    vec![ContainerUsage {
                        name: "main".into(),
                        cpu_milli: milli,
                        memory_bytes: 0,
                    }],
                )
            })
            .collect();
        let made = plan(&world.snapshot, world.now, &usage, memories);
        world.apply(&made);
        assert_eq!(
            plan(&world.snapshot, world.now, &usage, memories).writes,
            []
        );
        pods(world);
        sizes.push(
            world.get("Deployment", "shop", "web").unwrap()["spec"]["replicas"]
                .as_i64()
                .unwrap(),
        );
    }
    sizes
}

#[test]
fn replicas_follow_the_load() {
    let mut world = world(2, Value::Null);
    let mut memories = Memories::new();
    assert_eq!(run(&mut world, &mut memories, 54, 1), [2], "within a tenth");
    assert_eq!(run(&mut world, &mut memories, 75, 1), [3]);
    assert_eq!(
        run(&mut world, &mut memories, 500, 2),
        [7, 10],
        "four more, then up to the most"
    );
    let status = world.get("HorizontalPodAutoscaler", "shop", "web").unwrap()["status"].clone();
    assert_eq!(
        status["currentMetrics"][0]["resource"]["current"]["averageUtilization"],
        500
    );
    assert_eq!(
        run(&mut world, &mut memories, 10, 19),
        [10; 19],
        "five minutes of calm first"
    );
    assert_eq!(run(&mut world, &mut memories, 10, 2).last(), Some(&2));
}

#[test]
fn a_server_that_begins_waits_for_calm_too() {
    let mut world = world(8, Value::Null);
    let mut memories = Memories::new();
    assert_eq!(run(&mut world, &mut memories, 1, 20), [8; 20]);
    assert_eq!(run(&mut world, &mut memories, 1, 2).last(), Some(&1));
    assert_eq!(
        run(&mut world, &mut Memories::new(), 75, 1),
        [2],
        "upwards at once"
    );
}

#[test]
fn behaviors_bound_the_rate() {
    let slow = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 30}], "selectPolicy": "Max", "stabilizationWindowSeconds": 0},
        "scaleDown": {"policies": [{"type": "Percent", "value": 50, "periodSeconds": 15}], "selectPolicy": "Max", "stabilizationWindowSeconds": 0}});
    let mut world = world(2, slow);
    let mut memories = Memories::new();
    assert_eq!(run(&mut world, &mut memories, 500, 4), [3, 3, 4, 4]);
    assert_eq!(run(&mut world, &mut memories, 1, 3), [2, 1, 1]);
}

#[test]
fn what_is_not_measured_changes_nothing() {
    let mut world = world(3, Value::Null);
    let made = plan(
        &world.snapshot,
        world.now,
        &Usage::new(),
        &mut Memories::new(),
    );
    assert!(
        matches!(made.writes[..], [Write::UpdateStatus(_)]),
        "{made:?}"
    );
    world.apply(&made);
    let rows = world.get("HorizontalPodAutoscaler", "shop", "web").unwrap()["status"]["conditions"]
        .clone();
    assert!(
        rows.as_array()
            .unwrap()
            .iter()
            .any(|row| row["type"] == "ScalingActive" && row["status"] == "False")
    );
    world.remove("Deployment", "shop", "web");
    world.pass(15);
    let made = plan(
        &world.snapshot,
        world.now,
        &Usage::new(),
        &mut Memories::new(),
    );
    assert_eq!(made.events[0].reason, "FailedGetScale");
}
