use super::*;
use crate::{Desired, DnsRedirect, Enforcement, Governed, LocalNode};
use std::collections::{BTreeMap, BTreeSet};
use waggle_abi::{LinkRow, service_flag};
use waggle_model::network::{Backend, Protocol, ServicePort};
use waggle_model::{Generation, ServiceId, TenantId};

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

fn node1() -> Desired {
    Desired::new(LocalNode {
        name: "node1".into(),
        ..LocalNode::default()
    })
}

fn made(state: &NetworkState) -> Desired {
    let mut desired = node1();
    desired.set_state(state);
    desired
}

fn plan(desired: &Desired, vip: &str, port: u16, protocol: u8) -> ServicePlan {
    let key = service_key(ip(vip), port, protocol);
    desired.claims.services.winner(key).unwrap().1.clone()
}

fn row(desired: &Desired, address: &str) -> EndpointRow {
    *desired
        .claims
        .endpoints
        .winner(ip(address).into())
        .unwrap()
        .1
}

#[test]
fn a_service_row_lists_its_backends_and_its_vip_is_known() {
    let shop = service(7, 2, "10.96.0.5", &["10.244.1.3", "10.244.1.2"], none());
    let desired = made(&state(vec![shop], vec![endpoint("10.244.1.2", 2)]));
    let port = 80u16.to_be();
    assert_eq!(
        *plan(&desired, "10.96.0.5", 8080, TCP).backends,
        [
            (ip("10.244.1.2").into(), port),
            (ip("10.244.1.3").into(), port)
        ]
    );
    assert_eq!(row(&desired, "10.96.0.5").kind, endpoint_kind::VIP);
    assert_eq!(row(&desired, "172.30.0.11").kind, endpoint_kind::HOST);
    let ranges: Vec<_> = desired.claims.ranges.rows().map(|(key, _)| key).collect();
    assert_eq!(ranges, [(120, ip("10.244.1.0").into())]);
    assert_eq!(desired.claims.grants.count(), 0);
}

#[test]
fn an_export_grants_own_backends_only_and_follows_who_has_the_address() {
    let exports = Export::To([TenantId(3), TenantId(4)].into());
    let backends = ["10.244.1.2", "10.244.1.9", "10.244.1.77", "192.0.2.1"];
    let shop = service(7, 2, "10.96.0.5", &backends, exports);
    let endpoints = vec![endpoint("10.244.1.2", 2), endpoint("10.244.1.9", 5)];
    let mut desired = made(&state(vec![shop.clone()], endpoints));
    let granted = |desired: &Desired| -> BTreeSet<(IpAddr, u32)> {
        let keys = desired.claims.grants.rows();
        keys.map(|(k, _)| (IpAddr::from(k.addr), k.tenant))
            .collect()
    };
    let expected = |addresses: &[&str]| -> BTreeSet<(IpAddr, u32)> {
        let both = |a: &&str| [(ip(a), 3), (ip(a), 4)];
        addresses.iter().flat_map(both).collect()
    };
    assert_eq!(granted(&desired), expected(&["10.244.1.2", "192.0.2.1"]));
    // The pod goes to another tenant, a new one of the right tenant comes.
    let endpoints = vec![endpoint("10.244.1.2", 6), endpoint("10.244.1.77", 2)];
    desired.set_state(&state(vec![shop], endpoints));
    assert_eq!(granted(&desired), expected(&["10.244.1.77", "192.0.2.1"]));
}

#[test]
fn a_service_cannot_take_the_address_of_a_pod_or_a_node() {
    let thief = service(7, 9, "10.244.1.2", &[], none());
    let other = service(8, 9, "172.30.0.11", &[], none());
    let mut desired = made(&state(vec![thief.clone(), other], vec![]));
    assert_eq!(row(&desired, "10.244.1.2").kind, endpoint_kind::VIP);
    desired.set_state(&state(vec![thief.clone()], vec![endpoint("10.244.1.2", 2)]));
    assert_eq!(row(&desired, "10.244.1.2").kind, endpoint_kind::POD);
    assert_eq!(row(&desired, "172.30.0.11").kind, endpoint_kind::HOST);
    desired.set_state(&state(vec![thief], vec![]));
    assert_eq!(row(&desired, "10.244.1.2").kind, endpoint_kind::VIP);
}

#[test]
fn of_two_services_with_one_address_the_older_keeps_it() {
    let younger = service(8, 3, "10.96.0.5", &["10.244.1.3"], none());
    let older = service(7, 2, "10.96.0.5", &["10.244.1.2"], none());
    let mut desired = made(&state(vec![younger.clone()], vec![]));
    assert_eq!(plan(&desired, "10.96.0.5", 8080, TCP).service, 8);
    desired.set_state(&state(vec![older, younger.clone()], vec![]));
    assert_eq!(plan(&desired, "10.96.0.5", 8080, TCP).service, 7);
    assert_eq!(row(&desired, "10.96.0.5").tenant, 2);
    desired.set_state(&state(vec![younger], vec![]));
    assert_eq!(plan(&desired, "10.96.0.5", 8080, TCP).service, 8);
    assert_eq!(row(&desired, "10.96.0.5").tenant, 3);
}

#[test]
fn the_dns_vip_goes_to_this_node_whatever_the_service_says() {
    let dns = DnsRedirect {
        vip: ip("10.96.0.10"),
        listener: "172.30.0.11:5353".parse().unwrap(),
    };
    let mut kube_dns = service(3, 1, "10.96.0.10", &["10.244.1.9"], none());
    kube_dns.ports[0].port = 53;
    let mut desired = made(&state(vec![kube_dns], vec![]));
    assert_eq!(plan(&desired, "10.96.0.10", 53, TCP).service, 3);
    desired.set_dns(Some(dns));
    for protocol in [TCP, UDP] {
        let plan = plan(&desired, "10.96.0.10", 53, protocol);
        assert_eq!(
            *plan.backends,
            [(dns.listener.ip().into(), 5353u16.to_be())]
        );
        assert_eq!(plan.tenant, TENANT_SYSTEM);
    }
    assert_eq!(row(&desired, "10.96.0.10").tenant, TENANT_SYSTEM);
    desired.set_dns(None);
    assert_eq!(plan(&desired, "10.96.0.10", 53, TCP).service, 3);
}

