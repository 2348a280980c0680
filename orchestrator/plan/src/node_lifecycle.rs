//! What happens to a node that does not report any more, and to its pods.
//!
//! A node that was not heard of in time is Unknown and gets the taints of an unreachable one; its pods are not
//! ready any more, so Services leave them. Once they have been there for as long as they tolerate, they are deleted:
//! their owners make others at once, while they themselves stay, terminating, until their node reports that they are
//! gone or the node is removed (`pod_gc`). When no node at all reports, the fault is nearer, and nobody is evicted; how
//! fast nodes are given up otherwise is in `zones`.

#[cfg(test)]
mod tests;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeSpec, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;

use crate::ownership::{delete, json};
use crate::pod::{self, Pod};
use crate::write::{EventDraft, Propagation};
use crate::{Plan, Scope, Snapshot, Write, taint};
use zones::Zones;

/// Namespace of the nodes' Leases, each named as its node.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Reason of a pod that is not ready because its node does not report.
pub const NODE_LOST: &str = "NodeLost";

const COMPONENT: &str = "node-controller";
/// What an admission plugin gives to pods that say nothing of unreachable nodes, seconds.
const DEFAULTED_TOLERATION: i64 = 300;
/// Conditions that are Unknown when a node does not report.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that put a taint on a node while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];

/// How patient the controller is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Seconds without a heartbeat after which a node's Ready is Unknown. Kubernetes' default is 40.
    pub grace_seconds: u64,
    /// Seconds that a pod stays on an unready or unreachable node if it does not say itself for how long; also for
    /// pods whose toleration is the one that Kubernetes gives by default (300 seconds).
    pub eviction_delay_seconds: u64,
    /// Nodes a second that are given up in a zone most of whose nodes report.
    pub node_eviction_rate: f64,
    /// The same in a large zone of which too many nodes are silent; in a small one none are given up then.
    pub secondary_node_eviction_rate: f64,
    /// Which part of a zone's nodes is too many; never fewer than three of them.
    pub unhealthy_zone_threshold: f64,
    /// A zone with more nodes than this is large.
    pub large_cluster_size_threshold: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace_seconds: 12,
            eviction_delay_seconds: 5,
            node_eviction_rate: 0.1,
            secondary_node_eviction_rate: 0.01,
            unhealthy_zone_threshold: 0.55,
            large_cluster_size_threshold: 50,
        }
    }
}

/// When a node was heard of last, by its name, if it was since this server began: more than its Lease tells, which is
/// renewed less often than its node speaks.
pub type Heard<'a> = &'a dyn Fn(&str) -> Option<Timestamp>;

/// Judges nodes by when they were `heard` of and by their Leases, and their pods by that: those that were touched, and all
/// of them once the first node has been silent for too long. A sign of life touches nothing: until then its node is as well
/// as it was.
pub fn plan(
    snapshot: &Snapshot,
    scope: Scope,
    heard: Heard<'_>,
    now: Timestamp,
    settings: &Settings,
) -> Plan {
    let mut plan = Plan::default();
    let looks = looks(snapshot, scope);
    let due = |node: &Node| {
        let spoke = heartbeat(snapshot, node, heard);
        pod::after(spoke, seconds(settings.grace_seconds))
    };
    let lost = looks.values().filter(|look| {
        let node = look.node;
        look.pods.is_none() && ready(node) == Some("True") && due(node) < now
    });
    let lost = lost.map(|look| look.node);
    let zones = Zones::new(snapshot, lost, now, settings, &mut plan);
    for look in looks.values() {
        let due = due(look.node);
        judge(snapshot, look, due, &zones, now, settings, &mut plan);
    }
    plan
}

/// A node that is looked at.
struct Look<'a> {
    node: &'a Node,
    /// Only these of its pods, and not the node itself.
    pods: Option<Vec<&'a Arc<Pod>>>,
}

/// Nodes to look at, by name.
fn looks(snapshot: &Snapshot, scope: Scope) -> BTreeMap<&str, Look<'_>> {
    let mut looks = BTreeMap::new();
    let mut whole = |name: &str| {
        if let Some(node) = snapshot.nodes.get("", name) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            looks.insert(name, Look { node, pods: None });
        }
    };
    let name = |metadata: &ObjectMeta| metadata.name.clone().unwrap_or_default();
    let nodes = snapshot.in_scope(scope, &snapshot.nodes, &[]).into_iter();
    nodes.for_each(|node| whole(&name(&node.metadata)));
    if !snapshot.is_whole(scope) {
        let leases = snapshot.in_scope(scope, &snapshot.leases, &[]).into_iter();
        leases.for_each(|lease| whole(&name(&lease.metadata)));
        // How fast a silent node is given up hangs on what the others are.
        if snapshot.is_placement_in(scope) {
            let zones = snapshot.zones().iter();
            let unready = zones.flat_map(|(_, zone)| &zone.unready);
            unready.for_each(|name| whole(name));
        }
        for pod in snapshot.in_scope(scope, &snapshot.pods, &[]) {
            let node = pod::node_name(pod).and_then(|name| snapshot.nodes.get("", name));
            let Some(node) = node else { continue };
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let look = looks.entry(name).or_insert_with(|| Look {
                node,
                pods: Some(Vec::new()),
            });
            look.pods.as_mut().into_iter().for_each(|one| one.push(pod));
        }
    }
    looks.retain(|_, look| look.node.metadata.deletion_timestamp.is_none());
    looks
}

