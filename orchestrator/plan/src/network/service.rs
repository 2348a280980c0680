//! What a Service object comes to in the network state: its addresses, ports, backends and the rules of choosing
//! among them. How an alias (ExternalName) is followed is DNS's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Service as ServiceObject, ServicePort as PortObject, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use waggle_model::network::{
    Backend, Cidr, Export, External, Protocol, Scope, Service, ServicePort, Standing,
};
use waggle_model::{DIRECT_RETURN_ANNOTATION, EXPORT_ANNOTATION, TenantId};

use super::announce::Announcers;
use super::protocol;
use crate::identity::Registry;
use crate::{Snapshot, load_balancer, pod, tenant};

/// Seconds for which a client keeps its backend when the Service does not say.
const AFFINITY_SECONDS: u32 = 10_800;

/// A Service; `None` for one that has no number yet.
pub(super) fn service(
    snapshot: &Snapshot,
    registry: &Registry,
    announcers: &Announcers,
    object: &ServiceObject,
) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    let id = registry.service(object.metadata.uid.as_deref()?)?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let owner = tenant::of_namespace(
        &namespace,
        snapshot.namespaces.get("", &namespace).map(AsRef::as_ref),
    );
    let owner = tenant::of_service(&namespace, &name, owner);
    let named = Service {
        id,
        tenant: registry.tenant(owner).unwrap_or(TenantId(0)),
        namespace: namespace.clone(),
        name: name.clone(),
        export: export(registry, object),
        ..Service::default()
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        let alias = spec.external_name.as_deref().unwrap_or_default();
        return Some(Service {
            external_name: alias.trim_end_matches('.').to_ascii_lowercase(),
            ..named
        });
    }
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
    let external_scope = scope(spec.external_traffic_policy.as_deref());
    Some(Service {
        external: external(object, announcers, &ports, external_scope),
        vips,
        ports,
        affinity_seconds: affinity(spec),
        internal_scope: scope(spec.internal_traffic_policy.as_deref()),
        external_scope,
        health_check_port: health_check_port(spec),
        source_ranges: source_ranges(spec),
        direct_return: annotation(object, DIRECT_RETURN_ANNOTATION) == "true",
        ..named
    })
}

/// Whether a Service has, or may come to have, addresses that other Services and nodes have a say in.
pub(super) fn is_external(object: &ServiceObject) -> bool {
    let spec = object.spec.as_ref();
    let listed = spec.and_then(|spec| spec.external_ips.as_ref());
    listed.is_some_and(|all| !all.is_empty())
        || spec.is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
        || load_balancer::addresses(object).next().is_some()
        || load_balancer::foreign_addresses(object).next().is_some()
}

/// Addresses for clients outside: spec.externalIPs, which something else leads to the nodes, and the load balancer's.
fn external(
    object: &ServiceObject,
    announcers: &Announcers,
    ports: &[ServicePort],
    scope: Scope,
) -> Vec<External> {
    let spec = object.spec.as_ref();
    let texts = spec.and_then(|spec| spec.external_ips.as_ref());
    let routed = texts.into_iter().flatten().map(String::as_str);
    let routed = routed.chain(load_balancer::foreign_addresses(object));
    let mut found: BTreeMap<IpAddr, String> = routed
        .filter_map(|text| text.parse().ok())
        .filter(|address| !announcers.is_balanced(*address))
        .map(|address| (address, String::new()))
        .collect();
    for address in load_balancer::addresses(object) {
        let node = match scope {
            Scope::Cluster => announcers.anywhere(address),
            Scope::Local => announcers.among(&serving(ports, address), address),
        };
        found.insert(address, node.unwrap_or_default().to_owned());
    }
    let row = |(address, announced_by)| External {
        address,
        announced_by,
    };
    found.into_iter().map(row).collect()
}

/// Nodes that have backends of their own for callers of `address`.
fn serving(ports: &[ServicePort], address: IpAddr) -> BTreeSet<&str> {
    let backends = ports.iter().flat_map(ServicePort::usable);
    backends
        .filter(|backend| backend.address.is_ipv4() == address.is_ipv4())
        .map(|backend| backend.node.as_str())
        .collect()
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
    Some(
        seconds
            .filter(|seconds| *seconds > 0)
            .unwrap_or(AFFINITY_SECONDS),
    )
}

fn scope(policy: Option<&str>) -> Scope {
    if policy == Some("Local") {
        Scope::Local
    } else {
        Scope::Cluster
    }
}

fn health_check_port(spec: &ServiceSpec) -> Option<u16> {
    let local = scope(spec.external_traffic_policy.as_deref()) == Scope::Local;
    let asked = local && spec.type_.as_deref() == Some("LoadBalancer");
    let port = spec.health_check_node_port.filter(|_| asked)?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn source_ranges(spec: &ServiceSpec) -> Vec<Cidr> {
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return Vec::new();
    }
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let ranges: BTreeSet<Cidr> = texts
        .filter_map(|text| Cidr::masked(text.trim()).ok())
        .collect();
    ranges.into_iter().collect()
}

fn annotation<'a>(object: &'a ServiceObject, key: &str) -> &'a str {
    let annotations = object.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(key))
        .map_or("", String::as_str)
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

/// Protocol of a Service port that the datapath translates: not SCTP, whose checksum covers its ports.
fn translated(port: &PortObject) -> Option<Protocol> {
    protocol(port.protocol.as_deref()).filter(|one| *one != Protocol::Sctp)
}

fn export(registry: &Registry, object: &ServiceObject) -> Export {
    let text = annotation(object, EXPORT_ANNOTATION);
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
