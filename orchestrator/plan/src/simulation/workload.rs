//! What a simulated cluster is to run, and what clients ask of it.

use serde_json::{Value, json};

use super::load;
use crate::Ids;
use crate::world::{World, deployment, node};

pub(super) const NAMESPACE: &str = "shop";
pub(super) const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
/// Completions of the Job.
pub(super) const COMPLETIONS: u64 = 4;
/// Size of the StatefulSet in the end.
pub(super) const MEMBERS: u64 = 3;
/// Gangs, of which one has room at a time: the last is more important than anything else.
pub(super) const GANGS: [&str; 2] = ["blue", "red"];
/// Pods of a gang that run together.
pub(super) const GANG_SIZE: u64 = 3;

/// Size of the ReplicationController in the end.
pub(super) const OLD: u64 = 2;
/// Jobs of the CronJob that are kept after they succeeded, and after they failed.
pub(super) const KEPT_RUNS: usize = 2;

/// Something that a client wants.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// Kind, name, field and its value.
    Size(&'static str, &'static str, &'static str, usize),
    Image(&'static str, &'static str, usize),
    /// The Deployment goes, or is made when it is not there.
    ComeOrGo(&'static str),
    Cordon(&'static str, bool),
    /// The CronJob begins nothing, or goes on.
    Suspend(bool),
    /// So much is asked of what is scaled by its load.
    Load(usize),
    /// Somebody takes the label away by which a pod is found.
    Estrange(usize),
}

impl Order {
    pub(super) fn any(chance: &mut Ids) -> Self {
        let mut pick = |count: u64| usize::try_from(chance.number() % count).unwrap_or(0);
        match pick(17) {
            0..=2 => Self::Size("Deployment", "web", "replicas", pick(7)),
            3 => Self::Size("Deployment", "api", "replicas", pick(5)),
            4 => Self::Size("StatefulSet", "db", "replicas", pick(4)),
            5 => Self::Size("Job", "sum", "parallelism", pick(4)),
            6 | 7 => Self::Image("Deployment", ["web", "api"][pick(2)], pick(3)),
            8 => Self::Image(["StatefulSet", "DaemonSet"][pick(2)], "", pick(3)),
            9 => Self::ComeOrGo("api"),
            10 => Self::Cordon(NODES[pick(4)], pick(2) == 0),
            11 => Self::Size("ReplicaSet", GANGS[pick(2)], "replicas", 3 * pick(2)),
            12 => Self::Size("ReplicationController", "old", "replicas", pick(4)),
            13 => Self::Suspend(pick(2) == 0),
            14 | 15 => Self::Load(100 * pick(9)),
            _ => Self::Estrange(pick(20)),
        }
    }

    /// Another load, and gangs that want to run or not: the one that matters less always does.
    pub(super) fn wave(chance: &mut Ids) -> [Self; 3] {
        let mut pick = |count: u64| usize::try_from(chance.number() % count).unwrap_or(0);
        let gang = |name, size| Self::Size("ReplicaSet", name, "replicas", size);
        let (load, size) = (100 * pick(9), 3 * pick(2));
        [Self::Load(load), gang(GANGS[0], 3), gang(GANGS[1], size)]
    }

    pub(super) fn obey(self, world: &mut World) {
        match self {
            Self::Size(kind, name, field, size) if world.get(kind, NAMESPACE, name).is_some() => {
                world.edit(kind, NAMESPACE, name, |one| {
                    one["spec"][field] = json!(size)
                });
            }
            Self::Image(kind, name, image) => {
                let name = match kind {
                    "StatefulSet" => "db",
                    "DaemonSet" => "log",
                    _ => name,
                };
                if world.get(kind, NAMESPACE, name).is_some() {
                    world.edit(kind, NAMESPACE, name, |one| {
                        one["spec"]["template"]["spec"]["containers"][0]["image"] =
                            json!(format!("a:{image}"));
                    });
                }
            }
            Self::ComeOrGo(name) => match world.get("Deployment", NAMESPACE, name) {
                Some(_) => world.delete("Deployment", NAMESPACE, name),
                None => world.put(api()),
            },
            Self::Cordon(name, yes) => world.edit("Node", "", name, |one| {
                one["spec"]["unschedulable"] = json!(yes);
            }),
            Self::Suspend(yes) => world.edit("CronJob", NAMESPACE, "tick", |one| {
                one["spec"]["suspend"] = json!(yes);
            }),
            Self::Estrange(index) => {
                let pods = world.all("Pod");
                let web = pods
                    .iter()
                    .filter(|one| one["metadata"]["labels"]["app"] == "web");
                let name = web
                    .filter_map(|one| one["metadata"]["name"].as_str())
                    .nth(index)
                    .map(str::to_owned);
                if let Some(name) = name {
                    world.edit("Pod", NAMESPACE, &name, |one| {
                        one["metadata"]["labels"]["app"] = json!("stray");
                    });
                }
            }
            Self::Load(milli) => load::set(world, i64::try_from(milli).unwrap_or(0)),
            Self::Size(..) => {}
        }
    }
}

/// Fills an empty cluster.
pub(super) fn put(world: &mut World) {
    for (index, name) in NODES.into_iter().enumerate() {
        let mut one = node(name, "8", "8Gi");
        one["spec"]["podCIDR"] = json!(format!("10.244.{index}.0/25"));
        world.put(one);
    }
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    world.put(deployment("web", 3, "a:0"));
    world.put(api());
    world.put(deployment(load::SCALED, 2, "a:0"));
    load::put(world);
    for (kind, name, spec) in [
        (
            "StatefulSet",
            "db",
            json!({"replicas": MEMBERS, "serviceName": "db"}),
        ),
        ("DaemonSet", "log", json!({})),
    ] {
        let mut value = json!({"apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
        value["spec"]["selector"] = json!({"matchLabels": {"app": name}});
        value["spec"]["template"] = template(name);
        world.put(value);
    }
    world.put(job());
    world.put(cron_job());
    world.put(
        json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": NAMESPACE},
        "spec": {"replicas": OLD, "selector": {"app": "old"}, "template": template("old")}}),
    );
    for (name, priority) in GANGS.into_iter().zip([0, 5]) {
        world.put(
            json!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"schedulingPolicy": {"gang": {"minCount": GANG_SIZE}}}}),
        );
        let mut template = template(name);
        // One to a node, beside everything else.
        template["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("4200m");
        template["spec"]["priority"] = json!(priority);
        template["spec"]["schedulingGroup"] = json!({"podGroupName": name});
        world.put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"replicas": GANG_SIZE, "selector": {"matchLabels": {"app": name}}, "template": template}}));
    }
    world.put(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.20", "ports": [{"port": 80}]}}),
    );
    world.put(
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
    );
}

