//! Invariants that every plan keeps, checked independently of the planners: slowly, from the objects alone. Used by
//! tests; a server may use it to refuse a plan.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::resources::{self, Amounts};
use crate::snapshot::Meta;
use crate::{Plan, Snapshot, Write, deployment, pod, scheduler};

/// What is wrong with a plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bound twice in one plan, or bound already.
    #[error("pod {pod} is bound more than once")]
    BoundTwice {
        /// `namespace/name`.
        pod: String,
    },
    /// Names a pod or node that does not exist.
    #[error("{object} does not exist")]
    Unknown {
        /// Which.
        object: String,
    },
    /// Some pods of a gang are bound without the others.
    #[error("pod group {group} would have {bound} pods bound, fewer than {least}")]
    Torn {
        /// `namespace/name`.
        group: String,
        /// Bound then.
        bound: usize,
        /// That are to run together.
        least: usize,
    },
    /// More is asked of a node than it gives.
    #[error("node {node} would lack {shortage}")]
    Overfull {
        /// Node.
        node: String,
        /// Of what there is not enough.
        shortage: String,
    },
    /// Two conditional writes of one object: the second can't hold.
    #[error("{object} is written twice")]
    WrittenTwice {
        /// Which.
        object: String,
    },
    /// Deletes an object that its planner does not own.
    #[error("{object} is deleted, but no {owner} owns it")]
    NotOwned {
        /// Which.
        object: String,
        /// Kind that should own it.
        owner: String,
    },
    /// More pods are asked for than replicas and surge allow.
    #[error("deployment {deployment} would ask for {asked} pods, more than {allowed}")]
    Surge {
        /// Which.
        deployment: String,
        /// Asked for.
        asked: i32,
        /// Allowed.
        allowed: i32,
    },
    /// Fewer available pods are left than replicas less unavailable ones require.
    #[error("deployment {deployment} would keep {kept} available pods, fewer than {required}")]
    Unavailable {
        /// Which.
        deployment: String,
        /// Left.
        kept: i32,
        /// Required.
        required: i32,
    },
}

/// Faults of a scheduler's plan: no pod is bound twice, no node gets more than it has.
pub fn scheduling(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut faults = written_twice(plan);
    let mut bound = BTreeSet::new();
    let mut added: BTreeMap<&str, Vec<Amounts>> = BTreeMap::new();
    for write in plan.writes.iter().flat_map(Write::parts) {
        let Write::Bind {
            namespace,
            name,
            uid,
            node,
        } = write
        else {
            continue;
        };
        let id = format!("{namespace}/{name}");
        let found = snapshot
            .pods
            .get(namespace, name)
            .filter(|pod| pod.metadata.uid.as_ref() == Some(uid));
        match found {
            Some(pod) => {
                if pod::node_name(pod).is_some() || !bound.insert(id.clone()) {
                    faults.push(Violation::BoundTwice { pod: id });
                }
                added
                    .entry(node)
                    .or_default()
                    .push(resources::requests(pod));
            }
            None => faults.push(Violation::Unknown {
                object: format!("pod {id}"),
            }),
        }
    }
    for (name, pods) in added {
        let Some(node) = snapshot.nodes.get("", name) else {
            faults.push(Violation::Unknown {
                object: format!("node {name}"),
            });
            continue;
        };
        let whole = resources::allocatable(node);
        let mut used = Amounts::default();
        let there = snapshot
            .pods_on(name)
            .filter(|pod| !pod::is_terminated(pod));
        there.for_each(|pod| used.add(&resources::requests(pod)));
        for requests in pods {
            let short = used.shortages(&requests, &whole).into_iter();
            faults.extend(short.map(|shortage| Violation::Overfull {
                node: name.to_owned(),
                shortage,
            }));
            used.add(&requests);
        }
    }
    faults
}

/// Faults of a scheduler's plan: no pod of a gang is bound when too few of the gang are, and none that stays is left with
/// too few when others make room.
pub fn gangs(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut faults = torn(snapshot, plan);
    for write in &plan.writes {
        let mut added: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for one in write.parts() {
            let Write::Bind {
                namespace, name, ..
            } = one
            else {
                continue;
            };
            let pod = snapshot.pods.get(namespace, name);
            if let Some(group) = pod.and_then(|pod| scheduler::group_of(pod)) {
                *added.entry((namespace, group)).or_default() += 1;
            }
        }
        for ((namespace, group), added) in added {
            let gang = snapshot.pod_groups.get(namespace, group);
            let least = gang.and_then(|gang| scheduler::least(gang)).unwrap_or(0);
            let bound = added + scheduler::bound(snapshot, namespace, group);
            if bound < least {
                faults.push(Violation::Torn {
                    group: format!("{namespace}/{group}"),
                    bound,
                    least,
                });
            }
        }
    }
    faults
}

