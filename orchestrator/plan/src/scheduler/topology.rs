//! Where pods that matter to a pod already are: topology spread constraints, pod affinity and anti-affinity. Counted
//! once a class from the snapshot, then kept up with each pod that the batch places.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::cluster::{Cluster, NOWHERE, Topology};
use super::config::Profile;
use super::reason::Reason;
use crate::Snapshot;
use crate::pod::{self, Pod};
use crate::selector::{self, Labels};

/// One topology spread constraint of a class.
pub(super) struct Spread {
    topology: Rc<Topology>,
    selector: LabelSelector,
    /// Pods that match, by domain.
    pub(super) counts: Vec<i64>,
    /// Domains that have a node which the class may use.
    counted: Vec<bool>,
    eligible: Vec<bool>,
    max_skew: i64,
    min_domains: usize,
    /// 1 when the class's pods match the constraint's own selector.
    own: i64,
    /// DoNotSchedule.
    pub(super) hard: bool,
    minimum: i64,
}

impl Spread {
    /// `near` says which nodes the class's node affinity admits, `welcome` on which it tolerates every taint.
    pub(super) fn of(
        pod: &Pod,
        profile: &Profile,
        cluster: &mut Cluster<'_>,
        near: &[bool],
        welcome: &[bool],
    ) -> Vec<Self> {
        let constraints = pod
            .spec
            .iter()
            .flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
        let mut constraints: Vec<TopologySpreadConstraint> = constraints.cloned().collect();
        if constraints.is_empty() && !profile.constraints.is_empty() {
            let selector = siblings(pod, cluster.snapshot);
            let usual = profile.constraints.iter().filter(|_| selector.is_some());
            constraints.extend(usual.map(|one| TopologySpreadConstraint {
                label_selector: selector.clone(),
                ..one.clone()
            }));
        }
        let mut labelled = vec![true; cluster.nodes.len()];
        for one in constraints
            .iter()
            .filter(|one| one.when_unsatisfiable == "DoNotSchedule")
        {
            let topology = cluster.topology(&one.topology_key);
            labelled
                .iter_mut()
                .zip(&topology.domain)
                .for_each(|(node, &domain)| *node &= domain != NOWHERE);
        }
        constraints
            .iter()
            .map(|one| {
                let affinity = one.node_affinity_policy.as_deref() != Some("Ignore");
                let taints = one.node_taints_policy.as_deref() == Some("Honor");
                let eligible: Vec<bool> = (0..labelled.len())
                    .map(|node| {
                        labelled[node] && (!affinity || near[node]) && (!taints || welcome[node])
                    })
                    .collect();
                Self::new(one, pod, cluster, &eligible)
            })
            .collect()
    }

