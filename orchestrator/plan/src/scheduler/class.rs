//! What pods of one template share: which nodes they may be on, whatever else runs there, and what they need.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAffinity, Taint};

use super::cluster::{Cluster, HostPort, NodeState, are_free, host_ports, repels, uses};
use super::config::{Fit, PLACEMENT, Profile};
use super::plugin::Plugin;
use super::preempt;
use super::queue::Hints;
use super::reason::Reason;
use super::score;
use super::topology::{Spread, Terms, attracts};
use crate::pod::{self, Pod, PodSpec};
use crate::resources::{self, Amounts};
use crate::selector::matches_node;
use crate::storage::{ClaimFault, PodClaims, claims_of};
use crate::taint;

/// A cheap first comparison of templates: namespace, owner and labels.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct ClassKey(String, String, Vec<(String, String)>);

impl ClassKey {
    pub(super) fn of(pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let owner = pod::controller(&pod.metadata)
            .map(|owner| owner.uid.clone())
            .unwrap_or_default();
        let labels = pod.metadata.labels.iter().flatten();
        Self(
            namespace,
            owner,
            labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        )
    }
}

/// Pods of one template, and everything about the nodes that is the same for all of them.
pub(super) struct Class<'a> {
    /// One of them.
    pub(super) pod: &'a Arc<Pod>,
    pub(super) profile: &'a Profile,
    /// How full nodes are compared.
    pub(super) fit: Fit,
    /// Pods of its owner are kept apart.
    pub(super) spreads_siblings: bool,
    pub(super) requests: Amounts,
    pub(super) usual: (i64, i64),
    pub(super) ports: Vec<HostPort>,
    pub(super) claims: PodClaims<'a>,
    /// Its claims that one pod alone may use, as [`Cluster::exclusive`] has them.
    pub(super) exclusive: Vec<(String, String)>,
    /// For each node 0, or one more than the index of the reason why not.
    verdicts: Vec<u16>,
    reasons: Vec<Reason>,
    /// Weight of the preferred node affinity terms that each node matches; empty when there are none.
    pub(super) preferred: Vec<i64>,
    /// How many taints each node asks to be avoided for; empty when there are none.
    pub(super) unloved: Vec<i64>,
    /// How much of the pod's images each node has, 0 to 100; empty when no node tells of any.
    pub(super) images: Vec<i64>,
    pub(super) spreads: Vec<Spread>,
    pub(super) terms: Terms,
    /// Group of pods to be spread over nodes by default.
    pub(super) siblings: usize,
    /// Pods elsewhere matter to it.
    pub(super) watches: bool,
    /// It has affinity or anti-affinity, which matters to pods elsewhere.
    pub(super) matters: bool,
    /// Nodes that this batch has put its pods on.
    pub(super) placed: Vec<usize>,
    /// One of its pods found no node; nor will the others, for the cluster only gets fuller.
    pub(super) refused: bool,
    /// What to tell its pods about that, once the batch is over.
    pub(super) message: Option<(String, Hints)>,
    /// Why nobody makes room for its pods of this priority.
    pub(super) hopeless: Option<(i32, String)>,
}

impl<'a> Class<'a> {
    pub(super) fn new(pod: &'a Arc<Pod>, profile: &'a Profile, cluster: &mut Cluster<'a>) -> Self {
        let mut reasons = Vec::new();
        let claims = PodClaims::of(cluster.snapshot, pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let exclusive = claims.exclusive().iter();
        let exclusive = exclusive
            .map(|claim| cluster.watch_claim(namespace, claim))
            .collect();
        let verdicts: Vec<u16> = cluster
            .nodes
            .iter()
            .map(|node| {
                let why = fixed(pod, profile, node).or_else(|| {
                    let asked = |why: &Reason| profile.filters_by(why.plugin());
                    claimed(&claims, node, cluster).filter(asked)
                });
                verdict(&mut reasons, why)
            })
            .collect();
        let eligible: Vec<bool> = cluster
            .nodes
            .iter()
            .map(|node| matches_affinity(pod, node))
            .collect();
        let welcome: Vec<bool> = cluster
            .nodes
            .iter()
            .map(|node| is_welcome(pod, node))
            .collect();
        let spreads = Spread::of(pod, profile, cluster, &eligible, &welcome);
        let terms = Terms::of(pod, profile, cluster);
        let (fit, spreads_siblings) = profile.for_pod(pod);
        Self {
            pod,
            profile,
            fit,
            spreads_siblings: spreads_siblings && spreads.is_empty(),
            requests: resources::requests(pod),
            usual: resources::usual_requests(pod),
            ports: host_ports(pod),
            claims,
            exclusive,
            verdicts,
            reasons,
            preferred: preferred(pod, cluster),
            unloved: unloved(pod, cluster),
            images: score::images(pod, cluster),
            siblings: cluster.sibling_group(pod),
            watches: !spreads.is_empty() || !terms.is_empty(),
            matters: repels(pod) || attracts(pod),
            spreads,
            terms,
            placed: Vec::new(),
            refused: false,
            message: None,
            hopeless: None,
        }
    }

    /// Whether `other` has this template, as far as scheduling looks at it. Its labels and owner are compared already.
    pub(super) fn is_for(&self, whole: &Pod) -> bool {
        let (Some(own), Some(other)) = (&self.pod.spec, &whole.spec) else {
            return false;
        };
        let placement = |pod: &Pod| {
            let annotations = pod.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(PLACEMENT)).cloned()
        };
        if Arc::ptr_eq(own, other) {
            return placement(self.pod) == placement(whole)
                && claims_of(self.pod).eq(claims_of(whole));
        }
        own.node_selector == other.node_selector
            && own.scheduler_name == other.scheduler_name
            && placement(self.pod) == placement(whole)
            && own.affinity == other.affinity
            && own.tolerations == other.tolerations
            && own.topology_spread_constraints == other.topology_spread_constraints
            && own.overhead == other.overhead
            && own.resources == other.resources
            && own.host_network == other.host_network
            && same_needs(own, other)
            && claims_of(self.pod).eq(claims_of(whole))
    }

