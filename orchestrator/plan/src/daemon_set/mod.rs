//! The DaemonSet controller: one pod on each node that its template may run on. Which nodes those are is in `nodes`.

mod nodes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use crate::deployment::part;
use crate::history::{History, Present, REVISION_LABEL};
use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::snapshot::Also;
use crate::template::{Hand, claim, free_name, label, put};
use crate::write::ObjectRef;
use crate::{Ids, Plan, Scope, Snapshot, Write, template};

use nodes::Fit;

const COMPONENT: &str = "daemonset-controller";
const DEFAULT_HISTORY: i32 = 10;
const GENERATION_LABEL: &str = "pod-template-generation";
/// Seconds that a failed pod is left before another takes its place, so that one that fails at once is not made in a
/// tight circle.
const RETRY_SECONDS: i64 = 10;

/// Creates, removes and renews the pods of every DaemonSet and writes its status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp, ids: &mut Ids) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for set in snapshot.in_scope(
        scope,
        &snapshot.daemon_sets,
        &[Also::Orphans, Also::Placement],
    ) {
        reconcile(snapshot, set, now, ids, &mut claimed, &mut plan);
    }
    plan
}

/// The pods of one node.
#[derive(Default)]
struct Place<'a> {
    fit: Fit,
    /// Pods that count, oldest first.
    pods: Vec<&'a Arc<Pod>>,
    /// A pod is on its way out.
    ending: bool,
}

/// One DaemonSet while its plan is made.
struct Reconcile<'a> {
    snapshot: &'a Snapshot,
    set: &'a DaemonSet,
    owner: ObjectRef,
    now: Timestamp,
    update: Present,
    places: BTreeMap<String, Place<'a>>,
    /// Names of pods that this plan makes.
    made: BTreeSet<String>,
}

fn reconcile(
    snapshot: &Snapshot,
    set: &DaemonSet,
    now: Timestamp,
    ids: &mut Ids,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) {
    let owner = pod::object("apps/v1", "DaemonSet", &set.metadata);
    let ending = set.metadata.deletion_timestamp.is_some();
    let pods = claim(snapshot, &set.spec.selector, &owner, ending, claimed, plan);
    if ending {
        return;
    }
    let history = History::of(snapshot, &owner);
    let update = history.present(snapshot, &set.spec.template, plan);
    let mut work = Reconcile {
        snapshot,
        set,
        owner,
        now,
        update,
        places: BTreeMap::new(),
        made: BTreeSet::new(),
    };
    work.sort(&pods, plan);
    work.place(ids, plan);
    work.renew(ids, plan);
    let status = work.status(plan);
    let mut live: BTreeSet<String> = pods.iter().filter_map(|one| work.revision(one)).collect();
    live.insert(work.update.name.clone());
    let limit = set.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY);
    history.forget(limit, &live, plan);
    if Some(&status) != set.status.as_ref() {
        let set = DaemonSet {
            status: Some(status),
            ..set.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&set)));
    }
}