#[test]
fn a_local_pod_has_rows_before_the_state_knows_it_and_follows_the_state_after() {
    let link = LinkRow {
        addr: ip("10.244.1.2").into(),
        addr_other: ip("fd00:10:244::2").into(),
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
    let mut desired = node1();
    desired.put_pod(pod);
    desired.set_state(&state(vec![], vec![]));
    let before = row(&desired, "10.244.1.2");
    assert_eq!(
        (before.identity, before.tenant, before.ifindex, before.mac),
        (5, 2, 12, [2; 6])
    );
    let owners: BTreeMap<_, _> = desired.claims.owners.rows().collect();
    assert_eq!(owners[&99].identity, 5);
    assert_eq!(
        [owners[&99].addr, owners[&99].addr_other],
        [link.addr, link.addr_other],
        "a pod's calls to itself are known in both families"
    );
    desired.set_state(&state(vec![], vec![endpoint("10.244.1.2", 3)]));
    assert_eq!(desired.claims.links.winner(12).unwrap().1.tenant, 3);
    assert_eq!(desired.claims.owners.winner(99).unwrap().1.tenant, 3);
    assert_eq!(row(&desired, "10.244.1.2").tenant, 3);
    // Another node's pod of that address is not this one.
    let mut elsewhere = endpoint("10.244.1.2", 4);
    elsewhere.node = "node2".into();
    desired.set_state(&state(vec![], vec![elsewhere]));
    assert_eq!(desired.claims.links.winner(12).unwrap().1.tenant, 2);
    desired.remove_pod(12);
    let remote = row(&desired, "10.244.1.2");
    assert_eq!((remote.tenant, remote.ifindex), (4, 0));
    assert_eq!(
        desired.claims.links.count() + desired.claims.owners.count(),
        0
    );
}

#[test]
fn a_service_says_when_its_backends_need_no_second_look() {
    let (near, far, foreign) = ("10.244.1.2", "10.244.2.2", "10.244.2.3");
    let has_open_backends = |desired: &Desired| {
        plan(desired, "10.96.0.5", 8080, TCP).flags & service_flag::OPEN_BACKENDS != 0
    };
    let there = |address: &str, tenant| Endpoint {
        node: "node2".into(),
        ..endpoint(address, tenant)
    };
    let with = |backends: &[&str], endpoints: &[Endpoint]| {
        let shop = service(7, 2, "10.96.0.5", backends, none());
        state(vec![shop], endpoints.to_vec())
    };
    let govern = |desired: &mut Desired, ingress| {
        let governed = Governed { ingress, egress: 0 };
        desired.govern(Enforcement {
            governed: [(IdentityId(20), governed)].into(),
            ..Enforcement::default()
        });
    };
    let mut desired = made(&with(&[far], &[there(far, 2)]));
    assert!(
        has_open_backends(&desired),
        "another node's pod of this tenant"
    );
    desired.set_state(&with(&[far, foreign], &[there(far, 2), there(foreign, 3)]));
    assert!(!has_open_backends(&desired), "another tenant's");
    desired.set_state(&with(&[far, "192.0.2.1"], &[there(far, 2)]));
    assert!(!has_open_backends(&desired), "no pod");

    let both = [endpoint(near, 2), there(far, 2)];
    desired.set_state(&with(&[near, far], &both));
    desired.put_pod(LocalPod {
        ifindex: 12,
        link: LinkRow {
            addr: ip(near).into(),
            ..LinkRow::default()
        },
        mac: [2; 6],
        gateway_mac: [4; 6],
    });
    for (ruleset, expected) in [(0, true), (9, false), (10, false), (0, true)] {
        govern(&mut desired, ruleset);
        assert_eq!(has_open_backends(&desired), expected, "ruleset {ruleset}");
    }
}

#[test]
fn a_pod_that_is_told_of_later_than_its_service_is_seen_then() {
    let shop = || vec![service(7, 2, "10.96.0.5", &["10.244.2.2"], none())];
    let flags = |desired: &Desired| plan(desired, "10.96.0.5", 8080, TCP).flags;
    let mut desired = made(&state(shop(), vec![]));
    assert_eq!(flags(&desired), 0);
    let mut far = endpoint("10.244.2.2", 2);
    far.node = "node2".into();
    desired.set_state(&state(shop(), vec![far]));
    assert_eq!(flags(&desired), service_flag::OPEN_BACKENDS);
}

#[test]
fn the_services_ranges_are_in_the_settings() {
    let mut desired = node1();
    let ranges = ["10.96.0.0/12", "fd00:96::/108"].map(|range| range.parse().unwrap());
    desired.set_service_ranges(ranges.to_vec());
    let config = *desired.claims.config.winner(()).unwrap().1;
    let found = [
        (config.services_v4, config.services_v4_mask),
        (config.services_v6, config.services_v6_mask),
    ];
    let inside = |text: &str| found.map(|(first, mask)| Addr::from(ip(text)).is_in(&first, &mask));
    assert_eq!(inside("10.111.255.255"), [true, false]);
    assert_eq!(inside("10.112.0.0"), [false, false]);
    assert_eq!(inside("fd00:96::f:ffff"), [false, true]);
    assert_eq!(inside("fd00:96::10:0"), [false, false]);
}