    fn new(
        constraint: &TopologySpreadConstraint,
        pod: &Pod,
        cluster: &mut Cluster<'_>,
        eligible: &[bool],
    ) -> Self {
        let topology = cluster.topology(&constraint.topology_key);
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        let selector = with_label_keys(
            constraint.label_selector.clone(),
            keys,
            pod.metadata.labels.as_ref(),
        );
        let mut counted = vec![false; topology.domains];
        let domains = topology.domain.iter().zip(eligible);
        domains
            .filter(|&(&domain, &node)| node && domain != NOWHERE)
            .for_each(|(&domain, _)| {
                counted[domain as usize] = true;
            });
        let mut spread = Self {
            counts: vec![0; topology.domains],
            counted,
            eligible: eligible.to_vec(),
            max_skew: i64::from(constraint.max_skew.max(1)),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            own: i64::from(selector::matches(&selector, pod.metadata.labels.as_ref())),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            minimum: 0,
            selector,
            topology,
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for other in cluster
            .snapshot
            .pods_labelled(namespace, spread.selector.match_labels.as_ref())
        {
            if let Some(node) = cluster.index_of(other) {
                spread.notice(namespace, other, node, 1);
            }
        }
        spread
    }

    /// Finds the emptiest domain.
    pub(super) fn prepare(&mut self) {
        let counts = self
            .counts
            .iter()
            .zip(&self.counted)
            .filter(|(_, counted)| **counted);
        let domains = self.counted.iter().filter(|&&counted| counted).count();
        let least = counts.map(|(&count, _)| count).min().unwrap_or(0);
        self.minimum = if domains < self.min_domains { 0 } else { least };
    }

    /// Why not on this node.
    pub(super) fn judge(&self, node: usize) -> Option<Reason> {
        if !self.hard {
            return None;
        }
        match self.topology.domain[node] {
            NOWHERE => Some(Reason::SpreadLabel),
            domain => {
                let skew = self.counts[domain as usize] + self.own - self.minimum;
                (skew > self.max_skew).then_some(Reason::Spread)
            }
        }
    }

    /// The same without these pods, which are on the node.
    pub(super) fn judge_without(
        &self,
        namespace: &str,
        node: usize,
        gone: &[&Arc<Pod>],
    ) -> Option<Reason> {
        if !self.hard {
            return None;
        }
        let domain = self.topology.domain[node];
        if domain == NOWHERE {
            return Some(Reason::SpreadLabel);
        }
        let counted = gone.iter().filter(|one| {
            one.metadata.namespace.as_deref() == Some(namespace)
                && pod::is_active(one)
                && selector::matches(&self.selector, one.metadata.labels.as_ref())
        });
        let fewer = if self.eligible[node] {
            counted.count()
        } else {
            0
        };
        let here = self.counts[domain as usize] - i64::try_from(fewer).unwrap_or(0);
        let skew = here + self.own - self.minimum.min(here);
        (skew > self.max_skew).then_some(Reason::Spread)
    }

    /// Pods in the node's domain; for scores.
    pub(super) fn crowd(&self, node: usize) -> i64 {
        match self.topology.domain[node] {
            NOWHERE => self.counts.iter().max().copied().unwrap_or(0) + 1,
            domain => self.counts[domain as usize],
        }
    }

    pub(super) fn notice(&mut self, namespace: &str, other: &Pod, node: usize, change: i64) {
        let domain = self.topology.domain[node];
        let here = domain != NOWHERE && self.eligible[node] && pod::is_active(other);
        if here
            && other.metadata.namespace.as_deref() == Some(namespace)
            && selector::matches(&self.selector, other.metadata.labels.as_ref())
        {
            self.counts[domain as usize] += change;
        }
    }
}

/// Who belongs together with a pod that says nothing of it: the pods of its owner, or else of a Service.
fn siblings(pod: &Pod, snapshot: &Snapshot) -> Option<LabelSelector> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let owner = pod::controller(&pod.metadata);
    let owned = owner.and_then(|owner| match owner.kind.as_str() {
        "ReplicaSet" => {
            let set = snapshot.replica_sets.get(namespace, &owner.name)?;
            Some(set.spec.selector.clone())
        }
        "StatefulSet" => {
            let set = snapshot.stateful_sets.get(namespace, &owner.name)?;
            Some(set.spec.selector.clone())
        }
        _ => None,
    });
    let labels = pod.metadata.labels.as_ref();
    owned.or_else(|| {
        let mut services = snapshot.services.in_namespace(namespace);
        services.find_map(|service| {
            let wanted = service.spec.as_ref()?.selector.as_ref()?;
            selector::contains(labels, wanted).then(|| LabelSelector {
                match_labels: Some(wanted.clone()),
                match_expressions: None,
            })
        })
    })
}

/// A term with the pods that match it counted by domain.
struct Term {
    topology: Rc<Topology>,
    counts: Vec<i64>,
    total: i64,
    wanted: Wanted,
}

/// Which pods a term means.
struct Wanted {
    /// `None` for every namespace.
    namespaces: Option<Vec<String>>,
    selector: LabelSelector,
    /// A term without selector means nobody.
    nobody: bool,
}

