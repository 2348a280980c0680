//! Disruption budgets: how many pods may be taken away now, and whether one eviction may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::part;
use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::replica_set::count;
use crate::{Plan, Scope, Snapshot, Write, selector};

const ALLOWED: &str = "DisruptionAllowed";
/// Seconds for which an allowed eviction is remembered while its pod does not end.
const PATIENCE: i64 = 120;

/// Brings the status of every budget up to date.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    // A budget hangs on its pods and on how many their owners want: all in its namespace.
    let namespaces = snapshot.namespaces_in_scope(scope);
    for budget in snapshot.pod_disruption_budgets.iter() {
        let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
        let touched = namespaces
            .as_ref()
            .is_none_or(|all| all.contains(namespace));
        if !touched || budget.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let status = status(snapshot, budget, now, &mut plan);
        if Some(&status) != budget.status.as_ref() {
            let budget = PodDisruptionBudget {
                status: Some(status),
                ..PodDisruptionBudget::clone(budget)
            };
            plan.writes.push(Write::UpdateStatus(json(&budget)));
        }
    }
    plan
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| selector::matches(wanted, pod.metadata.labels.as_ref()))
}

fn pods_of<'a>(
    snapshot: &'a Snapshot,
    budget: &'a PodDisruptionBudget,
) -> impl Iterator<Item = &'a Arc<Pod>> {
    let namespace = budget.metadata.namespace.as_deref().unwrap_or_default();
    let wanted = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let exact = wanted.and_then(|wanted| wanted.match_labels.as_ref());
    snapshot
        .pods_labelled(namespace, exact)
        .filter(|one| covers(budget, one) && !pod::is_terminated(one))
}

fn status(
    snapshot: &Snapshot,
    budget: &PodDisruptionBudget,
    now: Timestamp,
    plan: &mut Plan,
) -> PodDisruptionBudgetStatus {
    let pods: Vec<&Arc<Pod>> = pods_of(snapshot, budget).collect();
    let (expected, desired) = wanted(snapshot, budget, &pods);
    let before = budget.status.clone().unwrap_or_default();
    let disrupted = remembered(&before, &pods, now, plan);
    let healthy = pods.iter().filter(|one| {
        let name = one.metadata.name.as_deref().unwrap_or_default();
        pod::is_active(one) && pod::is_ready(one) && !disrupted.contains_key(name)
    });
    let healthy = count(healthy.count());
    let allowed = if expected > 0 {
        (healthy - desired).max(0)
    } else {
        0
    };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted).filter(|all| !all.is_empty()),
        observed_generation: budget.metadata.generation,
        conditions: before.conditions,
    };
    say(&mut status, allowed > 0, now);
    status
}

/// Allowed evictions whose pods have not begun to end yet.
fn remembered(
    before: &PodDisruptionBudgetStatus,
    pods: &[&Arc<Pod>],
    now: Timestamp,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = before.disrupted_pods.clone().unwrap_or_default();
    kept.retain(|name, since| {
        let found = pods
            .iter()
            .find(|one| one.metadata.name.as_ref() == Some(name));
        let due = pod::after(since.0, PATIENCE);
        let waits = found.is_some_and(|one| !pod::is_deleted(one)) && due > now;
        if waits {
            plan.again_at(due, now);
        }
        waits
    });
    kept
}

/// How many pods there should be, and how many of them must be healthy.
fn wanted(snapshot: &Snapshot, budget: &PodDisruptionBudget, pods: &[&Arc<Pod>]) -> (i32, i32) {
    let spec = budget.spec.as_ref();
    let least = spec.and_then(|spec| spec.min_available.as_ref());
    let most_away = spec.and_then(|spec| spec.max_unavailable.as_ref());
    match (least, most_away) {
        (_, Some(amount)) => {
            let expected = scale(snapshot, pods);
            (expected, (expected - part(amount, expected, true)).max(0))
        }
        (Some(IntOrString::Int(least)), None) => (count(pods.len()), *least),
        (Some(amount), None) => {
            let expected = scale(snapshot, pods);
            (expected, part(amount, expected, true))
        }
        (None, None) => (count(pods.len()), 0),
    }
}

