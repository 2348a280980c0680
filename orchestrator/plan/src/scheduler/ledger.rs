//! Who goes already in a batch, and what that leaves of each disruption budget and of each gang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::gang;
use crate::pod::{self, Pod};
use crate::{Snapshot, selector};

/// Kept for a whole batch, so that what goes for one pod counts when others are to go for the next.
#[derive(Clone)]
pub(super) struct Ledger<'a> {
    snapshot: &'a Snapshot,
    /// Uids of those who go.
    doomed: BTreeSet<String>,
    /// Disruption budgets by namespace, each with how many more ends it allows.
    budgets: BTreeMap<&'a str, Vec<(&'a PodDisruptionBudget, i32)>>,
}

/// The pods that one is of use together with.
pub(super) struct Company<'a> {
    /// Those who are there and stay.
    pub(super) fellows: Vec<&'a Arc<Pod>>,
    /// So many of them may go before the others are of no use.
    pub(super) spare: usize,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut budgets: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for one in snapshot.pod_disruption_budgets.iter() {
            let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
            let status = one.status.as_ref();
            let allowed = status.and_then(|status| status.disruptions_allowed);
            let rows = budgets.entry(namespace).or_default();
            rows.push((&**one, allowed.unwrap_or(0)));
        }
        Self {
            snapshot,
            doomed: BTreeSet::new(),
            budgets,
        }
    }

    /// Whether a pod is there and nobody ends it.
    pub(super) fn stays(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        pod::is_active(pod) && !self.doomed.contains(uid)
    }

    /// These go.
    pub(super) fn doom(&mut self, pods: &[&'a Arc<Pod>]) {
        for one in pods {
            charge(&mut self.budgets, one);
            self.doomed.extend(one.metadata.uid.clone());
        }
    }

    /// Which of these pods' ends would break a budget, when they end in this order.
    pub(super) fn broken<'p>(&self, pods: impl Iterator<Item = &'p Arc<Pod>>) -> BTreeSet<usize> {
        let mut budgets = self.budgets.clone();
        let each = pods.enumerate();
        let broken = each.filter(|(_, one)| charge(&mut budgets, one));
        broken.map(|(index, _)| index).collect()
    }

    /// The others of a pod's gang, or of a group that is to be disrupted as one; `None` for a pod by itself.
    pub(super) fn company(&self, pod: &Pod) -> Option<Company<'a>> {
        gang::group_of(pod)?;
        let (namespace, name) = gang::key_of(pod);
        let group = self.snapshot.pod_groups.get(namespace, name)?;
        let mode = group.spec.disruption_mode.as_ref();
        let as_one = mode.is_some_and(|mode| mode.all.is_some());
        let least = gang::least(group);
        if least.is_none() && !as_one {
            return None;
        }
        let fellows = self.snapshot.pods_in_group(namespace, name);
        let fellows = fellows.filter(|one| pod::node_name(one).is_some() && self.stays(one));
        let fellows: Vec<&Arc<Pod>> = fellows.collect();
        let spare = match least {
            Some(least) if !as_one => fellows.len().saturating_sub(least),
            _ => 0,
        };
        (fellows.len() > 1).then_some(Company { fellows, spare })
    }
}

/// Counts an end against every budget that is about the pod; whether one of them did not allow it.
fn charge(budgets: &mut BTreeMap<&str, Vec<(&PodDisruptionBudget, i32)>>, pod: &Pod) -> bool {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut broken = false;
    for (budget, allowed) in budgets.get_mut(namespace).into_iter().flatten() {
        let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let labels = pod.metadata.labels.as_ref();
        if wanted.is_some_and(|wanted| selector::matches(wanted, labels)) {
            *allowed -= 1;
            broken |= *allowed < 0;
        }
    }
    broken
}