impl Wanted {
    fn new(term: &PodAffinityTerm, owner: &Pod, snapshot: &Snapshot) -> Self {
        let labels = owner.metadata.labels.as_ref();
        let keys = term.match_label_keys.as_deref().unwrap_or_default();
        let mut selector = with_label_keys(term.label_selector.clone(), keys, labels);
        for key in term.mismatch_label_keys.iter().flatten() {
            if let Some(value) = labels.and_then(|labels| labels.get(key)) {
                selector
                    .match_expressions
                    .get_or_insert_default()
                    .push(requirement(key, "NotIn", value));
            }
        }
        Self {
            namespaces: namespaces(term, owner, snapshot),
            selector,
            nobody: term.label_selector.is_none(),
        }
    }

    fn means(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        !self.nobody
            && self
                .namespaces
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| name == namespace))
            && selector::matches(&self.selector, pod.metadata.labels.as_ref())
    }
}

impl Term {
    fn new(term: &PodAffinityTerm, owner: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let snapshot = cluster.snapshot;
        let topology = cluster.topology(&term.topology_key);
        let wanted = Wanted::new(term, owner, snapshot);
        let mut term = Self {
            counts: vec![0; topology.domains],
            total: 0,
            topology,
            wanted,
        };
        let labels = term.wanted.selector.match_labels.clone();
        let every = || {
            snapshot
                .namespaces
                .iter()
                .filter_map(|one| one.metadata.name.clone())
                .collect()
        };
        let names: Vec<String> = term.wanted.namespaces.clone().unwrap_or_else(every);
        for other in names
            .iter()
            .flat_map(|name| snapshot.pods_labelled(name, labels.as_ref()))
        {
            if let Some(node) = cluster
                .index_of(other)
                .filter(|_| !pod::is_terminated(other))
            {
                term.notice(other, node, 1);
            }
        }
        term
    }

    fn notice(&mut self, other: &Pod, node: usize, change: i64) {
        let domain = self.topology.domain[node];
        if domain != NOWHERE && self.wanted.means(other) {
            self.counts[domain as usize] += change;
            self.total += change;
        }
    }

    fn near(&self, node: usize) -> i64 {
        match self.topology.domain[node] {
            NOWHERE => 0,
            domain => self.counts[domain as usize],
        }
    }
}

/// Everything of a class's pod affinity, and of others' anti-affinity towards it.
pub(super) struct Terms {
    together: Vec<Term>,
    apart: Vec<Term>,
    /// Weighted; negative for anti-affinity.
    liked: Vec<(i64, Term)>,
    /// Nodes where a pod is, in the same domain, that keeps this class away: how many such.
    repelled: Vec<i64>,
    /// By topology, how much pods of each domain like this class to be there.
    attracted: BTreeMap<String, (Rc<Topology>, Vec<i64>)>,
    /// What required affinity of those pods counts for, and whether their preferences do not.
    attraction: (i64, bool),
    /// Own pods match all required affinity terms: the first may go anywhere.
    may_begin: bool,
}

impl Terms {
    pub(super) fn of(pod: &Pod, profile: &Profile, cluster: &mut Cluster<'_>) -> Self {
        let mut make = |list: &[PodAffinityTerm]| -> Vec<Term> {
            list.iter()
                .map(|term| Term::new(term, pod, cluster))
                .collect()
        };
        let (together, apart) = (make(affinity(pod)), make(anti_affinity(pod)));
        let liked = preferred(pod)
            .map(|(weight, term)| (weight, Term::new(term, pod, cluster)))
            .collect();
        let may_begin = together.iter().all(|term: &Term| term.wanted.means(pod));
        let mut terms = Self {
            together,
            apart,
            liked,
            repelled: Vec::new(),
            attracted: BTreeMap::new(),
            attraction: (profile.hard_affinity, profile.ignores_existing),
            may_begin,
        };
        for index in 0..cluster.repelling.len() {
            let (other, node) = cluster.repelling[index];
            for term in anti_affinity(other) {
                let topology = cluster.topology(&term.topology_key);
                if Wanted::new(term, other, cluster.snapshot).means(pod) {
                    terms.repel(&topology, node, 1);
                }
            }
        }
        for index in 0..cluster.attracting.len() {
            let (other, node) = cluster.attracting[index];
            for (_, term) in attractions(other, (1, false)) {
                cluster.topology(&term.topology_key);
            }
            terms.attract(pod, other, node, 1, cluster);
        }
        terms
    }

