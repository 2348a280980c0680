//! The network state that every node's datapath and DNS are made from: Services with the backends to use now, the
//! owner of every pod address, and the nodes.
//!
//! A pod that is being deleted stops being a backend in the very snapshot that shows its deletion, whether or not its
//! EndpointSlice was rewritten yet: the server waits for that state before the pod is told to end.

mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod, Service as ServiceObject, ServicePort as PortObject};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use waggle_model::network::{
    Backend, Cidr, Endpoint, Export, HostPort, NetworkState, NodeNetwork, PerFamily, Protocol,
    Service, ServicePort, Standing,
};
use waggle_model::{EXPORT_ANNOTATION, Generation, IdentityId, TenantId};

use crate::identity::{Naming, Registry};
use crate::{Snapshot, pod, tenant};

/// Addresses that were reserved for pods, by pod uid; they may not be in the pods' status yet.
pub type Reserved = BTreeMap<String, PerFamily<IpAddr>>;

/// The network state of the cluster. Keep the old generation when the rest is equal to what was sent last.
///
/// Tenants and identities without a number become number 0, nobody, which nothing may reach or be reached from.
pub fn network_state(
    snapshot: &Snapshot,
    registry: &Registry,
    reserved: &Reserved,
    generation: Generation,
) -> NetworkState {
    let services = snapshot
        .services
        .iter()
        .filter_map(|one| service(snapshot, registry, one));
    NetworkState {
        generation,
        services: services.map(|service| (service.id, service)).collect(),
        endpoints: endpoints(snapshot, registry, reserved),
        nodes: snapshot
            .nodes
            .iter()
            .filter_map(|one| node(one))
            .map(|node| (node.name.clone(), node))
            .collect(),
        identities: policy::identities(registry),
        policies: policy::policies(snapshot, registry),
    }
}

/// A Service; `None` for one that is an alias (ExternalName) or has no number yet.
fn service(snapshot: &Snapshot, registry: &Registry, object: &ServiceObject) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let id = registry.service(object.metadata.uid.as_deref()?)?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let owner = tenant::of_namespace(
        &namespace,
        snapshot.namespaces.get("", &namespace).map(AsRef::as_ref),
    );
    let owner = tenant::of_service(&namespace, &name, owner);
    let slices: Vec<&EndpointSlice> = snapshot
        .slices_of(&namespace, &name)
        .map(AsRef::as_ref)
        .collect();
    let vips = vips(object);
    let ports = match spec.ports.as_deref().unwrap_or_default() {
        // DNS names the pods of a headless Service even if it has no ports.
        [] if vips.is_empty() => vec![service_port(
            snapshot,
            &slices,
            &PortObject::default(),
            Protocol::Tcp,
        )],
        ports => ports
            .iter()
            .filter_map(|port| Some(service_port(snapshot, &slices, port, translated(port)?)))
            .collect(),
    };
    Some(Service {
        id,
        tenant: registry.tenant(owner).unwrap_or(TenantId(0)),
        namespace,
        name,
        vips,
        ports,
        export: export(registry, object),
        ..Service::default()
    })
}

fn vips(object: &ServiceObject) -> Vec<IpAddr> {
    let Some(spec) = &object.spec else {
        return Vec::new();
    };
    let all = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten());
    let mut vips: Vec<IpAddr> = all.filter_map(|text| text.parse().ok()).collect();
    vips.sort_unstable();
    vips.dedup();
    vips
}

pub(crate) fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Protocol of a Service port that the datapath translates: not SCTP, whose checksum covers its ports.
fn translated(port: &PortObject) -> Option<Protocol> {
    protocol(port.protocol.as_deref()).filter(|one| *one != Protocol::Sctp)
}

fn export(registry: &Registry, object: &ServiceObject) -> Export {
    let annotations = object.metadata.annotations.as_ref();
    let text = annotations
        .and_then(|all| all.get(EXPORT_ANNOTATION))
        .map(String::as_str)
        .unwrap_or_default();
    let names = || {
        text.split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
    };
    if names().any(|name| name == "*") {
        return Export::Everyone;
    }
    Export::To(names().filter_map(|name| registry.tenant(name)).collect())
}

