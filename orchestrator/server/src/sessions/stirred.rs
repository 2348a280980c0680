//! Which nodes have to be told something of their pods after a change: those that the change touches, so that nobody else
//! is woken for it.

use std::collections::BTreeSet;

use waggle_plan::pod::{self, Pod};
use waggle_plan::{ObjectKey, Snapshot, Touched, storage};

/// Nodes by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// All that there are.
    All,
    /// These.
    Some(BTreeSet<String>),
}

/// Nodes of whose pods something is another since `position` of the snapshot's changes; `None` for its beginning.
pub(crate) fn since(snapshot: &Snapshot, position: Option<u64>) -> Nodes {
    let Some(touched) = position.and_then(|from| snapshot.touched_since(from)) else {
        return Nodes::All;
    };
    let mut nodes = BTreeSet::new();
    for one in touched {
        match one {
            Touched::Object(key) if !add(snapshot, key, &mut nodes) => return Nodes::All,
            Touched::Kinds => return Nodes::All,
            Touched::Object(_) | Touched::Placement | Touched::Zones | Touched::Orphan(_) => {}
        }
    }
    Nodes::Some(nodes)
}

/// Adds the nodes of an object's pods; false when it may be of any pod.
fn add(snapshot: &Snapshot, key: &ObjectKey, nodes: &mut BTreeSet<String>) -> bool {
    let name = key.name.as_str();
    let mut add_pods = |namespace: &str, hangs: &dyn Fn(&Pod) -> bool| {
        let pods = snapshot.pods.in_namespace(namespace);
        let pods = pods.filter(|pod| hangs(pod));
        nodes.extend(
            pods.filter_map(|pod| pod::node_name(pod))
                .map(str::to_owned),
        );
    };
    match (&*key.api_version, &*key.kind) {
        ("v1", "Pod") => {
            let found = snapshot.pods.get(&key.namespace, name);
            nodes.extend(found.and_then(|pod| pod::node_name(pod)).map(str::to_owned));
        }
        // One whose pod went, or came.
        ("v1", "Node") => drop(nodes.insert(key.name.clone())),
        ("v1", "Namespace") => add_pods(name, &|_| true),
        ("v1", "ConfigMap") => add_pods(&key.namespace, &|pod| names(pod, true, name)),
        ("v1", "Secret") => add_pods(&key.namespace, &|pod| names(pod, false, name)),
        ("v1", "PersistentVolumeClaim") => add_pods(&key.namespace, &|pod| claims(pod, name)),
        ("v1", "PersistentVolume") => {
            let volume = snapshot.persistent_volumes.get("", name);
            let claim = volume.and_then(|one| one.spec.as_ref()?.claim_ref.as_ref());
            let Some((namespace, claim)) =
                claim.and_then(|one| Some((one.namespace.as_deref()?, one.name.as_deref()?)))
            else {
                return true;
            };
            add_pods(namespace, &|pod| claims(pod, claim));
        }
        // Which labels make an identity hangs on what policies select by.
        ("networking.k8s.io/v1", "NetworkPolicy") => return false,
        _ => {}
    }
    true
}

fn claims(pod: &Pod, claim: &str) -> bool {
    storage::claims_of(pod).any(|one| one == claim)
}

/// Whether a pod names this ConfigMap, or this Secret.
fn names(pod: &Pod, config_map: bool, name: &str) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let needs = &spec.needs;
        let needed = if config_map {
            &needs.config_maps
        } else {
            &needs.secrets
        };
        needed.contains(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(kind: &str, namespace: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"name": name, "namespace": namespace, "uid": format!("{kind}-{name}")}})
    }

    fn pod(name: &str, node: &str, volume: Value) -> Value {
        let mut pod = object("Pod", "shop", name);
        pod["spec"] = json!({"nodeName": node, "containers": [], "volumes": [volume]});
        pod
    }

    #[test]
    fn a_change_is_told_to_those_whose_pods_hang_on_it() {
        let mut snapshot = Snapshot::default();
        for value in [
            pod(
                "a",
                "node1",
                json!({"name": "v", "configMap": {"name": "one"}}),
            ),
            pod(
                "b",
                "node2",
                json!({"name": "v", "secret": {"secretName": "one"}}),
            ),
            pod(
                "c",
                "node3",
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "one"}}),
            ),
        ] {
            snapshot.upsert(&value).unwrap();
        }
        let mut check = |change: &dyn Fn(&mut Snapshot), expect: &[&str]| {
            let seen = snapshot.position();
            change(&mut snapshot);
            let expect = expect.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(since(&snapshot, Some(seen)), Nodes::Some(expect));
        };
        let put = |value: Value| move |snapshot: &mut Snapshot| snapshot.upsert(&value).unwrap();
        check(&put(object("ConfigMap", "shop", "one")), &["node1"]);
        check(&put(object("ConfigMap", "shop", "two")), &[]);
        check(&put(object("ConfigMap", "other", "one")), &[]);
        check(&put(object("Secret", "shop", "one")), &["node2"]);
        check(
            &put(object("Namespace", "", "shop")),
            &["node1", "node2", "node3"],
        );
        let mut volume = object("PersistentVolume", "", "disk");
        volume["spec"] = json!({"claimRef": {"namespace": "shop", "name": "one"}});
        check(&put(volume), &["node3"]);
        check(
            &put(object("PersistentVolumeClaim", "shop", "one")),
            &["node3"],
        );
        check(&put(object("Service", "shop", "one")), &[]);
        check(
            &put(pod("a", "node1", json!({"name": "v", "emptyDir": {}}))),
            &["node1"],
        );
        check(
            &|snapshot| snapshot.remove("v1", "Pod", "shop", "b"),
            &["node2"],
        );
        assert_eq!(since(&snapshot, None), Nodes::All);
    }
}
