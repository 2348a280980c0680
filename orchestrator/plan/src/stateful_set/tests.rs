//! StatefulSets over a cluster in memory: order, partition, parallel, rolling updates, replanning.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::world::World;

fn set(replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "replicas": replicas, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}

fn ask(world: &mut World) -> Plan {
    plan(&world.snapshot, Scope::EVERYTHING, world.now)
}

/// One plan; binds what is new; says which pods there are with their image.
fn step(world: &mut World) -> Vec<String> {
    let plan = ask(world);
    world.apply(&plan);
    world.bind_all("node1");
    pods(world)
}

fn pods(world: &World) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = world.all("Pod").into_iter().map(|pod| {
        let deleted = pod["metadata"]["deletionTimestamp"].is_string();
        let image = text(&pod["spec"]["containers"][0]["image"]);
        let mark = if deleted { " ending" } else { "" };
        format!("{} {image}{mark}", text(&pod["metadata"]["name"]))
    });
    rows.collect()
}

fn rest(world: &mut World) {
    for _ in 0..60 {
        let before = pods(world);
        step(world);
        world.agents();
        if before == pods(world) && ask(world).writes.is_empty() {
            return;
        }
    }
    panic!("does not settle: {:?}", ask(world).writes);
}

#[test]
fn pods_come_one_after_the_other_and_go_from_the_end() {
    let mut world = World::new();
    world.put(set(3, "a"));
    assert_eq!(step(&mut world), ["db-0 a"]);
    assert_eq!(step(&mut world), ["db-0 a"], "not ready yet");
    world.agents();
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a"]);
    world.agents();
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a", "db-2 a"]);
    rest(&mut world);
    let pod = world.get("Pod", "shop", "db-1").unwrap();
    assert_eq!(pod["spec"]["hostname"], "db-1");
    assert_eq!(pod["spec"]["subdomain"], "db");
    assert_eq!(
        pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"],
        "1"
    );
    let status = &world.get("StatefulSet", "shop", "db").unwrap()["status"];
    assert_eq!(
        (
            status["readyReplicas"].as_i64(),
            status["updatedReplicas"].as_i64()
        ),
        (Some(3), Some(3))
    );
    world.edit("StatefulSet", "shop", "db", |set| {
        set["spec"]["replicas"] = json!(1)
    });
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a", "db-2 a ending"]);
    assert_eq!(
        step(&mut world),
        ["db-0 a", "db-1 a", "db-2 a ending"],
        "waits for its end"
    );
    world.agents();
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a ending"]);
    rest(&mut world);
    assert_eq!(pods(&world), ["db-0 a"]);
}

#[test]
fn a_parallel_set_waits_for_nobody() {
    let mut world = World::new();
    let mut parallel = set(3, "a");
    parallel["spec"]["podManagementPolicy"] = json!("Parallel");
    world.put(parallel);
    assert_eq!(step(&mut world).len(), 3);
    world.edit("StatefulSet", "shop", "db", |set| {
        set["spec"]["replicas"] = json!(0)
    });
    assert!(step(&mut world).iter().all(|pod| pod.ends_with("ending")));
}

#[test]
fn a_new_template_is_rolled_out_from_the_end_down_to_the_partition() {
    let mut world = World::new();
    world.put(set(3, "a"));
    rest(&mut world);
    world.edit("StatefulSet", "shop", "db", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("b");
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(1);
    });
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a", "db-2 a ending"]);
    world.agents();
    assert_eq!(step(&mut world), ["db-0 a", "db-1 a", "db-2 b"]);
    assert_eq!(
        step(&mut world),
        ["db-0 a", "db-1 a", "db-2 b"],
        "waits for the new one"
    );
    rest(&mut world);
    assert_eq!(pods(&world), ["db-0 a", "db-1 b", "db-2 b"]);
    let status = world.get("StatefulSet", "shop", "db").unwrap()["status"].clone();
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    world.delete("Pod", "shop", "db-0");
    rest(&mut world);
    assert_eq!(
        pods(&world)[0],
        "db-0 a",
        "below the partition the old template is kept"
    );
    world.edit("StatefulSet", "shop", "db", |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
    });
    rest(&mut world);
    assert_eq!(pods(&world), ["db-0 b", "db-1 b", "db-2 b"]);
    let status = world.get("StatefulSet", "shop", "db").unwrap()["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    assert_eq!(world.all("ControllerRevision").len(), 2);
}

#[test]
fn a_rollback_takes_the_old_revision_again() {
    let mut world = World::new();
    for image in ["a", "b", "a"] {
        world.put(set(1, image));
        rest(&mut world);
    }
    let revisions = world.all("ControllerRevision");
    let mut numbers: Vec<_> = revisions
        .iter()
        .map(|one| one["revision"].as_i64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    assert_eq!(pods(&world), ["db-0 a"]);
}

#[test]
fn ended_pods_are_made_again_under_their_name() {
    let mut world = World::new();
    world.put(set(2, "a"));
    rest(&mut world);
    world.edit("Pod", "shop", "db-0", |pod| {
        pod["status"]["phase"] = json!("Failed")
    });
    assert_eq!(step(&mut world), ["db-1 a"]);
    rest(&mut world);
    assert_eq!(pods(&world), ["db-0 a", "db-1 a"]);
}

proptest! {
    #[test]
    fn it_settles_and_replans_nothing(
        sizes in proptest::collection::vec(0..5i32, 1..4), parallel in any::<bool>(), kills in proptest::collection::vec(0..5usize, 0..4),
    ) {
        let mut world = World::new();
        for (index, size) in sizes.iter().enumerate() {
            let mut wanted = set(*size, &format!("i{index}"));
            if parallel {
                wanted["spec"]["podManagementPolicy"] = json!("Parallel");
            }
            world.put(wanted);
            step(&mut world);
            for kill in &kills {
                let name = format!("db-{kill}");
                if world.get("Pod", "shop", &name).is_some() {
                    world.delete("Pod", "shop", &name);
                }
            }
            let names = pods(&world);
            let unique: BTreeSet<&String> = names.iter().collect();
            prop_assert_eq!(unique.len(), names.len());
        }
        rest(&mut world);
        prop_assert_eq!(i32::try_from(pods(&world).len()).unwrap(), *sizes.last().unwrap());
        prop_assert_eq!(ask(&mut world).writes, []);
    }
}
