//! Whom each caller of a service is sent to: from inside and from outside of the cluster, at virtual addresses, node ports,
//! external addresses and host ports; and who may come in.

use std::net::IpAddr;

use waggle_abi::{
    Addr, EndpointRow, MaglevRow, ServiceKey, SourceKey, endpoint_flag, endpoint_kind, scope,
    service_flag,
};
use waggle_model::network::{
    Backend, Endpoint, Export, External, Scope, Service, ServicePort, Standing,
};

use crate::facts::{Fact, Facts};
use crate::maglev::{self, Candidate};
use crate::rows::{Made, range_of};
use crate::table::{Backends, Row, ServicePlan};

/// Bits of a service number, which every range of [`SourceKey`] covers.
const SERVICE_BITS: u32 = u32::BITS;

/// Rows of a service at its virtual addresses, node ports and external addresses. Who is inside is served alike at all of
/// them; who is outside by those that the external traffic policy leaves.
pub(crate) fn add_ports(made: &mut Made, facts: &Facts, service: &Service) {
    for port in &service.ports {
        let inside = View::new(made, facts, service, port, service.internal_scope);
        let inside_flags = if inside.has_open_backends(made, facts) {
            service_flag::OPEN_BACKENDS
        } else {
            0
        };
        let inside_plan = |ipv4| {
            let mut plan = inside.plan(ipv4, false);
            plan.flags |= inside_flags;
            plan
        };
        for vip in &service.vips {
            let plan = inside_plan(vip.is_ipv4());
            made.services
                .push((key((*vip).into(), port.port, port, scope::INSIDE), plan));
        }
        let outside = View::new(made, facts, service, port, service.external_scope);
        for external in &service.external {
            let ipv4 = external.address.is_ipv4();
            let plans = [
                (scope::INSIDE, inside_plan(ipv4)),
                (scope::OUTSIDE, outside.plan(ipv4, true)),
            ];
            for (caller, mut plan) in plans {
                if caller == scope::OUTSIDE && !service.source_ranges.is_empty() {
                    plan.flags |= service_flag::SOURCES;
                }
                let key = key(external.address.into(), port.port, port, caller);
                made.services.push((key, plan));
            }
        }
        if let Some(number) = port.node_port {
            for ipv4 in [true, false] {
                if !service.vips.iter().any(|vip| vip.is_ipv4() == ipv4) {
                    continue;
                }
                let any = Addr::any(ipv4);
                let plan = inside_plan(ipv4);
                made.services
                    .push((key(any, number, port, scope::INSIDE), plan));
                let plan = outside.plan(ipv4, true);
                made.services
                    .push((key(any, number, port, scope::OUTSIDE), plan));
            }
        }
    }
}

/// What external addresses are, and who may call them from outside.
pub(crate) fn add_external(made: &mut Made, facts: &Facts, service: &Service) {
    for external in &service.external {
        let row = external_row(service, external, facts);
        made.put(Row::Endpoint(external.address.into(), row));
    }
    if service.external.is_empty() {
        return;
    }
    for range in &service.source_ranges {
        let (bits, addr) = range_of(*range);
        let source = SourceKey {
            service: service.id.0,
            addr,
        };
        made.put(Row::Source((SERVICE_BITS + bits, source), 0));
    }
}

/// Ports of this node's addresses that lead to one of its pods.
pub(crate) fn add_host_ports(made: &mut Made, facts: &Facts, endpoint: &Endpoint) {
    if endpoint.node != facts.local.name || facts.local.name.is_empty() {
        return;
    }
    for host_port in &endpoint.host_ports {
        let of_family = |address: &&IpAddr| address.is_ipv4() == endpoint.address.is_ipv4();
        let addresses = facts.local.addresses.iter().filter(of_family);
        let wanted = addresses.filter(|own| host_port.address.is_none_or(|only| only == **own));
        for address in wanted {
            let place = (Addr::from(endpoint.address), host_port.pod_port.to_be());
            for caller in [scope::INSIDE, scope::OUTSIDE] {
                let key = ServiceKey {
                    vip: (*address).into(),
                    port: host_port.port.to_be(),
                    protocol: host_port.protocol.number(),
                    scope: caller,
                };
                let plan = ServicePlan {
                    service: 0,
                    tenant: endpoint.tenant.0,
                    flags: 0,
                    affinity: 0,
                    backends: [place].into(),
                    maglev: caller == scope::OUTSIDE,
                };
                made.services.push((key, plan));
            }
        }
    }
}

/// Bits of [`service_flag`] that every row of a service has.
fn flags_of(service: &Service) -> u32 {
    if service.export == Export::Everyone {
        service_flag::EXPORTED_TO_ALL
    } else {
        0
    }
}

fn key(vip: Addr, number: u16, port: &ServicePort, caller: u8) -> ServiceKey {
    ServiceKey {
        vip,
        port: number.to_be(),
        protocol: port.protocol.number(),
        scope: caller,
    }
}

fn external_row(service: &Service, external: &External, facts: &Facts) -> EndpointRow {
    let local = &facts.local;
    let here = !local.name.is_empty() && external.announced_by == local.name;
    EndpointRow {
        tenant: service.tenant.0,
        kind: endpoint_kind::VIP,
        flags: if here { endpoint_flag::ANNOUNCED } else { 0 },
        gateway_mac: if here { local.uplink.mac } else { [0; 6] },
        ..EndpointRow::default()
    }
}

