//! Notes what an object's change touches: itself, what owns it, what hangs on its being there, and the Services that a
//! pod is an endpoint of. Nobody has to look at the rest of the cluster to see what a change may mean.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Endpoints, Node, NodeCondition, Service};

use super::journal::{ObjectKey, Touched};
use super::meta::Meta;
use super::{MetaKey, Snapshot, meta_key, put, take};
use crate::endpoint_slice::zone_of;
use crate::pod::{self, Pod};
use crate::selector;

/// Owners of owners that are followed; nobody makes chains as long as that.
const GENERATIONS: usize = 8;

impl Snapshot {
    /// Where its changes stand now.
    pub fn position(&self) -> u64 {
        self.journal.end()
    }

    /// What was touched from a [`position`](Self::position) on; `None` when that is too long ago to say.
    pub fn touched_since(&self, position: u64) -> Option<BTreeSet<&Touched>> {
        self.journal.since(position)
    }

    pub(super) fn put_meta(&mut self, meta: &Arc<Meta>) {
        let key = Arc::clone(&meta.key);
        let before = self.unlink(&key);
        self.by_uid.insert(Arc::clone(&meta.uid), Arc::clone(&key));
        for owner in &meta.owners {
            let owned = self.dependents.entry(Arc::clone(&owner.uid)).or_default();
            owned.insert(Arc::clone(&key));
        }
        self.metas.insert(Arc::clone(&key), Arc::clone(meta));
        self.note_object(&key, before.as_deref(), Some(meta));
    }

    pub(super) fn drop_meta(&mut self, key: &ObjectKey) {
        if let Some(meta) = self.unlink(key) {
            self.note_object(&Arc::new(key.clone()), Some(&meta), None);
        }
    }

    fn unlink(&mut self, key: &ObjectKey) -> Option<Arc<Meta>> {
        let meta = self.metas.remove(key)?;
        self.by_uid.remove(&meta.uid);
        for owner in &meta.owners {
            if let Some(keys) = self.dependents.get_mut(&owner.uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(meta)
    }

    /// Notes a change from `before` to `after`.
    fn note_object(&mut self, key: &MetaKey, before: Option<&Meta>, after: Option<&Meta>) {
        // A sign of life: its node, which owns it, is what it was.
        if key.is("coordination.k8s.io/v1", "Lease") && before == after {
            return;
        }
        self.journal.note(Touched::Object(Arc::clone(key)));
        let both = || before.into_iter().chain(after);
        let mut owners: Vec<&str> = both()
            .flat_map(|meta| &meta.owners)
            .map(|owner| &*owner.uid)
            .collect();
        owners.sort_unstable();
        owners.dedup();
        let (mut young, mut known) = (owners_of(self, &owners), BTreeSet::new());
        for _ in 0..GENERATIONS {
            let mut old = Vec::new();
            for meta in young {
                let key = self.by_uid.get(&meta.uid);
                if let Some(key) = key.filter(|key| known.insert(Arc::clone(key))) {
                    let key = Arc::clone(key);
                    self.journal.note(Touched::Object(key));
                    let uids: Vec<&str> = meta.owners.iter().map(|one| &*one.uid).collect();
                    old.extend(owners_of(self, &uids));
                }
            }
            young = old;
        }
        if standing(before) != standing(after) {
            for meta in both() {
                let owned = self.dependents.get(&meta.uid).into_iter().flatten();
                owned.for_each(|key| self.journal.note(Touched::Object(Arc::clone(key))));
            }
        }
    }

    /// Notes what a pod's change touches beside its owners: Services that select it, the node whose addresses it takes or
    /// gives back, and whoever may adopt it.
    pub(super) fn note_pod(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        let both = || before.into_iter().chain(after);
        let mut services = BTreeSet::new();
        for pod in both() {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let Some(groups) = self.selecting.get(namespace) else {
                continue;
            };
            for (label, value) in pod.metadata.labels.iter().flatten() {
                let group = groups.get(&(label.clone(), value.clone()));
                let selecting = group.into_iter().flatten().filter(|(_, service)| {
                    let wanted = service
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.selector.as_ref());
                    let labels = pod.metadata.labels.as_ref();
                    wanted.is_some_and(|wanted| selector::contains(labels, wanted))
                });
                services.extend(selecting.map(|(name, _)| (namespace.to_owned(), name.clone())));
            }
        }
        for (namespace, name) in services {
            self.note_service(&namespace, &name);
        }
        let place = |pod: &Pod| {
            let status = pod.status.as_ref();
            let addresses = status.map(|one| (one.pod_ip.clone(), one.pod_ips.clone()));
            let node = pod::node_name(pod).map(str::to_owned);
            (node, pod::is_terminated(pod), addresses)
        };
        let lacks_one = |pod: &Pod| pod.status.as_ref().is_none_or(|one| one.pod_ip.is_none());
        // One whose address could not be written, because it changed meanwhile, is looked at again for that change.
        if before.map(place) != after.map(place) || after.is_some_and(lacks_one) {
            let nodes: BTreeSet<&str> = both().filter_map(pod::node_name).collect();
            for node in nodes {
                let key = meta_key("v1", "Node", "", node);
                self.journal.note(Touched::Object(Arc::new(key)));
            }
        }
        let is_orphan = |pod: &Pod| pod::controller(&pod.metadata).is_none();
        let seen = |pod: Option<&Pod>| {
            pod.map(|pod| {
                (
                    pod.metadata.labels.clone(),
                    is_orphan(pod),
                    pod::is_active(pod),
                )
            })
        };
        if both().any(is_orphan) && seen(before) != seen(after) {
            let namespace = both().find_map(|pod| pod.metadata.namespace.clone());
            self.journal
                .note(Touched::Orphan(namespace.unwrap_or_default()));
        }
    }

    /// Notes that a ReplicaSet came, changed or went which nobody controls.
    pub(super) fn note_set(&mut self, set: &ReplicaSet) {
        if pod::controller(&set.metadata).is_none() {
            let namespace = set.metadata.namespace.clone().unwrap_or_default();
            self.journal.note(Touched::Orphan(namespace));
        }
    }

    pub(super) fn note_service(&mut self, namespace: &str, name: &str) {
        let key = meta_key("v1", "Service", namespace, name);
        self.journal.note(Touched::Object(Arc::new(key)));
    }

    pub(super) fn put_service(&mut self, meta: &Meta, service: &Arc<Service>) {
        let (namespace, name) = (&meta.key.namespace, &meta.key.name);
        self.drop_service(namespace, name);
        put(&mut self.services, meta, service);
        if let Some(label) = first_label(service) {
            let groups = self.selecting.entry(namespace.to_string()).or_default();
            let group = groups.entry(label).or_default();
            group.insert(name.clone(), Arc::clone(service));
        }
    }

    /// They are of the Service of their name, which does not own them.
    pub(super) fn put_endpoints(&mut self, meta: &Meta, endpoints: &Arc<Endpoints>) {
        put(&mut self.endpoints, meta, endpoints);
        self.note_service(&meta.key.namespace, &meta.key.name);
    }

    pub(super) fn drop_endpoints(&mut self, namespace: &str, name: &str) {
        self.endpoints.remove(namespace, name);
        self.note_service(namespace, name);
    }

    pub(super) fn drop_service(&mut self, namespace: &str, name: &str) {
        if self.endpoints.get(namespace, name).is_some() {
            let key = meta_key("v1", "Endpoints", namespace, name);
            self.journal.note(Touched::Object(Arc::new(key)));
        }
        let Some(service) = self.services.remove(namespace, name) else {
            return;
        };
        let groups = self.selecting.get_mut(namespace);
        if let (Some(label), Some(groups)) = (first_label(&service), groups) {
            take(groups, &label, name);
            if groups.is_empty() {
                self.selecting.remove(namespace);
            }
        }
    }

    /// One that is renewed touches nothing, unless the clock was set back: then it runs out sooner than it said.
    pub(super) fn put_lease(&mut self, meta: &Meta, lease: &Arc<Lease>) {
        let (namespace, name) = (&meta.key.namespace, &meta.key.name);
        let renewed = |lease: &Lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0);
        let before = self.leases.get(namespace, name);
        if before.is_some_and(|before| renewed(lease) < renewed(before)) {
            let key = meta_key("coordination.k8s.io/v1", "Lease", namespace, name);
            self.journal.note(Touched::Object(Arc::new(key)));
        }
        put(&mut self.leases, meta, lease);
    }

