//! What each case is made of: its nodes, the pods that are there before, and those that are measured. Numbers and pods
//! are those of Kubernetes' scheduler_perf (test/integration/scheduler_perf in kubernetes/kubernetes).

use serde_json::{Value, json};

/// What pods ask of nodes and of each other, as the plain scheduler understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Room.
    Room,
    /// A node without a pod of its kind.
    Alone,
    /// A zone whose number of such pods is at most this much above the smallest.
    Even(i64),
    /// The node of this number.
    Named(usize),
}

/// A case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) nodes: usize,
    /// Pods that are bound before.
    pub(crate) before: usize,
    /// Pods that are measured.
    pub(crate) measured: usize,
    /// Pods a second that Kubernetes' CI demands.
    pub(crate) floor: Option<u32>,
    zones: usize,
    first: fn(usize) -> Value,
    then: fn(usize) -> Value,
    pub(crate) wish: Wish,
    /// What comes and goes with each batch.
    pub(crate) churn: Churn,
}

/// What disturbs the measured pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Churn {
    Nothing,
    /// A node comes and goes.
    Nodes,
    /// A pod that fits nowhere stays.
    Hopeless,
    /// An important pod that others must go for.
    Important,
}

impl Case {
    /// In the order in which they are printed.
    pub(crate) fn all() -> Vec<Self> {
        let case = |name, before, measured, floor, first, then, wish| Self {
            name,
            nodes: 5000,
            before,
            measured,
            floor,
            zones: 1,
            first,
            then,
            wish,
            churn: Churn::Nothing,
        };
        let zoned = |case: Self, zones| Self { zones, ..case };
        let churned = |case: Self, churn| Self { churn, ..case };
        let room = Wish::Room;
        vec![
            case("basic", 1000, 10_000, Some(680), plain, plain, room),
            case("basic-50000", 5000, 50_000, Some(810), plain, plain, room),
            case("node-affinity", 5000, 10_000, Some(220), near, near, room),
            case(
                "pod-affinity",
                5000,
                5000,
                Some(35),
                together,
                together,
                room,
            ),
            case(
                "pod-anti-affinity",
                1000,
                2000,
                Some(60),
                apart,
                apart,
                Wish::Alone,
            ),
            case(
                "preferred-affinity",
                5000,
                5000,
                Some(90),
                liked,
                liked,
                room,
            ),
            case(
                "preferred-anti-affinity",
                5000,
                5000,
                Some(90),
                unloved,
                unloved,
                room,
            ),
            zoned(
                case("spread", 5000, 5000, Some(460), plain, even, Wish::Even(5)),
                3,
            ),
            zoned(
                case("preferred-spread", 5000, 5000, Some(340), plain, soft, room),
                3,
            ),
            churned(
                case("preemption", 20_000, 5000, Some(570), lesser, plain, room),
                Churn::Important,
            ),
            churned(
                case(
                    "unschedulable",
                    20_000,
                    10_000,
                    Some(600),
                    plain,
                    plain,
                    room,
                ),
                Churn::Hopeless,
            ),
            churned(
                case("churn", 0, 10_000, Some(710), plain, plain, room),
                Churn::Nodes,
            ),
            Self {
                nodes: 15_000,
                ..case(
                    "daemon-set",
                    0,
                    30_000,
                    Some(1100),
                    named,
                    named,
                    Wish::Named(0),
                )
            },
        ]
    }

    /// The same in small.
    pub(crate) fn scaled(self, by: usize) -> Self {
        let part = |number: usize| number / by.max(1);
        Self {
            nodes: part(self.nodes).max(1),
            before: part(self.before),
            measured: part(self.measured),
            ..self
        }
    }

    pub(crate) fn node(&self, number: usize) -> Value {
        let pods = if matches!(self.wish, Wish::Named(one) if one == number) {
            "90000"
        } else {
            "110"
        };
        let name = format!("node-{number:05}");
        json!({"apiVersion": "v1", "kind": "Node", "spec": {},
            "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name,
                "topology.kubernetes.io/zone": format!("zone{}", number % self.zones + 1)}},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": pods},
                "conditions": [{"type": "Ready", "status": "True"}]}})
    }

    pub(crate) fn zones(&self) -> usize {
        self.zones
    }

    pub(crate) fn pod_before(&self, number: usize) -> Value {
        of_namespace((self.first)(number), "sched-0", number)
    }

    pub(crate) fn pod(&self, number: usize) -> Value {
        of_namespace((self.then)(number), "sched-1", number)
    }

    /// A pod that the churn brings.
    pub(crate) fn intruder(&self, number: usize) -> Option<Value> {
        let (cpu, priority) = match self.churn {
            Churn::Hopeless => ("9", 10),
            Churn::Important => ("3", 10),
            _ => return None,
        };
        let mut pod = with(cpu, "500Mi", json!({}));
        pod["spec"]["priority"] = json!(priority);
        Some(of_namespace(pod, "churn", number))
    }
}

fn of_namespace(mut pod: Value, namespace: &str, number: usize) -> Value {
    let name = format!("pod-{number:06}");
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["uid"] = json!(format!("{namespace}/{name}"));
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

fn with(cpu: &str, memory: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels}, "status": {"phase": "Pending"},
        "spec": {"containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10",
            "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
}

fn plain(_: usize) -> Value {
    with("100m", "500Mi", json!({}))
}

fn lesser(_: usize) -> Value {
    with("900m", "500Mi", json!({}))
}

fn near(_: usize) -> Value {
    let mut pod = plain(0);
    pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone1", "zone2"]}]}]}}});
    pod
}

fn named(_: usize) -> Value {
    let mut pod = with("0", "0", json!({}));
    pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "In", "values": ["node-00000"]}]}]}}});
    pod
}

/// A pod with an affinity term towards pods of its own colour, in both namespaces.
fn coloured(color: &str, kind: &str, key: &str, required: bool) -> Value {
    let mut pod = with("100m", "500Mi", json!({"color": color}));
    let term = json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key,
        "namespaces": ["sched-1", "sched-0"]});
    pod["spec"]["affinity"][kind] = if required {
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]})
    } else {
        json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]})
    };
    pod
}

fn together(_: usize) -> Value {
    coloured("blue", "podAffinity", "topology.kubernetes.io/zone", true)
}

fn apart(_: usize) -> Value {
    coloured("green", "podAntiAffinity", "kubernetes.io/hostname", true)
}

fn liked(_: usize) -> Value {
    coloured("red", "podAffinity", "kubernetes.io/hostname", false)
}

fn unloved(_: usize) -> Value {
    coloured("yellow", "podAntiAffinity", "kubernetes.io/hostname", false)
}

fn spread(when: &str) -> Value {
    let mut pod = with("100m", "500Mi", json!({"color": "blue"}));
    pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 5, "whenUnsatisfiable": when,
        "topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"color": "blue"}}}]);
    pod
}

fn even(_: usize) -> Value {
    spread("DoNotSchedule")
}

fn soft(_: usize) -> Value {
    spread("ScheduleAnyway")
}
