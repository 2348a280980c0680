//! What a node is told of a pod: the object, the ConfigMaps and Secrets that it names, its identity and address. And
//! which of that is news to the node.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use waggle_api::Status;
use waggle_model::IdentityId;
use waggle_plan::identity::{Naming, Registry};
use waggle_plan::pod::{self, Pod};
use waggle_plan::pod_addresses::{addresses, on_host_network};
use waggle_plan::{Snapshot, tenant};
use waggle_wire::v1;

use super::kind;
use crate::objects::{Object, Objects};

/// What a node was last told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Number of the last message; the next is one more.
    pub(crate) generation: u64,
    /// By pod uid.
    pods: HashMap<String, (v1::PodRef, u64)>,
    /// Fingerprints of pod objects by uid and revision, so that none is hashed twice.
    prints: HashMap<String, (u64, u64)>,
}

/// What is news.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// New or changed.
    pub(crate) upserts: Vec<v1::PodAssignment>,
    /// No longer this node's.
    pub(crate) removals: Vec<v1::PodRef>,
    /// A pod of it lacks something that is still on its way.
    pub(crate) waits: bool,
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }
}

/// A pod as it is to be told, before it is put into a message.
struct Candidate {
    object: Arc<Object>,
    config_maps: Vec<Arc<Object>>,
    secrets: Vec<Arc<Object>>,
    /// By claim.
    volumes: Vec<(String, Arc<Object>)>,
    identity: u32,
    tenant: u32,
    address: String,
    ending: bool,
}

impl Told {
    /// Nothing was told yet; the first message is the one after `generation`.
    pub(crate) fn nothing(generation: u64) -> Self {
        Self {
            generation,
            ..Self::default()
        }
    }

    /// What to tell `node` now, and remembers it as told. `may_end` says whether a pod's deletion may be passed on.
    pub(crate) fn news(
        &mut self,
        node: &str,
        snapshot: &Snapshot,
        objects: &Objects,
        registry: &Registry,
        may_end: impl Fn(&str) -> bool,
    ) -> Result<News, Status> {
        let mut news = News::default();
        let mut present = HashSet::new();
        let naming = Naming::of(snapshot);
        for pod in snapshot.pods_on(node) {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            present.insert(uid.to_owned());
            let numbers = (registry, &naming);
            let Some(candidate) = candidate(pod, snapshot, objects, numbers, &may_end)? else {
                news.waits = true;
                continue;
            };
            let print = self.fingerprint(&candidate);
            if self
                .pods
                .get(uid)
                .is_none_or(|(_, before)| *before != print)
            {
                let assignment = candidate.into_message();
                self.pods
                    .insert(uid.to_owned(), (reference(&assignment), print));
                news.upserts.push(assignment);
            }
        }
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !present.contains(*uid))
            .cloned()
            .collect();
        news.removals = gone
            .iter()
            .filter_map(|uid| self.pods.remove(uid))
            .map(|(pod, _)| pod)
            .collect();
        self.prints.retain(|uid, _| present.contains(uid));
        Ok(news)
    }

    /// Forgets what was told: the node starts from nothing.
    pub(crate) fn forget(&mut self) {
        self.pods.clear();
    }

    fn fingerprint(&mut self, candidate: &Candidate) -> u64 {
        let object = &candidate.object;
        let known = self
            .prints
            .get(&object.uid)
            .filter(|(revision, _)| *revision == object.revision);
        let own = known.map_or_else(|| print_of(&object.value), |(_, print)| *print);
        self.prints
            .insert(object.uid.clone(), (object.revision, own));
        let mut hasher = DefaultHasher::new();
        own.hash(&mut hasher);
        for named in candidate.config_maps.iter().chain(&candidate.secrets) {
            (&named.uid, named.revision).hash(&mut hasher);
        }
        for (claim, volume) in &candidate.volumes {
            // Where its data is never changes.
            (claim, &volume.uid).hash(&mut hasher);
        }
        (
            candidate.identity,
            candidate.tenant,
            &candidate.address,
            candidate.ending,
        )
            .hash(&mut hasher);
        hasher.finish()
    }
}

impl Candidate {
    fn into_message(self) -> v1::PodAssignment {
        let bytes =
            |objects: &[Arc<Object>]| objects.iter().map(|object| object.bytes.clone()).collect();
        v1::PodAssignment {
            namespace: self.object.namespace.clone(),
            name: self.object.name.clone(),
            uid: self.object.uid.clone(),
            pod_json: if self.ending {
                self.object.bytes.clone()
            } else {
                living(&self.object)
            },
            config_maps_json: bytes(&self.config_maps),
            secrets_json: bytes(&self.secrets),
            identity: self.identity,
            tenant: self.tenant,
            address: self.address,
            volumes: self
                .volumes
                .iter()
                .map(|(claim, volume)| v1::ClaimedVolume {
                    claim: claim.clone(),
                    volume_json: volume.bytes.clone(),
                })
                .collect(),
        }
    }
}

