//! The cluster as planners see it: every object at one revision, with the indexes that planners ask for kept up to
//! date as objects change. The server feeds it from its watch cache; nothing here watches or stores.

mod group;
mod journal;
mod meta;
mod object;
mod scope;
mod specs;
mod stirs;
mod table;
mod touch;
mod words;
mod zones;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, ReplicationController,
    ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::flowcontrol::v1::FlowSchema;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1beta1::PodGroup as SchedulingGroup;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use group::Group;
use journal::Journal;
pub use journal::{ObjectKey, Touched};
pub use meta::{Meta, Owner};
pub(crate) use object::Object;
use object::Typed;
pub(crate) use scope::Also;
pub use scope::Scope;
use specs::Specs;
pub use stirs::Stirs;
pub use table::Table;
use words::Words;
pub(crate) use zones::{ZoneNodes, Zones, place};

use crate::pod::{self, Pod};
use crate::scheduler::{Demand, group_of};
use crate::selector::Labels;
use crate::tenant::Tenant;

/// An object that is not of the type its kind promises.
#[derive(Debug, thiserror::Error)]
#[error("snapshot can't read {kind} {namespace}/{name}: {cause}")]
pub struct SnapshotError {
    /// Kind as written in the object.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What the decoder says.
    pub cause: serde_json::Error,
}

/// A kind's apiVersion and name.
pub type KindKey = (String, String);

/// Every object of the cluster at one revision.
///
/// What a planner decided must be visible in the snapshot before the same planner is asked again; otherwise it
/// decides the same twice.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// core/v1.
    pub pods: Table<Pod>,
    /// core/v1.
    pub nodes: Table<Node>,
    /// core/v1.
    pub services: Table<Service>,
    /// core/v1.
    pub resource_quotas: Table<ResourceQuota>,
    /// core/v1.
    pub namespaces: Table<Namespace>,
    /// core/v1.
    pub persistent_volumes: Table<PersistentVolume>,
    /// core/v1.
    pub persistent_volume_claims: Table<PersistentVolumeClaim>,
    /// storage.k8s.io/v1.
    pub storage_classes: Table<StorageClass>,
    /// core/v1.
    pub endpoints: Table<Endpoints>,
    /// discovery.k8s.io/v1.
    pub endpoint_slices: Table<EndpointSlice>,
    /// apps/v1.
    pub deployments: Table<Deployment>,
    /// apps/v1.
    pub replica_sets: Table<ReplicaSet>,
    /// core/v1.
    pub replication_controllers: Table<ReplicationController>,
    /// apps/v1.
    pub stateful_sets: Table<StatefulSet>,
    /// apps/v1.
    pub daemon_sets: Table<DaemonSet>,
    /// apps/v1.
    pub controller_revisions: Table<ControllerRevision>,
    /// batch/v1.
    pub jobs: Table<Job>,
    /// batch/v1.
    pub cron_jobs: Table<CronJob>,
    /// autoscaling/v2.
    pub horizontal_pod_autoscalers: Table<HorizontalPodAutoscaler>,
    /// policy/v1.
    pub pod_disruption_budgets: Table<PodDisruptionBudget>,
    /// scheduling.k8s.io/v1beta1.
    pub pod_groups: Table<SchedulingGroup>,
    /// coordination.k8s.io/v1.
    pub leases: Table<Lease>,
    /// networking.k8s.io/v1.
    pub network_policies: Table<NetworkPolicy>,
    /// certificates.k8s.io/v1.
    pub signing_requests: Table<CertificateSigningRequest>,
    /// apiextensions.k8s.io/v1.
    pub definitions: Table<CustomResourceDefinition>,
    /// flowcontrol.apiserver.k8s.io/v1.
    pub flow_schemas: Table<FlowSchema>,
    /// waggle.dev/v1.
    pub tenants: Table<Tenant>,
    /// Metadata of every object of every kind.
    metas: BTreeMap<MetaKey, Arc<Meta>>,
    by_uid: HashMap<Arc<str>, MetaKey>,
    dependents: HashMap<Arc<str>, BTreeSet<MetaKey>>,
    words: Words,
    covered: BTreeSet<KindKey>,
    pods_by_owner: HashMap<String, Group>,
    specs: Specs,
    pods_by_node: HashMap<String, Group>,
    unbound: Group,
    deleted: Group,
    sets_by_owner: HashMap<String, BTreeMap<String, Arc<ReplicaSet>>>,
    slices_by_service: HashMap<(String, String), BTreeMap<String, Arc<EndpointSlice>>>,
    pods_by_label: HashMap<String, LabelGroups>,
    /// Pods that name a PodGroup, by its namespace and name, then by theirs.
    pods_by_group: HashMap<(String, String), Group>,
    selecting: HashMap<String, Selecting>,
    zones: Zones,
    journal: Journal,
    stirs: Stirs,
}

