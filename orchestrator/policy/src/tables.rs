//! What the tables of one node should hold, given the cluster's network state and what is particular to the node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use waggle_abi::{
    Addr, Capacity, Config, EndpointRow, GrantKey, IDENTITY_HOST, LinkRow, OwnerRow, ServiceKey,
    TCP, TENANT_ANY, TENANT_SYSTEM, UDP, V4_MAPPED_BITS, endpoint_kind, service_flag,
};
use waggle_model::IdentityId;
use waggle_model::network::{Cidr, Export, NetworkState, Service};

use crate::capacity::{CapacityFault, Table, check};
use crate::enforce::Governed;

/// The DNS VIP becomes the node's own listener, whatever the Service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsRedirect {
    /// Virtual address that pods have in resolv.conf; port 53, UDP and TCP.
    pub vip: IpAddr,
    /// Where this node's DNS listens.
    pub listener: SocketAddr,
}

/// A pod that is connected here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPod {
    /// Host end of its veth.
    pub ifindex: u32,
    /// Its row in `LINKS`.
    pub link: LinkRow,
    /// Hardware address of the pod's end.
    pub mac: [u8; 6],
    /// Hardware address of the host's end.
    pub gateway_mac: [u8; 6],
}

/// What is particular to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name, as endpoints spell it.
    pub name: String,
    /// Its underlay address, known before the network state names it.
    pub address: Option<IpAddr>,
    /// Cookie of its own network namespace.
    pub host_netns: u64,
    /// Where the DNS VIP goes; `None` leaves it to the Service.
    pub dns: Option<DnsRedirect>,
    /// Pods that are connected.
    pub pods: Vec<LocalPod>,
    /// Rulesets of their identities; who is not in here is locked.
    pub governed: BTreeMap<IdentityId, Governed>,
    /// Number of the next ruleset.
    pub next_ruleset: u32,
}

impl LocalNode {
    /// Identities of the connected pods: the state's, once it knows their address.
    pub fn identities(&self, state: &NetworkState) -> BTreeSet<IdentityId> {
        let pods = self.pods.iter();
        pods.map(|pod| IdentityId(self.placed(state, pod).identity))
            .collect()
    }

    /// A pod's row with the identity and tenant that count.
    fn placed(&self, state: &NetworkState, pod: &LocalPod) -> LinkRow {
        let mut link = pod.link;
        let known = state.endpoints.get(&IpAddr::from(link.addr));
        if let Some(endpoint) = known.filter(|endpoint| endpoint.node == self.name) {
            link.identity = endpoint.identity.0;
            link.tenant = endpoint.tenant.0;
        }
        link
    }
}

/// One service port as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    /// Service number.
    pub service: u32,
    /// Owner.
    pub tenant: u32,
    /// Bits of [`service_flag`].
    pub flags: u32,
    /// Address and port (network byte order), sorted.
    pub backends: Vec<(Addr, u16)>,
}

/// Every row that a node should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// The `CONFIG` row.
    pub config: Config,
    /// `SERVICES` with what their slabs hold.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Addr, EndpointRow>,
    /// `RANGES`: prefix length in 128 bits and first address.
    pub ranges: BTreeSet<(u32, Addr)>,
    /// `GRANTS`.
    pub grants: BTreeMap<GrantKey, u32>,
    /// `LINKS` of the pods that are connected.
    pub links: BTreeMap<u32, LinkRow>,
    /// `SOCKET_OWNERS` of the pods that are connected.
    pub owners: BTreeMap<u64, OwnerRow>,
}

/// Makes the tables of `local` from `state`.
///
/// Where two claim one address, a node wins over a pod and a pod over a service: nobody can take another's address by
/// writing it into a Service.
///
/// # Errors
/// [`CapacityFault`] when a table can't hold its rows.
pub fn tables(
    state: &NetworkState,
    local: &LocalNode,
    capacity: &Capacity,
) -> Result<Tables, CapacityFault> {
    let mut tables = Tables {
        config: Config {
            host_netns: local.host_netns,
            next_ruleset: local.next_ruleset,
            pad: 0,
        },
        ranges: state
            .nodes
            .values()
            .flat_map(|node| node.pod_cidrs.iter().copied().map(range_of))
            .collect(),
        ..Tables::default()
    };
    add_endpoints(&mut tables, state, local);
    for service in state.services.values() {
        add_service(&mut tables, service);
        add_grants(&mut tables, state, service);
    }
    if let Some(dns) = local.dns {
        add_dns(&mut tables, dns);
    }
    let slots = tables
        .services
        .values()
        .map(|plan| plan.backends.len())
        .sum();
    check(capacity, Table::Services, tables.services.len())?;
    check(capacity, Table::Slots, slots)?;
    check(capacity, Table::Endpoints, tables.endpoints.len())?;
    check(capacity, Table::Ranges, tables.ranges.len())?;
    check(capacity, Table::Grants, tables.grants.len())?;
    check(capacity, Table::Links, tables.links.len())?;
    Ok(tables)
}

