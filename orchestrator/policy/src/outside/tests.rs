use super::*;
use crate::claim::Claimant;
use crate::facts::{LocalNode, Uplink};
use crate::rows::make;
use std::collections::BTreeMap;
use waggle_model::network::{HostPort, NetworkState, NodeNetwork, Protocol};
use waggle_model::{ServiceId, TenantId};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn backend(address: &str, node: &str, standing: Standing) -> Backend {
    Backend {
        node: node.into(),
        standing,
        ..Backend::at(ip(address), 8080)
    }
}

const EXTERNAL: &str = "172.30.0.240";
const NEAR: &str = "10.244.1.2";
const FAR: &str = "10.244.2.2";

fn service(backends: Vec<Backend>) -> Service {
    Service {
        id: ServiceId(7),
        tenant: TenantId(2),
        vips: vec![ip("10.96.0.5")],
        external: vec![External {
            address: ip(EXTERNAL),
            announced_by: "node1".into(),
        }],
        ports: vec![ServicePort {
            port: 80,
            node_port: Some(30_080),
            backends,
            ..ServicePort::default()
        }],
        ..Service::default()
    }
}

fn facts(service: Service) -> Facts {
    let node = |name: &str, zone: &str| NodeNetwork {
        name: name.into(),
        addresses: vec![],
        pod_cidrs: vec![],
        zone: zone.into(),
    };
    let nodes = [node("node1", "east"), node("node2", "west")];
    let state = NetworkState {
        services: [(service.id, service)].into(),
        nodes: nodes
            .into_iter()
            .map(|one| (one.name.clone(), one))
            .collect(),
        ..NetworkState::default()
    };
    Facts {
        state,
        local: LocalNode {
            name: "node1".into(),
            addresses: vec![ip("172.30.0.11")],
            uplink: Uplink {
                ifindex: 3,
                mac: [2, 0, 0, 0, 0, 9],
            },
            ..LocalNode::default()
        },
        ..Facts::default()
    }
}

#[test]
fn who_is_outside_is_answered_directly_where_the_service_wishes_it() {
    let mut wished = service(vec![backend(FAR, "node2", Standing::Ready)]);
    wished.direct_return = true;
    let plans = plans(&facts(wished), &Claimant::Service(ServiceId(7)));
    assert_eq!(plans.len(), 5);
    for (key, plan) in plans {
        let direct = plan.flags & service_flag::DIRECT_RETURN != 0;
        assert_eq!(direct, key.scope == scope::OUTSIDE, "{key:?}");
    }
}

fn plans(facts: &Facts, claimant: &Claimant) -> BTreeMap<ServiceKey, ServicePlan> {
    make(facts, claimant).services.into_iter().collect()
}

fn seen(facts: &Facts, vip: Addr, port: u16, caller: u8) -> Vec<IpAddr> {
    let key = ServiceKey {
        vip,
        port: port.to_be(),
        protocol: 6,
        scope: caller,
    };
    let plan = plans(facts, &Claimant::Service(ServiceId(7))).remove(&key);
    let plan = plan.expect("a row");
    assert_eq!(plan.maglev, caller == scope::OUTSIDE);
    plan.backends
        .iter()
        .map(|(addr, _)| (*addr).into())
        .collect()
}

/// Where the service is called from outside.
fn places() -> [(Addr, u16); 2] {
    [(Addr::any(true), 30_080), (ip(EXTERNAL).into(), 80)]
}

fn two_ready() -> Vec<Backend> {
    vec![
        backend(NEAR, "node1", Standing::Ready),
        backend(FAR, "node2", Standing::Ready),
    ]
}

#[test]
fn callers_outside_see_what_the_policy_leaves_and_callers_inside_everything() {
    for (policy, outside) in [
        (Scope::Cluster, vec![ip(NEAR), ip(FAR)]),
        (Scope::Local, vec![ip(NEAR)]),
    ] {
        let facts = facts(Service {
            external_scope: policy,
            ..service(two_ready())
        });
        for (vip, port) in places() {
            assert_eq!(seen(&facts, vip, port, scope::OUTSIDE), outside);
            assert_eq!(seen(&facts, vip, port, scope::INSIDE), [ip(NEAR), ip(FAR)]);
        }
        let made = make(&facts, &Claimant::Service(ServiceId(7)));
        let row = made.rows.iter().find_map(|row| match row {
            Row::Endpoint(addr, row) if *addr == ip(EXTERNAL).into() => Some(row),
            _ => None,
        });
        let row = row.expect("the address");
        let announced = (endpoint_kind::VIP, endpoint_flag::ANNOUNCED);
        assert_eq!((row.kind, row.flags), announced);
        assert_eq!(row.gateway_mac, [2, 0, 0, 0, 0, 9]);
    }
}

#[test]
fn callers_inside_see_their_own_node_when_the_internal_policy_is_local() {
    let facts = facts(Service {
        internal_scope: Scope::Local,
        ..service(two_ready())
    });
    let vip = Addr::from(ip("10.96.0.5"));
    assert_eq!(seen(&facts, vip, 80, scope::INSIDE), [ip(NEAR)]);
    assert_eq!(
        seen(&facts, Addr::any(true), 30_080, scope::OUTSIDE),
        [ip(NEAR), ip(FAR)]
    );
}

