//! The StatefulSet controller: pods with names that stay, made, removed and renewed in order. What a pod looks like is
//! in `identity`.

mod identity;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};

use crate::deployment::part;
use crate::history::{History, Present, REVISION_LABEL};
use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::replica_set::nonzero;
use crate::snapshot::Also;
use crate::template::{Hand, claim, label};
use crate::write::ObjectRef;
use crate::{Plan, Scope, Snapshot, Write};

const COMPONENT: &str = "statefulset-controller";
const DEFAULT_HISTORY: i32 = 10;

/// Creates, removes and renews the pods of every StatefulSet and writes its status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for set in snapshot.in_scope(scope, &snapshot.stateful_sets, &[Also::Orphans]) {
        reconcile(snapshot, set, now, &mut claimed, &mut plan);
    }
    plan
}

/// One StatefulSet while its plan is made.
struct Reconcile<'a> {
    snapshot: &'a Snapshot,
    set: &'a StatefulSet,
    owner: ObjectRef,
    now: Timestamp,
    /// Wanted pods by ordinal, as far as they exist.
    slots: BTreeMap<i32, Option<&'a Arc<Pod>>>,
    /// Pods of ordinals that are not wanted, the highest first.
    surplus: Vec<(i32, &'a Arc<Pod>)>,
    history: History<'a>,
    /// The present template.
    update: Present,
    /// Revision that pods below the partition keep.
    current: String,
}

fn reconcile(
    snapshot: &Snapshot,
    set: &StatefulSet,
    now: Timestamp,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) {
    let owner = pod::object("apps/v1", "StatefulSet", &set.metadata);
    let ending = set.metadata.deletion_timestamp.is_some();
    let pods = claim(snapshot, &set.spec.selector, &owner, ending, claimed, plan);
    if ending {
        return;
    }
    let history = History::of(snapshot, &owner);
    let update = history.present(snapshot, &set.spec.template, plan);
    let before = set.status.as_ref();
    let current = before
        .and_then(|status| status.current_revision.clone())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| update.name.clone());
    let mut work = Reconcile {
        snapshot,
        set,
        now,
        slots: BTreeMap::new(),
        surplus: Vec::new(),
        history,
        update,
        current,
        owner,
    };
    work.sort(&pods);
    work.act(plan);
    let status = work.status(plan);
    work.forget(&pods, plan);
    if Some(&status) != before.map(normal).as_ref() {
        let set = StatefulSet {
            status: Some(status),
            ..set.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&set)));
    }
}

impl<'a> Reconcile<'a> {
    fn replicas(&self) -> i32 {
        self.set.spec.replicas.unwrap_or(1).max(0)
    }

    fn first(&self) -> i32 {
        let ordinals = self.set.spec.ordinals.as_ref();
        ordinals.and_then(|one| one.start).unwrap_or(0)
    }

    fn is_ordered(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn hand(&self) -> Hand<'_> {
        Hand {
            owner: &self.owner,
            component: COMPONENT,
        }
    }

    fn sort(&mut self, pods: &[&'a Arc<Pod>]) {
        let (first, end) = (self.first(), self.first().saturating_add(self.replicas()));
        self.slots = (first..end).map(|ordinal| (ordinal, None)).collect();
        for &pod in pods {
            let Some(ordinal) = identity::ordinal(&self.owner.name, pod) else {
                continue;
            };
            match self.slots.get_mut(&ordinal) {
                Some(slot) => *slot = Some(pod),
                None => self.surplus.push((ordinal, pod)),
            }
        }
        self.surplus.sort_by_key(|(ordinal, _)| -ordinal);
    }

    /// Runs and is ready, and for long enough.
    fn is_healthy(&self, one: &Pod) -> bool {
        pod::is_active(one)
            && pod::phase(one) == "Running"
            && pod::available(one, self.min_ready(), self.now).is_ok()
    }

    fn act(&self, plan: &mut Plan) {
        if self.fill(plan) && self.shrink(plan) {
            self.renew(plan);
        }
    }

    /// Makes what is missing, in order. False when a later step has to wait for a pod.
    fn fill(&self, plan: &mut Plan) -> bool {
        let mut whole = true;
        for (&ordinal, slot) in &self.slots {
            let waits = match slot {
                None => {
                    self.create(ordinal, plan);
                    true
                }
                Some(one) if pod::is_deleted(one) => true,
                Some(one) if pod::is_terminated(one) => {
                    self.hand().delete(one, plan);
                    true
                }
                Some(one) => !self.is_healthy(one),
            };
            if waits && self.is_ordered() {
                return false;
            }
            whole &= slot.is_some();
        }
        // Pods that are not ready hold up nobody in a parallel set.
        whole || !self.is_ordered()
    }

    fn create(&self, ordinal: i32, plan: &mut Plan) {
        let (name, template) = self.revision_for(ordinal);
        let made = identity::pod(self.set, &self.owner, ordinal, &name, &template);
        for claim in identity::missing_claims(self.snapshot, self.set, ordinal) {
            plan.writes.push(Write::Create(claim));
        }
        self.hand().create(&made, plan);
    }

    /// The revision that a new pod of this ordinal is made from, and its template.
    fn revision_for(&self, ordinal: i32) -> (String, k8s_openapi::api::core::v1::PodTemplateSpec) {
        let present = || (self.update.name.clone(), self.set.spec.template.clone());
        if self.current == self.update.name {
            return present();
        }
        let keeps = match self.partition() {
            Some(partition) => ordinal < self.first().saturating_add(partition),
            None => {
                let status = self.set.status.as_ref();
                let kept = status.and_then(|s| s.current_replicas).unwrap_or(0);
                ordinal < self.first().saturating_add(kept)
            }
        };
        let past = keeps.then(|| self.history.template(&self.current));
        match past.flatten() {
            Some(template) => (self.current.clone(), template),
            None => present(),
        }
    }

    /// Ordinals below it are not renewed; `None` when pods are renewed only on deletion.
    fn partition(&self) -> Option<i32> {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|one| one.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|one| one.rolling_update.as_ref());
        Some(rolling.and_then(|one| one.partition).unwrap_or(0))
    }

