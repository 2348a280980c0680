//! Planners that are broken on purpose: each mistake is one that the invariants must notice, or they would be worth
//! nothing.

use serde_json::{Value, json};

use super::run;
use crate::{Plan, Write};

/// Seeds of which one at least must show a mistake.
const SEEDS: u64 = 12;

/// What one planner does wrong.
#[derive(Clone, Copy)]
pub(super) struct Mistake {
    pub(super) planner: &'static str,
    pub(super) spoil: fn(&mut Plan),
}

/// Every object that a plan creates or updates, of one kind.
fn values<'a>(plan: &'a mut Plan, kind: &'static str) -> impl Iterator<Item = &'a mut Value> {
    let values = plan.writes.iter_mut().filter_map(|write| match write {
        Write::Create(value) | Write::Update(value) | Write::UpdateStatus(value) => Some(value),
        _ => None,
    });
    values.filter(move |value| value["kind"] == kind)
}

fn create_twice(plan: &mut Plan) {
    let again: Vec<Write> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Create(value) if value["kind"] == "Pod" => {
                let mut other = value.clone();
                let name = value["metadata"]["name"].as_str().unwrap_or_default();
                other["metadata"]["name"] = json!(format!("{name}x"));
                Some(Write::Create(other))
            }
            _ => None,
        })
        .collect();
    plan.writes.extend(again);
}

fn bind_to_the_first(write: &mut Write) {
    match write {
        Write::Bind { node, .. } => *node = "n1".to_owned(),
        Write::Gang(binds) => binds.iter_mut().for_each(bind_to_the_first),
        _ => {}
    }
}

fn check(planner: &'static str, spoil: fn(&mut Plan)) {
    let mistake = Mistake { planner, spoil };
    let noticed = (0..SEEDS).any(|seed| run(seed, Some(mistake)).1.is_err());
    assert!(noticed, "nobody notices a broken {planner}");
}

#[test]
fn a_surge_beyond_the_bound_is_noticed() {
    check("deployment", |plan| {
        for set in values(plan, "ReplicaSet") {
            if let Some(size) = set["spec"]["replicas"].as_i64().filter(|size| *size > 0) {
                set["spec"]["replicas"] = json!(size + 2);
            }
        }
    });
}

#[test]
fn pods_too_many_are_noticed() {
    check("replica-set", create_twice);
    check("replication-controller", create_twice);
    check("daemon-set", create_twice);
}

#[test]
fn an_overfull_node_and_a_torn_gang_are_noticed() {
    check("scheduler", |plan| {
        plan.writes.iter_mut().for_each(bind_to_the_first);
    });
    check("scheduler", |plan| {
        let mut first = true;
        let is_delete = |write: &Write| matches!(write, Write::Delete { .. });
        plan.writes
            .retain(|write| !is_delete(write) || std::mem::take(&mut first));
    });
    check("scheduler", |plan| {
        for write in &mut plan.writes {
            if let Write::Gang(binds) = write {
                binds.truncate(1);
            }
        }
    });
}

#[test]
fn a_run_that_was_not_is_noticed() {
    check("job", |plan| {
        for job in values(plan, "Job") {
            let counted = job["status"]["succeeded"].as_i64().unwrap_or(0);
            job["status"]["succeeded"] = json!(counted + 1);
        }
    });
}

#[test]
fn sizes_out_of_bounds_and_without_calm_are_noticed() {
    check("autoscaler", |plan| {
        for one in values(plan, "Deployment") {
            one["spec"]["replicas"] = json!(7);
        }
    });
    check("autoscaler", |plan| {
        for one in values(plan, "Deployment") {
            one["spec"]["replicas"] = json!(2);
        }
    });
}

#[test]
fn planners_that_do_nothing_are_noticed() {
    for planner in [
        "garbage",
        "endpoint-slice",
        "stateful-set",
        "replication-controller",
        "service-account",
        "cron-job",
        "autoscaler",
    ] {
        check(planner, |plan| plan.writes.clear());
    }
}