/// `due` says until when the node's last sign of life counts.
fn judge(
    snapshot: &Snapshot,
    look: &Look<'_>,
    due: Timestamp,
    zones: &Zones<'_>,
    now: Timestamp,
    settings: &Settings,
    plan: &mut Plan,
) {
    let node = look.node;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let mut pods = Vec::new();
    let pods = match &look.pods {
        Some(pods) => pods,
        None => {
            if !judge_node(node, due, zones, now, plan) {
                return;
            }
            pods.extend(snapshot.pods_on(name));
            &pods
        }
    };
    for one in pods.iter().filter(|one| !pod::is_terminated(one)) {
        level_readiness(one, ready(node), now, plan);
        if !pod::is_deleted(one) && !zones.nobody_reports() {
            evict(one, taint::of(node), now, settings, plan);
        }
    }
}

/// The node itself; false when its taints, and what its pods have of it, wait for a condition that is written first.
fn judge_node(
    node: &Node,
    due: Timestamp,
    zones: &Zones<'_>,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let lost = due < now;
    if lost && mark_unknown(node, now, plan) {
        return false;
    }
    if !lost {
        plan.again_at(due, now);
    }
    let taints = wanted_taints(node, zones.gives_up(node), now);
    if taints != taint::of(node) {
        let spec = NodeSpec {
            taints: Some(taints),
            ..node.spec.clone().unwrap_or_default()
        };
        plan.writes.push(Write::Update(json(&Node {
            spec: Some(spec),
            ..Node::clone(node)
        })));
    }
    true
}

fn seconds(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The last sign of life: when it was heard of, its Lease, or what the node itself says when it has none.
fn heartbeat(snapshot: &Snapshot, node: &Node, heard: Heard<'_>) -> Timestamp {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let lease = snapshot.leases.get(LEASE_NAMESPACE, name);
    let renewed =
        lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
    let reported = condition(node, "Ready")
        .and_then(|one| one.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    heard(name)
        .max(renewed)
        .max(reported)
        .or(created)
        .unwrap_or(Timestamp::MIN)
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|one| one.type_ == kind)
}

/// Status of the Ready condition.
fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|one| one.status.as_str())
}

/// Makes every condition that the node should report Unknown. False when they are already.
fn mark_unknown(node: &Node, now: Timestamp, plan: &mut Plan) -> bool {
    // What a node never reported is not unknown now.
    let kinds: Vec<&str> = REPORTED
        .into_iter()
        .filter(|&kind| kind == "Ready" || condition(node, kind).is_some())
        .collect();
    if kinds
        .iter()
        .all(|kind| condition(node, kind).is_some_and(|one| one.status == "Unknown"))
    {
        return false;
    }
    let mut status = node.status.clone().unwrap_or_default();
    let rows = status.conditions.get_or_insert_default();
    for kind in kinds {
        let before = rows.iter().position(|one| one.type_ == kind);
        let since = before
            .map(|index| &rows[index])
            .filter(|one| one.status == "Unknown");
        let row = NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusUnknown".to_owned()),
            message: Some("The node's agent stopped reporting.".to_owned()),
            last_transition_time: since
                .and_then(|one| one.last_transition_time.clone())
                .or(Some(Time(now))),
            last_heartbeat_time: before.and_then(|index| rows[index].last_heartbeat_time.clone()),
        };
        match before {
            Some(index) => rows[index] = row,
            None => rows.push(row),
        }
    }
    let object = pod::object("v1", "Node", &node.metadata);
    plan.events.push(EventDraft {
        message: format!("Node {} status is now: NodeNotReady", object.name),
        object,
        warning: false,
        reason: "NodeNotReady",
        component: COMPONENT,
    });
    plan.writes.push(Write::UpdateStatus(json(&Node {
        status: Some(status),
        ..node.clone()
    })));
    true
}

