//! The ReplicaSet controller: as many pods as asked for, no more, and a status that says how they are.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};

use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::snapshot::Also;
use crate::template::{Hand, claim, free_name};
use crate::write::ObjectRef;
use crate::{Ids, Plan, Scope, Snapshot, Write, selector, template};

/// Most pods that one plan creates or deletes for one ReplicaSet.
const BURST: usize = 500;
const COMPONENT: &str = "replicaset-controller";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Creates, removes, adopts and releases the pods of every ReplicaSet and writes its status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp, ids: &mut Ids) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for set in snapshot.in_scope(scope, &snapshot.replica_sets, &[Also::Orphans]) {
        let keeper = Keeper {
            owner: pod::object("apps/v1", "ReplicaSet", &set.metadata),
            component: COMPONENT,
            set,
        };
        let status = keep(snapshot, &keeper, now, ids, &mut claimed, &mut plan);
        if Some(&status) != set.status.as_ref().map(normal).as_ref() {
            let set = ReplicaSet {
                status: Some(status),
                ..ReplicaSet::clone(set)
            };
            plan.writes.push(Write::UpdateStatus(json(&set)));
        }
    }
    plan
}

/// Who keeps a number of pods: a ReplicaSet, or another kind seen as one.
pub(crate) struct Keeper<'a> {
    /// The object itself.
    pub(crate) owner: ObjectRef,
    /// Component of its events.
    pub(crate) component: &'static str,
    /// The object as a ReplicaSet.
    pub(crate) set: &'a ReplicaSet,
}

impl Keeper<'_> {
    fn hand(&self) -> Hand<'_> {
        Hand {
            owner: &self.owner,
            component: self.component,
        }
    }
}

/// Brings the number of pods to what is asked for, and answers the status.
pub(crate) fn keep(
    snapshot: &Snapshot,
    keeper: &Keeper<'_>,
    now: Timestamp,
    ids: &mut Ids,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let set = keeper.set;
    let spec = &set.spec;
    let ending = set.metadata.deletion_timestamp.is_some();
    let owner = &keeper.owner;
    let pods = claim(snapshot, &spec.selector, owner, ending, claimed, plan);
    let active: Vec<&Arc<Pod>> = pods
        .iter()
        .copied()
        .filter(|pod| pod::is_active(pod))
        .collect();
    if !ending {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            create(snapshot, keeper, missing, ids, plan);
        } else {
            let surplus = (active.len() - wanted).min(BURST);
            remove(snapshot, keeper, active.clone(), surplus, plan);
        }
    }
    let terminating = pods
        .iter()
        .filter(|one| pod::is_deleted(one) && !pod::is_terminated(one))
        .count();
    status(set, spec, &active, terminating, now, plan)
}

fn create(snapshot: &Snapshot, keeper: &Keeper<'_>, count: usize, ids: &mut Ids, plan: &mut Plan) {
    let (owner, hand) = (&keeper.owner, keeper.hand());
    let template = keeper.set.spec.template.clone().unwrap_or_default();
    let mut names = BTreeSet::new();
    while names.len() < count {
        let name = free_name(snapshot, &owner.namespace, &owner.name, &names, ids);
        let mut pod = template::pod(owner, &template, name.clone());
        pod.metadata.generate_name = Some(format!("{}-", owner.name));
        hand.create(&pod, plan);
        names.insert(name);
    }
}

fn remove(
    snapshot: &Snapshot,
    keeper: &Keeper<'_>,
    mut active: Vec<&Arc<Pod>>,
    count: usize,
    plan: &mut Plan,
) {
    if count == 0 {
        return;
    }
    let crowd = crowding(snapshot, keeper.set);
    active.sort_by_cached_key(|pod| removal_rank(pod, &crowd));
    let hand = keeper.hand();
    active
        .into_iter()
        .take(count)
        .for_each(|pod| hand.delete(pod, plan));
}

/// How many active pods of this set and its siblings (the other sets of its Deployment) each node runs.
fn crowding<'a>(snapshot: &'a Snapshot, set: &ReplicaSet) -> HashMap<&'a str, usize> {
    let own = set.metadata.uid.clone().unwrap_or_default();
    let uids: BTreeSet<String> = match pod::controller(&set.metadata) {
        Some(deployment) => {
            let sets = snapshot.replica_sets_of(&deployment.uid);
            sets.filter_map(|set| set.metadata.uid.clone())
                .chain([own])
                .collect()
        }
        None => BTreeSet::from([own]),
    };
    let mut crowd = HashMap::new();
    for pod in uids
        .iter()
        .flat_map(|uid| snapshot.pods_of(uid))
        .filter(|pod| pod::is_active(pod))
    {
        if let Some(node) = pod::node_name(pod) {
            *crowd.entry(node).or_default() += 1;
        }
    }
    crowd
}

/// Sorts first what goes first: not bound, not running, not ready, cheap to lose, on a crowded node, ready or alive
/// for a short time, often restarted.
fn removal_rank(pod: &Pod, crowd: &HashMap<&str, usize>) -> impl Ord + use<> {
    let node = pod::node_name(pod);
    let phase = match pod::phase(pod) {
        "" | "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let ready = pod::is_ready(pod);
    let annotations = pod.metadata.annotations.as_ref();
    let cost = annotations
        .and_then(|all| all.get(DELETION_COST))
        .and_then(|cost| cost.parse::<i32>().ok());
    let crowded = node.and_then(|node| crowd.get(node)).copied().unwrap_or(0);
    let since = pod::condition(pod, "Ready")
        .filter(|_| ready)
        .and_then(|one| one.last_transition_time.clone());
    let restarts: i32 = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten())
        .map(|c| c.restart_count)
        .sum();
    let created = pod.metadata.creation_timestamp.clone();
    (
        (node.is_some(), phase, ready, cost.unwrap_or(0)),
        (
            Reverse(crowded),
            Reverse(since),
            Reverse(restarts),
            Reverse(created),
        ),
        pod.metadata.name.clone(),
    )
}

fn status(
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    active: &[&Arc<Pod>],
    terminating: usize,
    now: Timestamp,
    plan: &mut Plan,
) -> ReplicaSetStatus {
    let template = spec
        .template
        .as_ref()
        .and_then(|one| one.metadata.as_ref())
        .and_then(|meta| meta.labels.clone());
    let template = template.unwrap_or_default();
    let labelled = active.iter().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        template.is_empty() || selector::contains(labels, &template)
    });
    let mut available = 0;
    for pod in active {
        match pod::available(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Ok(()) => available += 1,
            Err(Some(due)) => plan.again_at(due, now),
            Err(None) => {}
        }
    }
    ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: nonzero(count(labelled.count())),
        ready_replicas: nonzero(count(
            active.iter().filter(|pod| pod::is_ready(pod)).count(),
        )),
        available_replicas: nonzero(available),
        terminating_replicas: nonzero(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: set
            .status
            .as_ref()
            .and_then(|status| status.conditions.clone()),
    }
}

/// The same status with absent for 0, as it is written here.
pub(crate) fn normal(status: &ReplicaSetStatus) -> ReplicaSetStatus {
    ReplicaSetStatus {
        fully_labeled_replicas: status.fully_labeled_replicas.and_then(nonzero),
        ready_replicas: status.ready_replicas.and_then(nonzero),
        available_replicas: status.available_replicas.and_then(nonzero),
        terminating_replicas: status.terminating_replicas.and_then(nonzero),
        ..status.clone()
    }
}

pub(crate) fn nonzero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

pub(crate) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
