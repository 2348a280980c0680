//! The network state along the changes of a snapshot: a change costs what it touches, however large the cluster is. What many
//! things depend on (namespaces, tenants, policies, load balancers' addresses and the nodes that announce them) has the state
//! made anew; [`network_state`] says what is right, and this must come to the same.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use waggle_model::network::{Endpoint, NetworkDelta, NetworkState};
use waggle_model::{IdentityId, ServiceId};

use super::announce::{Announcers, may_announce};
use super::{Reserved, endpoints_of, network_state, node, policy, service};
use crate::Snapshot;
use crate::identity::{Naming, Registry};
use crate::pod::Pod;
use crate::snapshot::Touched;

/// A namespace and a name in it.
type Key = (String, String);

/// Follows one snapshot, and knows what of it stands where in the state.
#[derive(Debug, Default)]
pub struct Follower {
    /// Where the snapshot's changes go on, and under which numbers; `None` before the first time.
    at: Option<(u64, Arc<Registry>)>,
    /// Addresses of each pod.
    addresses: HashMap<Key, Vec<IpAddr>>,
    services: HashMap<Key, Known>,
    /// Services that name a pod.
    naming: HashMap<Key, BTreeSet<Key>>,
    /// Services without a number.
    unnumbered: BTreeSet<Key>,
    /// Pods whose identity has no number.
    nobodies: BTreeSet<Key>,
    /// Nodes that may announce addresses.
    announcing: BTreeSet<String>,
    /// Two pods say that they have one address.
    ambiguous: bool,
}

/// A Service that is in the state, or would be if it had a number.
#[derive(Debug, Default)]
struct Known {
    id: Option<ServiceId>,
    /// Had addresses that others have a say in, numbered or not.
    external: bool,
    pods: BTreeSet<Key>,
}

/// What the state is made from.
struct Sources<'a> {
    snapshot: &'a Snapshot,
    registry: &'a Registry,
    reserved: &'a Reserved<'a>,
}

impl Follower {
    /// What leads from `state`, which all earlier deltas led to, to the state that the snapshot shows, one generation on.
    pub fn advance(
        &mut self,
        state: &NetworkState,
        snapshot: &Snapshot,
        registry: &Arc<Registry>,
        reserved: &Reserved<'_>,
    ) -> NetworkDelta {
        let sources = Sources {
            snapshot,
            registry,
            reserved,
        };
        let before = self.at.replace((snapshot.position(), Arc::clone(registry)));
        if let Some((position, known)) = before
            && !self.ambiguous
            && known.has_tenants_of(registry)
            && let Some(touched) = snapshot.touched_since(position)
            && let Some(delta) =
                self.step(state, &sources, &touched, !Arc::ptr_eq(&known, registry))
        {
            return delta;
        }
        let next = network_state(snapshot, registry, reserved, state.generation.next());
        self.survey(&sources, &next);
        state.delta_to(&next)
    }

    /// `None` when more may depend on it than is looked at here. `numbers` are others than the last time, perhaps.
    fn step(
        &mut self,
        state: &NetworkState,
        sources: &Sources<'_>,
        touched: &BTreeSet<&Touched>,
        numbers: bool,
    ) -> Option<NetworkDelta> {
        let mut delta = NetworkDelta {
            from: state.generation,
            to: state.generation.next(),
            ..NetworkDelta::default()
        };
        let (mut services, mut pods) = (BTreeSet::new(), BTreeSet::new());
        if numbers {
            services.append(&mut self.unnumbered);
            pods.append(&mut self.nobodies);
            move_identities(state, sources, &mut delta);
        }
        for touched in touched {
            let Touched::Object(object) = touched else {
                continue;
            };
            let key = (object.namespace.to_string(), object.name.clone());
            match (&*object.api_version, &*object.kind) {
                ("v1", "Namespace")
                | ("networking.k8s.io/v1", "NetworkPolicy")
                | ("waggle.dev/v1", "Tenant") => return None,
                ("v1", "Node") => self.move_node(state, sources.snapshot, key.1, &mut delta)?,
                ("v1", "Pod") => {
                    services.extend(self.naming.get(&key).into_iter().flatten().cloned());
                    pods.insert(key);
                }
                ("v1", "Service") => drop(services.insert(key)),
                _ => {}
            }
        }
        if !pods.is_empty() {
            let names = Naming::of(sources.snapshot);
            for key in pods {
                self.move_pod(state, sources, &names, key, &mut delta)?;
            }
        }
        // Two that come at once with one address.
        let mut new = HashSet::with_capacity(delta.endpoint_upserts.len());
        if !(delta.endpoint_upserts.iter()).all(|row| new.insert(row.address)) {
            return None;
        }
        for key in services {
            self.move_service(state, sources, key, &mut delta)?;
        }
        Some(delta)
    }

