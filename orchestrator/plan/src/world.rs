//! A cluster for tests: it carries out plans as the server does and runs pods as agents do, in memory and at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use waggle_api::patch::Patch;

use crate::snapshot::Object;
use crate::{Ids, ObjectRef, Plan, Snapshot, Write};

/// apiVersion, kind, namespace, name.
pub(crate) type Key = (String, String, String, String);

/// An object as it is since this change; `None` when it is gone.
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) value: Option<Arc<Value>>,
    /// The same as planners see it.
    pub(crate) object: Option<Object>,
}

/// Kinds that a test cluster holds.
const KINDS: [(&str, &str); 25] = [
    ("v1", "PersistentVolume"),
    ("v1", "PersistentVolumeClaim"),
    ("storage.k8s.io/v1", "StorageClass"),
    ("v1", "Pod"),
    ("v1", "Node"),
    ("v1", "Service"),
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Event"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("coordination.k8s.io/v1", "Lease"),
    ("waggle.dev/v1", "Tenant"),
    ("v1", "ReplicationController"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ControllerRevision"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("scheduling.k8s.io/v1", "PriorityClass"),
];

pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) now: Timestamp,
    pub(crate) ids: Ids,
    /// Writes whose condition did not hold.
    pub(crate) refused: usize,
    /// Everything that happened, for those who see it later.
    pub(crate) log: Vec<Change>,
    objects: BTreeMap<Key, Arc<Value>>,
    revision: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            snapshot: Snapshot::new(KINDS),
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            ids: Ids::new(1),
            refused: 0,
            log: Vec::new(),
            objects: BTreeMap::new(),
            revision: 0,
        }
    }

    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now = self
            .now
            .checked_add(SignedDuration::from_secs(seconds))
            .unwrap();
    }

    /// Creates or replaces an object as a client would, with what a server fills in.
    pub(crate) fn put(&mut self, mut value: Value) {
        let key = key_of(&value);
        self.revision += 1;
        let old = self.objects.get(&key);
        let metadata = &mut value["metadata"];
        let kept =
            |name: &str, fresh: Value| old.map_or(fresh, |old| old["metadata"][name].clone());
        for (name, fresh) in [
            ("uid", json!(format!("uid-{}", self.revision))),
            ("creationTimestamp", json!(self.now.to_string())),
        ] {
            if metadata[name].is_null() {
                metadata[name] = kept(name, fresh);
            }
        }
        let generation = old.map_or(1, |old| {
            let before = old["metadata"]["generation"].as_i64().unwrap_or(1);
            before + i64::from(old["spec"] != value["spec"])
        });
        value["metadata"]["generation"] = json!(generation);
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let mut object = Object::of(&value).unwrap();
        self.snapshot.take_in(&mut object);
        let value = Arc::new(value);
        self.log.push(Change {
            key: key.clone(),
            value: Some(Arc::clone(&value)),
            object: Some(object),
        });
        self.objects.insert(key.clone(), value);
        self.finish(&key);
    }

    pub(crate) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        let key = self.key(kind, namespace, name);
        let there = self.objects.contains_key(&key);
        assert!(there, "no {kind} {namespace}/{name}");
        self.forget(&key);
    }

    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<&Value> {
        let found = self.objects.get(&self.key(kind, namespace, name));
        found.map(AsRef::as_ref)
    }

    /// Where an object of this kind is: in the version in which the others of its kind are.
    fn key(&self, kind: &str, namespace: &str, name: &str) -> Key {
        let version = KINDS.iter().find(|(_, known)| *known == kind);
        let version = version.map_or_else(
            || {
                let mut keys = self.objects.keys();
                let found = keys.find(|key| key.1 == kind);
                found.map(|key| key.0.clone()).unwrap_or_default()
            },
            |(version, _)| (*version).to_owned(),
        );
        (
            version,
            kind.to_owned(),
            namespace.to_owned(),
            name.to_owned(),
        )
    }

    pub(crate) fn all(&self, kind: &str) -> Vec<&Value> {
        self.objects
            .iter()
            .filter(|(key, _)| key.1 == kind)
            .map(|(_, value)| value.as_ref())
            .collect()
    }

    /// Changes an object in place, as a client's patch would.
    pub(crate) fn edit(
        &mut self,
        kind: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let found = self.get(kind, namespace, name);
        let mut value = found.unwrap_or_else(|| panic!("no {kind} {name}")).clone();
        change(&mut value);
        self.put(value);
    }

    /// Asks for an object's end, as a client's DELETE would.
    pub(crate) fn delete(&mut self, kind: &str, namespace: &str, name: &str) {
        let uid = self.get(kind, namespace, name).unwrap()["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned();
        let version = self.get(kind, namespace, name).unwrap()["apiVersion"]
            .as_str()
            .unwrap()
            .to_owned();
        let write = Write::Delete {
            api_version: version,
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            uid,
            grace_seconds: None,
            propagation: crate::Propagation::Background,
        };
        self.write(&write);
    }

    /// Commits a plan's writes in order.
    pub(crate) fn apply(&mut self, plan: &Plan) {
        plan.writes.iter().for_each(|write| self.write(write));
    }

    /// Plans and applies until nothing is left to do; says how many rounds it took.
    pub(crate) fn settle(&mut self, mut planner: impl FnMut(&mut Self) -> Plan) -> usize {
        for round in 0..200 {
            let plan = planner(self);
            if plan.writes.is_empty() {
                return round;
            }
            self.apply(&plan);
        }
        panic!("does not settle: {:?}", planner(self).writes);
    }

    /// Lets agents catch up: bound pods run and are ready, deleted ones are gone.
    pub(crate) fn agents(&mut self) {
        self.agents_but(&[]);
    }

    /// The same, while these nodes are out of reach.
    pub(crate) fn agents_but(&mut self, silent: &[&str]) {
        let pods: Vec<Value> = self.all("Pod").into_iter().cloned().collect();
        for (index, pod) in pods.into_iter().enumerate() {
            let key = key_of(&pod);
            if pod["spec"]["nodeName"]
                .as_str()
                .is_none_or(|node| silent.contains(&node))
            {
                continue;
            }
            let ended = ["Succeeded", "Failed"]
                .iter()
                .any(|end| pod["status"]["phase"] == *end);
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                self.over(&key);
            } else if !ended && (pod["status"]["phase"] != "Running" || lost(&pod)) {
                let address = format!("10.244.{}.{}", self.revision / 200 % 200, index % 200 + 2);
                let mut pod = pod;
                pod["status"] = running(&address, self.now);
                self.put(pod);
            }
        }
    }

    /// Lets agents end deleted pods, and do nothing else.
    pub(crate) fn agents_end(&mut self) {
        let keys: Vec<Key> = self
            .objects
            .keys()
            .filter(|key| key.1 == "Pod")
            .cloned()
            .collect();
        for key in keys {
            let pod = &self.objects[&key];
            if pod["spec"]["nodeName"].is_string()
                && !pod["metadata"]["deletionTimestamp"].is_null()
            {
                self.over(&key);
            }
        }
    }

    /// Binds every pod that has no node.
    pub(crate) fn bind_all(&mut self, node: &str) {
        let waiting: Vec<Value> = self
            .all("Pod")
            .into_iter()
            .filter(|pod| {
                pod["spec"]["nodeName"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .cloned()
            .collect();
        for mut pod in waiting {
            pod["spec"]["nodeName"] = json!(node);
            self.put(pod);
        }
    }

    /// A pod's node says that nothing of it is left.
    pub(crate) fn over(&mut self, key: &Key) {
        if has_finalizers(&self.objects[key]) {
            let mut pod = Value::clone(&self.objects[key]);
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            self.put(pod);
        } else {
            self.forget(key);
        }
    }

    /// Commits one write, if its condition holds.
    pub(crate) fn write(&mut self, write: &Write) {
        match write {
            Write::Create(value) => match self.objects.contains_key(&key_of(value)) {
                true => self.refused += 1,
                false => self.put(value.clone()),
            },
            Write::Update(value) => self.replace(value, true),
            Write::UpdateStatus(value) => self.replace(value, false),
            Write::Patch {
                object,
                version,
                patch,
            } => {
                let found = self.object(object).cloned();
                let same = |one: &Value| one["metadata"]["resourceVersion"] == **version;
                let Some(old) = found.filter(same) else {
                    self.refused += 1;
                    return;
                };
                let resource = waggle_api::find("", "v1", "pods").expect("pods");
                // A merge patch is the same for every kind.
                let new = Patch::Merge(patch.clone()).apply(resource, &old);
                self.put(new.expect("a patch that applies"));
            }
            Write::Bind {
                namespace,
                name,
                uid,
                node,
            } => {
                let key = ("v1".into(), "Pod".into(), namespace.clone(), name.clone());
                let found = self.objects.get(&key);
                let free = |pod: &&Arc<Value>| {
                    pod["metadata"]["uid"] == **uid && pod["spec"]["nodeName"].is_null()
                };
                let Some(pod) = found.filter(free) else {
                    self.refused += 1;
                    return;
                };
                let mut pod = Value::clone(pod);
                pod["spec"]["nodeName"] = json!(node);
                pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
                self.put(pod);
            }
            Write::Gang(binds) => {
                if binds.iter().all(|bind| self.is_unbound(bind)) {
                    binds.iter().for_each(|bind| self.write(bind));
                } else {
                    self.refused += 1;
                }
            }
            Write::Delete {
                api_version,
                kind,
                namespace,
                name,
                uid,
                grace_seconds,
                ..
            } => {
                let key = (
                    api_version.clone(),
                    kind.clone(),
                    namespace.clone(),
                    name.clone(),
                );
                self.end(&key, uid, *grace_seconds);
            }
            Write::RemoveFinalizer { object, finalizer } => {
                self.strip(object, |value| {
                    for path in ["/metadata/finalizers", "/spec/finalizers"] {
                        let rows = value.pointer_mut(path).and_then(Value::as_array_mut);
                        rows.into_iter()
                            .for_each(|rows| rows.retain(|row| row != finalizer));
                    }
                });
            }
            Write::RemoveOwner { object, owner_uid } => self.strip(object, |value| {
                let rows = value
                    .pointer_mut("/metadata/ownerReferences")
                    .and_then(Value::as_array_mut);
                rows.into_iter()
                    .for_each(|rows| rows.retain(|row| row["uid"] != **owner_uid));
            }),
        }
    }

    fn strip(&mut self, object: &ObjectRef, change: impl FnOnce(&mut Value)) {
        match self.object(object).cloned() {
            Some(mut value) => {
                change(&mut value);
                self.put(value);
            }
            None => self.refused += 1,
        }
    }

    /// The object, if it still has this uid.
    fn object(&self, object: &ObjectRef) -> Option<&Value> {
        let object = object.clone();
        let key = (
            object.api_version,
            object.kind,
            object.namespace,
            object.name,
        );
        let found = self.objects.get(&key)?;
        (found["metadata"]["uid"] == *object.uid).then_some(found)
    }

    /// Whether a binding's condition holds.
    fn is_unbound(&self, bind: &Write) -> bool {
        let Write::Bind {
            namespace,
            name,
            uid,
            ..
        } = bind
        else {
            return false;
        };
        self.get("Pod", namespace, name)
            .is_some_and(|pod| pod["metadata"]["uid"] == **uid && pod["spec"]["nodeName"].is_null())
    }

    fn replace(&mut self, value: &Value, spec: bool) {
        let Some(old) = self.objects.get(&key_of(value)).cloned() else {
            self.refused += 1;
            return;
        };
        if old["metadata"]["resourceVersion"] != value["metadata"]["resourceVersion"] {
            self.refused += 1;
            return;
        }
        let (mut next, status) = if spec {
            (value.clone(), &old["status"])
        } else {
            (Value::clone(&old), &value["status"])
        };
        if !status.is_null() {
            next["status"] = status.clone();
        }
        self.put(next);
    }

    fn end(&mut self, key: &Key, uid: &str, grace: Option<i64>) {
        let found = self.objects.get(key);
        let Some(value) = found.filter(|value| value["metadata"]["uid"] == *uid) else {
            self.refused += 1;
            return;
        };
        let mut value = Value::clone(value);
        let ended = ["Succeeded", "Failed"]
            .iter()
            .any(|end| value["status"]["phase"] == *end);
        let bound = value["spec"]["nodeName"].is_string();
        let waits = key.1 == "Pod" && grace != Some(0) && bound && !ended;
        if key.1 == "Pod" && !waits {
            value["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        if value["metadata"]["deletionTimestamp"].is_null() {
            value["metadata"]["deletionTimestamp"] = json!(self.now.to_string());
        }
        if waits || has_finalizers(&value) {
            self.put(value);
        } else {
            self.forget(key);
        }
    }

    /// Removes an object whose last finalizer went.
    fn finish(&mut self, key: &Key) {
        let value = &self.objects[key];
        let deleted = !value["metadata"]["deletionTimestamp"].is_null();
        let over = key.1 != "Pod" || value["metadata"]["deletionGracePeriodSeconds"] == 0;
        if deleted && over && !has_finalizers(value) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.objects.remove(key);
        self.snapshot.remove(&key.0, &key.1, &key.2, &key.3);
        self.log.push(Change {
            key: key.clone(),
            value: None,
            object: None,
        });
    }
}

fn has_finalizers(value: &Value) -> bool {
    let some = |value: &Value| value.as_array().is_some_and(|rows| !rows.is_empty());
    some(&value["metadata"]["finalizers"])
        || (value["kind"] == "Namespace" && some(&value["spec"]["finalizers"]))
}

fn key_of(value: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &value["metadata"];
    let (kind, name) = (text(&value["kind"]), text(&metadata["name"]));
    assert!(!name.is_empty() && !kind.is_empty(), "{value}");
    let namespace = text(&metadata["namespace"]);
    (text(&value["apiVersion"]), kind, namespace, name)
}

/// Was marked as not ready while its node was out of reach.
fn lost(pod: &Value) -> bool {
    let rows = pod["status"]["conditions"].as_array();
    rows.is_some_and(|rows| {
        rows.iter()
            .any(|row| row["type"] == "Ready" && row["status"] == "False")
    })
}

/// Status of a pod that runs and is ready since `since`.
pub(crate) fn running(address: &str, since: Timestamp) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": since.to_string()});
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [condition("PodScheduled"), condition("Ready")],
    })
}

/// A node with room, ready.
pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
            "addresses": [{"type": "InternalIP", "address": "172.30.0.11"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// A pod of one container.
pub(crate) fn pod(name: &str, cpu: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": "web:1", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]},
    })
}

/// A Deployment of `replicas` pods of `image`.
pub(crate) fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    })
}

/// A ReplicaSet of `replicas` pods.
pub(crate) fn replica_set(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "web:1"}]},
            },
        },
    })
}