/// A range as `RANGES` spells it.
pub fn range_of(cidr: Cidr) -> (u32, Addr) {
    let offset = if cidr.address().is_ipv4() {
        V4_MAPPED_BITS
    } else {
        0
    };
    (offset + u32::from(cidr.prefix()), cidr.address().into())
}

fn add_endpoints(tables: &mut Tables, state: &NetworkState, local: &LocalNode) {
    for endpoint in state.endpoints.values() {
        let row = EndpointRow {
            identity: endpoint.identity.0,
            tenant: endpoint.tenant.0,
            kind: endpoint_kind::POD,
            ..EndpointRow::default()
        };
        tables.endpoints.insert(endpoint.address.into(), row);
    }
    for pod in &local.pods {
        add_local_pod(tables, state, local, pod);
    }
    let listener = local.dns.map(|dns| dns.listener.ip());
    // This node's own addresses last: rule 1 is about them alone.
    for node in state.nodes.values() {
        let kind = if node.name == local.name {
            endpoint_kind::HOST
        } else {
            endpoint_kind::NODE
        };
        for address in &node.addresses {
            tables.endpoints.insert((*address).into(), node_row(kind));
        }
    }
    for address in local.address.into_iter().chain(listener) {
        let row = node_row(endpoint_kind::HOST);
        tables.endpoints.insert(address.into(), row);
    }
}

fn node_row(kind: u32) -> EndpointRow {
    EndpointRow {
        identity: IDENTITY_HOST,
        tenant: TENANT_SYSTEM,
        kind,
        ..EndpointRow::default()
    }
}

/// A connected pod has its rows whether or not the network state knows it yet; once it does, the state's identity
/// counts.
fn add_local_pod(tables: &mut Tables, state: &NetworkState, local: &LocalNode, pod: &LocalPod) {
    let mut link = local.placed(state, pod);
    let governed = local.governed.get(&IdentityId(link.identity));
    let governed = governed.copied().unwrap_or(Governed::LOCKED);
    (link.ingress, link.egress) = (governed.ingress, governed.egress);
    let row = EndpointRow {
        identity: link.identity,
        tenant: link.tenant,
        kind: endpoint_kind::POD,
        ifindex: pod.ifindex,
        mac: pod.mac,
        gateway_mac: pod.gateway_mac,
        ingress: link.ingress,
        egress: link.egress,
        pad: 0,
    };
    for addr in [link.addr, link.addr_other] {
        if addr != Addr::NONE {
            tables.endpoints.insert(addr, row);
        }
    }
    tables.links.insert(pod.ifindex, link);
    let owner = OwnerRow {
        identity: link.identity,
        tenant: link.tenant,
        egress: link.egress,
        addr: link.addr,
    };
    tables.owners.insert(link.netns, owner);
}

fn add_service(tables: &mut Tables, service: &Service) {
    let flags = if service.export == Export::Everyone {
        service_flag::EXPORTED_TO_ALL
    } else {
        0
    };
    for vip in &service.vips {
        add_vip(tables, *vip, service.tenant.0);
        for port in &service.ports {
            let mut backends: Vec<_> = port
                .usable()
                .map(|b| (b.address.into(), b.port.to_be()))
                .collect();
            backends.sort_unstable();
            backends.dedup();
            let plan = ServicePlan {
                service: service.id.0,
                tenant: service.tenant.0,
                flags,
                backends,
            };
            tables
                .services
                .entry(service_key(*vip, port.port, port.protocol.number()))
                .or_insert(plan);
        }
    }
}

fn add_vip(tables: &mut Tables, vip: IpAddr, tenant: u32) {
    let row = EndpointRow {
        tenant,
        kind: endpoint_kind::VIP,
        ..EndpointRow::default()
    };
    tables.endpoints.entry(vip.into()).or_insert(row);
}

fn service_key(vip: IpAddr, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        vip: vip.into(),
        port: port.to_be(),
        protocol,
        pad: 0,
    }
}