/// A service port as this node sees it.
struct View<'a> {
    service: &'a Service,
    backends: Vec<&'a Backend>,
}

impl<'a> View<'a> {
    fn new(
        made: &mut Made,
        facts: &Facts,
        service: &'a Service,
        port: &'a ServicePort,
        wanted: Scope,
    ) -> Self {
        let backends = match wanted {
            Scope::Local => of_node(port, &facts.local.name),
            Scope::Cluster => {
                let usable: Vec<_> = port.usable().collect();
                near(made, facts, usable)
            }
        };
        Self { service, backends }
    }

    /// Whether [`service_flag::OPEN_BACKENDS`] holds. Only who stands against it is looked at again by this: `Desired::govern`
    /// finds the services of pods that become governed, and one that keeps a pod which becomes another tenant's costs its
    /// callers a prompt refusal.
    fn has_open_backends(&self, made: &mut Made, facts: &Facts) -> bool {
        self.backends.iter().all(|backend| {
            let endpoint = facts.state.endpoints.get(&backend.address);
            let open = endpoint.is_some_and(|endpoint| {
                endpoint.tenant == self.service.tenant
                    && (endpoint.node != facts.local.name || facts.is_open(endpoint.identity))
            });
            if !open {
                made.look_at(Fact::Endpoint(backend.address));
            }
            open
        })
    }

    /// With `maglev`, for who is outside.
    fn plan(&self, ipv4: bool, maglev: bool) -> ServicePlan {
        let mut flags = flags_of(self.service);
        if maglev && self.service.direct_return {
            flags |= service_flag::DIRECT_RETURN;
        }
        ServicePlan {
            service: self.service.id.0,
            tenant: self.service.tenant.0,
            flags,
            affinity: self.service.affinity_seconds.unwrap_or(0),
            backends: self.places(ipv4),
            maglev,
        }
    }

    /// A call keeps its family.
    fn places(&self, ipv4: bool) -> Backends {
        let same = self
            .backends
            .iter()
            .filter(|one| one.address.is_ipv4() == ipv4);
        let mut places: Vec<_> = same
            .map(|one| (Addr::from(one.address), one.port.to_be()))
            .collect();
        places.sort_unstable();
        places.dedup();
        places.into()
    }
}

/// Backends of one node: who is ready there; while nobody is, who still answers (KEP-1669).
fn of_node<'a>(port: &'a ServicePort, node: &str) -> Vec<&'a Backend> {
    let here = || port.backends.iter().filter(|backend| backend.node == node);
    let standing = |wanted| move |backend: &&Backend| backend.standing == wanted;
    let ready: Vec<_> = here().filter(standing(Standing::Ready)).collect();
    if ready.is_empty() {
        here().filter(standing(Standing::Terminating)).collect()
    } else {
        ready
    }
}

/// Those that are hinted to this node, or to its zone; all of them unless every one has a hint and one is for us (KEP-4444,
/// KEP-3015).
fn near<'a>(made: &mut Made, facts: &Facts, backends: Vec<&'a Backend>) -> Vec<&'a Backend> {
    let hinted =
        |hints: fn(&Backend) -> bool| !backends.is_empty() && backends.iter().all(|one| hints(one));
    let local = &facts.local.name;
    if hinted(|one| !one.for_nodes.is_empty()) {
        let own = |one: &&&Backend| one.for_nodes.contains(local);
        let own: Vec<_> = backends.iter().filter(own).copied().collect();
        if !own.is_empty() {
            return own;
        }
    }
    if hinted(|one| !one.for_zones.is_empty()) {
        made.look_at(Fact::Zones);
        let zone = facts.state.nodes.get(local).map(|node| &node.zone);
        if let Some(zone) = zone.filter(|zone| !zone.is_empty()) {
            let own = |one: &&&Backend| one.for_zones.contains(zone);
            let own: Vec<_> = backends.iter().filter(own).copied().collect();
            if !own.is_empty() {
                return own;
            }
        }
    }
    backends
}

/// Entries of a plan's Maglev table; 0 for none.
pub(crate) fn maglev_entries(plan: &ServicePlan) -> u32 {
    if !plan.maglev || plan.backends.is_empty() {
        return 0;
    }
    maglev::size(u32::try_from(plan.backends.len()).unwrap_or(u32::MAX))
}

/// The Maglev table of a set of backends, four entries a row.
pub(crate) fn maglev_rows(backends: &[(Addr, u16)]) -> Vec<MaglevRow> {
    let candidates: Vec<_> = backends.iter().map(candidate).collect();
    let row = |part: &[u32]| {
        let mut row = MaglevRow::default();
        for (slot, index) in row.slots.iter_mut().zip(part) {
            *slot = u16::try_from(*index).unwrap_or(0);
        }
        row
    };
    maglev::table(&candidates).chunks(4).map(row).collect()
}

/// Known by address and port, the same on every node (FNV-1a).
fn candidate((addr, port): &(Addr, u16)) -> Candidate {
    let words = addr.words.into_iter().chain([u32::from(*port)]);
    let id = words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
        (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    Candidate { id, weight: 1 }
}

#[cfg(test)]
mod tests;
