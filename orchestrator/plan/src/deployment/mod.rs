//! The Deployment controller: which ReplicaSets exist and how large each is. Sizes are decided in `rolling` and
//! `scaling`, the status in `status`, names, revisions and annotations in `revision`.

mod revision;
mod rolling;
mod scaling;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::ownership::{adopt, delete, json, release};
use crate::pod::{self, Pod};
use crate::snapshot::Also;
use crate::write::{EventDraft, ObjectRef, Propagation};
use crate::{Plan, Scope, Snapshot, Write, selector};

const COMPONENT: &str = "deployment-controller";
const DEFAULT_HISTORY: i32 = 10;

/// Creates, scales and removes the ReplicaSets of every Deployment and writes its status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for deployment in snapshot.in_scope(scope, &snapshot.deployments, &[Also::Orphans]) {
        reconcile(snapshot, deployment, now, &mut claimed, &mut plan);
    }
    plan
}

/// How far a rolling update may leave the wanted number: (pods above it, pods below it). Percentages are of `replicas`;
/// the first is rounded up and the second down, and they are never both 0. A Recreate has no room on either side.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    let replicas = replicas(deployment);
    let strategy = deployment.spec.strategy.as_ref();
    if strategy.and_then(|one| one.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let quarter = IntOrString::String("25%".into());
    let rolling = strategy.and_then(|one| one.rolling_update.as_ref());
    let surge = rolling
        .and_then(|one| one.max_surge.as_ref())
        .unwrap_or(&quarter);
    let unavailable = rolling
        .and_then(|one| one.max_unavailable.as_ref())
        .unwrap_or(&quarter);
    let (surge, unavailable) = (
        part(surge, replicas, true),
        part(unavailable, replicas, false),
    );
    let unavailable = if surge == 0 && unavailable == 0 {
        1
    } else {
        unavailable
    };
    (surge, unavailable.min(replicas))
}

/// A number, or so many hundredths of `whole`.
pub(crate) fn part(amount: &IntOrString, whole: i32, up: bool) -> i32 {
    match amount {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|digits| digits.parse::<i64>().ok())
                .unwrap_or(0)
                .max(0);
            let hundredths = i128::from(percent) * i128::from(whole) + if up { 99 } else { 0 };
            i32::try_from(hundredths / 100).unwrap_or(i32::MAX)
        }
    }
}

/// `spec.replicas`, 1 when absent.
fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1).max(0)
}

/// One ReplicaSet as the plan will leave it.
struct Set<'a> {
    /// As it is now; `None` when the plan makes it.
    before: Option<&'a Arc<ReplicaSet>>,
    /// As it is to be.
    set: ReplicaSet,
    /// Its pods that count.
    active: i32,
    ready: i32,
    available: i32,
    /// Pods whose end was asked for and who are still there.
    terminating: i32,
}

impl<'a> Set<'a> {
    fn existing(
        snapshot: &Snapshot,
        set: &'a Arc<ReplicaSet>,
        min_ready: i32,
        now: Timestamp,
    ) -> Self {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut row = Self {
            before: Some(set),
            set: ReplicaSet::clone(set),
            active: 0,
            ready: 0,
            available: 0,
            terminating: 0,
        };
        for pod in snapshot.pods_of(uid) {
            row.count(pod, min_ready, now);
        }
        row
    }

    fn count(&mut self, pod: &Pod, min_ready: i32, now: Timestamp) {
        if pod::is_active(pod) {
            self.active += 1;
            self.ready += i32::from(pod::is_ready(pod));
            self.available += i32::from(pod::available(pod, min_ready, now).is_ok());
        } else if !pod::is_terminated(pod) {
            self.terminating += 1;
        }
    }

    fn size(&self) -> i32 {
        self.set.spec.replicas.unwrap_or(1)
    }

    /// Available pods that will stay: when it was just made smaller, some of them are about to go.
    fn lasting(&self) -> i32 {
        self.available.min(self.size())
    }

    fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }

    fn changed(&self) -> bool {
        self.before.is_none_or(|before| **before != self.set)
    }
}

/// One Deployment while its plan is made.
struct Rollout<'a> {
    snapshot: &'a Snapshot,
    deployment: &'a Deployment,
    owner: ObjectRef,
    now: Timestamp,
    /// Wanted pods.
    replicas: i32,
    surge: i32,
    unavailable: i32,
    /// The set of the current template.
    new: Option<Set<'a>>,
    /// The others, oldest first.
    old: Vec<Set<'a>>,
}

fn reconcile(
    snapshot: &Snapshot,
    deployment: &Deployment,
    now: Timestamp,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) {
    let owner = pod::object("apps/v1", "Deployment", &deployment.metadata);
    let ending = deployment.metadata.deletion_timestamp.is_some();
    let Some(sets) = claim(snapshot, deployment, &owner, ending, claimed, plan) else {
        return;
    };
    let mut rollout = Rollout::new(snapshot, deployment, owner, sets, now);
    if !ending {
        rollout.decide();
    }
    let status = rollout.status(plan);
    if !ending && (rollout.is_paused() || rollout.complete(&status)) {
        rollout.forget_history(plan);
    }
    rollout.write(plan);
    if let Some(deployment) = rollout.new_metadata() {
        // Its status is written once this is committed: both writes expect the same resourceVersion.
        plan.writes.push(Write::Update(json(&deployment)));
    } else if Some(&status) != deployment.status.as_ref().map(status::normal).as_ref() {
        let deployment = Deployment {
            status: Some(status),
            ..deployment.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&deployment)));
    }
}

