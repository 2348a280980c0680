//! What pods hold of their node, and whether one that runs gets the resources that it wants now (KEP-1287): at once, when
//! others leave room for it, or never here. What it wants and does not get is not in the pod that the rest of the agent sees.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use tokio::sync::watch;
use waggle_runtime::spec::ContainerState;

use super::desired::Desired;
use super::qos::{limits, requested, requested_cpu};

/// What containers may be given up to, or have been given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    /// Milli-cores.
    pub(crate) cpu: u64,
    /// Bytes.
    pub(crate) memory: u64,
}

impl Amounts {
    /// What a pod asks for.
    pub(crate) fn of(pod: &Desired) -> Self {
        Self {
            cpu: requested_cpu(pod),
            memory: requested(pod, "memory"),
        }
    }

    fn named(self) -> [(&'static str, u64); 2] {
        [("cpu", self.cpu), ("memory", self.memory)]
    }
}

/// Why a pod does not have what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Deferred` or `Infeasible`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Pending {
    /// It is tried again when something comes free.
    pub(crate) fn is_deferred(&self) -> bool {
        self.reason == DEFERRED
    }
}

const DEFERRED: &str = "Deferred";
const INFEASIBLE: &str = "Infeasible";

/// Whether a pod that holds `has` may have `wants`, where others hold `others` of `whole`. What does not grow is not asked
/// about.
fn decide(has: Amounts, wants: Amounts, others: Amounts, whole: Amounts) -> Option<Pending> {
    let mut scarce = None;
    let has = has.named().into_iter().zip(wants.named());
    let node = others.named().into_iter().zip(whole.named());
    for (((name, has), (_, wants)), ((_, others), (_, whole))) in has.zip(node) {
        if wants <= has {
            continue;
        }
        if wants > whole {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {wants}, capacity: {whole}"
            );
            return Some(Pending {
                reason: INFEASIBLE,
                message,
            });
        }
        if others.saturating_add(wants) > whole {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wants}, used: {others}, capacity: {whole}"
            );
            scarce.get_or_insert(Pending {
                reason: DEFERRED,
                message,
            });
        }
    }
    scarce
}

/// What every pod of the node holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pods: Mutex<HashMap<String, Amounts>>,
    /// Something came free.
    freed: watch::Sender<()>,
}

impl Held {
    /// Takes note of what a pod holds.
    pub(crate) fn set(&self, uid: &str, amounts: Amounts) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pods.insert(uid.to_owned(), amounts).unwrap_or_default();
        drop(pods);
        if amounts.cpu < before.cpu || amounts.memory < before.memory {
            self.freed.send_replace(());
        }
    }

    /// A pod holds nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let had = pods.remove(uid);
        drop(pods);
        if had.is_some_and(|had| had != Amounts::default()) {
            self.freed.send_replace(());
        }
    }

    /// Gives a pod what it wants, if there is room.
    pub(crate) fn change(&self, uid: &str, wants: Amounts, whole: Amounts) -> Result<(), Pending> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let has = pods.get(uid).copied().unwrap_or_default();
        let mut others = Amounts::default();
        for (_, held) in pods.iter().filter(|(other, _)| *other != uid) {
            others.cpu = others.cpu.saturating_add(held.cpu);
            others.memory = others.memory.saturating_add(held.memory);
        }
        if let Some(pending) = decide(has, wants, others, whole) {
            return Err(pending);
        }
        // Still locked: nobody else gets the same room.
        pods.insert(uid.to_owned(), wants);
        drop(pods);
        if wants.cpu < has.cpu || wants.memory < has.memory {
            self.freed.send_replace(());
        }
        Ok(())
    }

    /// Hears when something comes free.
    pub(crate) fn freed(&self) -> watch::Receiver<()> {
        self.freed.subscribe()
    }
}

/// Resources of a pod's containers, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Allocation(BTreeMap<String, Option<ResourceRequirements>>);

impl Allocation {
    /// All that the pod wants.
    pub(crate) fn wanted(pod: &Desired) -> Self {
        let one = |c: &Container| (c.name.clone(), c.resources.clone());
        Self(pod.own_containers().map(one).collect())
    }

    /// What the pod was given before this agent began: what it wants, unless a container runs with something else. Then
    /// the status that this node has told last knows.
    pub(crate) fn known(pod: &Desired, containers: &BTreeMap<String, ContainerState>) -> Self {
        let mut all = Self::wanted(pod);
        let status = pod.pod.status.as_ref();
        let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
        for told in lists.iter().flatten().copied().flatten().flatten() {
            let container = pod.own_containers().find(|c| c.name == told.name);
            let state = containers.get(&told.name).filter(|state| !state.exited());
            let differs = container
                .zip(state)
                .is_some_and(|(c, state)| state.spec.resources != limits(c));
            if differs
                && let Some(resources) = &told.resources
                && let Some(place) = all.0.get_mut(&told.name)
            {
                *place = Some(ResourceRequirements {
                    requests: told.allocated_resources.clone(),
                    ..resources.clone()
                });
            }
        }
        all
    }

