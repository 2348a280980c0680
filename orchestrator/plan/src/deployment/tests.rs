//! Whole rollouts, step by step, with the ReplicaSet controller and agents beside.

use serde_json::{Value, json};

use super::*;
use crate::world::{World, deployment};

/// One round of both controllers, then of binding and agents.
fn step(world: &mut World) -> bool {
    let sets = plan(&world.snapshot, Scope::EVERYTHING, world.now);
    world.apply(&sets);
    let pods = crate::replica_set::plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids,
    );
    world.apply(&pods);
    !sets.writes.is_empty() || !pods.writes.is_empty()
}

fn bind(world: &mut World) {
    let free: Vec<(String, String)> = world
        .snapshot
        .pods
        .iter()
        .filter(|pod| pod::node_name(pod).is_none())
        .map(|pod| {
            (
                pod.metadata.namespace.clone().unwrap(),
                pod.metadata.name.clone().unwrap(),
            )
        })
        .collect();
    for (namespace, name) in free {
        world.edit("Pod", &namespace, &name, |pod| {
            pod["spec"]["nodeName"] = json!("node1")
        });
    }
}

/// Until nothing changes any more, agents included.
fn run(world: &mut World) {
    for _ in 0..200 {
        let moved = step(world);
        bind(world);
        let before = format!("{:?}", world.all("Pod"));
        world.agents();
        if !moved && before == format!("{:?}", world.all("Pod")) {
            return;
        }
    }
    panic!("does not settle");
}

/// What `kubectl rollout status` makes of a Deployment: done or not.
fn rolled_out(world: &World) -> bool {
    let value = world.get("Deployment", "shop", "web").unwrap();
    let number = |path: &str| value.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let wanted = number("/spec/replicas");
    let updated = number("/status/updatedReplicas");
    number("/metadata/generation") <= number("/status/observedGeneration")
        && updated >= wanted
        && number("/status/replicas") <= updated
        && number("/status/availableReplicas") >= updated
}

fn condition(world: &World, kind: &str) -> (String, String) {
    let value = world.get("Deployment", "shop", "web").unwrap();
    let rows = value["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let row = rows
        .iter()
        .find(|row| row["type"] == kind)
        .cloned()
        .unwrap_or_default();
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn sizes(world: &World) -> Vec<(i64, i64)> {
    let mut rows: Vec<(i64, i64)> = world
        .all("ReplicaSet")
        .iter()
        .map(|set| {
            let revision = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"]
                .as_str()
                .unwrap();
            (
                revision.parse().unwrap(),
                set["spec"]["replicas"].as_i64().unwrap(),
            )
        })
        .collect();
    rows.sort_unstable();
    rows
}

fn set_image(world: &mut World, image: &str) {
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    });
}

fn started(replicas: i32) -> World {
    let mut world = World::new();
    world.put(deployment("web", replicas, "web:1"));
    run(&mut world);
    world
}

#[test]
fn the_largest_numbers_are_borne() {
    let largest = json!(i32::MAX);
    let percent = json!("9223372036854775807%");
    for surge in [&largest, &percent, &json!("25%")] {
        for replicas in [0, 1, i32::MAX] {
            let mut world = World::new();
            let mut one = deployment("web", replicas, "web:1");
            one["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": surge}});
            world.put(one);
            world.apply(&plan(&world.snapshot, Scope::EVERYTHING, world.now));
            set_image(&mut world, "web:2");
            world.apply(&plan(&world.snapshot, Scope::EVERYTHING, world.now));
            world.edit("Deployment", "shop", "web", |one| {
                one["spec"]["replicas"] = json!(i32::MAX)
            });
            world.apply(&plan(&world.snapshot, Scope::EVERYTHING, world.now));
            let total: i64 = sizes(&world).iter().map(|(_, size)| size).sum();
            assert!(total <= i64::from(i32::MAX), "{surge} {replicas}: {total}");
        }
    }
}