/// The Deployment's sets. When some have to be adopted or released, that is all this plan does for it.
fn claim<'a>(
    snapshot: &'a Snapshot,
    deployment: &Deployment,
    owner: &ObjectRef,
    ending: bool,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) -> Option<Vec<&'a Arc<ReplicaSet>>> {
    let fits = |set: &ReplicaSet| {
        selector::matches(&deployment.spec.selector, set.metadata.labels.as_ref())
    };
    let before = plan.writes.len();
    let mut sets = Vec::new();
    for set in snapshot.replica_sets_of(&owner.uid) {
        if fits(set) {
            sets.push(set);
        } else if set.metadata.deletion_timestamp.is_none() {
            let object = pod::object("apps/v1", "ReplicaSet", &set.metadata);
            plan.writes.push(release(object, &set.metadata, &owner.uid));
        }
    }
    for set in snapshot
        .replica_sets
        .in_namespace(&owner.namespace)
        .filter(|_| !ending)
    {
        let free =
            pod::controller(&set.metadata).is_none() && set.metadata.deletion_timestamp.is_none();
        if free && fits(set) && claimed.insert(set.metadata.uid.clone().unwrap_or_default()) {
            let object = pod::object("apps/v1", "ReplicaSet", &set.metadata);
            plan.writes.push(adopt(object, &set.metadata, owner));
        }
    }
    (plan.writes.len() == before).then_some(sets)
}

impl<'a> Rollout<'a> {
    fn new(
        snapshot: &'a Snapshot,
        deployment: &'a Deployment,
        owner: ObjectRef,
        sets: Vec<&'a Arc<ReplicaSet>>,
        now: Timestamp,
    ) -> Self {
        let min_ready = deployment.spec.min_ready_seconds.unwrap_or(0);
        let rows = sets
            .into_iter()
            .map(|set| Set::existing(snapshot, set, min_ready, now));
        let mut old: Vec<Set<'_>> = rows.collect();
        old.sort_by_cached_key(|row| {
            (
                row.set.metadata.creation_timestamp.clone(),
                row.set.metadata.name.clone(),
            )
        });
        let current = old.iter().position(|row| {
            row.set.metadata.deletion_timestamp.is_none()
                && revision::same_template(&row.set, &deployment.spec.template)
        });
        let new = current.map(|index| old.remove(index));
        let (surge, unavailable) = fenceposts(deployment);
        let replicas = replicas(deployment);
        Self {
            snapshot,
            deployment,
            owner,
            now,
            replicas,
            surge,
            unavailable,
            new,
            old,
        }
    }

    fn is_paused(&self) -> bool {
        self.deployment.spec.paused == Some(true)
    }

    fn is_recreate(&self) -> bool {
        let strategy = self.deployment.spec.strategy.as_ref();
        strategy.and_then(|one| one.type_.as_deref()) == Some("Recreate")
    }

    fn decide(&mut self) {
        if self.is_paused() || self.is_scaling() {
            self.revise(false);
            self.scale();
        } else if self.is_recreate() {
            self.recreate();
        } else {
            self.revise(true);
            self.roll();
        }
    }

    fn sets(&self) -> impl Iterator<Item = &Set<'a>> {
        self.old.iter().chain(&self.new)
    }

    fn sets_mut(&mut self) -> impl Iterator<Item = &mut Set<'a>> {
        self.old.iter_mut().chain(&mut self.new)
    }

    /// Pods that all sets together ask for.
    fn total(&self) -> i32 {
        self.sum(|set| set.size())
    }

    /// Over all sets, at most the largest number.
    fn sum(&self, count: fn(&Set<'_>) -> i32) -> i32 {
        self.sets().map(count).fold(0, i32::saturating_add)
    }

    fn forget_history(&self, plan: &mut Plan) {
        let limit = self
            .deployment
            .spec
            .revision_history_limit
            .unwrap_or(DEFAULT_HISTORY);
        let mut past: Vec<&Set<'_>> = self
            .old
            .iter()
            .filter(|row| row.set.metadata.deletion_timestamp.is_none())
            .collect();
        past.sort_by_key(|row| revision::of(&row.set.metadata));
        let surplus = past
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        for row in past.into_iter().take(surplus) {
            let generation = row.set.metadata.generation;
            let observed = row
                .set
                .status
                .as_ref()
                .and_then(|status| status.observed_generation);
            if row.size() == 0 && row.active == 0 && generation <= observed && !row.changed() {
                let object = pod::object("apps/v1", "ReplicaSet", &row.set.metadata);
                plan.writes
                    .push(delete(object, None, Propagation::Background));
            }
        }
    }

    fn write(&self, plan: &mut Plan) {
        for row in self.sets().filter(|row| row.changed()) {
            let value = json(&row.set);
            plan.writes.push(if row.before.is_some() {
                Write::Update(value)
            } else {
                Write::Create(value)
            });
            let before = row.before.map_or(0, |set| set.spec.replicas.unwrap_or(1));
            let (name, size) = (row.name(), row.size());
            let direction = if size > before { "up" } else { "down" };
            if size != before {
                plan.events.push(EventDraft {
                    object: self.owner.clone(),
                    warning: false,
                    reason: "ScalingReplicaSet",
                    message: format!(
                        "Scaled {direction} replica set {name} from {before} to {size}"
                    ),
                    component: COMPONENT,
                });
            }
        }
    }
}