/// Pods of one namespace by (label, value).
type LabelGroups = HashMap<(String, String), Group>;

/// Services of one namespace by the first (label, value) that they select.
type Selecting = HashMap<(String, String), BTreeMap<String, Arc<Service>>>;

type MetaKey = Arc<ObjectKey>;

impl Snapshot {
    /// Empty, to be fed with every object of the `covered` kinds (apiVersion, kind). Owners of other kinds are taken
    /// to exist.
    pub fn new<A: Into<String>, K: Into<String>>(
        covered: impl IntoIterator<Item = (A, K)>,
    ) -> Self {
        let mut snapshot = Self::default();
        snapshot.set_covered(covered);
        snapshot
    }

    /// From now on every object of these kinds (apiVersion, kind) is in the snapshot, and of no others.
    pub fn set_covered<A: Into<String>, K: Into<String>>(
        &mut self,
        covered: impl IntoIterator<Item = (A, K)>,
    ) {
        let pairs = covered.into_iter();
        self.covered = pairs
            .map(|(version, kind)| (version.into(), kind.into()))
            .collect();
        self.journal.note(Touched::Kinds);
    }

    /// Forgets every object of a kind that planners know by its metadata only.
    pub fn forget_kind(&mut self, api_version: &str, kind: &str) {
        let of_kind = |key: &&MetaKey| key.is(api_version, kind);
        let keys: Vec<MetaKey> = self.metas.keys().filter(of_kind).cloned().collect();
        keys.iter().for_each(|key| self.drop_meta(key));
    }

    /// Whether every object of this kind is in the snapshot.
    pub fn covers(&self, api_version: &str, kind: &str) -> bool {
        self.covered
            .contains(&(api_version.to_owned(), kind.to_owned()))
    }

    /// Takes in a new object or a new version of one, as JSON with apiVersion and kind.
    ///
    /// # Errors
    /// [`SnapshotError`] when a kind that planners read does not decode; the snapshot then keeps the version it had.
    pub fn upsert(&mut self, value: &Value) -> Result<(), SnapshotError> {
        self.take_in(&mut Object::of(value)?);
        Ok(())
    }