    pub(super) fn put_node(&mut self, meta: &Meta, node: &Arc<Node>) {
        let before = self.nodes.get("", &meta.key.name);
        if before.is_none_or(|before| zone_of(before) != zone_of(node)) {
            self.journal.note(Touched::Zones);
        }
        if before.is_none_or(|before| !is_same_to_pods(before, node)) {
            self.journal.note(Touched::Placement);
        }
        self.stirs.node(before.map(AsRef::as_ref), Some(node));
        before.inspect(|before| self.zones.take(before));
        self.zones.add(node);
        put(&mut self.nodes, meta, node);
    }

    pub(super) fn drop_node(&mut self, name: &str) {
        if let Some(node) = self.nodes.remove("", name) {
            self.zones.take(&node);
            self.stirs.node(Some(&node), None);
            self.journal.note(Touched::Zones);
            self.journal.note(Touched::Placement);
        }
    }
}

/// What of an object matters to what it owns.
fn standing(meta: Option<&Meta>) -> Option<(&str, Option<Timestamp>, &[String])> {
    meta.map(|meta| (&*meta.uid, meta.deleted, meta.finalizers.as_ref()))
}

/// The objects with these uids, as far as they are there.
fn owners_of(snapshot: &Snapshot, uids: &[&str]) -> Vec<Arc<Meta>> {
    let found = uids.iter().filter_map(|uid| snapshot.meta(uid));
    found.cloned().collect()
}

/// Under which label a Service is found by its pods.
fn first_label(service: &Service) -> Option<(String, String)> {
    let wanted = service.spec.as_ref()?.selector.as_ref()?;
    let (label, value) = wanted.iter().next()?;
    Some((label.clone(), value.clone()))
}

/// Whether a node's change is nothing but a sign of life.
fn is_same_to_pods(before: &Node, after: &Node) -> bool {
    let conditions = |node: &Node| -> Vec<(String, String)> {
        let listed = node.status.iter().flat_map(|one| one.conditions.iter());
        let state = |one: &NodeCondition| (one.type_.clone(), one.status.clone());
        listed.flatten().map(state).collect()
    };
    let offers = |node: &Node| node.status.as_ref().map(|one| one.allocatable.clone());
    before.metadata.labels == after.metadata.labels
        && before.metadata.uid == after.metadata.uid
        && before.metadata.deletion_timestamp == after.metadata.deletion_timestamp
        && before.spec == after.spec
        && offers(before) == offers(after)
        && conditions(before) == conditions(after)
}
