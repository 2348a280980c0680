//! The planners run over a live store, with agents that claim to run what they are told.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use waggle_api::{DeleteOptions, Part};
use waggle_wire::v1;
use waggle_wire::v1::from_agent::Message as Up;

use super::Controllers;
use crate::sessions::fixture::{Agent, Cluster};
use crate::sessions::kind;

fn run(cluster: &Cluster) -> CancellationToken {
    let controllers = Controllers {
        objects: cluster.objects.clone(),
        view: cluster.view.clone(),
        numbers: cluster.numbers.clone(),
        enforcement: crate::sessions::Enforcement::default(),
        beats: cluster.sessions.beats(),
        recorder: cluster.recorder.clone(),
        usage: std::sync::Arc::default(),
        metrics: std::sync::Arc::default(),
        pki: cluster.pki.clone(),
        authority: "PEM".to_owned(),
        pool: None,
        scheduler: Default::default(),
        node_lifecycle: Default::default(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(controllers.run(stop.clone()));
    stop
}

/// Plays the agent until `done`: reports every pod as running and ready, and every ending one as gone.
async fn play(mut agent: Agent, done: CancellationToken) {
    let mut told = BTreeSet::new();
    let mut beat = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        tokio::select! {
            () = done.cancelled() => return,
            _ = beat.tick() => agent.heartbeat().await,
            () = agent.take() => {}
        }
        for pod in agent.memory.pods.clone().into_values() {
            let json: Value = serde_json::from_slice(&pod.pod_json).unwrap();
            let ending = json["metadata"]["deletionTimestamp"].is_string();
            if !told.insert((pod.uid.clone(), ending)) {
                continue;
            }
            if ending {
                let gone = v1::PodGone {
                    namespace: pod.namespace,
                    name: pod.name,
                    uid: pod.uid,
                };
                agent.say(Up::PodGone(gone)).await;
            } else {
                agent
                    .report(&pod.name, &pod.uid, running(&pod.address))
                    .await;
            }
        }
    }
}

fn running(address: &str) -> Value {
    let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({
        "phase": "Running", "podIP": address,
        "conditions": [ready("Initialized"), ready("ContainersReady"), ready("Ready")],
        "containerStatuses": [{"name": "main", "ready": true, "started": true, "restartCount": 0, "image": "web",
                               "imageID": "", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    })
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                         "spec": {"containers": [{"name": "main", "image": image}]}},
        },
    })
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    let listed = cluster
        .objects
        .list(kind("v1", "Pod").unwrap(), Some("shop"))
        .objects;
    listed.iter().map(|pod| pod.value.clone()).collect()
}

/// Waits until the Deployment says that this many replicas are updated and available, and no other pod is left.
async fn settled(cluster: &Cluster, count: u64, image: &str) {
    let deployments = kind("apps/v1", "Deployment").unwrap();
    cluster
        .eventually(&format!("{count} pods of {image}"), |cluster| {
            let status = &cluster.objects.get(deployments, "shop", "web")?.value["status"];
            let said = |field: &str| status[field].as_u64().unwrap_or(0);
            let pods = pods(cluster);
            let right = pods
                .iter()
                .filter(|pod| pod["spec"]["containers"][0]["image"] == image)
                .count() as u64;
            let whole = said("updatedReplicas") == count && said("availableReplicas") == count;
            (whole && right == count && pods.len() as u64 == count).then_some(())
        })
        .await;
}

fn served(cluster: &Cluster) -> BTreeSet<String> {
    let slices = cluster
        .objects
        .list(
            kind("discovery.k8s.io/v1", "EndpointSlice").unwrap(),
            Some("shop"),
        )
        .objects;
    let endpoints = slices.iter().flat_map(|slice| {
        slice.value["endpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready
        .filter_map(|endpoint| endpoint["addresses"][0].as_str().map(str::to_owned))
        .collect()
}

fn addresses(cluster: &Cluster) -> BTreeSet<String> {
    pods(cluster)
        .iter()
        .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_carried_out_scaled_updated_and_taken_away() {
    let cluster = Cluster::start().await;
    let stop = run(&cluster);
    for node in ["node1", "node2"] {
        tokio::spawn(play(cluster.agent(node).await, stop.clone()));
    }
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
                       "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}}))
        .await;
    cluster.create(deployment(3, "web:1")).await;
    settled(&cluster, 3, "web:1").await;
    let nodes: BTreeSet<String> = pods(&cluster)
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(nodes.len(), 2, "spread over both nodes");
    let all_served = |cluster: &Cluster| {
        let addresses = addresses(cluster);
        (served(cluster) == addresses).then_some(addresses.len())
    };
    assert_eq!(cluster.eventually("three endpoints", all_served).await, 3);
    let scale = |count: u32| move |value: &mut Value| value["spec"]["replicas"] = json!(count);
    cluster
        .change(
            "apps/v1",
            "Deployment",
            ("shop", "web"),
            Part::Main,
            scale(5),
        )
        .await;
    settled(&cluster, 5, "web:1").await;
    let image = |value: &mut Value| {
        value["spec"]["template"]["spec"]["containers"][0]["image"] = json!("web:2")
    };
    cluster
        .change("apps/v1", "Deployment", ("shop", "web"), Part::Main, image)
        .await;
    settled(&cluster, 5, "web:2").await;
    assert_eq!(cluster.eventually("five endpoints", all_served).await, 5);
    cluster
        .change(
            "apps/v1",
            "Deployment",
            ("shop", "web"),
            Part::Main,
            scale(1),
        )
        .await;
    settled(&cluster, 1, "web:2").await;
    let deployments = kind("apps/v1", "Deployment").unwrap();
    cluster
        .objects
        .delete(deployments, "shop", "web", &DeleteOptions::default())
        .await
        .unwrap();
    cluster
        .eventually("nothing is left", |cluster| {
            let sets = cluster
                .objects
                .list(kind("apps/v1", "ReplicaSet").unwrap(), Some("shop"))
                .objects;
            (sets.is_empty() && pods(cluster).is_empty() && served(cluster).is_empty())
                .then_some(())
        })
        .await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why() {
    let cluster = Cluster::start().await;
    let stop = run(&cluster);
    tokio::spawn(play(cluster.agent("node1").await, stop.clone()));
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "big"},
            "spec": {"containers": [{"name": "main", "image": "web", "resources": {"requests": {"cpu": "64"}}}]},
        }))
        .await;
    let events = kind("v1", "Event").unwrap();
    let event = cluster
        .eventually("an event", |cluster| {
            let listed = cluster.objects.list(events, Some("shop")).objects;
            listed.into_iter().find(|event| {
                let message = event.value["message"].as_str().unwrap_or_default();
                event.value["reason"] == "FailedScheduling" && message.contains("cpu")
            })
        })
        .await;
    assert_eq!(event.value["involvedObject"]["name"], "big");
    assert_eq!(event.value["type"], "Warning");
    stop.cancel();
}
