//! The scheduler: a node for every pod that waits for one. Nodes and what they hold are in `cluster`, what pods of one
//! template share in `class`, where pods of a kind already are in `topology`, the comparison of nodes in `score`, and
//! what a user reads when nothing fits in `reason`.

mod batch;
mod class;
mod cluster;
mod config;
mod explain;
mod gang;
mod ledger;
mod plugin;
mod preempt;
mod queue;
mod reason;
mod score;
#[cfg(test)]
mod tests;
mod topology;

pub use config::{ConfigError, PLACEMENT, Profile, Settings};
pub use explain::{Explanation, GangExplanation, NodeExplanation, Seat, explain};
pub use plugin::Plugin;
pub use queue::Queue;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::ownership::delete;
use crate::pod::{self, Pod};
use crate::write::{EventDraft, Propagation};
use crate::{Plan, Snapshot, Write};

use batch::{Batch, Settled};

pub(crate) use cluster::{Demand, is_ready};
use gang::{Cost, Unit};
pub(crate) use gang::{bound, group_of, least};
use queue::Hints;

/// The value of `spec.schedulerName` that this scheduler answers to; an absent one too.
pub const NAME: &str = "default-scheduler";

/// Binds every pod that waits for a node and can have one; says of the others why not. The queue remembers those, so
/// that they are tried again when that may help.
pub fn plan(snapshot: &Snapshot, settings: &Settings, queue: &mut Queue, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut waiting = waiting(snapshot, settings, now, &mut plan);
    queue.keep(&waiting);
    let put_off = queue.turns();
    let mut due = |pod: &&Arc<Pod>| queue.is_due(pod, snapshot, settings, now, &mut plan);
    let mut groups: BTreeSet<_> = waiting
        .iter()
        .filter(|pod| gang::group_of(pod).is_some() && due(pod))
        .map(|pod| gang::key_of(pod))
        .collect();
    // The first ones, tried again and again, would keep the last ones from their turn.
    let is_next =
        |group: &(&str, &str)| put_off.contains(&(group.0.to_owned(), group.1.to_owned()));
    let all = groups.len();
    if !put_off.is_empty() && groups.iter().any(is_next) {
        groups.retain(is_next);
    }
    let others = groups.len() < all;
    waiting.retain(|pod| match gang::group_of(pod) {
        Some(_) => groups.contains(&gang::key_of(pod)),
        None => due(pod),
    });
    if others {
        plan.again_in(1);
    }
    if waiting.is_empty() {
        return plan;
    }
    let mut batch = Batch::new(snapshot, settings);
    let (mut left, held) = gang::units(snapshot, waiting);
    let mut promised = Vec::new();
    let (mut cost, mut put_off) = (Cost::default(), BTreeSet::new());
    loop {
        let before = left.len();
        left.retain_mut(|unit| match unit {
            Unit::Gang(gang) => {
                if !gang.tries() {
                    return true;
                }
                if cost.is_too_high() {
                    put_off.insert(gang.key());
                    return false;
                }
                let waits = batch.place_gang(gang, now, &mut plan, &mut cost);
                let promised = waits && batch.is_under_way(gang);
                if promised {
                    batch.keep_promises(gang);
                }
                waits && !promised
            }
            Unit::One(pod) => match batch.settle(pod, &mut plan) {
                Settled::Placed => false,
                Settled::Promised => {
                    promised.push(*pod);
                    false
                }
                Settled::Left => true,
            },
        });
        // A pod that waits for others, or for an even spread, may fit after them.
        if left.len() == before || !batch.forgive() {
            break;
        }
    }
    let mut refusals: Vec<_> = held
        .into_iter()
        .map(|(pod, why)| (pod, why, Hints::GANG, None))
        .collect();
    let mut homeless = Vec::new();
    for unit in left {
        match unit {
            Unit::One(pod) => promised.push(pod),
            // Once more, so that what is said is true of the cluster as it is after all.
            Unit::Gang(mut gang) => {
                if batch.place_gang(&mut gang, now, &mut plan, &mut Cost::default()) {
                    homeless.push(gang);
                }
            }
        }
    }
    // Only now: nobody may be bound to what a victim has yet to leave.
    let mut cost = Cost::default();
    for gang in homeless {
        if cost.is_too_high() {
            put_off.insert(gang.key());
            continue;
        }
        let made = batch.preempt_gang(&gang, now, &mut plan, &mut cost);
        let (mut why, hints) = gang.refusal;
        if let Err(cause) = &made {
            why.push_str(&format!(" preemption: {cause}"));
        }
        let promises = made.unwrap_or_default();
        for pod in gang.members {
            let promise = promises.iter().find(|(one, _)| Arc::ptr_eq(one, pod));
            let promise = promise.map(|(_, node)| node.clone());
            refusals.push((pod, why.clone(), hints, promise));
        }
    }
    for pod in promised {
        let hints = batch.refuse(pod, now, &mut plan);
        queue.failed(pod, hints, snapshot, now);
    }
    for (pod, message, hints, promise) in refusals {
        let verdict = Refusal {
            reason: "Unschedulable",
            message,
            promise,
        };
        refuse(pod, verdict, now, &mut plan);
        queue.failed(pod, hints, snapshot, now);
    }
    batch.placed.iter().for_each(|pod| queue.placed(pod));
    if !put_off.is_empty() {
        plan.again_in(1);
    }
    queue.put_off(put_off);
    plan
}

