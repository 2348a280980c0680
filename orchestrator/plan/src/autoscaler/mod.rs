//! The HorizontalPodAutoscaler controller: as many replicas as bring the measured load of each pod to what is wanted.
//! What is measured comes in as values; how fast the number may change is in `behavior`.

mod behavior;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
    MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use serde_json::Value;

use crate::ownership::json;
use crate::template::Hand;
use crate::{Plan, Snapshot, Write, pod};

pub use behavior::Memory;
pub use metrics::{ContainerUsage, Usage};

const COMPONENT: &str = "horizontal-pod-autoscaler";
/// Seconds between two looks.
const PERIOD: u64 = 15;

/// What every autoscaler remembers, by its uid.
pub type Memories = BTreeMap<String, Memory>;

/// Scales what autoscalers point at, and writes their status.
pub fn plan(snapshot: &Snapshot, now: Timestamp, usage: &Usage, memories: &mut Memories) -> Plan {
    let mut plan = Plan::default();
    let all = &snapshot.horizontal_pod_autoscalers;
    memories.retain(|uid, _| snapshot.meta(uid).is_some());
    for one in all
        .iter()
        .filter(|one| one.metadata.deletion_timestamp.is_none())
    {
        let uid = one.metadata.uid.clone().unwrap_or_default();
        reconcile(
            snapshot,
            one,
            now,
            usage,
            memories.entry(uid).or_default(),
            &mut plan,
        );
    }
    if !all.is_empty() {
        plan.again_in(PERIOD);
    }
    plan
}

/// What an autoscaler points at.
struct Target {
    /// The object, to be written back with another number.
    object: Value,
    replicas: i32,
    selector: LabelSelector,
    namespace: String,
}

/// What an autoscaler came to.
struct Outcome {
    desired: i32,
    metrics: Vec<MetricStatus>,
    conditions: Vec<Saying>,
}

/// (type, holds, reason, message)
type Saying = (&'static str, bool, &'static str, String);

fn reconcile(
    snapshot: &Snapshot,
    one: &HorizontalPodAutoscaler,
    now: Timestamp,
    usage: &Usage,
    memory: &mut Memory,
    plan: &mut Plan,
) {
    // One look a period, whatever else changes in between.
    if !memory.is_due(now, PERIOD) && one.metadata.generation == memory.generation {
        return;
    }
    memory.generation = one.metadata.generation;
    let owner = pod::object("autoscaling/v2", "HorizontalPodAutoscaler", &one.metadata);
    let hand = Hand {
        owner: &owner,
        component: COMPONENT,
    };
    let before = one.status.clone().unwrap_or_default();
    let mut status = HorizontalPodAutoscalerStatus {
        observed_generation: one.metadata.generation,
        ..before.clone()
    };
    match target(snapshot, one) {
        None => {
            let wanted = &one.spec.scale_target_ref;
            let message = format!(
                "the HPA controller was unable to get the target's current scale: {} {:?} not found",
                wanted.kind, wanted.name
            );
            hand.warn("FailedGetScale", message.clone(), plan);
            say(
                &mut status,
                ("AbleToScale", false, "FailedGetScale", message),
                now,
            );
        }
        Some(target) => {
            memory.begin(target.replicas, now);
            let outcome = decide(snapshot, one, &target, now, usage, memory);
            status.current_replicas = Some(target.replicas);
            status.desired_replicas = outcome.desired;
            status.current_metrics = Some(outcome.metrics).filter(|all| !all.is_empty());
            outcome
                .conditions
                .into_iter()
                .for_each(|saying| say(&mut status, saying, now));
            if outcome.desired != target.replicas {
                memory.note_change(now, outcome.desired - target.replicas);
                status.last_scale_time = Some(Time(now));
                let (from, to) = (target.replicas, outcome.desired);
                hand.say(
                    "SuccessfulRescale",
                    format!("New size: {to}; from: {from}"),
                    plan,
                );
                let mut object = target.object;
                object["spec"]["replicas"] = to.into();
                plan.writes.push(Write::Update(object));
            }
        }
    }
    if status != before {
        let one = HorizontalPodAutoscaler {
            status: Some(status),
            ..one.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&one)));
    }
}

