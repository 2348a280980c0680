//! The Node object of a session: made at its first hello, with a range of pod addresses that it keeps; its status
//! written when it says something new. Leases are in `beats`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use waggle_api::{Part, Resource, Status};
use waggle_model::network::{Cidr, PerFamily};
use waggle_plan::Snapshot;
use waggle_plan::ipam::assign_pod_cidr;
use waggle_wire::v1;

use super::links::Link;
use super::{Inner, beats, kind};
use crate::objects::{Object, WriteOptions};

/// After the events were lost, the node is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// A status that says nothing new is written again after this many seconds.
pub(super) const STATUS_SECONDS: i64 = 300;

/// Makes or completes the Node object and answers its pod ranges and its uid.
pub(super) async fn register(
    inner: &Inner,
    hello: &v1::Hello,
) -> Result<(PerFamily<Cidr>, String), Status> {
    let mut fresh = inner.registering.lock().await;
    let nodes = kind("v1", "Node")?;
    let known = inner.objects.get(nodes, "", &hello.node);
    let ranges = ranges_for(inner, &fresh, hello, known.as_deref())?;
    fresh.insert(hello.node.clone(), ranges.iter().collect());
    drop(fresh);
    let options = WriteOptions::default();
    if known.is_none() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": hello.node}});
        let node = completed(node, hello, ranges);
        match inner.objects.create(nodes, node, &options).await {
            Err(status) if status.is_already_exists() => {}
            other => drop(other?),
        }
    }
    let complete = |node: &Object| Ok(completed(node.value.clone(), hello, ranges));
    inner
        .objects
        .modify(nodes, "", &hello.node, Part::Main, &options, complete)
        .await?;
    let locate = |node: &Object| Ok(located(node.value.clone(), hello));
    let registered = inner
        .objects
        .modify(nodes, "", &hello.node, Part::Status, &options, locate)
        .await?;
    // Whoever is given a range from now on sees this one in the view. After a fault it stays kept for the next hello.
    if inner.view.reach(registered.revision).await {
        inner.registering.lock().await.remove(&hello.node);
    }
    Ok((ranges, registered.uid.clone()))
}

