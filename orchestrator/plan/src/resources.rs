//! How much of each resource a pod asks for and a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use waggle_model::Quantity;

/// Milli-cores that a container without a request counts as, when nodes are compared.
const USUAL_CPU: i64 = 100;
/// Bytes that a container without a request counts as, when nodes are compared.
const USUAL_MEMORY: i64 = 200 << 20;
/// Pods of a node that does not say how many it takes.
const USUAL_PODS: i64 = 110;

type Quantities = BTreeMap<String, Text>;

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

    fn read(quantities: &Quantities) -> Self {
        let mut amounts = Self::default();
        for (name, text) in quantities {
            // Quantities were validated when the object was accepted; one that can't be read asks for nothing.
            let Ok(quantity) = text.0.parse::<Quantity>() else {
                continue;
            };
            match name.as_str() {
                "cpu" => amounts.cpu = i64::try_from(quantity.milli()).unwrap_or(i64::MAX),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral = quantity.value(),
                "pods" => amounts.pods = quantity.value(),
                _ => drop(amounts.extended.insert(name.clone(), quantity.value())),
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
    let mut amounts = quantities.map(Amounts::read).unwrap_or_default();
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

fn total(pod: &Pod, requested: fn(Option<&ResourceRequirements>) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else {
        return Amounts {
            pods: 1,
            ..Amounts::default()
        };
    };
    let of = |container: &Container| requested(container.resources.as_ref());
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
    if let Some(whole) = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref())
    {
        let pod_level = Amounts::read(whole);
        for (name, own, given) in [
            ("cpu", &mut running.cpu, pod_level.cpu),
            ("memory", &mut running.memory, pod_level.memory),
        ] {
            if whole.contains_key(name) {
                *own = given;
            }
        }
    }
    if let Some(overhead) = &spec.overhead {
        running.add(&Amounts::read(overhead));
    }
    running.pods = 1;
    running
}

/// A container's requests; a limit stands for a request that is missing.
fn requested(resources: Option<&ResourceRequirements>) -> Amounts {
    let Some(resources) = resources else {
        return Amounts::default();
    };
    let mut quantities = resources.limits.clone().unwrap_or_default();
    quantities.extend(resources.requests.clone().unwrap_or_default());
    Amounts::read(&quantities)
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