fn target(snapshot: &Snapshot, one: &HorizontalPodAutoscaler) -> Option<Target> {
    let wanted = &one.spec.scale_target_ref;
    let namespace = one.metadata.namespace.clone().unwrap_or_default();
    let name = wanted.name.as_str();
    let (object, replicas, selector) = match wanted.kind.as_str() {
        "Deployment" => {
            let found = snapshot.deployments.get(&namespace, name)?;
            (
                json(&**found),
                found.spec.replicas,
                found.spec.selector.clone(),
            )
        }
        "ReplicaSet" => {
            let found = snapshot.replica_sets.get(&namespace, name)?;
            (
                json(&**found),
                found.spec.replicas,
                found.spec.selector.clone(),
            )
        }
        "StatefulSet" => {
            let found = snapshot.stateful_sets.get(&namespace, name)?;
            (
                json(&**found),
                found.spec.replicas,
                found.spec.selector.clone(),
            )
        }
        "ReplicationController" => {
            let found = snapshot.replication_controllers.get(&namespace, name)?;
            let spec = found.spec.clone().unwrap_or_default();
            let selector = LabelSelector {
                match_labels: spec.selector,
                match_expressions: None,
            };
            (json(&**found), spec.replicas, selector)
        }
        _ => return None,
    };
    Some(Target {
        object,
        replicas: replicas.unwrap_or(1),
        selector,
        namespace,
    })
}

fn decide(
    snapshot: &Snapshot,
    one: &HorizontalPodAutoscaler,
    target: &Target,
    now: Timestamp,
    usage: &Usage,
    memory: &mut Memory,
) -> Outcome {
    let (least, most) = (one.spec.min_replicas.unwrap_or(1), one.spec.max_replicas);
    let current = target.replicas;
    let able = (
        "AbleToScale",
        true,
        "SucceededGetScale",
        "the HPA controller was able to get the target's current scale".to_owned(),
    );
    if current == 0 && least != 0 {
        let message = "scaling is disabled since the replica count of the target is zero";
        return Outcome {
            desired: 0,
            metrics: Vec::new(),
            conditions: vec![
                able,
                (
                    "ScalingActive",
                    false,
                    "ScalingDisabled",
                    message.to_owned(),
                ),
            ],
        };
    }
    let mut conditions = vec![able];
    if current > most || current < least {
        let desired = current.clamp(least, most);
        let (reason, message) = if current > most {
            (
                "TooManyReplicas",
                "the desired replica count is more than the maximum replica count",
            )
        } else {
            (
                "TooFewReplicas",
                "the desired replica count is less than the minimum replica count",
            )
        };
        conditions.push(("ScalingLimited", true, reason, message.to_owned()));
        return Outcome {
            desired,
            metrics: one
                .status
                .as_ref()
                .and_then(|s| s.current_metrics.clone())
                .unwrap_or_default(),
            conditions,
        };
    }
    let measured = metrics::measure(snapshot, one, target, now, usage);
    let Some(proposal) = measured.replicas else {
        let message = format!(
            "the HPA was unable to compute the replica count: {}",
            measured.why
        );
        conditions.push(("ScalingActive", false, "FailedGetResourceMetric", message));
        return Outcome {
            desired: current,
            metrics: measured.statuses,
            conditions,
        };
    };
    conditions.push(("ScalingActive", true, "ValidMetricFound", measured.why));
    let bounds = behavior::Bounds {
        current,
        least,
        most,
    };
    let limited = memory.limit(one.spec.behavior.as_ref(), bounds, proposal, now);
    let reason = if limited.desired == proposal {
        "DesiredWithinRange"
    } else {
        limited.reason
    };
    let message = if limited.desired == proposal {
        "the desired count is within the acceptable range".to_owned()
    } else {
        limited.message.to_owned()
    };
    conditions.push((
        "ScalingLimited",
        limited.desired != proposal,
        reason,
        message,
    ));
    Outcome {
        desired: limited.desired,
        metrics: measured.statuses,
        conditions,
    }
}

fn say(status: &mut HorizontalPodAutoscalerStatus, saying: Saying, now: Timestamp) {
    let (kind, holds, reason, message) = saying;
    let value = if holds { "True" } else { "False" };
    let rows = status.conditions.get_or_insert_default();
    let before = rows.iter().position(|one| one.type_ == kind);
    let since = before
        .map(|index| &rows[index])
        .filter(|one| one.status == value);
    let row = HorizontalPodAutoscalerCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since
            .and_then(|one| one.last_transition_time.clone())
            .or(Some(Time(now))),
        ..HorizontalPodAutoscalerCondition::default()
    };
    match before {
        Some(index) => rows[index] = row,
        None => rows.push(row),
    }
}
