//! Jobs over a cluster in memory: exact counts, backoff, indexes, policies, suspension, deadlines, time to live.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::world::World;

fn job(spec: Value) -> Value {
    let mut value = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "sum", "namespace": "shop"},
        "spec": {
            "completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"job": "sum"}},
            "template": {
                "metadata": {"labels": {"job": "sum"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "sum:1"}]},
            },
        },
    });
    for (key, field) in spec.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    value
}

fn start(spec: Value) -> World {
    let mut world = World::new();
    world.put(job(spec));
    step(&mut world);
    world
}

/// Plans until nothing is left to do; pods are bound at once.
fn step(world: &mut World) {
    world.settle(|world| {
        plan(
            &world.snapshot,
            Scope::EVERYTHING,
            world.now,
            &mut world.ids,
        )
    });
    world.bind_all("n1");
}

fn status(world: &World) -> Value {
    world.get("Job", "shop", "sum").unwrap()["status"].clone()
}

fn has(world: &World, kind: &str) -> bool {
    let status = status(world);
    let rows = status["conditions"].as_array().cloned().unwrap_or_default();
    rows.iter()
        .any(|row| row["type"] == kind && row["status"] == "True")
}

fn reason(world: &World) -> String {
    let status = status(world);
    let last = status["conditions"]
        .as_array()
        .and_then(|rows| rows.last().cloned());
    last.map_or_else(String::new, |row| {
        row["reason"].as_str().unwrap().to_owned()
    })
}

/// Names of pods that run, with their index where they have one.
fn running(world: &World) -> Vec<String> {
    let rows = world.all("Pod").into_iter().filter(|pod| {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        pod["metadata"]["deletionTimestamp"].is_null() && phase != "Failed" && phase != "Succeeded"
    });
    rows.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Ends a running pod (of an index) with an exit code.
fn end(world: &mut World, index: Option<i32>, code: i32) {
    let now = world.now.to_string();
    let wanted = |name: &String| {
        index.is_none_or(|index| {
            let pod = world.get("Pod", "shop", name).unwrap();
            pod["metadata"]["annotations"][pods_index()].as_str()
                == Some(index.to_string().as_str())
        })
    };
    let name = running(world)
        .into_iter()
        .find(wanted)
        .expect("no such pod runs");
    world.edit("Pod", "shop", &name, |pod| {
        pod["status"]["phase"] = json!(if code == 0 { "Succeeded" } else { "Failed" });
        pod["status"]["containerStatuses"] = json!([{"name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": code, "finishedAt": now}}}]);
    });
    step(world);
}

fn pods_index() -> &'static str {
    "batch.kubernetes.io/job-completion-index"
}

#[test]
fn a_job_runs_its_pods_and_completes() {
    let mut world = start(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(running(&world).len(), 2);
    assert_eq!(status(&world)["active"], 2);
    end(&mut world, None, 0);
    assert_eq!(
        (running(&world).len(), &status(&world)["succeeded"]),
        (2, &json!(1))
    );
    end(&mut world, None, 0);
    assert_eq!(running(&world).len(), 1);
    end(&mut world, None, 0);
    assert!(has(&world, "Complete"), "{}", status(&world));
    let status = status(&world);
    assert_eq!(
        (&status["succeeded"], &status["completionTime"]),
        (&json!(3), &json!("2026-01-01T00:00:00Z"))
    );
    assert!(
        world
            .all("Pod")
            .iter()
            .all(|pod| pod["metadata"]["finalizers"] == json!([]))
    );
}

#[test]
fn failures_wait_longer_and_longer_and_end_the_job() {
    let mut world = start(json!({"backoffLimit": 1}));
    end(&mut world, None, 1);
    assert_eq!(running(&world).len(), 0, "ten seconds first");
    let again = plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids.clone(),
    )
    .again_after;
    assert_eq!(again, Some(11));
    world.pass(10);
    step(&mut world);
    assert_eq!(running(&world).len(), 1);
    end(&mut world, None, 1);
    assert!(has(&world, "Failed"));
    assert_eq!(
        (reason(&world), &status(&world)["failed"]),
        ("BackoffLimitExceeded".into(), &json!(2))
    );
}

#[test]
fn every_index_succeeds_once() {
    let mut world = start(json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3}));
    assert!(running(&world).iter().all(|name| name.starts_with("sum-")));
    let pod = world.get("Pod", "shop", &running(&world)[0]).unwrap();
    assert_eq!(pod["spec"]["hostname"], "sum-0");
    assert_eq!(
        pod["spec"]["containers"][0]["env"][0]["name"],
        "JOB_COMPLETION_INDEX"
    );
    end(&mut world, Some(1), 0);
    assert_eq!(status(&world)["completedIndexes"], "1");
    end(&mut world, Some(0), 0);
    end(&mut world, Some(3), 0);
    assert_eq!(status(&world)["completedIndexes"], "0,1,3");
    end(&mut world, Some(2), 0);
    assert!(has(&world, "Complete"));
    assert_eq!(status(&world)["completedIndexes"], "0-3");
}