/// An export opens the wall for the service's own backends only: an EndpointSlice that names another tenant's pods, or
/// an address in the pods' range that nobody has, opens nothing.
fn add_grants(tables: &mut Tables, state: &NetworkState, service: &Service) {
    let tenants: Vec<u32> = match &service.export {
        Export::Everyone => vec![TENANT_ANY],
        Export::To(tenants) => tenants
            .iter()
            .map(|tenant| tenant.0)
            .filter(|t| *t != TENANT_ANY)
            .collect(),
    };
    if tenants.is_empty() {
        return;
    }
    for port in &service.ports {
        for backend in port
            .backends
            .iter()
            .filter(|backend| may_export(state, service, backend.address))
        {
            for tenant in &tenants {
                let key = GrantKey {
                    addr: backend.address.into(),
                    port: backend.port.to_be(),
                    protocol: port.protocol.number(),
                    pad: 0,
                    tenant: *tenant,
                };
                tables.grants.entry(key).or_insert(service.id.0);
            }
        }
    }
}

pub(crate) fn may_export(state: &NetworkState, service: &Service, address: IpAddr) -> bool {
    match state.endpoints.get(&address) {
        Some(endpoint) => endpoint.tenant == service.tenant,
        None => !state.nodes.values().any(|node| node.has_pod(address)),
    }
}