/// Gangs that ran and of which some pods go and some stay, too few to run.
fn torn(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut gone: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for write in &plan.writes {
        let Write::Delete {
            namespace, name, ..
        } = write
        else {
            continue;
        };
        let pod = snapshot.pods.get(namespace, name);
        if let Some(group) = pod.and_then(|pod| scheduler::group_of(pod)) {
            *gone.entry((namespace, group)).or_default() += 1;
        }
    }
    let torn = gone.into_iter().filter_map(|((namespace, group), gone)| {
        let least = scheduler::least(snapshot.pod_groups.get(namespace, group)?)?;
        let before = scheduler::bound(snapshot, namespace, group);
        let bound = before.saturating_sub(gone);
        (before >= least && bound > 0 && bound < least).then(|| Violation::Torn {
            group: format!("{namespace}/{group}"),
            bound,
            least,
        })
    });
    torn.collect()
}

/// Faults of a Deployment plan: surge and availability of every Deployment, given the pods that exist. What is beyond
/// a bound already must not get worse.
pub fn rollout(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut faults = written_twice(plan);
    faults.extend(deletions(snapshot, plan, "ReplicaSet", "Deployment"));
    let sizes = sizes(plan);
    for one in snapshot.deployments.iter() {
        let uid = one.metadata.uid.as_deref().unwrap_or_default();
        let name = one.metadata.name.clone().unwrap_or_default();
        let replicas = one.spec.replicas.unwrap_or(1);
        let (surge, unavailable) = deployment::fenceposts(one);
        let (mut asked, mut asked_before, mut kept, mut kept_before) = (0, 0, 0, 0);
        for set in snapshot.replica_sets_of(uid) {
            let key = (
                set.metadata.namespace.clone().unwrap_or_default(),
                set.metadata.name.clone().unwrap_or_default(),
            );
            let before = set.spec.replicas.unwrap_or(1);
            let after = sizes.get(&key).map_or(before, |row| row.0);
            let ready = snapshot.pods_of(set.metadata.uid.as_deref().unwrap_or_default());
            let ready = ready
                .filter(|pod| pod::is_active(pod) && pod::is_ready(pod))
                .count();
            let ready = i32::try_from(ready).unwrap_or(i32::MAX);
            asked += after;
            asked_before += before;
            kept += ready.min(after);
            kept_before += ready.min(before);
        }
        asked += sizes
            .values()
            .filter(|row| row.1.as_deref() == Some(uid))
            .map(|row| row.0)
            .sum::<i32>();
        let allowed = asked_before.max(replicas + surge);
        if asked > allowed {
            faults.push(Violation::Surge {
                deployment: name.clone(),
                asked,
                allowed,
            });
        }
        let recreate = one
            .spec
            .strategy
            .as_ref()
            .is_some_and(|one| one.type_.as_deref() == Some("Recreate"));
        let required = kept_before.min(replicas - unavailable);
        if kept < required && !recreate {
            faults.push(Violation::Unavailable {
                deployment: name,
                kept,
                required,
            });
        }
    }
    faults
}

/// Sizes that a plan gives to ReplicaSets; beside those of new ones, the uid of their Deployment.
fn sizes(plan: &Plan) -> BTreeMap<(String, String), (i32, Option<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = plan.writes.iter().filter_map(|write| {
        let (value, new) = match write {
            Write::Create(value) => (value, true),
            Write::Update(value) => (value, false),
            _ => return None,
        };
        let size = i32::try_from(value["spec"]["replicas"].as_i64()?).ok()?;
        let owner = new.then(|| text(&value["metadata"]["ownerReferences"][0]["uid"]));
        let key = (
            text(&value["metadata"]["namespace"]),
            text(&value["metadata"]["name"]),
        );
        (value["kind"] == "ReplicaSet").then_some((key, (size, owner)))
    });
    rows.collect()
}

/// Deletions of `kind` that are not of an object with this uid whose controller is an `owner`.
pub fn deletions(snapshot: &Snapshot, plan: &Plan, kind: &str, owner: &str) -> Vec<Violation> {
    let mut faults = Vec::new();
    for write in &plan.writes {
        let Write::Delete {
            kind: found,
            namespace,
            name,
            uid,
            ..
        } = write
        else {
            continue;
        };
        let object = format!("{found} {namespace}/{name}");
        match snapshot
            .meta(uid)
            .filter(|meta| meta.key.name == *name && *meta.key.namespace == **namespace)
        {
            None => faults.push(Violation::Unknown { object }),
            Some(meta) => {
                let owned = meta
                    .owners
                    .iter()
                    .any(|one| one.controller && *one.kind == *owner);
                if found != kind || !owned {
                    faults.push(Violation::NotOwned {
                        object,
                        owner: owner.to_owned(),
                    });
                }
            }
        }
    }
    faults
}

/// Objects with two writes that both expect the version of the snapshot.
fn written_twice(plan: &Plan) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let values = plan.writes.iter().filter_map(|write| match write {
        Write::Create(value) | Write::Update(value) | Write::UpdateStatus(value) => {
            Some(Meta::of(value).object())
        }
        Write::Patch { object, .. } => Some(object.clone()),
        _ => None,
    });
    let keys = values.map(|object| format!("{} {}/{}", object.kind, object.namespace, object.name));
    keys.filter(|key| !seen.insert(key.clone()))
        .map(|object| Violation::WrittenTwice { object })
        .collect()
}