#[test]
fn an_index_is_given_up_by_itself() {
    let mut world = start(
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": i32::MAX,
        "backoffLimitPerIndex": 1}),
    );
    end(&mut world, Some(0), 1);
    world.pass(10);
    step(&mut world);
    assert_eq!(running(&world).len(), 2);
    end(&mut world, Some(0), 1);
    assert_eq!(status(&world)["failedIndexes"], "0");
    end(&mut world, Some(1), 0);
    assert!(has(&world, "Failed"));
    assert_eq!(reason(&world), "FailedIndexes");
}

#[test]
fn policies_choose_which_failures_count() {
    let rule = |action: &str, code: i32| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
    let disrupted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    let policy = json!({"rules": [rule("FailJob", 42), disrupted]});
    let mut world = start(json!({"backoffLimit": 0, "podFailurePolicy": policy}));
    let name = running(&world)[0].clone();
    world.edit("Pod", "shop", &name, |pod| {
        pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    });
    end(&mut world, None, 1);
    world.pass(10);
    step(&mut world);
    assert_eq!(
        (running(&world).len(), &status(&world)["failed"]),
        (1, &Value::Null),
        "an ignored failure"
    );
    end(&mut world, None, 42);
    assert_eq!(reason(&world), "PodFailurePolicy");
}

#[test]
fn enough_successes_end_the_job() {
    let mut world = start(
        json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 1}]}}),
    );
    end(&mut world, Some(2), 0);
    assert!(!has(&world, "SuccessCriteriaMet"));
    end(&mut world, Some(1), 0);
    assert!(
        has(&world, "SuccessCriteriaMet") && !has(&world, "Complete"),
        "one pod is still ending"
    );
    world.agents();
    step(&mut world);
    assert!(has(&world, "Complete"));
}

#[test]
fn suspension_ends_pods_and_restarts_the_clock() {
    let mut world = start(json!({"activeDeadlineSeconds": 60}));
    world.edit("Job", "shop", "sum", |job| {
        job["spec"]["suspend"] = json!(true)
    });
    step(&mut world);
    assert!(running(&world).is_empty() && has(&world, "Suspended"));
    world.agents();
    world.pass(100);
    step(&mut world);
    assert!(!has(&world, "Failed"));
    world.edit("Job", "shop", "sum", |job| {
        job["spec"]["suspend"] = json!(false)
    });
    step(&mut world);
    assert_eq!(running(&world).len(), 1);
    world.pass(60);
    step(&mut world);
    world.agents();
    step(&mut world);
    assert_eq!(reason(&world), "DeadlineExceeded");
}

#[test]
fn a_finished_job_goes_after_its_time_to_live() {
    let mut world = start(json!({"ttlSecondsAfterFinished": 30}));
    end(&mut world, None, 0);
    world.pass(29);
    assert_eq!(
        plan(
            &world.snapshot,
            Scope::EVERYTHING,
            world.now,
            &mut world.ids.clone()
        )
        .writes,
        []
    );
    world.pass(1);
    let plan = plan(
        &world.snapshot,
        Scope::EVERYTHING,
        world.now,
        &mut world.ids.clone(),
    );
    assert!(
        matches!(plan.writes[..], [Write::Delete { .. }]),
        "{plan:?}"
    );
}

#[test]
fn pods_of_a_removed_job_are_let_go() {
    let mut world = start(json!({}));
    world.remove("Job", "shop", "sum");
    step(&mut world);
    assert_eq!(world.all("Pod")[0]["metadata"]["finalizers"], json!([]));
}

proptest! {
    /// Whatever ends, is killed or removed in whatever order, successes are counted exactly.
    #[test]
    fn completions_are_exact(
        completions in 1..6i32, parallelism in 1..4i32, indexed in any::<bool>(),
        events in proptest::collection::vec((0..4usize, 0..4u8, any::<bool>()), 1..40),
    ) {
        let mode = if indexed { "Indexed" } else { "NonIndexed" };
        let mut world = start(json!({"completions": completions, "parallelism": parallelism, "completionMode": mode, "backoffLimit": 1000}));
        let mut succeeded = 0;
        for (which, what, whole) in events {
            let names = running(&world);
            if let Some(name) = names.get(which % names.len().max(1)).cloned() {
                match what {
                    0 | 1 => {
                        world.edit("Pod", "shop", &name, |pod| pod["status"]["phase"] = json!("Succeeded"));
                        succeeded += 1;
                    }
                    2 => world.edit("Pod", "shop", &name, |pod| pod["status"]["phase"] = json!("Failed")),
                    _ => world.delete("Pod", "shop", &name),
                }
            }
            if whole {
                step(&mut world);
                world.agents_end();
            } else {
                // Only a part of a plan goes through before the next is made.
                let plan = plan(&world.snapshot, Scope::EVERYTHING, world.now, &mut world.ids);
                let part = Plan { writes: plan.writes.into_iter().take(1).collect(), ..Plan::default() };
                world.apply(&part);
            }
            world.pass(601);
        }
        step(&mut world);
        world.agents_end();
        step(&mut world);
        let counted = status(&world)["succeeded"].as_i64().unwrap_or(0);
        prop_assert!(counted <= i64::from(completions).max(succeeded));
        if !indexed {
            prop_assert_eq!(counted, succeeded);
        }
        prop_assert_eq!(has(&world, "Complete"), counted >= i64::from(completions));
        prop_assert_eq!(plan(&world.snapshot, Scope::EVERYTHING, world.now, &mut world.ids).writes, []);
    }
}