/// How many pods the owners of these pods ask for together.
fn scale(snapshot: &Snapshot, pods: &[&Arc<Pod>]) -> i32 {
    let mut owners: BTreeMap<String, i32> = BTreeMap::new();
    let mut alone = 0;
    for one in pods {
        let Some(owner) = pod::controller(&one.metadata) else {
            alone += 1;
            continue;
        };
        let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
        let (uid, size) = owner_scale(snapshot, namespace, &owner.kind, &owner.name, &owner.uid);
        match size {
            Some(size) => drop(owners.insert(uid, size)),
            None => *owners.entry(uid).or_default() += 1,
        }
    }
    owners
        .values()
        .fold(alone, |sum: i32, size| sum.saturating_add(*size))
}

/// The owner that decides on the number of pods, and that number if it has one.
fn owner_scale(
    snapshot: &Snapshot,
    namespace: &str,
    kind: &str,
    name: &str,
    uid: &str,
) -> (String, Option<i32>) {
    let size = match kind {
        "ReplicaSet" => {
            let Some(set) = snapshot.replica_sets.get(namespace, name) else {
                return (uid.to_owned(), None);
            };
            let owner = pod::controller(&set.metadata);
            let above = owner.and_then(|owner| {
                let found = snapshot.deployments.get(namespace, &owner.name)?;
                Some((owner.uid.clone(), found.spec.replicas.or(Some(1))))
            });
            if let Some(above) = above {
                return above;
            }
            set.spec.replicas.or(Some(1))
        }
        "StatefulSet" => {
            let found = snapshot.stateful_sets.get(namespace, name);
            found.map(|set| set.spec.replicas.unwrap_or(1))
        }
        "ReplicationController" => {
            let found = snapshot.replication_controllers.get(namespace, name);
            found.map(|one| {
                one.spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1)
            })
        }
        _ => None,
    };
    (uid.to_owned(), size)
}

