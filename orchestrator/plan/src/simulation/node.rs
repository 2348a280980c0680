//! A node: what really runs there, what it was told, and what it says, behind a network that loses, delays and repeats.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::workload::NAMESPACE;
use crate::node_lifecycle::LEASE_NAMESPACE;
use crate::world::{Key, World, running};

/// What a pod of a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Succeeded,
    Failed,
}

/// A pod that the node has.
#[derive(Debug, Clone)]
pub(super) struct Local {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) phase: Phase,
    /// Runs to an end, and is not started again.
    pub(super) ends: bool,
}

/// A pod that the node should have.
#[derive(Debug, Clone)]
pub(super) struct Assigned {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) deleted: bool,
    pub(super) ended: bool,
    pub(super) ends: bool,
}

/// A message to a node: all its pods by uid. One with a smaller number than the last is refused.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) number: usize,
    pub(super) pods: BTreeMap<String, Assigned>,
}

/// A message from a node.
#[derive(Debug, Clone)]
pub(super) enum Said {
    Beat,
    Status(String, Local),
    Gone(String, String),
}

pub(super) struct Machine {
    pub(super) name: &'static str,
    pub(super) cut: bool,
    /// The server that it speaks with.
    pub(super) session: Option<usize>,
    pub(super) down: VecDeque<Told>,
    pub(super) up: VecDeque<Said>,
    /// What it has, by uid.
    pub(super) pods: BTreeMap<String, Local>,
    told: Told,
    /// What it said of each pod in this session.
    said: BTreeMap<String, Option<Phase>>,
}

impl Machine {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            cut: false,
            session: None,
            down: VecDeque::new(),
            up: VecDeque::new(),
            pods: BTreeMap::new(),
            told: Told {
                number: 0,
                pods: BTreeMap::new(),
            },
            said: BTreeMap::new(),
        }
    }

    /// The session ends; what was on its way is lost, and will be said again in the next one.
    pub(super) fn hang_up(&mut self) {
        self.session = None;
        self.down.clear();
        self.up.clear();
        self.said.clear();
    }

    /// Takes in what it was told. With `again`, the last message comes once more later.
    pub(super) fn listen(&mut self, again: bool) {
        while let Some(told) = self.down.pop_front() {
            if told.number >= self.told.number {
                self.told = told;
            }
        }
        if again {
            self.down.push_back(self.told.clone());
        }
    }

    /// Starts and stops pods.
    pub(super) fn run(&mut self) {
        let told = &self.told.pods;
        self.pods
            .retain(|uid, _| told.get(uid).is_some_and(|one| !one.deleted));
        for (uid, one) in told.iter().filter(|(_, one)| !one.deleted && !one.ended) {
            self.pods.entry(uid.clone()).or_insert_with(|| Local {
                name: one.name.clone(),
                address: one.address.clone(),
                phase: Phase::Running,
                ends: one.ends,
            });
        }
    }

    /// Says what is new of its pods, or everything `again`.
    pub(super) fn report(&mut self, again: bool) {
        if self.session.is_none() {
            return;
        }
        self.up.push_back(Said::Beat);
        if again {
            self.said.clear();
        }
        self.said.retain(|uid, _| self.told.pods.contains_key(uid));
        for (uid, one) in &self.told.pods {
            let now = self.pods.get(uid).map(|local| local.phase);
            if self.said.get(uid) == Some(&now) {
                continue;
            }
            self.said.insert(uid.clone(), now);
            match self.pods.get(uid) {
                Some(local) => self.up.push_back(Said::Status(uid.clone(), local.clone())),
                None if one.deleted => {
                    // What runs to its end and was stopped before has failed.
                    if one.ends && !one.ended {
                        let local = Local {
                            name: one.name.clone(),
                            address: one.address.clone(),
                            phase: Phase::Failed,
                            ends: true,
                        };
                        self.up.push_back(Said::Status(uid.clone(), local));
                    }
                    self.up.push_back(Said::Gone(uid.clone(), one.name.clone()));
                }
                None => {}
            }
        }
    }
}

impl Said {
    /// Writes to the store what a node said, as a server does. Answers what is worth telling.
    pub(super) fn tell(self, node: &str, world: &mut World) -> Option<String> {
        match self {
            Self::Beat => {
                beat(node, world);
                None
            }
            Self::Status(uid, local) => {
                let pod = mine(world, node, &local.name, &uid)?;
                let status = merged(&pod, &local, world);
                (status != pod["status"]).then(|| {
                    world.edit("Pod", NAMESPACE, &local.name, |one| one["status"] = status);
                    format!("{node} says: {} {:?}", local.name, local.phase)
                })
            }
            Self::Gone(uid, name) => {
                let pod = mine(world, node, &name, &uid)?;
                if pod["metadata"]["deletionTimestamp"].is_null() {
                    return None;
                }
                let key: Key = (
                    "v1".to_owned(),
                    "Pod".to_owned(),
                    NAMESPACE.to_owned(),
                    name.clone(),
                );
                world.over(&key);
                Some(format!("{node} says: {name} is gone"))
            }
        }
    }
}

/// The pod, if it is still the one that is meant, and this node's.
fn mine(world: &World, node: &str, name: &str, uid: &str) -> Option<Value> {
    let pod = world.get("Pod", NAMESPACE, name)?;
    let same = pod["metadata"]["uid"] == *uid && pod["spec"]["nodeName"] == *node;
    same.then(|| pod.clone())
}

/// What ended stays ended, and the address stays the reserved one.
fn merged(pod: &Value, local: &Local, world: &World) -> Value {
    let old = &pod["status"];
    let phase = format!("{:?}", local.phase);
    if ["Succeeded", "Failed"]
        .iter()
        .any(|end| old["phase"] == *end)
    {
        return old.clone();
    }
    let ready = |status: &Value| {
        let rows = status["conditions"].as_array();
        rows.is_some_and(|rows| {
            rows.iter()
                .any(|row| row["type"] == "Ready" && row["status"] == "True")
        })
    };
    if local.phase == Phase::Running && old["phase"] == *phase && ready(old) {
        return old.clone();
    }
    let mut new = running(&local.address, world.now);
    let mut containers = new["conditions"][1].clone();
    containers["type"] = json!("ContainersReady");
    if let Some(rows) = new["conditions"].as_array_mut() {
        rows.push(containers);
    }
    if local.phase != Phase::Running {
        new["phase"] = json!(phase);
        for row in [1, 2] {
            new["conditions"][row]["status"] = json!("False");
        }
    }
    for field in ["podIP", "podIPs"] {
        if !old[field].is_null() {
            new[field] = old[field].clone();
        }
    }
    new
}

fn beat(node: &str, world: &mut World) {
    let moment = world.now.to_string();
    world.put(
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": node, "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": moment}}),
    );
    let found = world.get("Node", "", node);
    if found.is_some_and(|one| one["status"]["conditions"][0]["status"] != "True") {
        world.edit("Node", "", node, |one| {
            one["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        });
    }
}
