//! How much of each resource a pod asks for and a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde::{Deserialize, Deserializer};
use waggle_model::Quantity;

use crate::pod::{Container, Pod, Resources};

/// Milli-cores that a container without a request counts as, when nodes are compared.
const USUAL_CPU: i64 = 100;
/// Bytes that a container without a request counts as, when nodes are compared.
const USUAL_MEMORY: i64 = 200 << 20;
/// Pods of a node that does not say how many it takes.
const USUAL_PODS: i64 = 110;

/// Quantities by resource name, in little memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quantities(Box<[(Box<str>, Text)]>);

impl Quantities {
    /// Of one resource.
    pub fn get(&self, resource: &str) -> Option<&Text> {
        let (_, found) = self.0.iter().find(|(name, _)| **name == *resource)?;
        Some(found)
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &Text)> {
        self.0.iter().map(|(name, text)| (name.as_ref(), text))
    }
}

impl<'de> Deserialize<'de> for Quantities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Option::<BTreeMap<Box<str>, Text>>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().flatten().collect()))
    }
}

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Milli-cores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral: i64,
    /// Pods.
    pub pods: i64,
    /// Others by name, in their whole units.
    pub extended: BTreeMap<String, i64>,
}

impl Amounts {
    /// Adds `other`, stopping at the largest values.
    pub fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes `other` away, down to nothing.
    pub fn subtract(&mut self, other: &Self) {
        self.merge(other, |own, other| own.saturating_sub(other).max(0));
    }

    /// The larger of both, for each resource.
    fn raise_to(&mut self, other: &Self) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Self, join: fn(i64, i64) -> i64) {
        self.cpu = join(self.cpu, other.cpu);
        self.memory = join(self.memory, other.memory);
        self.ephemeral = join(self.ephemeral, other.ephemeral);
        self.pods = join(self.pods, other.pods);
        for (name, &amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = join(*own, amount);
        }
    }

    /// Whether `more` fits into `whole` beside these.
    pub fn leaves_room_for(&self, more: &Self, whole: &Self) -> bool {
        fits(self.cpu, more.cpu, whole.cpu)
            && fits(self.memory, more.memory, whole.memory)
            && fits(self.ephemeral, more.ephemeral, whole.ephemeral)
            && fits(self.pods, more.pods, whole.pods)
            && more
                .extended
                .iter()
                .all(|(name, &amount)| fits(of(self, name), amount, of(whole, name)))
    }

    /// What there is not enough of in `whole` to take `more` beside these, in Kubernetes' words.
    pub fn shortages(&self, more: &Self, whole: &Self) -> Vec<String> {
        let mut short = Vec::new();
        if !fits(self.pods, more.pods, whole.pods) {
            short.push("Too many pods".to_owned());
        }
        for (name, used, asked, all) in [
            ("cpu", self.cpu, more.cpu, whole.cpu),
            ("memory", self.memory, more.memory, whole.memory),
            (
                "ephemeral-storage",
                self.ephemeral,
                more.ephemeral,
                whole.ephemeral,
            ),
        ] {
            if !fits(used, asked, all) {
                short.push(format!("Insufficient {name}"));
            }
        }
        let scarce = more
            .extended
            .iter()
            .filter(|(name, amount)| !fits(of(self, name), **amount, of(whole, name)));
        short.extend(scarce.map(|(name, _)| format!("Insufficient {name}")));
        short
    }

    fn read<'a>(quantities: impl IntoIterator<Item = (&'a str, &'a Text)>) -> Self {
        let mut amounts = Self::default();
        for (name, text) in quantities {
            // Quantities were validated when the object was accepted; one that can't be read asks for nothing.
            let Ok(quantity) = text.0.parse::<Quantity>() else {
                continue;
            };
            match name {
                "cpu" => amounts.cpu = i64::try_from(quantity.milli()).unwrap_or(i64::MAX),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral = quantity.value(),
                "pods" => amounts.pods = quantity.value(),
                _ => drop(amounts.extended.insert(name.to_owned(), quantity.value())),
            }
        }
        amounts
    }
}

/// Nothing asked for always fits, even where more is used than there is.
fn fits(used: i64, asked: i64, whole: i64) -> bool {
    asked == 0 || used.saturating_add(asked) <= whole
}

fn of(amounts: &Amounts, name: &str) -> i64 {
    amounts.extended.get(name).copied().unwrap_or(0)
}