#[test]
fn a_new_deployment_is_rolled_out() {
    let mut world = World::new();
    world.put(deployment("web", 3, "web:1"));
    step(&mut world);
    assert!(!rolled_out(&world));
    step(&mut world);
    assert_eq!(
        condition(&world, "Available"),
        ("False".into(), "MinimumReplicasUnavailable".into())
    );
    assert_eq!(condition(&world, "Progressing").0, "True");
    run(&mut world);
    assert!(rolled_out(&world));
    assert_eq!(
        condition(&world, "Available"),
        ("True".into(), "MinimumReplicasAvailable".into())
    );
    assert_eq!(
        condition(&world, "Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
    assert_eq!(sizes(&world), [(1, 3)]);
    let set = &world.all("ReplicaSet")[0];
    let hash = set["metadata"]["labels"]["pod-template-hash"]
        .as_str()
        .unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(
        set["spec"]["selector"]["matchLabels"]["pod-template-hash"],
        hash
    );
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["pod-template-hash"],
        hash
    );
    let value = world.get("Deployment", "shop", "web").unwrap();
    assert_eq!(
        value["metadata"]["annotations"]["deployment.kubernetes.io/revision"],
        "1"
    );
    assert_eq!(world.refused, 0);
}

/// Rolls `replicas` pods over and watches both bounds at every step.
fn check_rolling(replicas: i32, surge: Value, unavailable: Value, most: usize, least: usize) {
    let mut world = World::new();
    let mut first = deployment("web", replicas, "web:1");
    first["spec"]["strategy"]["rollingUpdate"] =
        json!({"maxSurge": surge, "maxUnavailable": unavailable});
    world.put(first);
    run(&mut world);
    set_image(&mut world, "web:2");
    for _ in 0..100 {
        step(&mut world);
        let active: Vec<_> = world
            .snapshot
            .pods
            .iter()
            .filter(|pod| pod::is_active(pod))
            .collect();
        assert!(
            active.len() <= most,
            "{} pods, at most {most}",
            active.len()
        );
        let ready = active.iter().filter(|pod| pod::is_ready(pod)).count();
        assert!(ready >= least, "{ready} ready, at least {least}");
        if rolled_out(&world) {
            break;
        }
        bind(&mut world);
        world.agents();
    }
    assert!(
        rolled_out(&world),
        "{replicas} {surge} {unavailable}: {:?}",
        sizes(&world)
    );
    run(&mut world);
    assert_eq!(sizes(&world), [(1, 0), (2, i64::from(replicas))]);
    assert_eq!(
        condition(&world, "Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
}

#[test]
fn a_rolling_update_keeps_its_bounds() {
    check_rolling(3, json!("25%"), json!("25%"), 4, 3);
    check_rolling(10, json!("25%"), json!("25%"), 13, 8);
    check_rolling(10, json!(3), json!(2), 13, 8);
    check_rolling(4, json!(0), json!(1), 4, 3);
    check_rolling(4, json!(1), json!(0), 5, 4);
    check_rolling(4, json!(0), json!(0), 4, 3);
    check_rolling(1, json!("25%"), json!("25%"), 2, 1);
    check_rolling(3, json!("100%"), json!("100%"), 6, 0);
}

#[test]
fn fenceposts_round_as_in_kubernetes() {
    for (replicas, surge, unavailable, expect) in [
        (3, json!("25%"), json!("25%"), (1, 0)),
        (10, json!("25%"), json!("25%"), (3, 2)),
        (10, json!("0%"), json!("0%"), (0, 1)),
        (10, json!(4), json!(20), (4, 10)),
        (0, json!("25%"), json!("25%"), (0, 0)),
    ] {
        let mut value = deployment("web", replicas, "web:1");
        value["spec"]["strategy"]["rollingUpdate"] =
            json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let typed: Deployment = serde_json::from_value(value).unwrap();
        assert_eq!(
            fenceposts(&typed),
            expect,
            "{replicas} {surge} {unavailable}"
        );
    }
}

#[test]
fn a_broken_update_stops_and_leaves_the_old_pods() {
    let mut world = started(4);
    set_image(&mut world, "web:broken");
    for _ in 0..10 {
        step(&mut world);
    }
    // One above (25% of 4), one below.
    assert_eq!(sizes(&world), [(1, 3), (2, 2)]);
    assert!(!rolled_out(&world));
    assert_eq!(condition(&world, "Available").0, "True");
    world.pass(601);
    run_controllers(&mut world);
    assert_eq!(
        condition(&world, "Progressing"),
        ("False".into(), "ProgressDeadlineExceeded".into())
    );
    set_image(&mut world, "web:1");
    run(&mut world);
    assert!(rolled_out(&world));
    assert_eq!(sizes(&world), [(2, 0), (3, 4)]);
    assert_eq!(
        condition(&world, "Progressing"),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
}

fn run_controllers(world: &mut World) {
    for _ in 0..50 {
        if !step(world) {
            return;
        }
    }
    panic!("does not settle");
}

#[test]
fn the_deadline_asks_to_be_woken() {
    let mut world = World::new();
    world.put(deployment("web", 1, "web:1"));
    run_controllers(&mut world);
    let waiting = plan(&world.snapshot, Scope::EVERYTHING, world.now);
    assert_eq!(waiting.writes, []);
    assert_eq!(waiting.again_after, Some(601));
}

#[test]
fn recreate_ends_the_old_pods_before_it_starts_new_ones() {
    let mut world = World::new();
    let mut first = deployment("web", 3, "web:1");
    first["spec"]["strategy"] = json!({"type": "Recreate"});
    world.put(first);
    run(&mut world);
    assert!(rolled_out(&world));
    set_image(&mut world, "web:2");
    for _ in 0..4 {
        step(&mut world);
    }
    assert_eq!(sizes(&world), [(1, 0)]);
    assert_eq!(world.all("Pod").len(), 3);
    run(&mut world);
    assert_eq!(sizes(&world), [(1, 0), (2, 3)]);
    assert!(rolled_out(&world));
}

#[test]
fn a_scale_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let mut world = World::new();
    let mut first = deployment("web", 10, "web:1");
    first["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    world.put(first);
    run(&mut world);
    set_image(&mut world, "web:broken");
    run_controllers(&mut world);
    assert_eq!(sizes(&world), [(1, 8), (2, 5)]);
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["replicas"] = json!(15)
    });
    run_controllers(&mut world);
    assert_eq!(sizes(&world), [(1, 11), (2, 7)]);
}

#[test]
fn scaling_keeps_the_revision() {
    let mut world = started(3);
    for replicas in [10, 2, 0, 3] {
        world.edit("Deployment", "shop", "web", |one| {
            one["spec"]["replicas"] = json!(replicas)
        });
        assert!(!rolled_out(&world));
        run(&mut world);
        assert!(rolled_out(&world));
        assert_eq!(sizes(&world), [(1, replicas)]);
    }
}

#[test]
fn a_paused_deployment_is_scaled_but_not_rolled() {
    let mut world = started(2);
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["paused"] = json!(true)
    });
    set_image(&mut world, "web:2");
    run(&mut world);
    assert_eq!(sizes(&world), [(1, 2)]);
    assert_eq!(
        condition(&world, "Progressing"),
        ("Unknown".into(), "DeploymentPaused".into())
    );
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["replicas"] = json!(4)
    });
    run(&mut world);
    assert_eq!(sizes(&world), [(1, 4)]);
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["paused"] = json!(false)
    });
    run(&mut world);
    assert_eq!(sizes(&world), [(1, 0), (2, 4)]);
    assert!(rolled_out(&world));
}

