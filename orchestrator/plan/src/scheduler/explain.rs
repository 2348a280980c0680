//! Why a pod is where it is, or nowhere: every filter's and score's word on every node, by the code that decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::batch::Batch;
use super::config::Settings;
use super::{gang, score};
use crate::Snapshot;
use crate::pod::{self, Pod};
use crate::resources::Amounts;

/// What a scheduler would do with a pod now, were it not bound yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The scheduler that the pod asks for.
    pub scheduler: String,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// The best of all nodes that fit now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<String>,
    /// Why it waits, as it was told last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The gang that it runs together with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gang: Option<GangExplanation>,
    /// Every node, the best first, those that don't fit last.
    pub nodes: Vec<NodeExplanation>,
}

/// What is said of a gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GangExplanation {
    /// Name of its PodGroup.
    pub name: String,
    /// How many of its pods must run together.
    pub min_count: usize,
    /// How many have a node.
    pub bound: usize,
    /// How many of those that wait fit now, all at once.
    pub fitting: usize,
    /// Those that wait, in the order in which they are placed.
    pub members: Vec<Seat>,
}

/// Where a member of a gang would be, were all of them placed now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seat {
    /// Its name.
    pub pod: String,
    /// Its node; none when it fits nowhere beside the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// What is said of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeExplanation {
    /// Its name.
    pub name: String,
    /// The first filter that keeps the pod away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<&'static str>,
    /// Its words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What each plugin adds to its score: score times weight.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub scores: BTreeMap<&'static str, i64>,
    /// Their sum, for a node that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
}

/// Explains a pod; `None` when there is no such pod. One that is another scheduler's has no nodes.
pub fn explain(
    snapshot: &Snapshot,
    settings: &Settings,
    namespace: &str,
    name: &str,
) -> Option<Explanation> {
    let found = snapshot.pods.get(namespace, name)?;
    let mut answer = Explanation {
        scheduler: scheduler_of(found),
        bound: pod::node_name(found).map(str::to_owned),
        best: None,
        message: pod::condition(found, "PodScheduled")
            .filter(|one| one.status == "False")
            .and_then(|one| one.message.clone()),
        gang: gang_of(snapshot, settings, found),
        nodes: Vec::new(),
    };
    fill(&mut answer, snapshot, settings, found);
    Some(answer)
}

/// Explains the gang of a pod.
fn gang_of(snapshot: &Snapshot, settings: &Settings, pod: &Pod) -> Option<GangExplanation> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = gang::group_of(pod)?;
    let min_count = gang::least(snapshot.pod_groups.get(namespace, name)?)?;
    let waiting = snapshot.unbound_pods().filter(|one| {
        let same = one.metadata.namespace.as_deref() == Some(namespace);
        same && pod::is_active(one) && gang::group_of(one) == Some(name)
    });
    let waiting = waiting.filter(|one| settings.profile_of(one).is_some());
    let waiting: Vec<&Arc<Pod>> = super::in_order(waiting.collect());
    let mut batch = Batch::new(snapshot, settings);
    let members = waiting.into_iter().map(|one| {
        let place = batch.place(one);
        Seat {
            pod: one.metadata.name.clone().unwrap_or_default(),
            node: place.map(|(_, node)| batch.cluster.nodes[node].name.to_owned()),
        }
    });
    let members: Vec<Seat> = members.collect();
    Some(GangExplanation {
        name: name.to_owned(),
        min_count,
        bound: gang::bound(snapshot, namespace, name),
        fitting: members.iter().filter(|one| one.node.is_some()).count(),
        members,
    })
}

fn scheduler_of(pod: &Pod) -> String {
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduler_name.clone());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| super::NAME.to_owned())
}

fn fill<'a>(
    answer: &mut Explanation,
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    pod: &'a Arc<Pod>,
) {
    if settings.profile_of(pod).is_none() {
        return;
    }
    let mut batch = Batch::new(snapshot, settings);
    let index = batch.class_of(pod);
    // What it takes of its node must not stand in its own way.
    if let Some(node) = batch
        .cluster
        .index_of(pod)
        .filter(|_| !pod::is_terminated(pod))
    {
        batch.leave(index, node);
    }
    batch.classes[index].prepare();
    let (cluster, class) = (&batch.cluster, &batch.classes[index]);
    let (mut fitting, mut rows) = (Vec::new(), Vec::new());
    for (node, state) in cluster.nodes.iter().enumerate() {
        let reason = class.judge(cluster, node);
        if reason.is_none() {
            fitting.push(node);
        }
        let nothing = Amounts::default();
        rows.push(NodeExplanation {
            name: state.name.to_owned(),
            filter: reason.as_ref().map(|reason| reason.plugin().name()),
            reasons: reason.map_or_else(Vec::new, |reason| {
                class.told(cluster, node, &reason, &nothing)
            }),
            scores: BTreeMap::new(),
            total: None,
        });
    }
    score::each(cluster, class, &fitting, |plugin, weight, scores| {
        for (&node, score) in fitting.iter().zip(scores) {
            *rows[node].scores.entry(plugin.name()).or_default() += weight * score;
        }
    });
    for &node in &fitting {
        rows[node].total = Some(rows[node].scores.values().sum());
    }
    let best = score::best(cluster, class, &fitting);
    answer.best = best.map(|node| cluster.nodes[node].name.to_owned());
    // Stable: of nodes that are equal the one that is taken comes first.
    rows.sort_by_key(|row| {
        (
            -row.total.unwrap_or(-1),
            Some(&row.name) != answer.best.as_ref(),
        )
    });
    answer.nodes = rows;
}