/// The Deployment that comes and goes; it may lack a pod, and never has one too many.
fn api() -> Value {
    let mut value = deployment("api", 2, "a:0");
    value["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": 1});
    value
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": "a:0",
        "resources": {"requests": {"cpu": "500m"}}}]}})
}

fn job() -> Value {
    let mut template = template("sum");
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum", "namespace": NAMESPACE},
        "spec": {"completions": COMPLETIONS, "parallelism": 2, "backoffLimit": 100_000, "completionMode": "NonIndexed",
            "selector": {"matchLabels": {"app": "sum"}}, "template": template}})
}

fn cron_job() -> Value {
    let mut template = template("tick");
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": NAMESPACE},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": KEPT_RUNS,
            "failedJobsHistoryLimit": KEPT_RUNS, "jobTemplate": {"spec": {"completions": 1, "parallelism": 1,
                "backoffLimit": 1, "completionMode": "NonIndexed",
                "selector": {"matchLabels": {"app": "tick"}}, "template": template}}}})
}

/// What clients want in the end.
pub(super) fn last_orders(world: &mut World) {
    world.edit("StatefulSet", NAMESPACE, "db", |one| {
        one["spec"]["replicas"] = json!(MEMBERS);
    });
    world.edit("Job", NAMESPACE, "sum", |one| {
        one["spec"]["parallelism"] = json!(2)
    });
    world.edit("ReplicationController", NAMESPACE, "old", |one| {
        one["spec"]["replicas"] = json!(OLD);
    });
    Order::Suspend(true).obey(world);
    load::set(world, load::LAST_LOAD);
    for name in GANGS {
        world.edit("ReplicaSet", NAMESPACE, name, |one| {
            one["spec"]["replicas"] = json!(GANG_SIZE)
        });
    }
    for name in NODES {
        world.edit("Node", "", name, |one| {
            one["spec"]["unschedulable"] = json!(false)
        });
    }
}