#[test]
fn a_rollback_reuses_the_set_and_old_revisions_are_forgotten() {
    let mut world = started(1);
    world.edit("Deployment", "shop", "web", |one| {
        one["spec"]["revisionHistoryLimit"] = json!(2)
    });
    for image in ["web:2", "web:1", "web:3", "web:4", "web:5"] {
        set_image(&mut world, image);
        run(&mut world);
    }
    assert_eq!(sizes(&world), [(4, 0), (5, 0), (6, 1)]);
    let mut world = started(1);
    set_image(&mut world, "web:2");
    run(&mut world);
    set_image(&mut world, "web:1");
    run(&mut world);
    assert_eq!(sizes(&world), [(2, 0), (3, 1)]);
    let sets = world.all("ReplicaSet");
    let back = sets
        .iter()
        .find(|set| set["spec"]["replicas"] == 1)
        .unwrap();
    assert_eq!(
        back["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"],
        "1"
    );
}

#[test]
fn a_set_of_the_same_labels_is_adopted() {
    let mut world = World::new();
    let mut stray = crate::world::replica_set("stray", 1);
    stray["metadata"]["labels"] = json!({"app": "web"});
    world.put(stray);
    world.put(deployment("web", 1, "web:1"));
    run(&mut world);
    let stray = world.get("ReplicaSet", "shop", "stray").unwrap();
    assert_eq!(
        stray["metadata"]["ownerReferences"][0]["kind"],
        "Deployment"
    );
}

#[test]
fn a_taken_name_is_avoided() {
    let world = started(1);
    let name = world.all("ReplicaSet")[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut world = World::new();
    let mut squatter = crate::world::replica_set(&name, 0);
    squatter["spec"]["selector"] = json!({"matchLabels": {"app": "squatter"}});
    world.put(squatter);
    world.put(deployment("web", 1, "web:1"));
    run(&mut world);
    assert!(rolled_out(&world));
    assert_eq!(world.all("ReplicaSet").len(), 2);
}
