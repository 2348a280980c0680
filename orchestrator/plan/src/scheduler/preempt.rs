//! Preemption: which less important pods would have to go for a pod that fits nowhere, and on which node that does the
//! least harm.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::class::Class;
use super::cluster::{Cluster, host_ports};
use super::reason;
use crate::pod::{self, Pod};
use crate::resources::{self, Amounts};
use crate::{Snapshot, selector};

/// So many nodes are compared at most, beyond a tenth of all.
const MOST_CANDIDATES: usize = 100;

/// `spec.priority`, 0 when absent.
pub(super) fn priority(pod: &Pod) -> i32 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .unwrap_or(0)
}

/// The node that a pod was promised.
pub(super) fn nominated(pod: &Pod) -> Option<&str> {
    let name = pod.status.as_ref()?.nominated_node_name.as_deref()?;
    Some(name).filter(|name| !name.is_empty())
}

/// Who goes where.
pub(super) struct Choice<'a> {
    pub(super) node: usize,
    pub(super) victims: Vec<&'a Arc<Pod>>,
}

/// Whether the pod says that nobody is to make room for it.
pub(super) fn is_polite(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never")
}

/// Whether less important pods are on their way out for it already.
pub(super) fn is_under_way(snapshot: &Snapshot, pod: &Pod) -> bool {
    let own = priority(pod);
    nominated(pod).is_some_and(|node| {
        snapshot
            .pods_on(node)
            .any(|one| pod::is_deleted(one) && !pod::is_terminated(one) && priority(one) < own)
    })
}

/// The node where the least harm is done; why there is none, when less important pods can't make room. `doomed` are
/// pods (by uid) that go already.
pub(super) fn choose<'a>(
    cluster: &Cluster<'a>,
    class: &Class<'_>,
    own: i32,
    doomed: &BTreeSet<String>,
) -> Result<Choice<'a>, String> {
    let count = cluster.nodes.len();
    let most = (count / 10).max(MOST_CANDIDATES);
    let budgets = Budgets::new(cluster.snapshot);
    let mut reasons = Vec::new();
    let mut found = Vec::new();
    for node in 0..count {
        if !class.may_ever(cluster, node) {
            reasons.push("Preemption is not helpful for scheduling".to_owned());
            continue;
        }
        match victims_on(cluster, class, node, own, doomed, &budgets) {
            Ok((harm, victims)) => found.push((harm, Choice { node, victims })),
            Err(why) => reasons.extend(why),
        }
        if found.len() == most {
            break;
        }
    }
    let least = found
        .into_iter()
        .min_by(|(one, _), (other, _)| one.cmp(other));
    least
        .map(|(_, choice)| choice)
        .ok_or_else(|| reason::message(count, reasons.into_iter()))
}

/// What it costs; compared in this order.
type Harm = (usize, i32, i64, usize, Reverse<Option<Timestamp>>);

fn victims_on<'a>(
    cluster: &Cluster<'a>,
    class: &Class<'_>,
    node: usize,
    own: i32,
    doomed: &BTreeSet<String>,
    budgets: &Budgets<'a>,
) -> Result<(Harm, Vec<&'a Arc<Pod>>), Vec<String>> {
    let name = cluster.nodes[node].name;
    let lesser = cluster.snapshot.pods_on(name).filter(|one| {
        let gone = one
            .metadata
            .uid
            .as_ref()
            .is_some_and(|uid| doomed.contains(uid));
        priority(one) < own && !pod::is_terminated(one) && !pod::is_deleted(one) && !gone
    });
    let mut lesser: Vec<&'a Arc<Pod>> = lesser.collect();
    let nobody = || vec!["No preemption victims found for incoming pod".to_owned()];
    if lesser.is_empty() {
        return Err(nobody());
    }
    if let Some(reason) = class.judge_without(cluster, node, &lesser) {
        return Err(class.told(cluster, node, &reason, &together(&lesser).0));
    }
    // The most important and longest running ones are spared first, those under a used-up budget before all.
    lesser.sort_by_key(|one| (Reverse(priority(one)), started(one)));
    let broken = budgets.broken(&lesser);
    let in_order = (0..lesser.len()).filter(|index| broken.contains(index));
    let in_order: Vec<usize> = in_order
        .chain((0..lesser.len()).filter(|index| !broken.contains(index)))
        .collect();
    let mut going: BTreeSet<usize> = (0..lesser.len()).collect();
    for index in in_order {
        going.remove(&index);
        let rest: Vec<&Arc<Pod>> = going.iter().map(|&index| lesser[index]).collect();
        if class.judge_without(cluster, node, &rest).is_some() {
            going.insert(index);
        }
    }
    let victims: Vec<&'a Arc<Pod>> = going.iter().map(|&index| lesser[index]).collect();
    let violations = going.iter().filter(|index| broken.contains(index)).count();
    let highest = victims.iter().map(|one| priority(one)).max();
    let highest = highest.ok_or_else(nobody)?;
    let sum = victims
        .iter()
        .map(|one| i64::from(priority(one)) + (1 << 31))
        .sum();
    let top = victims.iter().filter(|one| priority(one) == highest);
    let earliest = top.filter_map(|one| started(one)).min();
    Ok((
        (violations, highest, sum, victims.len(), Reverse(earliest)),
        victims,
    ))
}

fn started(pod: &Pod) -> Option<Timestamp> {
    let start = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    start
        .or(pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}

/// Disruption budgets and how many disruptions each still allows.
struct Budgets<'a> {
    snapshot: &'a Snapshot,
}

impl<'a> Budgets<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot }
    }

    /// Which of these pods' ends would break a budget, when they end in this order.
    fn broken(&self, pods: &[&Arc<Pod>]) -> BTreeSet<usize> {
        let mut left: Vec<(&Arc<PodDisruptionBudget>, i32)> = self
            .snapshot
            .pod_disruption_budgets
            .iter()
            .map(|one| {
                (
                    one,
                    one.status
                        .as_ref()
                        .and_then(|s| s.disruptions_allowed)
                        .unwrap_or(0),
                )
            })
            .collect();
        let mut broken = BTreeSet::new();
        for (index, one) in pods.iter().enumerate() {
            for (budget, allowed) in &mut left {
                let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                let same = budget.metadata.namespace == one.metadata.namespace;
                let labels = one.metadata.labels.as_ref();
                if same && wanted.is_some_and(|wanted| selector::matches(wanted, labels)) {
                    *allowed -= 1;
                    if *allowed < 0 {
                        broken.insert(index);
                    }
                }
            }
        }
        broken
    }
}

/// What these pods ask for together.
pub(super) fn together(pods: &[&Arc<Pod>]) -> (Amounts, (i64, i64)) {
    let mut sum = (Amounts::default(), (0, 0));
    for one in pods {
        sum.0.add(&resources::requests(one));
        let usual = resources::usual_requests(one);
        sum.1 = (sum.1.0 + usual.0, sum.1.1 + usual.1);
    }
    sum
}

/// Host ports that stay taken on a node without these pods.
pub(super) fn ports_without(
    cluster: &Cluster<'_>,
    node: usize,
    gone: &[&Arc<Pod>],
) -> BTreeSet<super::cluster::HostPort> {
    let mut ports = cluster.nodes[node].ports.clone();
    for port in gone.iter().flat_map(|one| host_ports(one)) {
        ports.remove(&port);
    }
    ports
}