/// `None` while something that the pod needs (address, identity, volumes) is still on its way.
fn candidate(
    pod: &Pod,
    snapshot: &Snapshot,
    objects: &Objects,
    (registry, naming): (&Registry, &Naming),
    may_end: &impl Fn(&str) -> bool,
) -> Result<Option<Candidate>, Status> {
    let (namespace, name) = (
        pod.metadata.namespace.as_deref(),
        pod.metadata.name.as_deref(),
    );
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let object = objects
        .get(kind("v1", "Pod")?, namespace, name)
        .filter(|object| object.uid == uid);
    let Some(object) = object else {
        return Ok(None);
    };
    let own = addresses(pod).filter(|_| !on_host_network(pod));
    if own.is_none() && !on_host_network(pod) && !pod::is_terminated(pod) {
        return Ok(None);
    }
    let identity = naming
        .key(snapshot, pod)
        .map_or_else(|| Some(IdentityId::HOST), |key| registry.identity(&key));
    let tenant = tenant::of_namespace(
        namespace,
        snapshot.namespaces.get("", namespace).map(Arc::as_ref),
    );
    let (Some(identity), Some(tenant)) = (identity, registry.tenant(tenant)) else {
        return Ok(None);
    };
    let needs = pod.spec.as_ref().map(|spec| &spec.needs);
    let find = |kind_name: &str, names: Option<&BTreeSet<String>>| {
        let kind = kind("v1", kind_name)?;
        let names = names.into_iter().flatten();
        Ok::<_, Status>(
            names
                .filter_map(|name| objects.get(kind, namespace, name))
                .collect(),
        )
    };
    let mut volumes = Vec::new();
    for claim in waggle_plan::storage::claims_of(pod) {
        let found = snapshot.persistent_volume_claims.get(namespace, claim);
        let volume = found.and_then(|found| waggle_plan::storage::volume_of(snapshot, found));
        let name = volume.and_then(|volume| volume.metadata.name.as_deref());
        let kind = kind("v1", "PersistentVolume")?;
        match name.and_then(|name| objects.get(kind, "", name)) {
            Some(volume) => volumes.push((claim.to_owned(), volume)),
            None if pod::is_deleted(pod) || pod::is_terminated(pod) => {}
            None => return Ok(None),
        }
    }
    let ending = pod::is_deleted(pod) && (may_end(uid) || never_started(pod));
    Ok(Some(Candidate {
        config_maps: find("ConfigMap", needs.map(|needs| &needs.config_maps))?,
        secrets: find("Secret", needs.map(|needs| &needs.secrets))?,
        volumes,
        identity: identity.0,
        tenant: tenant.0,
        address: own.map(|both| both.to_string()).unwrap_or_default(),
        ending,
        object,
    }))
}

/// Its node has not reported a container yet, so nothing can be sent to it either.
fn never_started(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref())
        .is_none_or(Vec::is_empty)
}

/// The pod's JSON without the wish to end it.
fn living(object: &Object) -> Bytes {
    if object.value["metadata"].get("deletionTimestamp").is_none() {
        return object.bytes.clone();
    }
    let mut value = object.value.clone();
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
    }
    Bytes::from(value.to_string())
}

/// A number that changes when the pod changes in a way that its node does not know of itself: everything but the
/// status and what every write touches.
fn print_of(value: &Value) -> u64 {
    const OWN: [&str; 2] = ["resourceVersion", "managedFields"];
    let mut hasher = DefaultHasher::new();
    for (name, part) in value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| *name != "status")
    {
        name.hash(&mut hasher);
        if name == "metadata" {
            let fields = part.as_object().into_iter().flatten();
            fields
                .filter(|(field, _)| !OWN.contains(&field.as_str()))
                .for_each(|row| row.hash(&mut hasher));
        } else {
            part.hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn reference(assignment: &v1::PodAssignment) -> v1::PodRef {
    v1::PodRef {
        namespace: assignment.namespace.clone(),
        name: assignment.name.clone(),
        uid: assignment.uid.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_is_not_told_its_own_words() {
        let pod = |status: &str, version: &str, label: &str| {
            json!({"metadata": {"name": "a", "resourceVersion": version, "labels": {"l": label}},
                   "spec": {"containers": []}, "status": {"phase": status}})
        };
        let print = print_of(&pod("Pending", "1", "x"));
        assert_eq!(print, print_of(&pod("Running", "2", "x")));
        assert_ne!(print, print_of(&pod("Pending", "1", "y")));
    }
}
