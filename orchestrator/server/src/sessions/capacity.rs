//! What found no room in nodes' datapaths, brought to the objects it belongs to: a condition on Services and Tenants, an
//! event on each object. Cleared when it fits again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use waggle_api::{Part, Status};
use waggle_plan::{EventDraft, ObjectRef, Snapshot, tenant};
use waggle_wire::v1;

use super::hub::is_ready;
use super::{Inner, kind};
use crate::objects::{Object, WriteOptions};

/// The condition's type.
const PROGRAMMED: &str = "waggle.dev/Programmed";
/// Its reason while something has no room.
const EXCEEDED: &str = "CapacityExceeded";
/// News that come within this time are written together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// After a write that failed, and to look whether a node is gone.
const AGAIN: Duration = Duration::from_secs(5);
/// Nodes that a message names; others are counted.
const NODES: usize = 5;

/// What each node has no room for.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    nodes: Mutex<BTreeMap<String, v1::Refusals>>,
    news: Notify,
}

/// Kind, namespace and name.
type Name = (String, String, String);

impl Capacity {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, v1::Refusals>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a node says, in place of what it said before.
    pub(super) fn hear(&self, node: &str, refusals: v1::Refusals) {
        self.lock().insert(node.to_owned(), refusals);
        self.news.notify_one();
    }
}