/// Pods without a node that this scheduler is asked to place, in order.
fn waiting<'a>(
    snapshot: &'a Snapshot,
    settings: &Settings,
    now: Timestamp,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let mut pods = Vec::new();
    for pod in snapshot.unbound_pods().filter(|pod| pod::is_active(pod)) {
        let Some(spec) = &pod.spec else { continue };
        if settings.profile_of(pod).is_none() {
            continue;
        }
        if spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty())
        {
            let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            let verdict = Refusal {
                reason: "SchedulingGated",
                message,
                promise: None,
            };
            refuse(pod, verdict, now, plan);
        } else {
            pods.push(pod);
        }
    }
    in_order(pods)
}

/// The most important first, then the oldest.
fn in_order(mut pods: Vec<&Arc<Pod>>) -> Vec<&Arc<Pod>> {
    pods.sort_by_cached_key(|pod| {
        let created = pod.metadata.creation_timestamp.clone();
        (Reverse(preempt::priority(pod)), created)
    });
    pods
}

fn bind(pod: &Pod, node: &str, events: &mut Vec<EventDraft>) -> Write {
    let object = pod::reference(pod);
    events.push(EventDraft {
        message: format!(
            "Successfully assigned {}/{} to {node}",
            object.namespace, object.name
        ),
        object: object.clone(),
        warning: false,
        reason: "Scheduled",
        component: NAME,
    });
    let (namespace, name, uid) = (object.namespace, object.name, object.uid);
    Write::Bind {
        namespace,
        name,
        uid,
        node: node.to_owned(),
    }
}

/// Why a pod waits, and for which node.
struct Refusal {
    reason: &'static str,
    message: String,
    /// The node that less important pods leave for it.
    promise: Option<String>,
}

/// Writes PodScheduled=False and the promised node, unless the pod says so already.
fn refuse(pod: &Pod, refusal: Refusal, now: Timestamp, plan: &mut Plan) {
    let Refusal {
        reason,
        message,
        promise,
    } = refusal;
    let before = pod::condition(pod, "PodScheduled");
    let said = |one: &PodCondition| {
        one.status == "False"
            && one.reason.as_deref() == Some(reason)
            && one.message.as_ref() == Some(&message)
    };
    if before.is_some_and(said) && preempt::nominated(pod) == promise.as_deref() {
        return;
    }
    let since = before
        .filter(|one| one.status == "False")
        .and_then(|one| one.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.clone()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    let status =
        json!({"nominatedNodeName": promise, "conditions": with_condition(pod, condition)});
    plan.writes.push(pod::patch(pod, json!({"status": status})));
    if reason == "Unschedulable" {
        let object = pod::reference(pod);
        plan.events.push(EventDraft {
            object,
            warning: true,
            reason: "FailedScheduling",
            message,
            component: NAME,
        });
    }
}

/// A pod's conditions with one of them anew.
fn with_condition(pod: &Pod, condition: PodCondition) -> Vec<PodCondition> {
    let before = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let others = before.filter(|one| one.type_ != condition.type_).cloned();
    others.chain([condition.clone()]).collect()
}

/// Ends a pod for a more important one: marked as disrupted, so that its owner knows why, then deleted.
fn displace(victim: &Pod, by: &Pod, node: &str, now: Timestamp, plan: &mut Plan) {
    let uid = by.metadata.uid.as_deref().unwrap_or_default();
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!(
            "{NAME}: preempting to accommodate a higher priority pod"
        )),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    let status = json!({"conditions": with_condition(victim, condition)});
    plan.writes
        .push(pod::patch(victim, json!({"status": status})));
    let object = pod::reference(victim);
    plan.events.push(EventDraft {
        object: object.clone(),
        warning: false,
        reason: "Preempted",
        message: format!("Preempted by pod {uid} on node {node}"),
        component: NAME,
    });
    plan.writes
        .push(delete(object, None, Propagation::Background));
}