    /// The pod with these resources.
    pub(crate) fn apply(&self, pod: &Arc<Desired>) -> Arc<Desired> {
        let mut changed = Desired::clone(pod);
        if let Some(spec) = changed.pod.spec.as_mut() {
            let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
            for container in lists.into_iter().flatten().flatten() {
                if let Some(resources) = self.0.get(&container.name) {
                    container.resources.clone_from(resources);
                }
            }
        }
        Arc::new(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::{container, pod};
    use waggle_runtime::spec::ContainerPhase;

    fn amounts(cpu: u64, memory: u64) -> Amounts {
        Amounts { cpu, memory }
    }

    #[test]
    fn what_grows_must_fit_now_or_could_never() {
        let whole = amounts(2000, 1000);
        for (has, wants, others, expect) in [
            (amounts(100, 10), amounts(500, 10), amounts(1500, 0), None),
            (
                amounts(100, 10),
                amounts(501, 10),
                amounts(1500, 0),
                Some(
                    "Deferred: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
                ),
            ),
            (
                amounts(100, 10),
                amounts(2001, 10),
                amounts(1500, 0),
                Some(
                    "Infeasible: Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000",
                ),
            ),
            // Never is said even where the other resource only lacks room.
            (
                amounts(100, 10),
                amounts(600, 1001),
                amounts(1500, 0),
                Some(
                    "Infeasible: Node didn't have enough capacity: memory, requested: 1001, capacity: 1000",
                ),
            ),
            // Less is always had, even on a node that is too full.
            (amounts(900, 10), amounts(800, 10), amounts(1900, 0), None),
        ] {
            let found = decide(has, wants, others, whole);
            let text = found.map(|p| format!("{}: {}", p.reason, p.message));
            assert_eq!(text.as_deref(), expect);
        }
    }

    #[test]
    fn who_waits_hears_when_something_comes_free() {
        let held = Held::default();
        let whole = amounts(1000, 1000);
        held.set("a", amounts(600, 0));
        held.set("b", amounts(300, 0));
        let mut freed = held.freed();
        let refused = held.change("b", amounts(500, 0), whole).unwrap_err();
        assert!(refused.is_deferred());
        assert!(!freed.has_changed().unwrap());
        held.change("a", amounts(500, 0), whole).unwrap();
        assert!(freed.has_changed().unwrap());
        freed.mark_unchanged();
        held.change("b", amounts(500, 0), whole).unwrap();
        assert!(held.change("a", amounts(501, 0), whole).is_err());
        held.release("b");
        assert!(freed.has_changed().unwrap());
        held.change("a", amounts(1000, 0), whole).unwrap();
    }

    #[test]
    fn the_rest_of_the_agent_sees_what_was_given() {
        let spec = |cpu: &str| {
            Arc::new(pod(&format!(
                r#"{{"containers":[{{"name":"main","image":"web:1","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}"#
            )))
        };
        let given = Allocation::wanted(&spec("100m"));
        assert_ne!(given, Allocation::wanted(&spec("200m")));
        assert_eq!(given.apply(&spec("200m")), spec("100m"));
        assert_eq!(Amounts::of(&given.apply(&spec("3"))).cpu, 100);
    }

    #[test]
    fn a_new_agent_knows_what_was_given_by_what_runs_and_what_was_told() {
        let mut wants = pod(
            r#"{"containers":[{"name":"main","image":"web:1","resources":{"requests":{"cpu":"3"}}}]}"#,
        );
        let told = r#"{"containerStatuses":[{"name":"main","image":"","imageID":"","ready":true,"restartCount":0,
            "allocatedResources":{"cpu":"100m"},"resources":{"requests":{"cpu":"50m"}}}]}"#;
        wants.pod.status = serde_json::from_str(told).unwrap();
        let mut state = container("main", ContainerPhase::Running, 0);
        let mut check = |milli, expect| {
            state.spec.resources.cpu_request_milli = Some(milli);
            let containers = BTreeMap::from([("main".to_owned(), state.clone())]);
            let given = Allocation::known(&wants, &containers);
            let given = given.apply(&Arc::new(wants.clone()));
            assert_eq!(Amounts::of(&given).cpu, expect, "runs with {milli}");
        };
        check(3000, 3000);
        check(50, 100);
        let none = Allocation::known(&wants, &BTreeMap::new());
        assert_eq!(none, Allocation::wanted(&wants));
    }
}