    /// Removes pods of ordinals that are not wanted, from the highest. False while some are left.
    fn shrink(&self, plan: &mut Plan) -> bool {
        let sick = self
            .surplus
            .iter()
            .rev()
            .find(|(_, one)| !self.is_healthy(one))
            .map(|(ordinal, _)| *ordinal);
        for &(ordinal, one) in &self.surplus {
            if pod::is_deleted(one) {
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            // In order, a pod that is not well is waited for, unless it is the first such itself.
            if self.is_ordered() && !self.is_healthy(one) && sick != Some(ordinal) {
                return false;
            }
            self.hand().delete(one, plan);
            if self.is_ordered() {
                return false;
            }
        }
        self.surplus.is_empty()
    }

    /// Deletes pods of earlier templates, from the highest ordinal, a bounded number at once.
    fn renew(&self, plan: &mut Plan) {
        let Some(partition) = self.partition() else {
            return;
        };
        let rolling = self.set.spec.update_strategy.as_ref();
        let bound = rolling
            .and_then(|one| one.rolling_update.as_ref()?.max_unavailable.as_ref())
            .map_or(1, |amount| part(amount, self.replicas(), true).max(1));
        let least = self.first().saturating_add(partition);
        let mut away = 0;
        for (_, slot) in self.slots.range(least..).rev() {
            if away >= bound {
                return;
            }
            let Some(one) = slot else {
                away += 1;
                continue;
            };
            let old = label(&one.metadata, REVISION_LABEL) != Some(self.update.name.as_str());
            if old && pod::is_active(one) {
                self.hand().delete(one, plan);
                away += 1;
            } else if !self.is_healthy(one) {
                away += 1;
            }
        }
    }

    fn status(&self, plan: &mut Plan) -> StatefulSetStatus {
        let before = self.set.status.clone().unwrap_or_default();
        let (mut all, mut ready, mut available, mut old, mut new) = (0, 0, 0, 0, 0);
        let wanted = self.slots.values().filter_map(|slot| *slot);
        for one in wanted.chain(self.surplus.iter().map(|(_, one)| *one)) {
            all += 1;
            if pod::phase(one) == "Running" && pod::is_ready(one) {
                ready += 1;
                match pod::available(one, self.min_ready(), self.now) {
                    Ok(()) => available += 1,
                    Err(Some(due)) => plan.again_at(due, self.now),
                    Err(None) => {}
                }
            }
            let revision = label(&one.metadata, REVISION_LABEL);
            let counts = pod::is_active(one);
            old += i32::from(counts && revision == Some(self.current.as_str()));
            new += i32::from(counts && revision == Some(self.update.name.as_str()));
        }
        let mut status = StatefulSetStatus {
            replicas: all,
            ready_replicas: nonzero(ready),
            available_replicas: Some(available),
            current_replicas: nonzero(old),
            updated_replicas: nonzero(new),
            current_revision: Some(self.current.clone()),
            update_revision: Some(self.update.name.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: before.collision_count.or(Some(0)),
            conditions: before.conditions,
        };
        let whole = self.replicas();
        let done = self.partition().is_some() && new == whole && ready == whole && all == whole;
        if done {
            status.current_revision = status.update_revision.clone();
            status.current_replicas = status.updated_replicas;
        }
        status
    }

    fn forget(&self, pods: &[&Arc<Pod>], plan: &mut Plan) {
        let limit = self.set.spec.revision_history_limit;
        let mut live: BTreeSet<String> = pods
            .iter()
            .filter_map(|one| label(&one.metadata, REVISION_LABEL).map(str::to_owned))
            .collect();
        live.extend([self.current.clone(), self.update.name.clone()]);
        self.history
            .forget(limit.unwrap_or(DEFAULT_HISTORY), &live, plan);
    }
}

/// The same status with absent for 0, as it is written here.
fn normal(status: &StatefulSetStatus) -> StatefulSetStatus {
    StatefulSetStatus {
        ready_replicas: status.ready_replicas.and_then(nonzero),
        current_replicas: status.current_replicas.and_then(nonzero),
        updated_replicas: status.updated_replicas.and_then(nonzero),
        ..status.clone()
    }
}