    /// What is to be known before nodes are judged for one pod.
    pub(super) fn prepare(&mut self) {
        self.spreads.iter_mut().for_each(Spread::prepare);
    }

    /// Why a pod of this class can't be on the node now.
    pub(super) fn judge(&self, cluster: &Cluster<'_>, node: usize) -> Option<Reason> {
        if let Some(index) = self.verdicts[node].checked_sub(1) {
            return Some(self.reasons[usize::from(index)].clone());
        }
        let asked = |plugin| self.profile.filters_by(plugin);
        if !self.exclusive.is_empty()
            && asked(Plugin::VolumeRestrictions)
            && self.exclusive.iter().any(|key| cluster.exclusive[key] > 0)
        {
            return Some(Reason::ClaimInUse);
        }
        let state = &cluster.nodes[node];
        if !self.ports.is_empty() && asked(Plugin::NodePorts) && !state.has_free(&self.ports) {
            return Some(Reason::Ports);
        }
        if asked(Plugin::NodeResourcesFit)
            && !state.used.leaves_room_for(&self.requests, &state.whole)
        {
            return Some(Reason::Resources);
        }
        let mut spreads = self.spreads.iter();
        let crowded = || spreads.find_map(|spread| spread.judge(node));
        let spread = asked(Plugin::PodTopologySpread).then(crowded).flatten();
        spread.or_else(|| {
            let near = asked(Plugin::InterPodAffinity);
            near.then(|| self.terms.judge(node)).flatten()
        })
    }

    /// Whether what runs on the node is all that may keep this class away.
    pub(super) fn may_ever(&self, cluster: &Cluster<'_>, node: usize) -> bool {
        let empty = Amounts::default();
        self.verdicts[node] == 0
            && empty.leaves_room_for(&self.requests, &cluster.nodes[node].whole)
    }

    /// Why a pod of this class can't be on the node even without these pods, which are there.
    pub(super) fn judge_without(
        &self,
        cluster: &Cluster<'_>,
        node: usize,
        gone: &[&Arc<Pod>],
    ) -> Option<Reason> {
        let state = &cluster.nodes[node];
        if !self.ports.is_empty() {
            let taken = preempt::ports_without(cluster, node, gone);
            if !are_free(&taken, &self.ports) {
                return Some(Reason::Ports);
            }
        }
        let in_use = |key: &(String, String)| {
            let there = gone
                .iter()
                .filter(|one| one.metadata.namespace.as_ref() == Some(&key.0) && uses(one, &key.1));
            cluster.exclusive[key] > there.count()
        };
        if self.exclusive.iter().any(in_use) {
            return Some(Reason::ClaimInUse);
        }
        let mut used = state.used.clone();
        used.subtract(&preempt::together(gone).0);
        if !used.leaves_room_for(&self.requests, &state.whole) {
            return Some(Reason::Resources);
        }
        let own = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        self.spreads
            .iter()
            .find_map(|spread| spread.judge_without(own, node, gone))
            .or_else(|| self.terms.judge_without(self.pod, node, gone, cluster))
    }

    /// Why it can't be on the node, for people, where these amounts would be free besides.
    pub(super) fn told(
        &self,
        cluster: &Cluster<'_>,
        node: usize,
        reason: &Reason,
        freed: &Amounts,
    ) -> Vec<String> {
        if *reason != Reason::Resources {
            return vec![reason.to_string()];
        }
        let state = &cluster.nodes[node];
        let mut used = state.used.clone();
        used.subtract(freed);
        used.shortages(&self.requests, &state.whole)
    }