/// Waits until the Node object with this uid is gone.
pub(super) async fn gone(inner: &Inner, node: &str, uid: &str) {
    let Ok(nodes) = kind("v1", "Node") else {
        return std::future::pending().await;
    };
    loop {
        let seen = *inner.objects.changed().borrow();
        let object = inner.objects.get(nodes, "", node);
        if object.is_none_or(|object| object.uid != uid) {
            return;
        }
        // Of this node's events only: somebody else's changes wake nobody here.
        match inner.objects.watch_one(nodes, "", node, seen) {
            Ok(mut events) => drop(events.next().await),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// The ranges that the node has, and new ones for families that it has none of.
fn ranges_for(
    inner: &Inner,
    fresh: &BTreeMap<String, Vec<Cidr>>,
    hello: &v1::Hello,
    known: Option<&Object>,
) -> Result<PerFamily<Cidr>, Status> {
    let settings = &inner.settings;
    let given = fresh.get(&hello.node).into_iter().flatten().copied();
    let own: Vec<Cidr> = known.into_iter().flat_map(ranges_of).chain(given).collect();
    let mut used: Option<BTreeSet<Cidr>> = None;
    let mut ranges = Vec::new();
    for cluster in settings.pod_range.iter() {
        let ipv4 = cluster.address().is_ipv4();
        if let Some(range) = own.iter().find(|one| one.address().is_ipv4() == ipv4) {
            ranges.push(*range);
            continue;
        }
        let used =
            used.get_or_insert_with(|| inner.view.read(|snapshot| ranges_in_use(snapshot, fresh)));
        let prefix = if ipv4 {
            settings.node_prefix
        } else {
            settings.node_prefix_v6
        };
        let range = assign_pod_cidr(cluster, prefix, used).map_err(|error| {
            Status::internal(format!("no pod range for node {:?}: {error}", hello.node))
        })?;
        ranges.push(range);
    }
    Ok(PerFamily::of(ranges).unwrap_or(settings.pod_range))
}

/// Ranges that nodes have, and those that are being given.
fn ranges_in_use(snapshot: &Snapshot, fresh: &BTreeMap<String, Vec<Cidr>>) -> BTreeSet<Cidr> {
    let specs = snapshot.nodes.iter().filter_map(|node| node.spec.as_ref());
    let texts = specs.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    let shown = texts.filter_map(|text| text.parse().ok());
    shown.chain(fresh.values().flatten().copied()).collect()
}

fn ranges_of(node: &Object) -> Vec<Cidr> {
    let spec = &node.value["spec"];
    let listed = spec["podCIDRs"].as_array().into_iter().flatten();
    let texts = listed.chain([&spec["podCIDR"]]).filter_map(Value::as_str);
    let mut ranges: Vec<Cidr> = texts.filter_map(|text| text.parse().ok()).collect();
    ranges.dedup();
    ranges
}

/// With its operator's labels, those that every node has, and its range.
fn completed(mut node: Value, hello: &v1::Hello, ranges: PerFamily<Cidr>) -> Value {
    node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(hello.node);
    if node["metadata"]["labels"]["kubernetes.io/os"].is_null() {
        node["metadata"]["labels"]["kubernetes.io/os"] = json!("linux");
    }
    for (label, value) in &hello.labels {
        node["metadata"]["labels"][label] = json!(value);
    }
    if !hello.volumes_folder.is_empty() {
        let folder = json!(hello.volumes_folder);
        node["metadata"]["annotations"][waggle_plan::storage::VOLUMES_FOLDER] = folder;
    }
    node["spec"]["podCIDR"] = json!(ranges.primary().to_string());
    let texts: Vec<String> = ranges.iter().map(|range| range.to_string()).collect();
    node["spec"]["podCIDRs"] = json!(texts);
    node
}

/// With its underlay addresses.
fn located(mut node: Value, hello: &v1::Hello) -> Value {
    let own = hello.address.split(',').map(str::trim);
    let mut addresses: Vec<Value> = own
        .map(|address| json!({"type": "InternalIP", "address": address}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": hello.node}));
    node["status"]["addresses"] = json!(addresses);
    node
}

/// Takes in a heartbeat: a sign of life, and a status that is written if it says something new.
pub(super) async fn heartbeat(inner: &Inner, link: &Link, said: &Bytes) -> Result<(), Status> {
    let alive = beats::take_in(inner, &link.node).await;
    let nodes = kind("v1", "Node")?;
    let node = inner.objects.get(nodes, "", &link.node);
    let revision = node.map(|node| node.revision);
    if revision.is_some_and(|revision| link.has_said(said, revision)) {
        return alive;
    }
    let status: Value = serde_json::from_slice(said)
        .map_err(|error| Status::bad_request(format!("status of node {}: {error}", link.node)))?;
    let revision = write_status(inner, nodes, &link.node, &status).await?;
    link.says(said.clone(), revision);
    alive
}

/// Writes what a node says of itself, if that is news, and answers the version of the Node that says it.
async fn write_status(
    inner: &Inner,
    nodes: &'static Resource,
    node: &str,
    said: &Value,
) -> Result<u64, Status> {
    let now = inner.objects.now();
    let options = WriteOptions::default();
    let status = |object: &Object| {
        let mut value = object.value.clone();
        let old = value["status"].take();
        value["status"] = status_after(old, said, now);
        Ok(value)
    };
    let objects = &inner.objects;
    let written = objects.modify(nodes, "", node, Part::Status, &options, status);
    written.await?;
    let label = |object: &Object| Ok(labelled(object.value.clone(), said));
    let written = objects.modify(nodes, "", node, Part::Main, &options, label);
    Ok(written.await?.revision)
}

fn seconds(moment: Timestamp) -> String {
    format!("{moment:.0}")
}

/// The labels that follow from what the agent says of its machine.
fn labelled(mut node: Value, said: &Value) -> Value {
    for (label, field) in [
        ("kubernetes.io/arch", "architecture"),
        ("kubernetes.io/os", "operatingSystem"),
    ] {
        if let Some(text) = said["nodeInfo"][field]
            .as_str()
            .filter(|text| !text.is_empty())
        {
            node["metadata"]["labels"][label] = json!(text);
        }
    }
    node
}

/// The status to write: `old` itself while `said` holds nothing new and `old` is young enough.
fn status_after(old: Value, said: &Value, now: Timestamp) -> Value {
    let mut new = old.as_object().cloned().unwrap_or_default();
    for (field, value) in said.as_object().into_iter().flatten() {
        let empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if field != "conditions" && !(field == "addresses" && empty) {
            new.insert(field.clone(), value.clone());
        }
    }
    let conditions = conditions(&old["conditions"], &said["conditions"], now);
    let fresh = written(&old)
        .is_some_and(|at| (0..STATUS_SECONDS).contains(&(now.as_second() - at.as_second())));
    let told = told(&conditions) == told(&old["conditions"]);
    let same = told
        && without_conditions(&new) == old.as_object().map(without_conditions).unwrap_or_default();
    if same && fresh {
        return old;
    }
    new.insert("conditions".to_owned(), conditions);
    Value::Object(new)
}

/// Conditions as the agent says them, dated by when they changed; those of others stay. An agent that reports is ready
/// unless it says otherwise.
fn conditions(old: &Value, said: &Value, now: Timestamp) -> Value {
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of = |rows: &[Value], kind: &Value| rows.iter().find(|row| row["type"] == *kind).cloned();
    let (old, mut said) = (rows(old), rows(said));
    if of(&said, &json!("Ready")).is_none() {
        said.push(
            json!({"type": "Ready", "status": "True", "reason": "AgentReady",
                         "message": "the agent reports and is ready"}),
        );
    }
    let mut new: Vec<Value> = old
        .iter()
        .filter(|row| of(&said, &row["type"]).is_none())
        .cloned()
        .collect();
    for mut row in said {
        let before = of(&old, &row["type"]).filter(|before| before["status"] == row["status"]);
        let since = before
            .map(|before| before["lastTransitionTime"].clone())
            .filter(Value::is_string);
        row["lastTransitionTime"] = since.unwrap_or_else(|| json!(seconds(now)));
        row["lastHeartbeatTime"] = json!(seconds(now));
        new.push(row);
    }
    Value::Array(new)
}

/// What conditions say, without when.
fn told(conditions: &Value) -> Vec<Value> {
    let rows = conditions.as_array().into_iter().flatten();
    let mut told: Vec<Value> = rows
        .map(|row| json!([row["type"], row["status"], row["reason"], row["message"]]))
        .collect();
    told.sort_by_key(ToString::to_string);
    told
}

fn without_conditions(status: &Map<String, Value>) -> Map<String, Value> {
    let mut rest = status.clone();
    rest.remove("conditions");
    rest
}

/// When the status was last written for a heartbeat.
fn written(status: &Value) -> Option<Timestamp> {
    let ready = status["conditions"]
        .as_array()?
        .iter()
        .find(|row| row["type"] == "Ready")?;
    ready["lastHeartbeatTime"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(status: &Value) -> Value {
        let rows = status["conditions"].as_array().unwrap();
        rows.iter()
            .find(|row| row["type"] == "Ready")
            .unwrap()
            .clone()
    }

    #[test]
    fn a_heartbeat_without_news_changes_nothing_for_five_minutes() {
        let said = json!({"capacity": {"cpu": "2"}});
        let first = status_after(
            json!({"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}]}),
            &said,
            at(1000),
        );
        assert_eq!(ready(&first)["status"], "True");
        assert_eq!(first["addresses"][0]["address"], "172.30.0.11");
        assert_eq!(status_after(first.clone(), &said, at(1299)), first);
        let later = status_after(first.clone(), &said, at(1300));
        assert_eq!(ready(&later)["lastHeartbeatTime"], "1970-01-01T00:21:40Z");
        assert_eq!(
            ready(&later)["lastTransitionTime"],
            ready(&first)["lastTransitionTime"]
        );
        let news = status_after(first, &json!({"capacity": {"cpu": "4"}}), at(1001));
        assert_eq!(news["capacity"]["cpu"], "4");
    }

    #[test]
    fn a_node_that_was_given_up_is_ready_again_when_it_reports() {
        let old = json!({"conditions": [
            {"type": "Ready", "status": "Unknown", "lastHeartbeatTime": "1970-01-01T00:16:40Z",
             "lastTransitionTime": "1970-01-01T00:16:50Z"},
            {"type": "NetworkUnavailable", "status": "False"},
        ]});
        let new = status_after(old, &json!({}), at(1020));
        assert_eq!(ready(&new)["status"], "True");
        assert_eq!(ready(&new)["lastTransitionTime"], "1970-01-01T00:17:00Z");
        assert_eq!(
            new["conditions"].as_array().unwrap().len(),
            2,
            "others' conditions stay"
        );
        let unready =
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "DiskFull"}]});
        assert_eq!(
            ready(&status_after(new, &unready, at(1021)))["status"],
            "False"
        );
    }

    #[test]
    fn times_are_printed_as_kubernetes_prints_them() {
        assert_eq!(seconds(at(0)), "1970-01-01T00:00:00Z");
    }
}