#[test]
fn who_is_terminating_serves_a_node_that_has_nobody_else() {
    let backends = vec![
        backend(NEAR, "node1", Standing::Terminating),
        backend(FAR, "node2", Standing::Ready),
    ];
    let facts = facts(Service {
        external_scope: Scope::Local,
        ..service(backends)
    });
    for (vip, port) in places() {
        assert_eq!(seen(&facts, vip, port, scope::OUTSIDE), [ip(NEAR)]);
        assert_eq!(seen(&facts, vip, port, scope::INSIDE), [ip(FAR)]);
    }
}

#[test]
fn hints_count_when_everybody_has_one_and_somebody_is_near() {
    let hinted = |zones: [&str; 2], nodes: [&str; 2]| {
        let hint = |text: &str| {
            text.split(',')
                .filter(|t| !t.is_empty())
                .map(Into::into)
                .collect()
        };
        let mut backends = two_ready();
        for (index, one) in backends.iter_mut().enumerate() {
            one.for_zones = hint(zones[index]);
            one.for_nodes = hint(nodes[index]);
        }
        seen(
            &facts(service(backends)),
            ip("10.96.0.5").into(),
            80,
            scope::INSIDE,
        )
    };
    let all = [ip(NEAR), ip(FAR)];
    assert_eq!(hinted(["east", "west"], ["", ""]), [ip(NEAR)]);
    assert_eq!(hinted(["west", "east,west"], ["", ""]), [ip(FAR)]);
    assert_eq!(hinted(["east", ""], ["", ""]), all);
    assert_eq!(hinted(["north", "west"], ["", ""]), all);
    assert_eq!(hinted(["west", "east"], ["node1", "node2"]), [ip(NEAR)]);
    assert_eq!(hinted(["west", "east"], ["node2", "node3"]), [ip(FAR)]);
}

#[test]
fn a_change_of_zone_is_looked_at_again() {
    let mut backends = two_ready();
    for (one, zone) in backends.iter_mut().zip(["east", "west"]) {
        one.for_zones = [zone.to_owned()].into();
    }
    let made = make(&facts(service(backends)), &Claimant::Service(ServiceId(7)));
    assert!(made.looked_at.contains(&Fact::Zones));
}

#[test]
fn ranges_of_callers_hold_for_external_addresses_only() {
    let facts = facts(Service {
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        ..service(two_ready())
    });
    let made = make(&facts, &Claimant::Service(ServiceId(7)));
    let sources: Vec<_> = made
        .rows
        .iter()
        .filter_map(|row| match row {
            Row::Source(key, _) => Some(*key),
            _ => None,
        })
        .collect();
    let source = SourceKey {
        service: 7,
        addr: ip("192.0.2.0").into(),
    };
    assert_eq!(sources, [(32 + 96 + 24, source)]);
    for (key, plan) in made.services {
        let limited = plan.flags & service_flag::SOURCES != 0;
        let external = key.vip == ip(EXTERNAL).into() && key.scope == scope::OUTSIDE;
        assert_eq!(limited, external, "{key:?}");
    }
}

#[test]
fn a_host_port_leads_from_this_node_s_addresses_to_its_pod() {
    let mut facts = facts(service(vec![]));
    let endpoint = |node: &str, only: Option<&str>| Endpoint {
        address: ip(NEAR),
        identity: Default::default(),
        tenant: TenantId(2),
        node: node.into(),
        namespace: "shop".into(),
        pod: "web".into(),
        host_ports: vec![HostPort {
            protocol: Protocol::Udp,
            address: only.map(ip),
            port: 5353,
            pod_port: 53,
        }],
    };
    let mut keys = |endpoint: Endpoint| -> Vec<_> {
        facts.state.endpoints = [(endpoint.address, endpoint)].into();
        plans(&facts, &Claimant::Endpoint(ip(NEAR)))
            .into_iter()
            .collect()
    };
    let rows = keys(endpoint("node1", None));
    assert_eq!(rows.len(), 2);
    for (key, plan) in rows {
        assert_eq!(
            (key.vip, key.port, key.protocol),
            (ip("172.30.0.11").into(), 5353u16.to_be(), 17)
        );
        assert_eq!(*plan.backends, [(ip(NEAR).into(), 53u16.to_be())]);
    }
    assert_eq!(keys(endpoint("node1", Some("172.30.0.11"))).len(), 2);
    assert_eq!(keys(endpoint("node1", Some("192.0.2.1"))).len(), 0);
    assert_eq!(keys(endpoint("node2", None)).len(), 0);
}

#[test]
fn a_table_is_packed_four_to_a_row() {
    let backends: Vec<_> = (1..4u8)
        .map(|last| (Addr::from(IpAddr::from([10, 244, 1, last])), 80))
        .collect();
    let rows = maglev_rows(&backends);
    let plan = ServicePlan {
        service: 1,
        tenant: 1,
        flags: 0,
        affinity: 0,
        backends: backends.into(),
        maglev: true,
    };
    let entries = maglev_entries(&plan);
    assert_eq!(rows.len(), (entries as usize).div_ceil(4));
    let mut counts = [0u32; 3];
    let slots = rows.iter().flat_map(|row| row.slots).take(entries as usize);
    slots.for_each(|slot| counts[usize::from(slot)] += 1);
    let even = counts.iter().all(|count| count.abs_diff(entries / 3) <= 1);
    assert!(even, "{counts:?}");
    let nobody = ServicePlan {
        backends: [].into(),
        ..plan
    };
    assert_eq!((maglev_rows(&[]).len(), maglev_entries(&nobody)), (0, 0));
}