    /// Takes note of a pod that this batch put on a node (`change` 1) or took from it again (-1).
    pub(super) fn notice(&mut self, other: &Pod, node: usize, change: i64, cluster: &Cluster<'_>) {
        let own = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        self.spreads
            .iter_mut()
            .for_each(|spread| spread.notice(own, other, node, change));
        self.terms.notice(self.pod, other, node, change, cluster);
    }
}

fn same_needs(own: &PodSpec, other: &PodSpec) -> bool {
    let needs = |spec: &PodSpec| {
        let all = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        all.map(|one| {
            (
                one.resources.clone(),
                one.ports.clone(),
                one.restart_policy.clone(),
            )
        })
        .collect::<Vec<_>>()
    };
    own.containers.len() == other.containers.len() && needs(own) == needs(other)
}

fn verdict(reasons: &mut Vec<Reason>, reason: Option<Reason>) -> u16 {
    let Some(reason) = reason else { return 0 };
    let known = reasons.iter().position(|one| *one == reason);
    let index = known.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

/// Why a pod can't be on a node whatever else is there.
fn fixed(pod: &Pod, profile: &Profile, node: &NodeState<'_>) -> Option<Reason> {
    let tolerations = taint::tolerations(pod);
    let cordon = taint::taint(taint::UNSCHEDULABLE, "NoSchedule");
    if profile.filters_by(Plugin::NodeUnschedulable)
        && node.unschedulable
        && !taint::tolerated(&cordon, tolerations)
    {
        return Some(Reason::Unschedulable);
    }
    let hard = |one: &&Taint| matches!(one.effect.as_str(), "NoSchedule" | "NoExecute");
    let mut hard = node.taints.iter().filter(hard);
    if profile.filters_by(Plugin::TaintToleration)
        && let Some(one) = hard.find(|one| !taint::tolerated(one, tolerations))
    {
        return Some(Reason::Taint(format!(
            "{}: {}",
            one.key,
            one.value.as_deref().unwrap_or_default()
        )));
    }
    let near = !profile.filters_by(Plugin::NodeAffinity) || matches_affinity(pod, node);
    (!near).then_some(Reason::NodeAffinity)
}

/// Why a pod can't be on a node for its volumes.
fn claimed(claims: &PodClaims<'_>, node: &NodeState<'_>, cluster: &Cluster<'_>) -> Option<Reason> {
    let labels_of = |name: &str| cluster.labels_of(name);
    claims
        .judge(node.name, node.labels, labels_of, &cluster.volumes_taken)
        .map(|fault| match fault {
            ClaimFault::Everywhere(why) => Reason::Claims(why),
            ClaimFault::Elsewhere => Reason::VolumeElsewhere,
            ClaimFault::OtherZone => Reason::VolumeZone,
            ClaimFault::NoVolume => Reason::NoVolume,
        })
}

/// Whether the pod tolerates what would keep it off the node.
fn is_welcome(pod: &Pod, node: &NodeState<'_>) -> bool {
    let tolerations = taint::tolerations(pod);
    let mut hard = node
        .taints
        .iter()
        .filter(|one| matches!(one.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.all(|one| taint::tolerated(one, tolerations))
}

fn node_affinity(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()
}

fn matches_affinity(pod: &Pod, node: &NodeState<'_>) -> bool {
    let selector = pod
        .spec
        .iter()
        .flat_map(|spec| spec.node_selector.iter().flatten());
    let mut wanted = selector.into_iter();
    if !wanted.all(|(key, value)| node.labels.and_then(|labels| labels.get(key)) == Some(value)) {
        return false;
    }
    let required = node_affinity(pod).and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    required.is_none_or(|selector| {
        selector
            .node_selector_terms
            .iter()
            .any(|term| matches_node(term, node.name, node.labels))
    })
}

fn preferred(pod: &Pod, cluster: &Cluster<'_>) -> Vec<i64> {
    let terms = node_affinity(pod)
        .and_then(|affinity| {
            affinity
                .preferred_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default();
    if terms.is_empty() {
        return Vec::new();
    }
    let weight = |node: &NodeState<'_>| {
        let matching = terms
            .iter()
            .filter(|term| matches_node(&term.preference, node.name, node.labels));
        matching.map(|term| i64::from(term.weight)).sum()
    };
    cluster.nodes.iter().map(weight).collect()
}

fn unloved(pod: &Pod, cluster: &Cluster<'_>) -> Vec<i64> {
    let tolerations = taint::tolerations(pod);
    let soft =
        |one: &&Taint| one.effect == "PreferNoSchedule" && !taint::tolerated(one, tolerations);
    let count = |node: &NodeState<'_>| {
        i64::try_from(node.taints.iter().filter(soft).count()).unwrap_or(i64::MAX)
    };
    let counts: Vec<i64> = cluster.nodes.iter().map(count).collect();
    if counts.iter().all(|&count| count == 0) {
        Vec::new()
    } else {
        counts
    }
}