    /// Takes in an object that was read already, and keeps it shared with whoever else has it. A pod that nobody else has
    /// yet gets the spec of others of its template.
    pub(crate) fn take_in(&mut self, object: &mut Object) {
        if let Some(own) = Arc::get_mut(&mut object.meta) {
            own.share(&mut self.words);
        }
        let meta = &object.meta;
        match &mut object.typed {
            Typed::Pod(one) => self.put_pod(meta, one),
            Typed::Node(one) => self.put_node(meta, one),
            Typed::Service(one) => self.put_service(meta, one),
            Typed::EndpointSlice(one) => self.put_slice(meta, one),
            Typed::ReplicaSet(one) => self.put_set(meta, one),
            Typed::Lease(one) => self.put_lease(meta, one),
            Typed::ResourceQuota(one) => put(&mut self.resource_quotas, meta, one),
            Typed::Namespace(one) => put(&mut self.namespaces, meta, one),
            Typed::PersistentVolume(one) => put(&mut self.persistent_volumes, meta, one),
            Typed::PersistentVolumeClaim(one) => put(&mut self.persistent_volume_claims, meta, one),
            Typed::StorageClass(one) => put(&mut self.storage_classes, meta, one),
            Typed::Endpoints(one) => self.put_endpoints(meta, one),
            Typed::Deployment(one) => put(&mut self.deployments, meta, one),
            Typed::ReplicationController(one) => put(&mut self.replication_controllers, meta, one),
            Typed::StatefulSet(one) => put(&mut self.stateful_sets, meta, one),
            Typed::DaemonSet(one) => put(&mut self.daemon_sets, meta, one),
            Typed::ControllerRevision(one) => put(&mut self.controller_revisions, meta, one),
            Typed::Job(one) => put(&mut self.jobs, meta, one),
            Typed::CronJob(one) => put(&mut self.cron_jobs, meta, one),
            Typed::Autoscaler(one) => put(&mut self.horizontal_pod_autoscalers, meta, one),
            Typed::DisruptionBudget(one) => put(&mut self.pod_disruption_budgets, meta, one),
            Typed::PodGroup(one) => put(&mut self.pod_groups, meta, one),
            Typed::NetworkPolicy(one) => put(&mut self.network_policies, meta, one),
            Typed::SigningRequest(one) => put(&mut self.signing_requests, meta, one),
            Typed::Definition(one) => put(&mut self.definitions, meta, one),
            Typed::FlowSchema(one) => put(&mut self.flow_schemas, meta, one),
            Typed::Tenant(one) => put(&mut self.tenants, meta, one),
            Typed::Other => {}
        }
        self.stirs.other(&meta.key.kind);
        self.put_meta(meta);
    }