    /// A node's own row; which node announces an address hangs on all of them.
    fn move_node(
        &mut self,
        state: &NetworkState,
        snapshot: &Snapshot,
        name: String,
        delta: &mut NetworkDelta,
    ) -> Option<()> {
        let object = snapshot.nodes.get("", &name);
        let made = object.and_then(|object| node(object));
        let announces = object.is_some_and(|object| may_announce(object));
        let moved = made.as_ref() != state.nodes.get(&name);
        let changed = moved || announces != self.announcing.contains(&name);
        if changed && self.services.values().any(|known| known.external) {
            return None;
        }
        if announces {
            self.announcing.insert(name.clone());
        } else {
            self.announcing.remove(&name);
        }
        match made {
            _ if !moved => {}
            Some(made) => delta.node_upserts.push(made),
            None => delta.node_removals.push(name),
        }
        Some(())
    }

    fn move_pod(
        &mut self,
        state: &NetworkState,
        sources: &Sources<'_>,
        names: &Naming,
        key: Key,
        delta: &mut NetworkDelta,
    ) -> Option<()> {
        self.nobodies.remove(&key);
        let pod = sources.snapshot.pods.get(&key.0, &key.1);
        let rows = pod.map_or_else(Vec::new, |pod| sources.endpoints(names, pod));
        let addresses: Vec<IpAddr> = rows.iter().map(|row| row.address).collect();
        let is_nobody = rows.iter().any(is_nobody);
        let is_own = |row: &Endpoint| row.namespace == key.0 && row.pod == key.1;
        for address in self.addresses.remove(&key).unwrap_or_default() {
            if !addresses.contains(&address) {
                state.endpoints.get(&address).filter(|row| is_own(row))?;
                delta.endpoint_removals.push(address);
            }
        }
        for row in rows {
            match state.endpoints.get(&row.address) {
                Some(known) if *known == row => {}
                Some(known) if !is_own(known) => return None,
                _ => delta.endpoint_upserts.push(row),
            }
        }
        if is_nobody {
            self.nobodies.insert(key.clone());
        }
        if !addresses.is_empty() {
            self.addresses.insert(key, addresses);
        }
        Some(())
    }

    fn move_service(
        &mut self,
        state: &NetworkState,
        sources: &Sources<'_>,
        key: Key,
        delta: &mut NetworkDelta,
    ) -> Option<()> {
        let known = self.services.get(&key);
        if known.is_some_and(|known| known.external) {
            return None;
        }
        let known = known.and_then(|known| known.id);
        let object = sources.snapshot.services.get(&key.0, &key.1);
        if object.is_some_and(|object| service::is_external(object)) {
            return None;
        }
        let announcers = Announcers::nobody();
        let made = object.and_then(|object| {
            service::service(sources.snapshot, sources.registry, &announcers, object)
        });
        let id = made.as_ref().map(|made| made.id);
        if let Some(gone) = known.filter(|known| Some(*known) != id) {
            delta.service_removals.push(gone);
        }
        if let Some(made) = made
            && state.services.get(&made.id) != Some(&made)
        {
            delta.service_upserts.push(made);
        }
        self.note_service(sources, key, id, object.map(AsRef::as_ref));
        Some(())
    }

