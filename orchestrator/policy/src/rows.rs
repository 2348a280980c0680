//! The rows that each claimant wants, made from the facts. A maker that reads something of another claimant says so by
//! [`Made::look_at`]: its rows are made anew when that changes.

use std::net::IpAddr;

use waggle_abi::{
    Addr, Config, EndpointRow, GrantKey, IDENTITY_HOST, OwnerRow, RangeRow, ServiceKey, TCP,
    TENANT_ANY, TENANT_SYSTEM, UDP, V4_MAPPED_BITS, config_flag, endpoint_kind, range_flag, scope,
};
use waggle_model::IdentityId;
use waggle_model::network::{Cidr, Endpoint, Export, NetworkState, NodeNetwork, Service};

use crate::claim::Claimant;
use crate::facts::{DnsRedirect, Fact, Facts, LocalPod};
use crate::outside::{add_external, add_host_ports, add_ports};
use crate::table::{Row, ServicePlan};
use crate::underlay::{Way, way};

/// Prefix length of a single address in `RANGES`.
const ADDRESS_BITS: u32 = 128;

/// What one claimant wants.
#[derive(Debug, Default)]
pub(crate) struct Made {
    /// Rows that stand for themselves; of two for one key the first counts.
    pub(crate) rows: Vec<Row>,
    /// Service ports.
    pub(crate) services: Vec<(ServiceKey, ServicePlan)>,
    /// What it depends on.
    pub(crate) looked_at: Vec<Fact>,
}