    /// Whether pods make one node dearer to the class than another.
    pub(super) fn has_likings(&self) -> bool {
        !self.liked.is_empty() || !self.attracted.is_empty()
    }

    /// Takes note of what a pod's own affinity says of this class.
    fn attract(&mut self, own: &Pod, other: &Pod, node: usize, change: i64, cluster: &Cluster<'_>) {
        for (weight, term) in attractions(other, self.attraction) {
            // Known since `other` was looked at first.
            let Some(topology) = cluster.known_topology(&term.topology_key) else {
                continue;
            };
            let domain = topology.domain[node];
            if domain != NOWHERE && Wanted::new(term, other, cluster.snapshot).means(own) {
                let rows = self.attracted.entry(term.topology_key.clone());
                let (_, sums) = rows.or_insert_with(|| {
                    let domains = topology.domains;
                    (topology, vec![0; domains])
                });
                sums[domain as usize] += weight * change;
            }
        }
    }

    /// Has nothing to keep up with but others' anti-affinity.
    pub(super) fn is_empty(&self) -> bool {
        self.together.is_empty() && self.apart.is_empty() && self.liked.is_empty()
    }

    pub(super) fn judge(&self, node: usize) -> Option<Reason> {
        if self.repelled.get(node).is_some_and(|&count| count > 0) {
            return Some(Reason::ExistingAntiAffinity);
        }
        if self.apart.iter().any(|term| term.near(node) > 0) {
            return Some(Reason::PodAntiAffinity);
        }
        let first = self.may_begin && self.together.iter().all(|term| term.total == 0);
        let far =
            |term: &Term| term.topology.domain[node] == NOWHERE || (!first && term.near(node) == 0);
        self.together.iter().any(far).then_some(Reason::PodAffinity)
    }

    /// The same without these pods, which are on the node.
    pub(super) fn judge_without(
        &self,
        own: &Pod,
        node: usize,
        gone: &[&Arc<Pod>],
        cluster: &Cluster<'_>,
    ) -> Option<Reason> {
        let fewer = |term: &Term| {
            let meant = gone.iter().filter(|one| term.wanted.means(one)).count();
            term.near(node) - i64::try_from(meant).unwrap_or(0)
        };
        let repelling = gone.iter().flat_map(|one| {
            let terms = anti_affinity(one).iter();
            terms.filter(|term| {
                let known = cluster.known_topology(&term.topology_key);
                let here = known.is_some_and(|known| known.domain[node] != NOWHERE);
                here && Wanted::new(term, one, cluster.snapshot).means(own)
            })
        });
        let left = self.repelled.get(node).copied().unwrap_or(0);
        if usize::try_from(left).unwrap_or(0) > repelling.count() {
            return Some(Reason::ExistingAntiAffinity);
        }
        if self.apart.iter().any(|term| fewer(term) > 0) {
            return Some(Reason::PodAntiAffinity);
        }
        let first = self.may_begin && self.together.iter().all(|term| term.total == 0);
        let far =
            |term: &Term| term.topology.domain[node] == NOWHERE || (!first && fewer(term) <= 0);
        self.together.iter().any(far).then_some(Reason::PodAffinity)
    }

    /// How much the class likes the pods near this node.
    pub(super) fn liking(&self, node: usize) -> i64 {
        let own = self.liked.iter();
        let own: i64 = own.map(|(weight, term)| weight * term.near(node)).sum();
        let of_domain = |(topology, sums): &(Rc<Topology>, Vec<i64>)| {
            let domain = topology.domain[node];
            sums.get(domain as usize).copied().unwrap_or(0)
        };
        own + self.attracted.values().map(of_domain).sum::<i64>()
    }

    pub(super) fn notice(
        &mut self,
        own: &Pod,
        other: &Pod,
        node: usize,
        change: i64,
        cluster: &Cluster<'_>,
    ) {
        let terms = self.together.iter_mut().chain(&mut self.apart);
        terms
            .chain(self.liked.iter_mut().map(|(_, term)| term))
            .for_each(|term| term.notice(other, node, change));
        self.attract(own, other, node, change, cluster);
        for term in anti_affinity(other) {
            // Known since the class of `other` was made.
            if let Some(topology) = cluster.known_topology(&term.topology_key)
                && Wanted::new(term, other, cluster.snapshot).means(own)
            {
                self.repel(&topology, node, change);
            }
        }
    }