    /// Forgets an object.
    pub fn remove(&mut self, api_version: &str, kind: &str, namespace: &str, name: &str) {
        match (api_version, kind) {
            ("v1", "Pod") => self.drop_pod(namespace, name),
            ("v1", "Node") => self.drop_node(name),
            ("v1", "Service") => self.drop_service(namespace, name),
            ("v1", "ResourceQuota") => drop(self.resource_quotas.remove(namespace, name)),
            ("v1", "Namespace") => drop(self.namespaces.remove(namespace, name)),
            ("v1", "PersistentVolume") => drop(self.persistent_volumes.remove(namespace, name)),
            ("v1", "PersistentVolumeClaim") => {
                drop(self.persistent_volume_claims.remove(namespace, name))
            }
            ("storage.k8s.io/v1", "StorageClass") => {
                drop(self.storage_classes.remove(namespace, name))
            }
            ("v1", "Endpoints") => self.drop_endpoints(namespace, name),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.drop_slice(namespace, name),
            ("apps/v1", "Deployment") => drop(self.deployments.remove(namespace, name)),
            ("apps/v1", "ReplicaSet") => self.drop_set(namespace, name),
            ("v1", "ReplicationController") => {
                drop(self.replication_controllers.remove(namespace, name))
            }
            ("apps/v1", "StatefulSet") => drop(self.stateful_sets.remove(namespace, name)),
            ("apps/v1", "DaemonSet") => drop(self.daemon_sets.remove(namespace, name)),
            ("apps/v1", "ControllerRevision") => {
                drop(self.controller_revisions.remove(namespace, name))
            }
            ("batch/v1", "Job") => drop(self.jobs.remove(namespace, name)),
            ("batch/v1", "CronJob") => drop(self.cron_jobs.remove(namespace, name)),
            ("autoscaling/v2", "HorizontalPodAutoscaler") => {
                drop(self.horizontal_pod_autoscalers.remove(namespace, name))
            }
            ("policy/v1", "PodDisruptionBudget") => {
                drop(self.pod_disruption_budgets.remove(namespace, name))
            }
            ("scheduling.k8s.io/v1beta1", "PodGroup") => {
                drop(self.pod_groups.remove(namespace, name))
            }
            ("coordination.k8s.io/v1", "Lease") => drop(self.leases.remove(namespace, name)),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                drop(self.network_policies.remove(namespace, name))
            }
            ("certificates.k8s.io/v1", "CertificateSigningRequest") => {
                drop(self.signing_requests.remove(namespace, name))
            }
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                drop(self.definitions.remove(namespace, name))
            }
            ("flowcontrol.apiserver.k8s.io/v1", "FlowSchema") => {
                drop(self.flow_schemas.remove(namespace, name))
            }
            ("waggle.dev/v1", "Tenant") => drop(self.tenants.remove(namespace, name)),
            _ => {}
        }
        self.stirs.other(kind);
        self.drop_meta(&meta_key(api_version, kind, namespace, name));
    }

    /// What happened that may help pods that wait.
    pub fn stirs(&self) -> Stirs {
        self.stirs
    }

    /// Pods whose controller has this uid.
    pub fn pods_of(&self, owner_uid: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_by_owner
            .get(owner_uid)
            .into_iter()
            .flat_map(Group::pods)
    }

    /// Pods bound to this node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.demands_on(node).map(|(pod, _)| pod)
    }

    /// Pods bound to this node, each with what it takes there.
    pub(crate) fn demands_on(&self, node: &str) -> impl Iterator<Item = (&Arc<Pod>, &Demand)> {
        let group = self.pods_by_node.get(node).into_iter();
        group.flat_map(Group::demands)
    }

    /// Pods whose end was asked for, by namespace and name.
    pub fn deleted_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.deleted.pods()
    }

    /// Pods that are bound to no node, by namespace and name.
    pub fn unbound_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.unbound.pods()
    }

    /// Pods of a namespace that may carry all of these labels: those with the rarest of them, or all pods when no label
    /// is asked for. A short list to test a selector on.
    pub fn pods_labelled<'a>(
        &'a self,
        namespace: &str,
        labels: Option<&Labels>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Pod>> + 'a> {
        let Some(labels) = labels.filter(|labels| !labels.is_empty()) else {
            return Box::new(
                self.pods
                    .namespace(namespace)
                    .into_iter()
                    .flat_map(BTreeMap::values),
            );
        };
        let Some(groups) = self.pods_by_label.get(namespace) else {
            return Box::new(std::iter::empty());
        };
        let candidates = labels
            .iter()
            .map(|(key, value)| groups.get(&(key.clone(), value.clone())));
        let rarest = candidates
            .min_by_key(|group| group.map_or(0, Group::len))
            .flatten();
        Box::new(rarest.into_iter().flat_map(Group::pods))
    }

    /// Pods that name this PodGroup.
    pub fn pods_in_group(&self, namespace: &str, group: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let key = (namespace.to_owned(), group.to_owned());
        let found = self.pods_by_group.get(&key);
        found.into_iter().flat_map(Group::pods)
    }

    /// Names of nodes that pods are bound to, existing or not.
    pub fn occupied_nodes(&self) -> impl Iterator<Item = &str> {
        self.pods_by_node.keys().map(String::as_str)
    }

    /// Nodes by region and zone.
    pub(crate) fn zones(&self) -> &Zones {
        &self.zones
    }

    /// ReplicaSets whose controller has this uid, by name.
    pub fn replica_sets_of(&self, owner_uid: &str) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.sets_by_owner
            .get(owner_uid)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// EndpointSlices labelled with this Service's name.
    pub fn slices_of(
        &self,
        namespace: &str,
        service: &str,
    ) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let key = (namespace.to_owned(), service.to_owned());
        self.slices_by_service
            .get(&key)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Metadata of every object.
    pub fn metas(&self) -> impl Iterator<Item = &Arc<Meta>> {
        self.metas.values()
    }

    /// Metadata of every object in a namespace.
    pub fn metas_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<Meta>> {
        let first = meta_key("", "", namespace, "");
        let namespace = namespace.to_owned();
        self.metas
            .range(first..)
            .take_while(move |(key, _)| *key.namespace == *namespace)
            .map(|(_, meta)| meta)
    }

    /// Metadata of the object with this uid.
    pub fn meta(&self, uid: &str) -> Option<&Arc<Meta>> {
        self.metas.get(self.by_uid.get(uid)?)
    }

    /// Metadata of the object of this kind and name.
    pub fn named(
        &self,
        api_version: &str,
        kind: &str,
        namespace: &str,
        name: &str,
    ) -> Option<&Arc<Meta>> {
        self.metas
            .get(&meta_key(api_version, kind, namespace, name))
    }

    /// Metadata of the objects that name this uid as an owner.
    pub fn dependents_of(&self, owner_uid: &str) -> impl Iterator<Item = &Arc<Meta>> {
        let keys = self.dependents.get(owner_uid).into_iter().flatten();
        keys.filter_map(|key| self.metas.get(key))
    }

    fn put_pod(&mut self, meta: &Meta, pod: &mut Arc<Pod>) {
        let (namespace, name) = (&meta.key.namespace, &meta.key.name);
        let before = self.take_pod(namespace, name);
        self.note_pod(before.as_deref(), Some(pod));
        self.stirs.pod(before.as_deref(), Some(pod));
        let demand = self.specs.share(pod);
        let pod = &*pod;
        if pod::is_deleted(pod) {
            self.deleted.insert(pod, &demand);
        }
        if let Some(owner) = pod::controller(&pod.metadata) {
            let group = self.pods_by_owner.entry(owner.uid.clone()).or_default();
            group.insert(pod, &demand);
        }
        match pod::node_name(pod) {
            Some(node) => {
                let group = self.pods_by_node.entry(node.to_owned()).or_default();
                group.insert(pod, &demand);
            }
            None => self.unbound.insert(pod, &demand),
        }
        if let Some(group) = group_of(pod) {
            let key = (namespace.to_string(), group.to_owned());
            let group = self.pods_by_group.entry(key).or_default();
            group.insert(pod, &demand);
        }
        let groups = self.pods_by_label.entry(namespace.to_string());
        let groups = groups.or_default();
        for (label, value) in pod.metadata.labels.iter().flatten() {
            let group = groups.entry((label.clone(), value.clone())).or_default();
            group.insert(pod, &demand);
        }
        self.pods.insert(namespace, name, Arc::clone(pod));
    }

    fn drop_pod(&mut self, namespace: &str, name: &str) {
        let before = self.take_pod(namespace, name);
        self.note_pod(before.as_deref(), None);
        self.stirs.pod(before.as_deref(), None);
    }

    /// Takes a pod out of every index.
    fn take_pod(&mut self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pod = self.pods.remove(namespace, name)?;
        if let Some(owner) = pod::controller(&pod.metadata) {
            leave(&mut self.pods_by_owner, &owner.uid, &pod);
            if !self.pods_by_owner.contains_key(&owner.uid) {
                self.specs.forget(&owner.uid);
            }
        }
        self.deleted.remove(&pod);
        match pod::node_name(&pod) {
            Some(node) => leave(&mut self.pods_by_node, node, &pod),
            None => self.unbound.remove(&pod),
        }
        if let Some(group) = group_of(&pod) {
            let group = (namespace.to_owned(), group.to_owned());
            leave(&mut self.pods_by_group, &group, &pod);
        }
        if let Some(groups) = self.pods_by_label.get_mut(namespace) {
            for (label, value) in pod.metadata.labels.iter().flatten() {
                leave(groups, &(label.clone(), value.clone()), &pod);
            }
            if groups.is_empty() {
                self.pods_by_label.remove(namespace);
            }
        }
        Some(pod)
    }

    fn put_set(&mut self, meta: &Meta, set: &Arc<ReplicaSet>) {
        self.drop_set(&meta.key.namespace, &meta.key.name);
        put(&mut self.replica_sets, meta, set);
        self.note_set(set);
        if let Some(owner) = pod::controller(&set.metadata) {
            let sets = self.sets_by_owner.entry(owner.uid.clone()).or_default();
            sets.insert(meta.key.name.clone(), Arc::clone(set));
        }
    }

    fn drop_set(&mut self, namespace: &str, name: &str) {
        let Some(set) = self.replica_sets.remove(namespace, name) else {
            return;
        };
        self.note_set(&set);
        if let Some(owner) = pod::controller(&set.metadata) {
            take(&mut self.sets_by_owner, &owner.uid, name);
        }
    }

    fn put_slice(&mut self, meta: &Meta, slice: &Arc<EndpointSlice>) {
        self.drop_slice(&meta.key.namespace, &meta.key.name);
        put(&mut self.endpoint_slices, meta, slice);
        if let Some(service) = service_of(slice) {
            let key = (meta.key.namespace.to_string(), service.to_owned());
            self.note_service(&key.0, &key.1);
            self.slices_by_service
                .entry(key)
                .or_default()
                .insert(meta.key.name.clone(), Arc::clone(slice));
        }
    }

    fn drop_slice(&mut self, namespace: &str, name: &str) {
        let Some(slice) = self.endpoint_slices.remove(namespace, name) else {
            return;
        };
        if let Some(service) = service_of(&slice) {
            self.note_service(namespace, service);
            take(
                &mut self.slices_by_service,
                &(namespace.to_owned(), service.to_owned()),
                name,
            );
        }
    }
}

