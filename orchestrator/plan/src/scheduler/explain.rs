//! Why a pod is where it is, or nowhere: every filter's and score's word on every node, by the code that decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::batch::Batch;
use super::config::Settings;
use super::score;
use crate::ownership::json;
use crate::resources::Amounts;
use crate::snapshot::SnapshotError;
use crate::{Snapshot, pod};

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
    /// Every node, the best first, those that don't fit last.
    pub nodes: Vec<NodeExplanation>,
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
///
/// # Errors
/// [`SnapshotError`] when the pod can't be looked at as if it were not bound.
pub fn explain(
    snapshot: &Snapshot,
    settings: &Settings,
    namespace: &str,
    name: &str,
) -> Result<Option<Explanation>, SnapshotError> {
    let Some(found) = snapshot.pods.get(namespace, name) else {
        return Ok(None);
    };
    let mut answer = Explanation {
        scheduler: scheduler_of(found),
        bound: pod::node_name(found).map(str::to_owned),
        best: None,
        message: pod::condition(found, "PodScheduled")
            .filter(|one| one.status == "False")
            .and_then(|one| one.message.clone()),
        nodes: Vec::new(),
    };
    if answer.bound.is_none() {
        fill(&mut answer, snapshot, settings, found);
        return Ok(Some(answer));
    }
    // What it takes of its node must not stand in its own way.
    let mut free = snapshot.clone();
    let mut value = json(found.as_ref());
    if let Some(spec) = value["spec"].as_object_mut() {
        spec.remove("nodeName");
    }
    free.upsert(&value)?;
    if let Some(found) = free.pods.get(namespace, name) {
        fill(&mut answer, &free, settings, found);
    }
    Ok(Some(answer))
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
