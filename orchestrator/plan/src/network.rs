//! The network state that every node's datapath and DNS are made from: Services with the backends to use now, the
//! owner of every pod address, and the nodes. What a Service comes to is in `service`, which node answers for its load
//! balancer's addresses in `announce`.
//!
//! A pod that is being deleted stops being a backend in the very snapshot that shows its deletion, whether or not its
//! EndpointSlice was rewritten yet: the server waits for that state before the pod is told to end.

mod announce;
mod follow;
mod policy;
mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use waggle_model::network::{
    Cidr, Endpoint, HostPort, NetworkState, NodeNetwork, PerFamily, Protocol,
};
use waggle_model::{Generation, IdentityId, TenantId};

use crate::Snapshot;
use crate::identity::{Naming, Registry};
use crate::pod::{self, Pod};

pub use follow::Follower;

/// The addresses that were reserved for a pod; they may not be in its status yet.
pub type Reserved<'a> = dyn Fn(&Pod) -> Option<PerFamily<IpAddr>> + 'a;

/// The network state of the cluster. Keep the old generation when the rest is equal to what was sent last.
///
/// Tenants and identities without a number become number 0, nobody, which nothing may reach or be reached from.
pub fn network_state(
    snapshot: &Snapshot,
    registry: &Registry,
    reserved: &Reserved<'_>,
    generation: Generation,
) -> NetworkState {
    let nodes: BTreeMap<String, NodeNetwork> = snapshot
        .nodes
        .iter()
        .filter_map(|one| node(one))
        .map(|node| (node.name.clone(), node))
        .collect();
    let announcers = announce::Announcers::of(snapshot, &nodes);
    let services = snapshot
        .services
        .iter()
        .filter_map(|one| service::service(snapshot, registry, &announcers, one));
    NetworkState {
        generation,
        services: services.map(|service| (service.id, service)).collect(),
        endpoints: endpoints(snapshot, registry, reserved),
        nodes,
        identities: policy::identities(registry),
        policies: policy::policies(snapshot, registry),
    }
}

pub(crate) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Every address of a pod that is bound, has not ended and does not use its node's network.
fn endpoints(
    snapshot: &Snapshot,
    registry: &Registry,
    reserved: &Reserved<'_>,
) -> BTreeMap<IpAddr, Endpoint> {
    let naming = Naming::of(snapshot);
    let mut found: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for pod in snapshot.pods.iter() {
        for row in endpoints_of(snapshot, registry, reserved, &naming, pod) {
            found.entry(row.address).or_insert(row);
        }
    }
    found
}

/// A pod's own.
fn endpoints_of(
    snapshot: &Snapshot,
    registry: &Registry,
    reserved: &Reserved<'_>,
    naming: &Naming,
    pod: &Pod,
) -> Vec<Endpoint> {
    let Some(node) = pod::node_name(pod).filter(|_| has_own_network(pod)) else {
        return Vec::new();
    };
    let object = pod::reference(pod);
    let (identity, tenant) = numbers(snapshot, registry, naming, pod);
    let row = |address| Endpoint {
        address,
        identity,
        tenant,
        node: node.to_owned(),
        namespace: object.namespace.clone(),
        pod: object.name.clone(),
        host_ports: host_ports(pod),
    };
    addresses(pod, reserved(pod)).into_iter().map(row).collect()
}

fn has_own_network(pod: &Pod) -> bool {
    let on_host = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true));
    !on_host && !pod::is_terminated(pod)
}

/// Numbers of a pod's identity and tenant; nobody's while it has none or its namespace is not there.
fn numbers(
    snapshot: &Snapshot,
    registry: &Registry,
    naming: &Naming,
    pod: &Pod,
) -> (IdentityId, TenantId) {
    let nobody = (IdentityId(0), TenantId(0));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if snapshot.namespaces.get("", namespace).is_none() {
        return nobody;
    }
    let Some(key) = naming.key(snapshot, pod) else {
        return nobody;
    };
    (
        registry.identity(&key).unwrap_or(IdentityId(0)),
        registry.tenant(&key.tenant).unwrap_or(TenantId(0)),
    )
}

fn addresses(pod: &Pod, reserved: Option<PerFamily<IpAddr>>) -> BTreeSet<IpAddr> {
    let status = pod.status.as_ref();
    let listed = status
        .into_iter()
        .flat_map(|status| status.pod_ips.iter().flatten())
        .map(|one| one.ip.as_str());
    let own = status.and_then(|status| status.pod_ip.as_deref());
    let known = own
        .into_iter()
        .chain(listed)
        .filter_map(|text| text.parse().ok());
    let reserved = reserved.iter().flat_map(PerFamily::iter);
    known.chain(reserved).collect()
}

/// Ports of its node that lead to the pod.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let mut found: Vec<_> = ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: protocol(port.protocol.as_deref())?,
                address: port
                    .host_ip
                    .as_deref()
                    .and_then(|text| text.parse::<IpAddr>().ok())
                    .filter(|address| !address.is_unspecified()),
                port: u16::try_from(port.host_port?).ok().filter(|n| *n != 0)?,
                pod_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect();
    found.sort_unstable();
    found
}

/// A node's place in the network; `None` until it has an address and a range.
fn node(node: &Node) -> Option<NodeNetwork> {
    let listed = node.status.as_ref()?.addresses.iter().flatten();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for one in listed.filter(|one| one.type_ == "InternalIP") {
        let Ok(address) = one.address.parse::<IpAddr>() else {
            continue;
        };
        if addresses.iter().all(|a| a.is_ipv4() != address.is_ipv4()) {
            addresses.push(address);
        }
    }
    let spec = node.spec.as_ref()?;
    let texts = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    let mut pod_cidrs: Vec<Cidr> = Vec::new();
    for range in texts.filter_map(|text| text.parse::<Cidr>().ok()) {
        if !pod_cidrs.contains(&range) {
            pod_cidrs.push(range);
        }
    }
    let labels = node.metadata.labels.as_ref();
    let zone = labels.and_then(|all| all.get("topology.kubernetes.io/zone"));
    (!addresses.is_empty() && !pod_cidrs.is_empty()).then_some(NodeNetwork {
        name: node.metadata.name.clone()?,
        addresses,
        pod_cidrs,
        zone: zone.cloned().unwrap_or_default(),
    })
}