/// A node's taints as they should be: those of others stay, those that follow from its state come and go.
fn wanted_taints(node: &Node, given_up: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let key = match ready(node) {
        Some("False") => Some(taint::NOT_READY),
        Some("Unknown") => Some(taint::UNREACHABLE),
        _ => None,
    };
    if let Some(key) = key {
        wanted.push((key, "NoSchedule"));
        if given_up {
            wanted.push((key, "NoExecute"));
        }
    }
    let pressed = PRESSURES
        .iter()
        .filter(|(kind, _)| condition(node, kind).is_some_and(|one| one.status == "True"));
    wanted.extend(pressed.map(|(_, key)| (*key, "NoSchedule")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((taint::UNSCHEDULABLE, "NoSchedule"));
    }
    let is = |one: &Taint, wanted: &(&str, &str)| one.key == wanted.0 && one.effect == wanted.1;
    let before = taint::of(node).iter();
    let mut taints: Vec<Taint> = before
        .filter(|one| !is_ours(one) || wanted.iter().any(|pair| is(one, pair)))
        .cloned()
        .collect();
    for pair in wanted {
        if !taints.iter().any(|one| is(one, &pair)) {
            taints.push(Taint {
                time_added: Some(Time(now)),
                ..taint::taint(pair.0, pair.1)
            });
        }
    }
    taints
}

/// Whether this controller puts such a taint on nodes.
fn is_ours(one: &Taint) -> bool {
    let by_state = matches!(one.effect.as_str(), "NoSchedule" | "NoExecute")
        && (one.key == taint::NOT_READY || one.key == taint::UNREACHABLE);
    let by_condition = one.effect == "NoSchedule"
        && (one.key == taint::UNSCHEDULABLE || PRESSURES.iter().any(|(_, key)| *key == one.key));
    by_state || by_condition
}

/// A pod of a silent node is not ready; it is again when the node is, unless the node said otherwise meanwhile.
fn level_readiness(one: &Pod, node_ready: Option<&str>, now: Timestamp, plan: &mut Plan) {
    let Some(before) = pod::condition(one, "Ready") else {
        return;
    };
    let containers = pod::condition(one, "ContainersReady").is_some_and(|row| row.status == "True");
    let lost = before.reason.as_deref() == Some(NODE_LOST);
    let after = match node_ready {
        Some("Unknown") if before.status == "True" => PodCondition {
            status: "False".to_owned(),
            reason: Some(NODE_LOST.to_owned()),
            message: Some("The pod's node stopped reporting.".to_owned()),
            last_transition_time: Some(Time(now)),
            ..before.clone()
        },
        Some("True") if lost && containers => PodCondition {
            status: "True".to_owned(),
            reason: None,
            message: None,
            last_transition_time: Some(Time(now)),
            ..before.clone()
        },
        _ => return,
    };
    let status = one.status.as_ref();
    let mut rows = status.and_then(|status| status.conditions.clone());
    let own = rows.iter_mut().flatten().filter(|row| row.type_ == "Ready");
    own.for_each(|row| *row = after.clone());
    let change = json!({"status": {"conditions": rows}});
    plan.writes.push(pod::patch(one, change));
}

/// Deletes a pod that does not tolerate a NoExecute taint, or no longer.
fn evict(one: &Pod, taints: &[Taint], now: Timestamp, settings: &Settings, plan: &mut Plan) {
    let tolerations = taint::tolerations(one);
    let due = taints
        .iter()
        .filter(|taint| taint.effect == "NoExecute")
        .filter_map(|taint| {
            let patience = patience(taint, tolerations, settings)?;
            Some(pod::after(
                taint.time_added.as_ref().map_or(now, |time| time.0),
                patience,
            ))
        });
    let Some(due) = due.min() else { return };
    if due > now {
        return plan.again_at(due, now);
    }
    let object = pod::reference(one);
    plan.events.push(EventDraft {
        message: format!(
            "Marking for deletion Pod {}/{}",
            object.namespace, object.name
        ),
        object: object.clone(),
        warning: false,
        reason: "TaintManagerEviction",
        component: COMPONENT,
    });
    plan.writes
        .push(delete(object, None, Propagation::Background));
}

/// Seconds for which a pod tolerates a taint; `None` for ever.
fn patience(one: &Taint, tolerations: &[Toleration], settings: &Settings) -> Option<i64> {
    let by_state = one.key == taint::NOT_READY || one.key == taint::UNREACHABLE;
    let delay = seconds(settings.eviction_delay_seconds);
    let mut matching = tolerations
        .iter()
        .filter(|toleration| taint::tolerates(toleration, one))
        .peekable();
    if matching.peek().is_none() {
        return Some(if by_state { delay } else { 0 });
    }
    let given = matching.filter_map(|toleration| {
        let seconds = toleration.toleration_seconds?;
        let defaulted = by_state
            && seconds == DEFAULTED_TOLERATION
            && toleration.key.as_ref() == Some(&one.key)
            && toleration.effect.as_deref() == Some("NoExecute");
        Some(if defaulted { delay } else { seconds.max(0) })
    });
    given.min()
}