fn add_dns(tables: &mut Tables, dns: DnsRedirect) {
    add_vip(tables, dns.vip, TENANT_SYSTEM);
    let backends = vec![(dns.listener.ip().into(), dns.listener.port().to_be())];
    for protocol in [UDP, TCP] {
        let key = service_key(dns.vip, 53, protocol);
        let service = tables.services.get(&key).map_or(0, |plan| plan.service);
        let plan = ServicePlan {
            service,
            tenant: TENANT_SYSTEM,
            flags: 0,
            backends: backends.clone(),
        };
        tables.services.insert(key, plan);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::network::{Backend, Endpoint, NodeNetwork, Protocol, ServicePort};
    use waggle_model::{Generation, IdentityId, ServiceId, TenantId};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint(address: &str, tenant: u32) -> Endpoint {
        Endpoint {
            address: ip(address),
            identity: IdentityId(tenant * 10),
            tenant: TenantId(tenant),
            node: "node1".into(),
            namespace: "shop".into(),
            pod: "web".into(),
            host_ports: Vec::new(),
        }
    }

    fn service(id: u32, tenant: u32, vip: &str, backends: &[&str], export: Export) -> Service {
        let backends = backends
            .iter()
            .map(|text| Backend {
                node: "node1".into(),
                ..Backend::at(ip(text), 80)
            })
            .collect();
        Service {
            id: ServiceId(id),
            namespace: "shop".into(),
            name: format!("service-{id}"),
            tenant: TenantId(tenant),
            vips: vec![ip(vip)],
            ports: vec![ServicePort {
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 8080,
                backends,
                ..ServicePort::default()
            }],
            export,
            ..Service::default()
        }
    }

    fn state(services: Vec<Service>, endpoints: Vec<Endpoint>) -> NetworkState {
        let node = NodeNetwork {
            name: "node1".into(),
            addresses: vec![ip("172.30.0.11")],
            pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
            zone: String::new(),
        };
        NetworkState {
            generation: Generation(1),
            services: services.into_iter().map(|s| (s.id, s)).collect(),
            endpoints: endpoints.into_iter().map(|e| (e.address, e)).collect(),
            nodes: [(node.name.clone(), node)].into(),
            ..NetworkState::default()
        }
    }

    fn none() -> Export {
        Export::To(BTreeSet::new())
    }

    fn made(state: &NetworkState, local: &LocalNode) -> Tables {
        tables(state, local, &Capacity::default()).unwrap()
    }

    #[test]
    fn a_service_row_lists_its_backends_and_its_vip_is_known() {
        let shop = service(7, 2, "10.96.0.5", &["10.244.1.3", "10.244.1.2"], none());
        let tables = made(
            &state(vec![shop], vec![endpoint("10.244.1.2", 2)]),
            &LocalNode::default(),
        );
        let plan = &tables.services[&service_key(ip("10.96.0.5"), 8080, TCP)];
        let port = 80u16.to_be();
        assert_eq!(
            plan.backends,
            [
                (ip("10.244.1.2").into(), port),
                (ip("10.244.1.3").into(), port)
            ]
        );
        assert_eq!(
            tables.endpoints[&ip("10.96.0.5").into()].kind,
            endpoint_kind::VIP
        );
        assert_eq!(
            tables.endpoints[&ip("172.30.0.11").into()].kind,
            endpoint_kind::NODE
        );
        assert_eq!(tables.ranges, [(120, ip("10.244.1.0").into())].into());
        assert!(tables.grants.is_empty());
    }

    #[test]
    fn an_export_grants_own_backends_only() {
        let exports = Export::To([TenantId(3), TenantId(4)].into());
        let backends = ["10.244.1.2", "10.244.1.9", "10.244.1.77", "192.0.2.1"];
        let shop = service(7, 2, "10.96.0.5", &backends, exports);
        let endpoints = vec![endpoint("10.244.1.2", 2), endpoint("10.244.1.9", 5)];
        let tables = made(&state(vec![shop], endpoints), &LocalNode::default());
        let granted: BTreeSet<_> = tables
            .grants
            .keys()
            .map(|k| (IpAddr::from(k.addr), k.tenant))
            .collect();
        let expected = ["10.244.1.2", "192.0.2.1"]
            .into_iter()
            .flat_map(|a| [(ip(a), 3), (ip(a), 4)]);
        assert_eq!(granted, expected.collect());
    }

    #[test]
    fn a_service_cannot_take_the_address_of_a_pod_or_a_node() {
        let thief = service(7, 9, "10.244.1.2", &[], none());
        let other = service(8, 9, "172.30.0.11", &[], none());
        let tables = made(
            &state(vec![thief, other], vec![endpoint("10.244.1.2", 2)]),
            &LocalNode::default(),
        );
        assert_eq!(
            tables.endpoints[&ip("10.244.1.2").into()].kind,
            endpoint_kind::POD
        );
        assert_eq!(
            tables.endpoints[&ip("172.30.0.11").into()].kind,
            endpoint_kind::NODE
        );
    }

    #[test]
    fn the_dns_vip_goes_to_this_node_whatever_the_service_says() {
        let dns = DnsRedirect {
            vip: ip("10.96.0.10"),
            listener: "172.30.0.11:5353".parse().unwrap(),
        };
        let local = LocalNode {
            name: "node1".into(),
            dns: Some(dns),
            ..LocalNode::default()
        };
        let mut kube_dns = service(3, 1, "10.96.0.10", &[], none());
        kube_dns.ports[0].port = 53;
        let tables = made(&state(vec![kube_dns], vec![]), &local);
        for protocol in [TCP, UDP] {
            let plan = &tables.services[&service_key(dns.vip, 53, protocol)];
            assert_eq!(plan.backends, [(dns.listener.ip().into(), 5353u16.to_be())]);
            assert_eq!(plan.tenant, TENANT_SYSTEM);
        }
    }

    #[test]
    fn a_local_pod_has_rows_before_the_state_knows_it_and_follows_the_state_after() {
        let link = LinkRow {
            addr: ip("10.244.1.2").into(),
            identity: 5,
            tenant: 2,
            netns: 99,
            ..LinkRow::default()
        };
        let pod = LocalPod {
            ifindex: 12,
            link,
            mac: [2; 6],
            gateway_mac: [4; 6],
        };
        let local = LocalNode {
            name: "node1".into(),
            pods: vec![pod],
            ..LocalNode::default()
        };
        let before = made(&state(vec![], vec![]), &local);
        let row = before.endpoints[&link.addr];
        assert_eq!(
            (row.identity, row.tenant, row.ifindex, row.mac),
            (5, 2, 12, [2; 6])
        );
        assert_eq!(before.owners[&99].identity, 5);
        let after = made(&state(vec![], vec![endpoint("10.244.1.2", 3)]), &local);
        assert_eq!(after.links[&12].tenant, 3);
        assert_eq!(after.owners[&99].tenant, 3);
        assert_eq!(after.endpoints[&link.addr].tenant, 3);
    }

    #[test]
    fn too_many_rows_are_refused_with_the_count() {
        let capacity = Capacity {
            slots: 1,
            ..Capacity::default()
        };
        let shop = service(7, 2, "10.96.0.5", &["10.244.1.2", "10.244.1.3"], none());
        let fault =
            tables(&state(vec![shop], vec![]), &LocalNode::default(), &capacity).unwrap_err();
        assert_eq!(
            fault,
            CapacityFault {
                table: Table::Slots,
                needed: 2,
                limit: 1
            }
        );
        assert_eq!(
            fault.to_string(),
            "2 backend slots are needed but this node's datapath has room for 1"
        );
    }
}
