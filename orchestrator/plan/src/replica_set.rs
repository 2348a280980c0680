//! The ReplicaSet controller: as many pods as asked for, no more, and a status that says how they are.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ownership::{adopted, controller_reference, delete, json, released};
use crate::write::{EventDraft, ObjectRef, Propagation};
use crate::{Ids, Plan, Snapshot, Write, pod, selector};

/// Most pods that one plan creates or deletes for one ReplicaSet.
const BURST: usize = 500;
const COMPONENT: &str = "replicaset-controller";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Creates, removes, adopts and releases the pods of every ReplicaSet and writes its status.
pub fn plan(snapshot: &Snapshot, now: Timestamp, ids: &mut Ids) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for set in snapshot.replica_sets.iter() {
        reconcile(snapshot, set, now, ids, &mut claimed, &mut plan);
    }
    plan
}

fn reconcile(
    snapshot: &Snapshot,
    set: &ReplicaSet,
    now: Timestamp,
    ids: &mut Ids,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) {
    let spec = &set.spec;
    let owner = pod::object("apps/v1", "ReplicaSet", &set.metadata);
    let pods = claim(
        snapshot,
        spec,
        &owner,
        set.metadata.deletion_timestamp.is_some(),
        claimed,
        plan,
    );
    let active: Vec<&Arc<Pod>> = pods
        .iter()
        .copied()
        .filter(|pod| pod::is_active(pod))
        .collect();
    if set.metadata.deletion_timestamp.is_none() {
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            let missing = (wanted - active.len()).min(BURST);
            create(snapshot, set, spec, &owner, missing, ids, plan);
        } else {
            let surplus = (active.len() - wanted).min(BURST);
            remove(snapshot, set, &owner, active.clone(), surplus, plan);
        }
    }
    let terminating = pods
        .iter()
        .filter(|one| pod::is_deleted(one) && !pod::is_terminated(one))
        .count();
    let status = status(set, spec, &active, terminating, now, plan);
    if Some(&status) != set.status.as_ref().map(normal).as_ref() {
        let set = ReplicaSet {
            status: Some(status),
            ..set.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&set)));
    }
}

/// The pods that belong to a set from now on: its own that still match, and unowned ones that do.
fn claim<'a>(
    snapshot: &'a Snapshot,
    spec: &ReplicaSetSpec,
    owner: &ObjectRef,
    ending: bool,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let fits = |pod: &Pod| selector::matches(&spec.selector, pod.metadata.labels.as_ref());
    let mut pods = Vec::new();
    for pod in snapshot.pods_of(&owner.uid) {
        if fits(pod) {
            pods.push(pod);
        } else if !pod::is_deleted(pod) {
            let metadata = released(&pod.metadata, &owner.uid);
            plan.writes.push(Write::Update(json(&Pod {
                metadata,
                ..Pod::clone(pod)
            })));
        }
    }
    if ending {
        return pods;
    }
    let exact = spec.selector.match_labels.as_ref();
    for pod in snapshot.pods_labelled(&owner.namespace, exact) {
        let free = pod::controller(&pod.metadata).is_none() && pod::is_active(pod) && fits(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if free && claimed.insert(uid) {
            let metadata = adopted(&pod.metadata, owner);
            plan.writes.push(Write::Update(json(&Pod {
                metadata,
                ..Pod::clone(pod)
            })));
            pods.push(pod);
        }
    }
    pods
}

fn create(
    snapshot: &Snapshot,
    set: &ReplicaSet,
    spec: &ReplicaSetSpec,
    owner: &ObjectRef,
    count: usize,
    ids: &mut Ids,
    plan: &mut Plan,
) {
    let template = spec.template.clone().unwrap_or_default();
    let labels = template.metadata.unwrap_or_default();
    let mut names = BTreeSet::new();
    while names.len() < count {
        let name = pod_name(&owner.name, ids);
        if snapshot.pods.get(&owner.namespace, &name).is_some() || !names.insert(name.clone()) {
            continue;
        }
        let metadata = ObjectMeta {
            name: Some(name.clone()),
            generate_name: Some(format!("{}-", owner.name)),
            namespace: set.metadata.namespace.clone(),
            labels: labels.labels.clone(),
            annotations: labels.annotations.clone(),
            finalizers: labels.finalizers.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        };
        let pod = Pod {
            metadata,
            spec: template.spec.clone(),
            status: None,
        };
        plan.writes.push(Write::Create(json(&pod)));
        plan.events.push(event(
            owner,
            "SuccessfulCreate",
            format!("Created pod: {name}"),
        ));
    }
}

/// The set's name, shortened so that the whole stays a DNS label, and a random end.
fn pod_name(set: &str, ids: &mut Ids) -> String {
    let base: String = format!("{set}-").chars().take(58).collect();
    base + &ids.suffix()
}

fn remove(
    snapshot: &Snapshot,
    set: &ReplicaSet,
    owner: &ObjectRef,
    mut active: Vec<&Arc<Pod>>,
    count: usize,
    plan: &mut Plan,
) {
    if count == 0 {
        return;
    }
    let crowd = crowding(snapshot, set);
    active.sort_by_cached_key(|pod| removal_rank(pod, &crowd));
    for pod in active.into_iter().take(count) {
        let object = pod::reference(pod);
        plan.events.push(event(
            owner,
            "SuccessfulDelete",
            format!("Deleted pod: {}", object.name),
        ));
        plan.writes
            .push(delete(object, None, Propagation::Background));
    }
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
fn normal(status: &ReplicaSetStatus) -> ReplicaSetStatus {
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

fn event(owner: &ObjectRef, reason: &'static str, message: String) -> EventDraft {
    EventDraft {
        object: owner.clone(),
        warning: false,
        reason,
        message,
        component: COMPONENT,
    }
}
