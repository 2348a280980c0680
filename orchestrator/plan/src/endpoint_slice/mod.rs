//! The EndpointSlice controller: where each Service with a selector is served. How endpoints are spread over slices is
//! in `slices`; what people say of a Service without one, by Endpoints, is in `mirror`. Who uses slices is decided in `network`.

mod mirror;
pub(crate) mod slices;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pod::{self, Pod};
use crate::snapshot::Also;
use crate::{Plan, Scope, Snapshot, selector};

/// Label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a slice that names who writes it.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Label on what belongs to a Service without an address.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Annotation that says since when the pods were so that made the last change; who measures how long it takes asks it.
pub(crate) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Value of [`MANAGED_BY_LABEL`] on the slices of this controller.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// Slices of one kind: address type, and the ports of which every endpoint has all.
pub(crate) type GroupKey = (&'static str, Ports);

/// Resolved ports: name, protocol, number, application protocol.
pub(crate) type Ports = Vec<(String, String, i32, Option<String>)>;

/// Endpoints by the uid of their pod.
pub(crate) type Group = BTreeMap<String, Endpoint>;

/// Keeps the slices of every Service with a selector, and of Endpoints that people wrote; a Service that loses its selector keeps
/// those that it had, and they are their user's from then on. The time decides nothing here.
pub fn plan(snapshot: &Snapshot, scope: Scope, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for service in snapshot
        .in_scope(scope, &snapshot.services, &[Also::Zones])
        .into_iter()
        .filter(|one| one.metadata.deletion_timestamp.is_none())
    {
        if let Some(wanted) = endpoints(snapshot, service) {
            slices::reconcile(snapshot, service, wanted, &mut plan);
        }
    }
    mirror::plan(snapshot, scope, &mut plan);
    plan
}

/// Every endpoint of a Service; `None` when this controller has no say in them.
pub(crate) fn endpoints(
    snapshot: &Snapshot,
    service: &Service,
) -> Option<BTreeMap<GroupKey, Group>> {
    let spec = service.spec.as_ref()?;
    let wanted = spec.selector.as_ref().filter(|labels| !labels.is_empty())?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
    for pod in snapshot.pods_labelled(namespace, Some(wanted)) {
        if !selector::contains(pod.metadata.labels.as_ref(), wanted) || pod::is_terminated(pod) {
            continue;
        }
        let ports = resolve(spec.ports.as_deref().unwrap_or_default(), pod);
        for address in addresses(pod) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let asked = spec.ip_families.as_deref().unwrap_or_default();
            if !asked.is_empty() && !asked.iter().any(|one| one == family) {
                continue;
            }
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let group = groups.entry((family, ports.clone())).or_default();
            group.insert(uid, endpoint(snapshot, service, pod, address));
        }
    }
    Some(groups)
}

/// Labels of what belongs to a Service: its own, but those that say something else there.
pub(crate) fn labels_of(service: &Service, managed_by: &str) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    let reserved = [
        SERVICE_NAME_LABEL,
        MANAGED_BY_LABEL,
        HEADLESS_LABEL,
        managed_by,
    ];
    labels.retain(|key, _| !reserved.contains(&key.as_str()));
    let spec = service.spec.as_ref();
    if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels
}

/// Since when the pods of these endpoints are ready or not: the earliest.
pub(crate) fn since<'a>(
    snapshot: &Snapshot,
    changed: impl Iterator<Item = &'a ObjectReference>,
) -> Option<Timestamp> {
    let times = changed.filter_map(|target| {
        let (namespace, name) = (target.namespace.as_deref()?, target.name.as_deref()?);
        let pod = snapshot.pods.get(namespace, name)?;
        let ready = pod::condition(pod, "Ready")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    });
    times.min()
}

/// A pod's addresses, one a family.
fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let listed = status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
    let texts = status.pod_ip.as_deref().into_iter().chain(listed);
    let mut found: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(|text| text.parse::<IpAddr>().ok()) {
        if !found.iter().any(|one| one.is_ipv4() == address.is_ipv4()) {
            found.push(address);
        }
    }
    found
}

fn endpoint(snapshot: &Snapshot, service: &Service, pod: &Pod, address: IpAddr) -> Endpoint {
    let spec = service.spec.as_ref();
    let unready_too = spec
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let (serving, terminating) = (pod::is_ready(pod), pod::is_deleted(pod));
    let object = pod::reference(pod);
    let pod_spec = pod.spec.as_ref();
    let subdomain = pod_spec.and_then(|spec| spec.subdomain.as_ref());
    let hostname = pod.place.hostname.clone().filter(|name| !name.is_empty());
    let ready = unready_too || (serving && !terminating);
    let node = pod::node_name(pod);
    let zone = node.and_then(|node| zone(snapshot, node));
    let distribution = spec.and_then(|spec| spec.traffic_distribution.as_deref());
    Endpoint {
        addresses: vec![address.to_string()],
        hints: distribution
            .filter(|_| ready)
            .and_then(|distribution| hints(distribution, zone, node)),
        zone: zone.map(str::to_owned),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname
            .filter(|_| subdomain.is_some() && subdomain == service.metadata.name.as_ref()),
        node_name: node.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(object.namespace),
            name: Some(object.name),
            uid: Some(object.uid),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The failure zone of a node, if it says one.
fn zone<'a>(snapshot: &'a Snapshot, node: &str) -> Option<&'a str> {
    zone_of(snapshot.nodes.get("", node)?)
}

/// The same, of the node itself.
pub(crate) fn zone_of(node: &Node) -> Option<&str> {
    let zone = node
        .metadata
        .labels
        .as_ref()?
        .get("topology.kubernetes.io/zone")?;
    (!zone.is_empty()).then_some(zone)
}

/// Whose callers should prefer an endpoint, by spec.trafficDistribution (KEP-2433, KEP-3015).
fn hints(distribution: &str, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let by_node = distribution == "PreferSameNode";
    if !by_node && !matches!(distribution, "PreferClose" | "PreferSameZone") {
        return None;
    }
    let for_zones = zone.map(|name| {
        vec![ForZone {
            name: name.to_owned(),
        }]
    });
    let for_nodes = node.filter(|_| by_node).map(|name| {
        vec![ForNode {
            name: name.to_owned(),
        }]
    });
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints {
        for_nodes,
        for_zones,
    })
}

/// A Service's ports as this pod has them. A named port that the pod lacks is left out.
fn resolve(ports: &[ServicePort], pod: &Pod) -> Ports {
    let mut resolved: Ports = ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let number = target(port, &protocol, pod)?;
            Some((
                port.name.clone().unwrap_or_default(),
                protocol,
                number,
                port.app_protocol.clone(),
            ))
        })
        .collect();
    resolved.sort();
    resolved
}

fn target(port: &ServicePort, protocol: &str, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
            let mut all = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|one| one.ports.iter().flatten());
            let found = all.find(|one| {
                one.name.as_ref() == Some(name)
                    && one.protocol.as_deref().unwrap_or("TCP") == protocol
            });
            found.map(|one| one.container_port)
        }
    }
}

/// Ports as a slice has them.
fn slice_ports(ports: &Ports) -> Vec<EndpointPort> {
    let rows = ports
        .iter()
        .map(|(name, protocol, number, application)| EndpointPort {
            name: Some(name.clone()),
            protocol: Some(protocol.clone()),
            port: Some(*number),
            app_protocol: application.clone(),
        });
    rows.collect()
}