impl<'a> Reconcile<'a> {
    fn hand(&self) -> Hand<'_> {
        Hand {
            owner: &self.owner,
            component: COMPONENT,
        }
    }

    /// Name of the revision that a pod was made from.
    fn revision(&self, pod: &Pod) -> Option<String> {
        let hash = label(&pod.metadata, REVISION_LABEL)?;
        Some(format!("{}-{hash}", self.owner.name))
    }

    fn is_new(&self, pod: &Pod) -> bool {
        label(&pod.metadata, REVISION_LABEL) == Some(self.update.hash.as_str())
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod::is_active(pod) && pod::available(pod, self.min_ready(), self.now).is_ok()
    }

    /// Groups pods by the node that they are for; those of nodes that are gone go too.
    fn sort(&mut self, pods: &[&'a Arc<Pod>], plan: &mut Plan) {
        for node in self.snapshot.nodes.iter() {
            let name = node.metadata.name.clone().unwrap_or_default();
            let fit = nodes::fit(&self.set.spec.template, node);
            self.places.insert(
                name,
                Place {
                    fit,
                    ..Place::default()
                },
            );
        }
        let mut lost = Vec::new();
        for &one in pods {
            let place = nodes::target(one).and_then(|node| self.places.get_mut(&node));
            match place {
                None if pod::is_active(one) => lost.push(one),
                None => {}
                Some(place) if pod::is_deleted(one) => place.ending = true,
                Some(place) => place.pods.push(one),
            }
        }
        lost.into_iter()
            .for_each(|one| self.hand().delete(one, plan));
        for place in self.places.values_mut() {
            place.pods.sort_by_key(|one| {
                (
                    one.metadata.creation_timestamp.clone(),
                    one.metadata.name.clone(),
                )
            });
        }
    }

    /// Brings every node to one pod of either template, or none.
    fn place(&mut self, ids: &mut Ids, plan: &mut Plan) {
        let mut missing = Vec::new();
        let mut places = std::mem::take(&mut self.places);
        for (node, place) in &mut places {
            self.drop_failed(place, plan);
            if !place.fit.stays {
                let gone = std::mem::take(&mut place.pods);
                place.ending |= !gone.is_empty();
                gone.iter().for_each(|one| self.hand().delete(one, plan));
            } else if place.fit.runs && place.pods.is_empty() && !place.ending {
                missing.push(node.clone());
            } else {
                self.drop_doubles(place, plan);
            }
        }
        self.places = places;
        missing.iter().for_each(|node| self.create(node, ids, plan));
    }

    /// A pod that failed makes room for another, after a while.
    fn drop_failed(&self, place: &mut Place<'a>, plan: &mut Plan) {
        let (ended, kept) = std::mem::take(&mut place.pods)
            .into_iter()
            .partition(|one| pod::is_terminated(one));
        place.pods = kept;
        let ended: Vec<&Arc<Pod>> = ended;
        for one in ended {
            let made = one.metadata.creation_timestamp.as_ref();
            let due = pod::after(made.map_or(self.now, |time| time.0), RETRY_SECONDS);
            place.ending = true;
            if due > self.now {
                plan.again_at(due, self.now);
                continue;
            }
            let name = one.metadata.name.clone().unwrap_or_default();
            let message = format!("Found failed daemon pod {name}, will try to kill it");
            self.hand().warn("FailedDaemonPod", message, plan);
            self.hand().delete(one, plan);
        }
    }

    /// One pod of the present template stays, and one of an earlier one until that is available.
    fn drop_doubles(&self, place: &mut Place<'a>, plan: &mut Plan) {
        let mut new: Vec<&Arc<Pod>> = Vec::new();
        let mut old: Vec<&Arc<Pod>> = Vec::new();
        for one in place.pods.drain(..) {
            if self.is_new(one) {
                new.push(one);
            } else {
                old.push(one);
            }
        }
        let done = new.first().is_some_and(|one| self.is_available(one));
        let surge = self.surge(1) > 0;
        let keep_old = !surge || !done;
        let beside = usize::from(keep_old && (new.is_empty() || surge));
        for gone in old.drain(beside.min(old.len())..) {
            self.hand().delete(gone, plan);
            place.ending = true;
        }
        for gone in new.drain(1.min(new.len())..) {
            self.hand().delete(gone, plan);
            place.ending = true;
        }
        place.pods = old;
        place.pods.extend(new);
    }

    fn create(&mut self, node: &str, ids: &mut Ids, plan: &mut Plan) {
        let taken = &self.made;
        let (namespace, base) = (&self.owner.namespace, &self.owner.name);
        let name = free_name(self.snapshot, namespace, base, taken, ids);
        let mut pod = template::pod(&self.owner, &self.set.spec.template, name.clone());
        pod.metadata.generate_name = Some(format!("{}-", self.owner.name));
        let labels = &mut pod.metadata.labels;
        put(labels, REVISION_LABEL, self.update.hash.clone());
        let generation = self.set.metadata.generation.unwrap_or(1);
        put(labels, GENERATION_LABEL, generation.to_string());
        nodes::aim(pod.spec.get_or_insert_default(), node);
        self.hand().create(&pod, plan);
        self.made.insert(name);
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|one| one.type_.as_deref()) != Some("OnDelete")
    }

    /// Nodes that may run a second pod during an update, of `wanted`.
    fn surge(&self, wanted: i32) -> i32 {
        let rolling = self.set.spec.update_strategy.as_ref();
        let rolling = rolling.and_then(|one| one.rolling_update.as_ref());
        let amount = rolling.and_then(|one| one.max_surge.as_ref());
        amount.map_or(0, |amount| part(amount, wanted, true))
    }

    /// Nodes that may be without an available pod during an update, of `wanted`.
    fn unavailable(&self, wanted: i32) -> i32 {
        let rolling = self.set.spec.update_strategy.as_ref();
        let rolling = rolling.and_then(|one| one.rolling_update.as_ref());
        let amount = rolling.and_then(|one| one.max_unavailable.as_ref());
        amount.map_or(1, |amount| part(amount, wanted, true))
    }

    /// Replaces pods of earlier templates, a bounded number at once.
    fn renew(&mut self, ids: &mut Ids, plan: &mut Plan) {
        if !self.is_rolling() {
            return;
        }
        let wanted = self.places.values().filter(|place| place.fit.runs).count();
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let surge = self.surge(wanted);
        if surge > 0 {
            self.renew_beside(surge, ids, plan);
        } else {
            self.renew_in_place(self.unavailable(wanted).max(1), plan);
        }
    }

    fn renew_in_place(&self, bound: i32, plan: &mut Plan) {
        let (mut away, mut serving) = (0, Vec::new());
        for place in self.places.values().filter(|place| place.fit.runs) {
            let available = place.pods.iter().any(|one| self.is_available(one));
            away += i32::from(!available);
            for one in place.pods.iter().filter(|one| !self.is_new(one)) {
                if self.is_available(one) {
                    serving.push(*one);
                } else {
                    // It serves nobody: its end costs nothing.
                    self.hand().delete(one, plan);
                }
            }
        }
        let room = usize::try_from(bound.saturating_sub(away)).unwrap_or(0);
        serving
            .into_iter()
            .take(room)
            .for_each(|one| self.hand().delete(one, plan));
    }

    fn renew_beside(&mut self, bound: i32, ids: &mut Ids, plan: &mut Plan) {
        let (mut surging, mut free, mut serving) = (0, Vec::new(), Vec::new());
        for (node, place) in self.places.iter().filter(|(_, place)| place.fit.runs) {
            let old = place.pods.iter().find(|one| !self.is_new(one));
            let new = place.pods.iter().any(|one| self.is_new(one));
            match old {
                Some(_) if new => surging += 1,
                // A pod that serves nobody needs no room for its successor.
                Some(old) if !self.is_available(old) => free.push(node.clone()),
                Some(_) => serving.push(node.clone()),
                None => {}
            }
        }
        let room = usize::try_from(bound.saturating_sub(surging)).unwrap_or(0);
        for node in free.into_iter().chain(serving.into_iter().take(room)) {
            self.create(&node, ids, plan);
        }
    }

    fn status(&self, plan: &mut Plan) -> DaemonSetStatus {
        let before = self.set.status.clone().unwrap_or_default();
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            updated_number_scheduled: Some(0),
            number_available: Some(0),
            collision_count: before.collision_count,
            conditions: before.conditions,
            ..DaemonSetStatus::default()
        };
        let (mut updated, mut available) = (0, 0);
        for place in self.places.values() {
            let newest = place.pods.last();
            if !place.fit.runs {
                status.number_misscheduled += i32::from(newest.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(newest) = newest else { continue };
            status.current_number_scheduled += 1;
            updated += i32::from(self.is_new(newest));
            let ready = place.pods.iter().any(|one| pod::is_ready(one));
            status.number_ready += i32::from(ready);
            available += i32::from(place.pods.iter().any(|one| self.is_available(one)));
            for one in &place.pods {
                if let Err(Some(due)) = pod::available(one, self.min_ready(), self.now) {
                    plan.again_at(due, self.now);
                }
            }
        }
        let missing = status.desired_number_scheduled - available;
        status.updated_number_scheduled = Some(updated);
        status.number_available = Some(available);
        status.number_unavailable = Some(missing);
        status
    }
}
