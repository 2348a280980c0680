//! What nodes say: acknowledgements, pod and node status, events, usage, and that a pod is gone. A node is believed
//! about what is its own and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tonic::Streaming;
use waggle_api::life::Preconditions;
use waggle_api::{DeleteOptions, Part, Status};
use waggle_model::Generation;
use waggle_wire::v1;
use waggle_wire::v1::from_agent::Message;

use super::links::Link;
use super::{Inner, kind, node};
use crate::objects::{Object, WriteOptions};

/// Messages that are worked on together.
const BATCH: usize = 128;
/// Status fields that the server sets, kept when an agent does not mention them.
const SERVERS: [&str; 6] = [
    "hostIP",
    "hostIPs",
    "nominatedNodeName",
    "qosClass",
    "resourceClaimStatuses",
    "startTime",
];

/// Takes in what a node says until it hangs up.
pub(super) async fn listen(inner: &Inner, link: &Arc<Link>, mut inbound: Streaming<v1::FromAgent>) {
    let mut open = true;
    while open {
        let mut batch = Batch::default();
        let mut next = inbound.message().await;
        loop {
            match next {
                Ok(Some(message)) => batch.add(message),
                Ok(None) => open = false,
                Err(status) => {
                    tracing::debug!(node = link.node, error = %status, "a session broke");
                    open = false;
                }
            }
            if !open || batch.count >= BATCH {
                break;
            }
            match inbound.message().now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        take_in(inner, link, batch).await;
    }
}

/// What came together. Of several things said about one pod, the newest counts.
#[derive(Debug, Default)]
struct Batch {
    count: usize,
    acknowledged: Option<v1::Ack>,
    heartbeat: Option<v1::NodeStatus>,
    pods: HashMap<String, AboutPod>,
    events: Vec<v1::Event>,
    usage: Option<v1::Usage>,
    refusals: Option<v1::Refusals>,
}

#[derive(Debug, Default)]
struct AboutPod {
    status: Option<v1::PodStatus>,
    gone: Option<v1::PodGone>,
}

impl Batch {
    fn add(&mut self, message: v1::FromAgent) {
        self.count += 1;
        match message.message {
            Some(Message::Ack(ack)) => self.acknowledged = Some(ack),
            Some(Message::NodeStatus(status)) => self.heartbeat = Some(status),
            Some(Message::PodStatus(status)) => {
                let uid = status.uid.clone();
                self.pods.entry(uid).or_default().status = Some(status);
            }
            Some(Message::PodGone(gone)) => {
                let uid = gone.uid.clone();
                self.pods.entry(uid).or_default().gone = Some(gone);
            }
            Some(Message::Event(event)) => self.events.push(event),
            Some(Message::Usage(usage)) => self.usage = Some(usage),
            Some(Message::Refusals(refusals)) => self.refusals = Some(refusals),
            Some(Message::Hello(_)) | None => {}
        }
    }
}

async fn take_in(inner: &Inner, link: &Arc<Link>, batch: Batch) {
    link.hears();
    if let Some(ack) = batch.acknowledged {
        acknowledge(inner, link, &ack);
    }
    if let Some(refusals) = batch.refusals {
        inner.capacity.hear(&link.node, refusals);
    }
    if let Some(usage) = batch.usage {
        inner.usage.record(&link.node, usage);
    }
    for event in batch.events {
        let parsed: Result<Value, _> = serde_json::from_slice(&event.event_json);
        let recorded = parsed.map_err(|error| error.to_string()).and_then(|event| {
            inner
                .recorder
                .record_agent(&link.node, &event)
                .map_err(str::to_owned)
        });
        report(
            &link.node,
            "an event",
            recorded.map_err(Status::bad_request),
        );
    }
    let pods = join_all(
        batch
            .pods
            .into_values()
            .map(|about| about_pod(inner, &link.node, about)),
    );
    let heartbeat = async {
        if let Some(status) = batch.heartbeat {
            let outcome = node::heartbeat(inner, link, &status.status_json).await;
            report(&link.node, "its status", outcome);
        }
    };
    futures::future::join(pods, heartbeat).await;
}

fn acknowledge(inner: &Inner, link: &Link, ack: &v1::Ack) {
    if !ack.network_fault.is_empty() {
        let (generation, fault) = (ack.network_generation, &ack.network_fault);
        tracing::warn!(
            node = link.node,
            generation,
            fault,
            "a node can't apply the network state"
        );
    }
    // A generation that this server never published belongs to another one's history.
    let applied = Generation(ack.network_generation);
    if applied <= inner.hub.generation() && link.acknowledge(applied) {
        inner.hub.nudge();
    }
}

async fn about_pod(inner: &Inner, node: &str, about: AboutPod) {
    if let Some(status) = about.status {
        report(
            node,
            "a pod's status",
            pod_status(inner, node, &status).await,
        );
    }
    if let Some(gone) = about.gone {
        report(node, "a pod's end", pod_gone(inner, node, &gone).await);
    }
}

fn report(node: &str, what: &str, outcome: Result<(), Status>) {
    match outcome {
        Ok(()) => {}
        Err(status) if status.is_not_found() || status.is_conflict() => {
            tracing::debug!(node, what, error = %status, "what a node said is out of date");
        }
        Err(status) => tracing::warn!(node, what, error = %status, "what a node said was refused"),
    }
}

async fn pod_status(inner: &Inner, node: &str, said: &v1::PodStatus) -> Result<(), Status> {
    let status: Value = serde_json::from_slice(&said.status_json).map_err(|error| {
        Status::bad_request(format!(
            "status of pod {}/{}: {error}",
            said.namespace, said.name
        ))
    })?;
    let change = |pod: &Object| {
        check(pod, node, &said.uid)?;
        let mut value = pod.value.clone();
        let old = value["status"].take();
        value["status"] = merged(&old, &status, value["spec"]["hostNetwork"] == true);
        Ok(value)
    };
    let pods = kind("v1", "Pod")?;
    let options = WriteOptions::default();
    inner
        .objects
        .modify(
            pods,
            &said.namespace,
            &said.name,
            Part::Status,
            &options,
            change,
        )
        .await
        .map(drop)
}

async fn pod_gone(inner: &Inner, node: &str, said: &v1::PodGone) -> Result<(), Status> {
    let pods = kind("v1", "Pod")?;
    let Some(pod) = inner.objects.get(pods, &said.namespace, &said.name) else {
        return Ok(());
    };
    check(&pod, node, &said.uid)?;
    if pod.value["metadata"].get("deletionTimestamp").is_none() {
        return Err(Status::conflict(
            pods,
            &said.name,
            "its node says that it is gone, but nobody deleted it",
        ));
    }
    let this_one = Preconditions {
        uid: Some(said.uid.clone()),
        resource_version: None,
    };
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(this_one),
        ..DeleteOptions::default()
    };
    inner
        .objects
        .delete(pods, &said.namespace, &said.name, &options)
        .await
        .map(drop)
}