    /// Takes note that a pod on `node` keeps this class out of its domain, or no longer does.
    fn repel(&mut self, topology: &Topology, node: usize, change: i64) {
        let domain = topology.domain[node];
        if domain != NOWHERE {
            self.repelled.resize(topology.domain.len(), 0);
            let there = topology
                .domain
                .iter()
                .zip(&mut self.repelled)
                .filter(|(one, _)| **one == domain);
            there.for_each(|(_, count)| *count += change);
        }
    }
}

fn pod_affinity(pod: &Pod) -> Option<&Affinity> {
    pod.spec.as_ref()?.affinity.as_deref()
}

fn affinity(pod: &Pod) -> &[PodAffinityTerm] {
    pod_affinity(pod)
        .and_then(|all| all.pod_affinity.as_ref())
        .and_then(|own| {
            own.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// Required anti-affinity terms of a pod.
pub(super) fn anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    pod_affinity(pod)
        .and_then(|all| all.pod_anti_affinity.as_ref())
        .and_then(|own| {
            own.required_during_scheduling_ignored_during_execution
                .as_deref()
        })
        .unwrap_or_default()
}

/// Whether a pod has affinity that pods to come matter to.
pub(super) fn attracts(pod: &Pod) -> bool {
    !affinity(pod).is_empty() || preferred(pod).next().is_some()
}

/// What the pod's own affinity says of others, with what it counts for: required by `hard`, preferred unless ignored.
fn attractions(
    pod: &Pod,
    (hard, ignored): (i64, bool),
) -> impl Iterator<Item = (i64, &PodAffinityTerm)> {
    let required = affinity(pod).iter().filter(move |_| hard > 0);
    let preferred = preferred(pod).filter(move |_| !ignored);
    required.map(move |term| (hard, term)).chain(preferred)
}

fn preferred(pod: &Pod) -> impl Iterator<Item = (i64, &PodAffinityTerm)> {
    let all = pod_affinity(pod);
    let near = all.and_then(|all| all.pod_affinity.as_ref());
    let near = near.and_then(|own| {
        own.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let far = all.and_then(|all| all.pod_anti_affinity.as_ref());
    let far = far.and_then(|own| {
        own.preferred_during_scheduling_ignored_during_execution
            .as_deref()
    });
    let near = near
        .unwrap_or_default()
        .iter()
        .map(|one| (i64::from(one.weight), &one.pod_affinity_term));
    near.chain(
        far.unwrap_or_default()
            .iter()
            .map(|one| (-i64::from(one.weight), &one.pod_affinity_term)),
    )
}

/// The namespaces that a term of `owner` means; its own when it names none, `None` for all.
fn namespaces(term: &PodAffinityTerm, owner: &Pod, snapshot: &Snapshot) -> Option<Vec<String>> {
    let mut names = term.namespaces.clone().unwrap_or_default();
    match &term.namespace_selector {
        Some(wanted) if *wanted == LabelSelector::default() => return None,
        Some(wanted) => {
            let all = snapshot.namespaces.iter();
            let matching =
                all.filter(|one| selector::matches(wanted, one.metadata.labels.as_ref()));
            names.extend(matching.filter_map(|one| one.metadata.name.clone()));
        }
        None if names.is_empty() => names.extend(owner.metadata.namespace.clone()),
        None => {}
    }
    Some(names)
}

fn with_label_keys(
    selector: Option<LabelSelector>,
    keys: &[String],
    labels: Option<&Labels>,
) -> LabelSelector {
    let mut selector = selector.unwrap_or_default();
    for key in keys {
        if let Some(value) = labels.and_then(|labels| labels.get(key)) {
            selector
                .match_expressions
                .get_or_insert_default()
                .push(requirement(key, "In", value));
        }
    }
    selector
}

fn requirement(key: &str, operator: &str, value: &str) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(vec![value.to_owned()]),
    }
}