    /// Notes which pods a Service names.
    fn note_service(
        &mut self,
        sources: &Sources<'_>,
        key: Key,
        id: Option<ServiceId>,
        object: Option<&Service>,
    ) {
        if let Some(known) = self.services.remove(&key) {
            for pod in known.pods {
                if let Some(services) = self.naming.get_mut(&pod) {
                    services.remove(&key);
                    if services.is_empty() {
                        self.naming.remove(&pod);
                    }
                }
            }
        }
        let Some(object) = object else { return };
        let pods = sources.targets(&key);
        for pod in &pods {
            let services = self.naming.entry(pod.clone()).or_default();
            services.insert(key.clone());
        }
        if id.is_none() {
            self.unnumbered.insert(key.clone());
        }
        let external = service::is_external(object);
        self.services.insert(key, Known { id, external, pods });
    }

    /// Looks at everything: `state` is what it comes to.
    fn survey(&mut self, sources: &Sources<'_>, state: &NetworkState) {
        let snapshot = sources.snapshot;
        *self = Self {
            at: self.at.take(),
            ..Self::default()
        };
        let names = Naming::of(snapshot);
        for pod in snapshot.pods.iter() {
            let key = key_of(&pod.metadata);
            let rows = sources.endpoints(&names, pod);
            let shown = |row: &Endpoint| state.endpoints.get(&row.address) == Some(row);
            self.ambiguous |= !rows.iter().all(shown);
            if rows.iter().any(is_nobody) {
                self.nobodies.insert(key.clone());
            }
            if !rows.is_empty() {
                let addresses = rows.into_iter().map(|row| row.address).collect();
                self.addresses.insert(key, addresses);
            }
        }
        let may = snapshot.nodes.iter().filter(|node| may_announce(node));
        self.announcing = may.filter_map(|node| node.metadata.name.clone()).collect();
        for object in snapshot.services.iter() {
            let uid = object.metadata.uid.as_deref();
            let id = uid.and_then(|uid| sources.registry.service(uid));
            self.note_service(sources, key_of(&object.metadata), id, Some(object));
        }
    }
}

impl Sources<'_> {
    fn endpoints(&self, names: &Naming, pod: &Pod) -> Vec<Endpoint> {
        endpoints_of(self.snapshot, self.registry, self.reserved, names, pod)
    }

    /// Pods that a Service's slices name.
    fn targets(&self, (namespace, name): &Key) -> BTreeSet<Key> {
        let slices = self.snapshot.slices_of(namespace, name);
        let endpoints = slices.flat_map(|slice| slice.endpoints.iter().flatten());
        let targets = endpoints.filter_map(|one| one.target_ref.as_ref());
        targets
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .map(|target| {
                let text = |text: &Option<String>| text.clone().unwrap_or_default();
                (text(&target.namespace), text(&target.name))
            })
            .collect()
    }
}

/// Whether its pod's identity has no number yet.
fn is_nobody(row: &Endpoint) -> bool {
    row.identity == IdentityId(0)
}

/// What other numbers come to: identities come and go, and selectors of policies find others.
fn move_identities(state: &NetworkState, sources: &Sources<'_>, delta: &mut NetworkDelta) {
    let registry = sources.registry;
    let mut known: BTreeSet<IdentityId> = state.identities.keys().copied().collect();
    for (key, id) in registry.identities() {
        known.remove(&id);
        let before = state.identities.get(&id);
        if !before.is_some_and(|before| policy::is_identity(before, key, registry)) {
            let made = policy::identity(key, id, registry);
            delta.identity_upserts.push(made);
        }
    }
    delta.identity_removals.extend(known);
    let policies = policy::policies(sources.snapshot, registry);
    let gone = state
        .policies
        .keys()
        .filter(|id| !policies.contains_key(id));
    delta.policy_removals.extend(gone);
    let moved = policies.into_values();
    let moved = moved.filter(|policy| state.policies.get(&policy.id) != Some(policy));
    delta.policy_upserts.extend(moved);
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}

#[cfg(test)]
mod tests;