fn service_port(
    snapshot: &Snapshot,
    slices: &[&EndpointSlice],
    port: &PortObject,
    protocol: Protocol,
) -> ServicePort {
    let name = port.name.clone().unwrap_or_default();
    let mut backends = BTreeSet::new();
    for slice in slices {
        let Some(number) = slice_port(slice, &name, protocol, port.port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            if let Some(standing) = standing(snapshot, endpoint) {
                backends.extend(backend(endpoint, number, standing));
            }
        }
    }
    ServicePort {
        name,
        protocol,
        port: u16::try_from(port.port).unwrap_or(0),
        node_port: port
            .node_port
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number != 0),
        backends: backends.into_iter().collect(),
    }
}

/// The number at which a slice's endpoints serve a Service port; `None` when they don't.
fn slice_port(slice: &EndpointSlice, name: &str, wanted: Protocol, default: i32) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && default == 0 {
        return Some(0);
    }
    let found = ports.iter().find(|port| {
        port.name.as_deref().unwrap_or_default() == name
            && protocol(port.protocol.as_deref()) == Some(wanted)
    })?;
    u16::try_from(found.port.unwrap_or(default)).ok()
}

/// How an endpoint may be used; `None` for one that is gone.
fn standing(snapshot: &Snapshot, endpoint: &SliceEndpoint) -> Option<Standing> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|one| one.ready).unwrap_or(true);
    let serving = conditions.and_then(|one| one.serving).unwrap_or(ready);
    let mut terminating = conditions.and_then(|one| one.terminating).unwrap_or(false);
    let target = endpoint
        .target_ref
        .as_ref()
        .filter(|target| target.kind.as_deref() == Some("Pod"));
    if let Some(target) = target {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let found = snapshot
            .pods
            .get(namespace, target.name.as_deref().unwrap_or_default());
        match found.filter(|pod| target.uid.is_none() || pod.metadata.uid == target.uid) {
            Some(pod) if pod::is_terminated(pod) => return None,
            Some(pod) => terminating |= pod::is_deleted(pod),
            None => return None,
        }
    }
    match (terminating, ready, serving) {
        (false, true, _) => Some(Standing::Ready),
        (true, _, true) => Some(Standing::Terminating),
        // Connections that it has are not for us to cut.
        _ => Some(Standing::Unready),
    }
}

fn backend(endpoint: &SliceEndpoint, port: u16, standing: Standing) -> Option<Backend> {
    // Only the first address means anything: KEP-752.
    let address = endpoint.addresses.first()?.parse().ok()?;
    let hints = endpoint.hints.clone().unwrap_or_default();
    Some(Backend {
        node: endpoint.node_name.clone().unwrap_or_default(),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        standing,
        for_zones: hints
            .for_zones
            .into_iter()
            .flatten()
            .map(|zone| zone.name)
            .collect(),
        for_nodes: hints
            .for_nodes
            .into_iter()
            .flatten()
            .map(|node| node.name)
            .collect(),
        ..Backend::at(address, port)
    })
}

/// Every address of a pod that is bound, has not ended and does not use its node's network.
fn endpoints(
    snapshot: &Snapshot,
    registry: &Registry,
    reserved: &Reserved,
) -> BTreeMap<IpAddr, Endpoint> {
    let naming = Naming::of(snapshot);
    let mut found: BTreeMap<IpAddr, Endpoint> = BTreeMap::new();
    for pod in snapshot.pods.iter().filter(|pod| has_own_network(pod)) {
        let Some(node) = pod::node_name(pod) else {
            continue;
        };
        let object = pod::reference(pod);
        let (identity, tenant) = numbers(snapshot, registry, &naming, pod);
        for address in addresses(pod, reserved.get(&object.uid)) {
            let row = Endpoint {
                address,
                identity,
                tenant,
                node: node.to_owned(),
                namespace: object.namespace.clone(),
                pod: object.name.clone(),
                host_ports: host_ports(pod),
            };
            found.entry(address).or_insert(row);
        }
    }
    found
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

fn addresses(pod: &Pod, reserved: Option<&PerFamily<IpAddr>>) -> BTreeSet<IpAddr> {
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
    let reserved = reserved.into_iter().flat_map(PerFamily::iter);
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