/// The pod is the one that is meant, and the node's.
fn check(pod: &Object, node: &str, uid: &str) -> Result<(), Status> {
    if pod.uid != uid {
        return Err(Status::conflict(
            pod.resource,
            &pod.name,
            "it is another pod of the same name by now",
        ));
    }
    if pod.value["spec"]["nodeName"] != node {
        return Err(Status::forbidden(
            pod.resource,
            &pod.name,
            &format!("it does not run on node {node:?}"),
        ));
    }
    Ok(())
}

/// The status that follows from what the agent says: its own fields as it says them, the server's as they were. A pod
/// that has ended stays ended, and its address is the one that the server reserved.
fn merged(old: &Value, said: &Value, host_network: bool) -> Value {
    let ended = matches!(old["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !said.is_object() || (ended && said["phase"] != old["phase"]) {
        return old.clone();
    }
    let mut new = said.clone();
    for field in SERVERS {
        if new[field].is_null() && !old[field].is_null() {
            new[field] = old[field].clone();
        }
    }
    for field in ["podIP", "podIPs"] {
        if !old[field].is_null() && (!host_network || new[field].is_null()) {
            new[field] = old[field].clone();
        }
    }
    new["conditions"] = conditions(&old["conditions"], &said["conditions"]);
    if let Some(fields) = new.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    new
}

fn conditions(old: &Value, said: &Value) -> Value {
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (old, said) = (rows(old), rows(said));
    let mut new = said.clone();
    for row in &mut new {
        let before = old
            .iter()
            .find(|before| before["type"] == row["type"] && before["status"] == row["status"]);
        if let Some(since) = before
            .map(|before| &before["lastTransitionTime"])
            .filter(|since| since.is_string())
        {
            row["lastTransitionTime"] = since.clone();
        }
    }
    let said_nothing = |row: &&Value| {
        let ends_unsaid = ["PodResizePending", "PodResizeInProgress"].map(Value::from);
        let is_said = said.iter().any(|one| one["type"] == row["type"]);
        !is_said && !ends_unsaid.contains(&row["type"])
    };
    let kept: Vec<Value> = old.iter().filter(said_nothing).cloned().collect();
    new.splice(0..0, kept);
    json!(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_fields_stay_and_the_agents_are_taken() {
        let old = json!({
            "phase": "Pending", "podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}], "qosClass": "BestEffort",
            "reason": "OldReason",
            "conditions": [{"type": "PodScheduled", "status": "True"},
                           {"type": "Ready", "status": "False", "lastTransitionTime": "then"}],
        });
        let said = json!({
            "phase": "Running", "podIP": "10.9.9.9",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "now"}],
        });
        let new = merged(&old, &said, false);
        assert_eq!(new["phase"], "Running");
        assert_eq!(new["podIP"], "10.244.0.5");
        assert_eq!(new["qosClass"], "BestEffort");
        assert!(new.get("reason").is_none(), "the agent's to clear");
        assert_eq!(new["conditions"][0]["type"], "PodScheduled");
        assert_eq!(new["conditions"][1]["lastTransitionTime"], "then");
        assert_eq!(
            merged(&new, &said, false),
            new,
            "saying it again changes nothing"
        );
        assert_eq!(
            merged(&json!({}), &json!({"podIP": "172.30.0.11"}), true)["podIP"],
            "172.30.0.11"
        );
    }

    #[test]
    fn a_resize_is_over_when_the_agent_no_longer_speaks_of_it() {
        let row = |kind: &str| json!({"type": kind, "status": "True"});
        let old = json!([
            row("PodResizePending"),
            row("PodResizeInProgress"),
            row("example.com/gate")
        ]);
        let said = json!([row("PodResizeInProgress")]);
        let left = conditions(&old, &said);
        assert_eq!(
            left,
            json!([row("example.com/gate"), row("PodResizeInProgress")])
        );
        assert_eq!(
            conditions(&left, &json!([])),
            json!([row("example.com/gate")])
        );
    }

    #[test]
    fn an_ended_pod_stays_ended() {
        let old = json!({"phase": "Succeeded"});
        assert_eq!(merged(&old, &json!({"phase": "Running"}), false), old);
    }
}