/// Keeps conditions true for as long as it runs.
pub(super) async fn keep(inner: &Inner) {
    let mut marked = marked(inner);
    let mut told = BTreeMap::new();
    loop {
        let nodes: BTreeMap<String, bool> = inner.view.read(|snapshot| {
            let names = snapshot.nodes.iter();
            let names = names.filter_map(|node| node.metadata.name.clone());
            names
                .map(|name| {
                    let ready = is_ready(snapshot, &name);
                    (name, ready)
                })
                .collect()
        });
        let (wanted, all_said) = {
            let mut said = inner.capacity.lock();
            said.retain(|node, _| nodes.contains_key(node));
            let wanted = inner.view.read(|snapshot| wanted(&said, snapshot));
            (
                wanted,
                nodes
                    .iter()
                    .all(|(node, ready)| !ready || said.contains_key(node)),
            )
        };
        let mut failed = false;
        for (name, message) in &wanted {
            if told.get(name) == Some(message) {
                continue;
            }
            failed |= put(inner, name, Some(message)).await.is_err();
            marked.insert(name.clone());
        }
        // A node that is up and has not said anything yet may be the one that has no room.
        let clear: Vec<Name> = marked
            .iter()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in clear.into_iter().filter(|_| all_said) {
            match put(inner, &name, None).await {
                Ok(()) => drop(marked.remove(&name)),
                Err(_) => failed = true,
            }
        }
        told = if failed { BTreeMap::new() } else { wanted };
        if marked.is_empty() && !failed {
            inner.capacity.news.notified().await;
        } else {
            drop(tokio::time::timeout(AGAIN, inner.capacity.news.notified()).await);
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

/// Objects with the condition, from before this server was started.
fn marked(inner: &Inner) -> BTreeSet<Name> {
    let mut found = BTreeSet::new();
    for (api_version, name) in [("v1", "Service"), ("waggle.dev/v1", "Tenant")] {
        let Ok(resource) = kind(api_version, name) else {
            continue;
        };
        let listing = inner.objects.list(resource, None);
        let marked = listing
            .objects
            .iter()
            .filter(|object| condition(&object.value).is_some_and(|one| one["status"] == "False"));
        found.extend(marked.map(|object| {
            (
                name.to_owned(),
                object.namespace.clone(),
                object.name.clone(),
            )
        }));
    }
    found
}

fn condition(object: &Value) -> Option<&Value> {
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    conditions.find(|one| one["type"] == PROGRAMMED)
}

/// What is to be said of which object.
fn wanted(said: &BTreeMap<String, v1::Refusals>, snapshot: &Snapshot) -> BTreeMap<Name, String> {
    let mut faults: BTreeMap<Name, BTreeMap<String, Vec<&str>>> = BTreeMap::new();
    let mut tenants: BTreeMap<Name, BTreeMap<&str, u64>> = BTreeMap::new();
    for (node, refusals) in said {
        for one in &refusals.refused {
            let name = (one.kind.clone(), one.namespace.clone(), one.name.clone());
            let of_object = faults.entry(name).or_default();
            of_object.entry(node.clone()).or_default().push(&one.fault);
            if !one.namespace.is_empty() {
                let namespace = snapshot.namespaces.get("", &one.namespace);
                let tenant = tenant::of_namespace(&one.namespace, namespace.map(|one| &**one));
                let name = ("Tenant".to_owned(), String::new(), tenant.to_owned());
                *tenants.entry(name).or_default().entry(node).or_default() += 1;
            }
        }
    }
    let of_object = |(name, nodes): (Name, BTreeMap<String, Vec<&str>>)| {
        let texts = nodes
            .iter()
            .map(|(node, faults)| format!("node {node}: {}", faults.join(", ")));
        (name, joined(texts))
    };
    let of_tenant = |(name, nodes): (Name, BTreeMap<&str, u64>)| {
        let texts = nodes.iter().map(|(node, count)| {
            let what = if *count == 1 {
                "object has"
            } else {
                "objects have"
            };
            format!("node {node}: {count} {what} no room in the datapath")
        });
        (name, joined(texts))
    };
    let objects = faults.into_iter().map(of_object);
    objects.chain(tenants.into_iter().map(of_tenant)).collect()
}

fn joined(texts: impl ExactSizeIterator<Item = String>) -> String {
    let others = texts.len().saturating_sub(NODES);
    let named: Vec<String> = texts.take(NODES).collect();
    let mut text = named.join("; ");
    if others > 0 {
        text.push_str(&format!("; and on {others} more nodes"));
    }
    text
}

/// Says it of the object, or that everything fits; an object that is gone needs nothing.
async fn put(inner: &Inner, name: &Name, message: Option<&String>) -> Result<(), Status> {
    let (kind_name, namespace, object) = name;
    let (api_version, has_conditions) = match kind_name.as_str() {
        "Service" => ("v1", true),
        "Tenant" => ("waggle.dev/v1", true),
        "NetworkPolicy" => ("networking.k8s.io/v1", false),
        _ => ("v1", false),
    };
    let resource = kind(api_version, kind_name)?;
    let Some(found) = inner.objects.get(resource, namespace, object) else {
        return Ok(());
    };
    if has_conditions {
        let now = inner.objects.now().to_string();
        let change = |old: &Object| Ok(with_condition(&old.value, message, &now));
        let options = WriteOptions::default();
        let written =
            inner
                .objects
                .modify(resource, namespace, object, Part::Status, &options, change);
        if let Err(status) = written.await
            && !status.is_not_found()
        {
            tracing::warn!(kind = kind_name, namespace, object, %status, "a condition was not written");
            return Err(status);
        }
    }
    inner.recorder.record(EventDraft {
        object: ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind_name.clone(),
            namespace: namespace.clone(),
            name: object.clone(),
            uid: found.uid.clone(),
        },
        warning: message.is_some(),
        reason: if message.is_some() {
            EXCEEDED
        } else {
            "Programmed"
        },
        message: message.cloned().unwrap_or_else(|| FITS.to_owned()),
        component: "waggle-server",
    });
    Ok(())
}

const FITS: &str = "everything is in the datapath of every node again";

fn with_condition(object: &Value, message: Option<&String>, now: &str) -> Value {
    let (status, reason) = match message {
        Some(_) => ("False", EXCEEDED),
        None => ("True", "Programmed"),
    };
    let since = condition(object)
        .filter(|old| old["status"] == status)
        .and_then(|old| old["lastTransitionTime"].as_str())
        .unwrap_or(now)
        .to_owned();
    let mut conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    conditions.retain(|one| one["type"] != PROGRAMMED);
    conditions.push(json!({
        "type": PROGRAMMED, "status": status, "reason": reason, "lastTransitionTime": since,
        "message": message.map_or(FITS, String::as_str),
    }));
    let mut value = object.clone();
    value["status"]["conditions"] = json!(conditions);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::fixture::Cluster;

    fn refused(kind: &str, namespace: &str, name: &str) -> v1::Refused {
        v1::Refused {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
            fault: "9 service ports are needed but this node's datapath has room for 2".into(),
        }
    }

    #[test]
    fn a_message_names_nodes_and_the_exact_count() {
        let refusals = v1::Refusals {
            refused: vec![refused("Service", "shop", "web")],
            ..v1::Refusals::default()
        };
        let said = (1..=7)
            .map(|node| (format!("node{node}"), refusals.clone()))
            .collect();
        let wanted = wanted(&said, &Snapshot::default());
        let message = |kind: &str, namespace: &str, name: &str| {
            wanted[&(kind.to_owned(), namespace.to_owned(), name.to_owned())].clone()
        };
        let service = message("Service", "shop", "web");
        assert!(
            service.starts_with("node node1: 9 service ports are needed but this node's datapath has room for 2; node node2: "),
            "{service}"
        );
        assert!(service.ends_with("; and on 2 more nodes"), "{service}");
        let tenant = message("Tenant", "", waggle_model::DEFAULT_TENANT);
        assert!(
            tenant.starts_with("node node1: 1 object has no room in the datapath; "),
            "{tenant}"
        );
    }

    #[tokio::test]
    async fn a_service_without_room_says_so_until_it_fits() {
        let cluster = Cluster::start().await;
        cluster
            .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))
            .await;
        let agent = cluster.agent("node1").await;
        let service = || {
            let services = kind("v1", "Service").unwrap();
            let service = cluster.objects.get(services, "shop", "web").unwrap();
            condition(&service.value).cloned().unwrap_or_default()
        };
        let say = async |refused: Vec<v1::Refused>| {
            let faults = refused.iter().map(|one| one.fault.clone()).collect();
            let refusals = v1::Refusals {
                refused,
                others: 0,
                faults,
            };
            agent.say(v1::from_agent::Message::Refusals(refusals)).await;
        };
        say(vec![refused("Service", "shop", "web")]).await;
        let full = cluster
            .eventually("the condition", |_| {
                let one = service();
                (one["status"] == "False").then_some(one)
            })
            .await;
        assert_eq!(full["reason"], EXCEEDED);
        assert_eq!(
            full["message"],
            "node node1: 9 service ports are needed but this node's datapath has room for 2"
        );
        say(Vec::new()).await;
        cluster
            .eventually("that it fits again", |_| {
                (service()["status"] == "True").then_some(())
            })
            .await;
    }
}