fn say(status: &mut PodDisruptionBudgetStatus, enough: bool, now: Timestamp) {
    let (value, reason) = if enough {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let rows = status.conditions.get_or_insert_default();
    let found = rows.iter_mut().find(|one| one.type_ == ALLOWED);
    let same = |one: &Condition| one.status == value && one.reason == reason;
    let row = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: String::new(),
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    match found {
        Some(one) if same(one) => one.observed_generation = row.observed_generation,
        Some(one) => *one = row,
        None => rows.push(row),
    }
}

/// Whether a pod may be evicted now.
#[derive(Debug, Clone, PartialEq)]
pub enum Eviction {
    /// It may, at no budget's cost.
    Free,
    /// It may, once this budget, with one disruption fewer, is written over the one that was read.
    Charged(Box<PodDisruptionBudget>),
    /// Not now: another time, after so many seconds. With a sentence that says why.
    Later(String, u64),
    /// Never: more than one budget is about it.
    Ambiguous,
}

/// Decides on the eviction of a pod by the budgets of its namespace, as they are at this moment.
pub fn evict<'a>(
    pod: &Pod,
    budgets: impl Iterator<Item = &'a PodDisruptionBudget>,
    now: Timestamp,
) -> Eviction {
    // What has ended, is ending or never ran is no budget's concern.
    if pod::is_terminated(pod) || pod::is_deleted(pod) || pod::phase(pod) == "Pending" {
        return Eviction::Free;
    }
    let mut about: Vec<&PodDisruptionBudget> = budgets.filter(|one| covers(one, pod)).collect();
    let Some(budget) = about.pop() else {
        return Eviction::Free;
    };
    if !about.is_empty() {
        return Eviction::Ambiguous;
    }
    let status = budget.status.clone().unwrap_or_default();
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    if !pod::is_ready(pod) {
        let policy = budget
            .spec
            .as_ref()
            .and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
        let healthy = status.current_healthy.unwrap_or(0);
        let enough =
            healthy >= status.desired_healthy.unwrap_or(0) && status.desired_healthy > Some(0);
        if policy == Some("AlwaysAllow") || enough {
            return Eviction::Free;
        }
    }
    if status.observed_generation < budget.metadata.generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Eviction::Later(why, 10);
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed <= 0 {
        let (need, have) = (
            status.desired_healthy.unwrap_or(0),
            status.current_healthy.unwrap_or(0),
        );
        let why = format!(
            "The disruption budget {name} needs {need} healthy pods and has {have} currently"
        );
        return Eviction::Later(why, 0);
    }
    let mut charged = status;
    charged.disruptions_allowed = Some(allowed - 1);
    say(&mut charged, allowed > 1, now);
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    charged
        .disrupted_pods
        .get_or_insert_default()
        .insert(pod_name, Time(now));
    Eviction::Charged(Box::new(PodDisruptionBudget {
        status: Some(charged),
        ..budget.clone()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, replica_set, running};
    use serde_json::{Value, json};

    /// `replicas` wanted, `ready` of them there and ready, under a budget.
    fn world(replicas: i32, ready: usize, budget: Value) -> World {
        let mut world = World::new();
        world.put(replica_set("web", replicas));
        world.settle(|world| {
            crate::replica_set::plan(
                &world.snapshot,
                Scope::EVERYTHING,
                world.now,
                &mut world.ids,
            )
        });
        world.bind_all("n1");
        let names: Vec<String> = world
            .all("Pod")
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().into())
            .collect();
        for name in names.into_iter().take(ready) {
            let now = world.now;
            world.edit("Pod", "shop", &name, |pod| {
                pod["status"] = running("10.0.0.1", now)
            });
        }
        let mut spec = budget;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        world.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "shop"}, "spec": spec}));
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
        world
    }

    fn numbers(world: &World) -> [i64; 4] {
        let status = &world.get("PodDisruptionBudget", "shop", "b").unwrap()["status"];
        [
            "expectedPods",
            "desiredHealthy",
            "currentHealthy",
            "disruptionsAllowed",
        ]
        .map(|field| status[field].as_i64().unwrap())
    }

    #[test]
    fn a_budget_counts_what_there_should_be() {
        for (replicas, ready, budget, expect) in [
            (4, 4, json!({"maxUnavailable": 1}), [4, 3, 4, 1]),
            (4, 3, json!({"maxUnavailable": "25%"}), [4, 3, 3, 0]),
            (4, 4, json!({"minAvailable": "30%"}), [4, 2, 4, 2]),
            (4, 4, json!({"minAvailable": 4}), [4, 4, 4, 0]),
        ] {
            assert_eq!(
                numbers(&world(replicas, ready, budget.clone())),
                expect,
                "{budget}"
            );
        }
    }

    fn ask(world: &World, name: &str) -> Eviction {
        let pod = world.snapshot.pods.get("shop", name).unwrap();
        let budgets = world.snapshot.pod_disruption_budgets.in_namespace("shop");
        evict(pod, budgets.map(AsRef::as_ref), world.now)
    }

    #[test]
    fn evictions_are_charged_one_by_one() {
        let mut world = world(3, 3, json!({"maxUnavailable": 1}));
        let names: Vec<String> = world
            .all("Pod")
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().into())
            .collect();
        let Eviction::Charged(budget) = ask(&world, &names[0]) else {
            panic!("refused")
        };
        world.put(json(&budget));
        assert!(matches!(ask(&world, &names[1]), Eviction::Later(..)));
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
        assert_eq!(numbers(&world)[3], 0, "the allowed eviction is remembered");
        world.pass(PATIENCE);
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
        assert_eq!(numbers(&world)[3], 1, "for two minutes");
    }

    #[test]
    fn pods_that_serve_nobody_may_go() {
        let world = world(3, 2, json!({"minAvailable": 2}));
        let sick = world
            .all("Pod")
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .nth(2)
            .unwrap();
        assert_eq!(ask(&world, &sick), Eviction::Free);
    }

    #[test]
    fn two_budgets_are_one_too_many() {
        let mut world = world(1, 1, json!({"minAvailable": 0}));
        let mut second = world
            .get("PodDisruptionBudget", "shop", "b")
            .unwrap()
            .clone();
        second["metadata"] = json!({"name": "c", "namespace": "shop"});
        world.put(second);
        let name = world.all("Pod")[0]["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(ask(&world, &name), Eviction::Ambiguous);
    }
}