/// The Service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<&str> {
    slice
        .metadata
        .labels
        .as_ref()?
        .get(crate::endpoint_slice::SERVICE_NAME_LABEL)
        .map(String::as_str)
}

fn meta_key(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        namespace: namespace.into(),
        api_version: api_version.into(),
        kind: kind.into(),
        name: name.to_owned(),
    }
}

fn put<T>(table: &mut Table<T>, meta: &Meta, object: &Arc<T>) {
    table.insert(&meta.key.namespace, &meta.key.name, Arc::clone(object));
}

/// Takes a pod out of a group, and the group when it was the last.
fn leave<O, G>(groups: &mut HashMap<O, Group>, group: &G, pod: &Arc<Pod>)
where
    O: std::borrow::Borrow<G> + std::hash::Hash + Eq,
    G: std::hash::Hash + Eq + ?Sized,
{
    if let Some(pods) = groups.get_mut(group) {
        pods.remove(pod);
        if pods.is_empty() {
            groups.remove(group);
        }
    }
}

/// Takes one row out of a group, and the group when it was the last.
fn take<O, G, K, Q, V>(groups: &mut HashMap<O, BTreeMap<K, V>>, group: &G, key: &Q)
where
    O: std::borrow::Borrow<G> + std::hash::Hash + Eq,
    G: std::hash::Hash + Eq + ?Sized,
    K: std::borrow::Borrow<Q> + Ord,
    Q: Ord + ?Sized,
{
    if let Some(rows) = groups.get_mut(group) {
        rows.remove(key);
        if rows.is_empty() {
            groups.remove(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_touches_nothing() {
        let mut snapshot = Snapshot::default();
        let node = serde_json::json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "n"}});
        snapshot.upsert(&node).unwrap();
        let lease = |moment: &str| {
            serde_json::json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"renewTime": moment},
                "metadata": {"name": "n", "namespace": "kube-node-lease", "uid": "l",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "n"}]}})
        };
        snapshot
            .upsert(&lease("2026-01-01T00:00:00.000000Z"))
            .unwrap();
        let seen = snapshot.position();
        snapshot
            .upsert(&lease("2026-01-01T00:00:10.000000Z"))
            .unwrap();
        assert_eq!(snapshot.position(), seen);
        snapshot.remove("coordination.k8s.io/v1", "Lease", "kube-node-lease", "n");
        assert!(snapshot.position() > seen);
    }

    #[test]
    fn who_owns_which_field_is_not_kept() {
        let mut snapshot = Snapshot::default();
        let fields = serde_json::json!({"f:spec": {"f:containers": {}}});
        let pod = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
            "metadata": {"name": "web", "namespace": "shop", "uid": "1", "labels": {"app": "web"},
                "managedFields": [{"manager": "kubectl", "fieldsV1": fields}]}});
        snapshot.upsert(&pod).unwrap();
        let kept = snapshot.pods.get("shop", "web").unwrap();
        assert_eq!(kept.metadata.managed_fields, None);
        assert_eq!(kept.metadata.labels.as_ref().unwrap()["app"], "web");
    }
}
