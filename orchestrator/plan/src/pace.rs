//! How long planners take on a cluster at rest, where they must find nothing to do: all of it, and after one pod's change.
//! `cargo xtask bench planners` runs it optimized, on a large cluster.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use crate::world::{World, deployment, node};
use crate::{Ids, Plan, Scope, Snapshot, node_lifecycle};

type Planner = fn(&Snapshot, Scope, Timestamp, &mut Ids) -> Plan;

/// Those whose work grows with the cluster.
const PLANNERS: [(&str, Planner); 15] = [
    ("service-account", |view, scope, now, _| {
        crate::service_account::plan(view, scope, "", now)
    }),
    ("garbage", |view, scope, now, _| {
        crate::garbage::plan(view, scope, now)
    }),
    ("deployment", |view, scope, now, _| {
        crate::deployment::plan(view, scope, now)
    }),
    ("replica-set", |view, scope, now, ids| {
        crate::replica_set::plan(view, scope, now, ids)
    }),
    ("stateful-set", |view, scope, now, _| {
        crate::stateful_set::plan(view, scope, now)
    }),
    ("daemon-set", |view, scope, now, ids| {
        crate::daemon_set::plan(view, scope, now, ids)
    }),
    ("job", |view, scope, now, ids| {
        crate::job::plan(view, scope, now, ids)
    }),
    ("storage", |view, _, now, _| crate::storage::plan(view, now)),
    ("scheduler", |view, _, now, _| {
        crate::scheduler::plan(view, &Default::default(), &mut Default::default(), now)
    }),
    ("disruption", |view, scope, now, _| {
        crate::disruption::plan(view, scope, now)
    }),
    ("endpoint-slice", |view, scope, now, _| {
        crate::endpoint_slice::plan(view, scope, now)
    }),
    ("endpoints", |view, scope, now, _| {
        crate::endpoints::plan(view, scope, now)
    }),
    ("load-balancer", |view, _, now, _| {
        crate::load_balancer::plan(view, None, now)
    }),
    ("node-lifecycle", |view, scope, now, _| {
        node_lifecycle::plan(view, scope, &|_| None, now, &Default::default())
    }),
    ("pod-gc", |view, scope, now, _| {
        crate::pod_gc::plan(view, scope, now, &Default::default())
    }),
];

/// Looks that each figure is the median of.
const LOOKS: usize = 21;

fn number(name: &str, usual: usize) -> usize {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Deployments of twenty pods, each behind a Service, everywhere at rest.
fn settled(nodes: usize, applications: usize) -> World {
    let mut world = World::new();
    for index in 0..nodes {
        let name = format!("node{index}");
        world.put(node(&name, "16", "64Gi"));
        world.put(
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}),
        );
    }
    for index in 0..applications {
        let name = format!("app{index}");
        let mut wanted = deployment(&name, 20, "image:0");
        wanted["metadata"]["namespace"] = json!(format!("team{}", index % 50));
        world.put(wanted.clone());
        world.put(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": wanted["metadata"]["namespace"]},
            "spec": {"selector": wanted["spec"]["selector"]["matchLabels"], "clusterIP": "10.96.0.20",
                "ports": [{"port": 80}]}}));
    }
    for index in 0..50 {
        world.put(json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("team{index}")}}));
    }
    for _ in 0..30 {
        let mut quiet = true;
        for (_, planner) in PLANNERS {
            let mut ids = world.ids.clone();
            let plan = planner(&world.snapshot, Scope::EVERYTHING, world.now, &mut ids);
            world.ids = ids;
            quiet &= plan.writes.is_empty();
            world.apply(&plan);
        }
        world.agents();
        if quiet {
            return world;
        }
    }
    panic!("the cluster does not come to rest");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_cluster_at_rest_asks_for_nothing() {
    let nodes = number("PACE_NODES", 10);
    let applications = number("PACE_APPLICATIONS", 10);
    let mut world = settled(nodes, applications);
    println!(
        "{nodes} nodes, {} pods, {applications} Deployments and Services; median of {LOOKS}",
        world.snapshot.pods.len()
    );
    println!("{:<16} {:>14} {:>14}", "planner", "everything", "one pod");
    let pods: Vec<(String, String)> = world
        .snapshot
        .pods
        .iter()
        .take(LOOKS)
        .map(|pod| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            (text(&pod.metadata.namespace), text(&pod.metadata.name))
        })
        .collect();
    for (name, planner) in PLANNERS {
        let mut ids = world.ids.clone();
        let (mut whole, mut one) = (Vec::new(), Vec::new());
        for (namespace, pod) in &pods {
            let seen = world.snapshot.position();
            world.edit("Pod", namespace, pod, |pod| {
                pod["metadata"]["annotations"]["look"] = json!(name);
            });
            for (scope, times) in [
                (Scope::since(seen), &mut one),
                (Scope::EVERYTHING, &mut whole),
            ] {
                let started = Instant::now();
                let plan = planner(&world.snapshot, scope, world.now, &mut ids);
                times.push(started.elapsed());
                assert!(plan.writes.is_empty(), "{name}: {:?}", plan.writes[0]);
            }
        }
        println!("{name:<16} {:>14?} {:>14?}", median(whole), median(one));
    }
}