/// What a node gives to pods.
pub fn allocatable(node: &Node) -> Amounts {
    let status = node.status.as_ref();
    let quantities =
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let listed = quantities.into_iter().flatten();
    let mut amounts = Amounts::read(listed.map(|(name, text)| (name.as_str(), text)));
    if quantities.is_none_or(|all| !all.contains_key("pods")) {
        amounts.pods = USUAL_PODS;
    }
    amounts
}

/// What a pod asks for: its containers and sidecars together, or its largest init container beside the sidecars that
/// were started before it, whichever is more; and its overhead. A request for the pod as a whole wins.
pub fn requests(pod: &Pod) -> Amounts {
    total(pod, requested)
}

/// The same in milli-cores and bytes, where a container that asks for none counts as a usual one. Keeps pods without
/// requests from all being put on one node.
pub fn usual_requests(pod: &Pod) -> (i64, i64) {
    let amounts = total(pod, |resources| {
        let mut amounts = requested(resources);
        if amounts.cpu == 0 {
            amounts.cpu = USUAL_CPU;
        }
        if amounts.memory == 0 {
            amounts.memory = USUAL_MEMORY;
        }
        amounts
    });
    (amounts.cpu, amounts.memory)
}

fn total(pod: &Pod, requested: fn(&Resources) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts {
            pods: 1,
            ..Amounts::default()
        };
    };
    let of = |container: &Container| requested(&container.resources);
    let mut running = Amounts::default();
    let mut starting = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&of(container));
            starting.raise_to(&running);
        } else {
            let mut moment = running.clone();
            moment.add(&of(container));
            starting.raise_to(&moment);
        }
    }
    spec.containers
        .iter()
        .for_each(|container| running.add(&of(container)));
    running.raise_to(&starting);
    let whole = &spec.resources.requests;
    let pod_level = Amounts::read(whole.iter());
    for (name, own, given) in [
        ("cpu", &mut running.cpu, pod_level.cpu),
        ("memory", &mut running.memory, pod_level.memory),
    ] {
        if whole.get(name).is_some() {
            *own = given;
        }
    }
    running.add(&Amounts::read(spec.overhead.iter()));
    running.pods = 1;
    running
}

/// A container's requests; a limit stands for a request that is missing.
fn requested(resources: &Resources) -> Amounts {
    // What is read later wins.
    Amounts::read(resources.limits.iter().chain(resources.requests.iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(spec: Value, cpu: i64, memory: i64) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        let amounts = requests(&pod);
        assert_eq!(
            (amounts.cpu, amounts.memory, amounts.pods),
            (cpu, memory, 1),
            "{spec}"
        );
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn requests_follow_the_life_of_a_pod() {
        let (small, large) = (container("100m", "1Mi"), container("1", "2Mi"));
        let mut sidecar = container("50m", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        check(json!({"containers": [small, small]}), 200, 2 << 20);
        check(
            json!({"containers": [small], "initContainers": [large]}),
            1000,
            2 << 20,
        );
        check(
            json!({"containers": [small], "initContainers": [sidecar, large]}),
            1050,
            3 << 20,
        );
        check(
            json!({"containers": [small], "initContainers": [large, sidecar]}),
            1000,
            2 << 20,
        );
        check(
            json!({"containers": [small], "overhead": {"cpu": "10m"}}),
            110,
            1 << 20,
        );
        check(
            json!({"containers": [small], "resources": {"requests": {"cpu": "3"}}}),
            3000,
            1 << 20,
        );
        check(
            json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]}),
            2000,
            0,
        );
    }

    #[test]
    fn shortages_are_named() {
        let whole = Amounts {
            cpu: 1000,
            memory: 100,
            pods: 1,
            ..Amounts::default()
        };
        let mut more = Amounts {
            cpu: 2000,
            memory: 200,
            pods: 1,
            ..Amounts::default()
        };
        more.extended.insert("example.com/gpu".into(), 1);
        let none = Amounts::default();
        assert!(!none.leaves_room_for(&more, &whole));
        let expect = [
            "Insufficient cpu",
            "Insufficient memory",
            "Insufficient example.com/gpu",
        ];
        assert_eq!(none.shortages(&more, &whole), expect);
        let full = Amounts {
            pods: 1,
            ..Amounts::default()
        };
        assert_eq!(
            full.shortages(
                &Amounts {
                    pods: 1,
                    ..Amounts::default()
                },
                &whole
            ),
            ["Too many pods"]
        );
    }
}