impl Made {
    pub(crate) fn put(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn look_at(&mut self, fact: Fact) {
        self.looked_at.push(fact);
    }
}

/// The rows of `claimant`; none when it is gone.
pub(crate) fn make(facts: &Facts, claimant: &Claimant) -> Made {
    let mut made = Made::default();
    match claimant {
        Claimant::Here => add_here(&mut made, facts),
        Claimant::Node(name) => {
            if let Some(node) = facts.state.nodes.get(name) {
                add_node(&mut made, facts, node);
            }
        }
        Claimant::Pod(ifindex) => {
            if let Some(pod) = facts.pods.get(ifindex) {
                add_pod(&mut made, facts, pod);
            }
        }
        Claimant::Endpoint(address) => {
            if let Some(endpoint) = facts.state.endpoints.get(address) {
                add_endpoint(&mut made, endpoint);
                add_host_ports(&mut made, facts, endpoint);
            }
        }
        // Rulesets are made in `enforce`.
        Claimant::Identity(_) => {}
        Claimant::Dns => {
            if let Some(dns) = facts.dns {
                add_dns(&mut made, dns);
            }
        }
        Claimant::Service(id) => {
            if let Some(service) = facts.state.services.get(id) {
                add_service(&mut made, facts, service);
                add_grants(&mut made, facts, service);
            }
        }
    }
    made
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

/// The services' range of a family as `CONFIG` spells it: its first address, and the bits that all have in common.
fn service_range(facts: &Facts, ipv4: bool) -> (Addr, Addr) {
    let mut ranges = facts.service_ranges.iter();
    let Some(range) = ranges.find(|range| range.address().is_ipv4() == ipv4) else {
        return (Addr::NONE, Addr::NONE);
    };
    let (bits, first) = range_of(*range);
    let ones = u128::MAX.checked_shl(ADDRESS_BITS - bits).unwrap_or(0);
    (first, IpAddr::V6(ones.into()).into())
}

fn add_here(made: &mut Made, facts: &Facts) {
    let (services_v4, services_v4_mask) = service_range(facts, true);
    let (services_v6, services_v6_mask) = service_range(facts, false);
    let config = Config {
        host_netns: facts.local.host_netns,
        next_ruleset: facts.next_ruleset,
        uplink: facts.local.uplink.ifindex,
        tunnel: facts.local.tunnel,
        flags: if facts.tell_new {
            config_flag::TELL_NEW
        } else {
            0
        },
        node_v4: node_address(facts, true),
        node_v6: node_address(facts, false),
        services_v4,
        services_v4_mask,
        services_v6,
        services_v6_mask,
    };
    made.put(Row::Config((), config));
    for range in &facts.service_ranges {
        let row = RangeRow {
            node: Addr::NONE,
            flags: range_flag::SERVICES,
        };
        made.put(Row::Range(range_of(*range), row));
    }
    let listener = facts.dns.map(|dns| dns.listener.ip());
    for address in facts.local.addresses.iter().copied().chain(listener) {
        let row = node_row(endpoint_kind::HOST);
        made.put(Row::Endpoint(address.into(), row));
    }
}

/// The node's address of a family.
fn node_address(facts: &Facts, ipv4: bool) -> Addr {
    facts.local.address(ipv4).map_or(Addr::NONE, Addr::from)
}

fn add_node(made: &mut Made, facts: &Facts, node: &NodeNetwork) {
    for range in &node.pod_cidrs {
        let row = range_row(facts, node, range.address().is_ipv4());
        made.put(Row::Range(range_of(*range), row));
    }
    // Rule 1 is about this node's own addresses alone.
    let kind = if node.name == facts.local.name {
        endpoint_kind::HOST
    } else {
        endpoint_kind::NODE
    };
    for address in &node.addresses {
        made.put(Row::Endpoint((*address).into(), node_row(kind)));
        let row = range_row(facts, node, address.is_ipv4());
        if row.flags & range_flag::TUNNEL != 0 {
            // What pods send to the node itself goes the same way: nothing between the nodes knows their addresses.
            made.put(Row::Range((ADDRESS_BITS, (*address).into()), row));
        }
    }
}

/// Where packets of a family to `node` go.
fn range_row(facts: &Facts, node: &NodeNetwork, ipv4: bool) -> RangeRow {
    if node.name == facts.local.name {
        return RangeRow::default();
    }
    let (address, flags) = match way(&facts.local, node, ipv4) {
        Some(Way::Direct(address)) => (address.into(), 0),
        Some(Way::Tunnel(address)) => (address.into(), range_flag::TUNNEL),
        Some(Way::Routed) | None => (Addr::NONE, 0),
    };
    RangeRow {
        node: address,
        flags,
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

fn add_endpoint(made: &mut Made, endpoint: &Endpoint) {
    let row = EndpointRow {
        identity: endpoint.identity.0,
        tenant: endpoint.tenant.0,
        kind: endpoint_kind::POD,
        ..EndpointRow::default()
    };
    made.put(Row::Endpoint(endpoint.address.into(), row));
}

/// A connected pod has its rows whether or not the network state knows it yet; once it does, the state's identity
/// counts.
fn add_pod(made: &mut Made, facts: &Facts, pod: &LocalPod) {
    made.look_at(Fact::Endpoint(IpAddr::from(pod.link.addr)));
    let mut link = facts.placed(pod);
    if let Some(governed) = facts.governed.get(&IdentityId(link.identity)) {
        (link.ingress, link.egress) = (governed.ingress, governed.egress);
    }
    let row = EndpointRow {
        identity: link.identity,
        tenant: link.tenant,
        kind: endpoint_kind::POD,
        ifindex: pod.ifindex,
        mac: pod.mac,
        gateway_mac: pod.gateway_mac,
        ingress: link.ingress,
        egress: link.egress,
        flags: 0,
    };
    for addr in pod.addresses() {
        made.put(Row::Endpoint(addr, row));
    }
    made.put(Row::Link(pod.ifindex, link));
    let owner = OwnerRow {
        identity: link.identity,
        tenant: link.tenant,
        egress: link.egress,
        addr: link.addr,
        addr_other: link.addr_other,
    };
    made.put(Row::Owner(link.netns, owner));
}

fn add_service(made: &mut Made, facts: &Facts, service: &Service) {
    for vip in &service.vips {
        add_vip(made, *vip, service.tenant.0);
    }
    add_external(made, facts, service);
    add_ports(made, facts, service);
}

fn add_vip(made: &mut Made, vip: IpAddr, tenant: u32) {
    let row = EndpointRow {
        tenant,
        kind: endpoint_kind::VIP,
        ..EndpointRow::default()
    };
    made.put(Row::Endpoint(vip.into(), row));
}

fn service_key(vip: IpAddr, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        vip: vip.into(),
        port: port.to_be(),
        protocol,
        scope: scope::INSIDE,
    }
}

/// An export opens the wall for the service's own backends only: an EndpointSlice that names another tenant's pods, or
/// an address in the pods' range that nobody has, opens nothing.
fn add_grants(made: &mut Made, facts: &Facts, service: &Service) {
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
    made.look_at(Fact::Ranges);
    for port in &service.ports {
        for backend in &port.backends {
            made.look_at(Fact::Endpoint(backend.address));
            if !may_export(&facts.state, service, backend.address) {
                continue;
            }
            for tenant in &tenants {
                let key = GrantKey {
                    addr: backend.address.into(),
                    port: backend.port.to_be(),
                    protocol: port.protocol.number(),
                    pad: 0,
                    tenant: *tenant,
                };
                made.put(Row::Grant(key, service.id.0));
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

fn add_dns(made: &mut Made, dns: DnsRedirect) {
    add_vip(made, dns.vip, TENANT_SYSTEM);
    let plan = ServicePlan {
        service: 0,
        tenant: TENANT_SYSTEM,
        flags: 0,
        affinity: 0,
        backends: [(dns.listener.ip().into(), dns.listener.port().to_be())].into(),
        maglev: false,
    };
    for protocol in [UDP, TCP] {
        made.services
            .push((service_key(dns.vip, 53, protocol), plan.clone()));
    }
}

#[cfg(test)]
mod tests;
