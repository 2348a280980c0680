//! Round trips of every network message, and what is refused.

use proptest::prelude::*;

use std::collections::{BTreeMap, BTreeSet};

use waggle_model::network::{
    Backend, Export, External, IpBlock, NamedPort, Peers, PolicyPort, PolicyRule, PortMatch, Scope,
    ServicePort, Standing,
};

use super::*;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

fn standings() -> impl Strategy<Value = Standing> {
    prop_oneof![
        Just(Standing::Ready),
        Just(Standing::Terminating),
        Just(Standing::Unready)
    ]
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
        Just(Protocol::Sctp)
    ]
}

fn texts() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[a-z]{1,3}", 0..3)
}

fn ranges() -> impl Strategy<Value = Cidr> {
    let pods: Cidr = "10.244.0.0/16".parse().unwrap();
    (0u64..256).prop_map(move |index| pods.subnet(24, index).unwrap())
}

fn ports() -> impl Strategy<Value = ServicePort> {
    let backend = (
        addresses(),
        1u16..,
        "[a-z]{0,3}",
        "[a-z]{0,3}",
        (standings(), texts(), texts()),
    )
        .prop_map(
            |(address, port, node, hostname, (standing, for_zones, for_nodes))| Backend {
                address,
                port,
                node,
                hostname,
                standing,
                for_zones,
                for_nodes,
            },
        );
    (
        "[a-z]{0,4}",
        protocols(),
        1u16..,
        proptest::option::of(1u16..),
        proptest::collection::vec(backend, 0..4),
    )
        .prop_map(|(name, protocol, port, node_port, backends)| ServicePort {
            name,
            protocol,
            port,
            node_port,
            backends,
        })
}

fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::Cluster), Just(Scope::Local)]
}

fn services() -> impl Strategy<Value = Service> {
    let export = prop_oneof![
        proptest::collection::btree_set(any::<u32>().prop_map(TenantId), 0..4).prop_map(Export::To),
        Just(Export::Everyone),
    ];
    let external = (addresses(), "[a-z]{0,3}").prop_map(|(address, announced_by)| External {
        address,
        announced_by,
    });
    let lists = (
        proptest::collection::vec(addresses(), 0..3),
        proptest::collection::vec(external, 0..3),
        proptest::collection::vec(ports(), 0..3),
        proptest::collection::vec(ranges(), 0..3),
    );
    let ways = (
        proptest::option::of(1u32..),
        scopes(),
        scopes(),
        proptest::option::of(1u16..),
        any::<bool>(),
        "[a-z]{0,4}",
    );
    (1u32.., "[a-z]{1,5}", any::<u32>(), lists, export, ways).prop_map(
        |(id, name, tenant, (vips, external, ports, source_ranges), export, ways)| Service {
            id: ServiceId(id),
            namespace: format!("n{name}"),
            name,
            tenant: TenantId(tenant),
            vips,
            external,
            ports,
            export,
            affinity_seconds: ways.0,
            internal_scope: ways.1,
            external_scope: ways.2,
            health_check_port: ways.3,
            source_ranges,
            direct_return: ways.4,
            external_name: ways.5,
        },
    )
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let host_port = (
        protocols(),
        proptest::option::of(addresses()),
        1u16..,
        1u16..,
    )
        .prop_map(|(protocol, address, port, pod_port)| HostPort {
            protocol,
            address,
            port,
            pod_port,
        });
    (
        addresses(),
        any::<u32>(),
        any::<u32>(),
        "[a-z]{0,4}",
        proptest::collection::vec(host_port, 0..3),
    )
        .prop_map(|(address, identity, tenant, text, host_ports)| Endpoint {
            address,
            identity: IdentityId(identity),
            tenant: TenantId(tenant),
            node: text.clone(),
            namespace: format!("n{text}"),
            pod: format!("p{text}"),
            host_ports,
        })
}

fn nodes() -> impl Strategy<Value = NodeNetwork> {
    (
        proptest::collection::vec(addresses(), 1..3),
        proptest::collection::vec(ranges(), 1..3),
        "[a-z]{1,4}",
    )
        .prop_map(|(addresses, pod_cidrs, name)| NodeNetwork {
            zone: format!("z{name}"),
            name,
            addresses,
            pod_cidrs,
        })
}

fn identities() -> impl Strategy<Value = Identity> {
    let port = ("[a-z]{1,3}", protocols(), 1u16..).prop_map(|(name, protocol, port)| NamedPort {
        name,
        protocol,
        port,
    });
    let labels: BTreeMap<String, String> = [("app".to_owned(), "web".to_owned())].into();
    (
        any::<u32>(),
        any::<u32>(),
        "[a-z]{1,4}",
        proptest::collection::vec(port, 0..3),
    )
        .prop_map(move |(id, tenant, namespace, ports)| Identity {
            id: IdentityId(id),
            tenant: TenantId(tenant),
            namespace,
            labels: labels.clone(),
            ports,
        })
}

fn rules() -> impl Strategy<Value = PolicyRule> {
    let numbers = || proptest::collection::btree_set(any::<u32>().prop_map(IdentityId), 0..3);
    let block = (ranges(), proptest::collection::vec(ranges(), 0..2))
        .prop_map(|(range, except)| IpBlock { range, except });
    let peers = prop_oneof![
        Just(Peers::Everyone),
        (numbers(), proptest::collection::vec(block, 0..2))
            .prop_map(|(identities, blocks)| Peers::Of { identities, blocks }),
    ];
    let port = prop_oneof![
        Just(PortMatch::Every),
        (1u16.., 1u16..).prop_map(|(a, b)| PortMatch::Range(a.min(b), a.max(b))),
        "[a-z]{1,3}".prop_map(PortMatch::Named),
    ];
    let ports = (protocols(), port).prop_map(|(protocol, port)| PolicyPort { protocol, port });
    (peers, proptest::collection::vec(ports, 0..3))
        .prop_map(|(peers, ports)| PolicyRule { peers, ports })
}

fn policies() -> impl Strategy<Value = Policy> {
    let direction = || proptest::option::of(proptest::collection::vec(rules(), 0..3));
    (
        any::<u32>(),
        "[a-z]{1,4}",
        any::<u32>(),
        direction(),
        direction(),
    )
        .prop_map(|(id, name, subject, ingress, egress)| Policy {
            id: PolicyId(id),
            namespace: format!("n{name}"),
            name,
            subjects: [IdentityId(subject)].into(),
            ingress,
            egress,
        })
}

fn states() -> impl Strategy<Value = NetworkState> {
    let services = proptest::collection::vec(services(), 0..4);
    let endpoints = proptest::collection::vec(endpoints(), 0..4);
    let nodes = proptest::collection::vec(nodes(), 0..4);
    let identities = proptest::collection::vec(identities(), 0..4);
    let policies = proptest::collection::vec(policies(), 0..4);
    (
        any::<u64>(),
        services,
        endpoints,
        nodes,
        identities,
        policies,
    )
        .prop_map(
            |(generation, services, endpoints, nodes, identities, policies)| NetworkState {
                generation: Generation(generation),
                services: services.into_iter().map(|s| (s.id, s)).collect(),
                endpoints: endpoints.into_iter().map(|e| (e.address, e)).collect(),
                nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
                identities: identities.into_iter().map(|i| (i.id, i)).collect(),
                policies: policies.into_iter().map(|p| (p.id, p)).collect(),
            },
        )
}

proptest! {
    #[test]
    fn a_snapshot_comes_back_as_it_went(state in states()) {
        prop_assert_eq!(decode_snapshot(encode_snapshot(&state)), Ok(state));
    }

    #[test]
    fn a_delta_comes_back_and_still_leads_there(old in states(), new in states()) {
        let delta = old.delta_to(&new);
        let received = decode_delta(encode_delta(&delta)).unwrap();
        prop_assert_eq!(&received, &delta);
        let mut there = old;
        there.apply(received).unwrap();
        prop_assert_eq!(there, new);
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = decode_snapshot(bytes.clone().into());
        let _ = decode_delta(bytes.into());
    }
}

#[test]
fn bytes_on_the_wire_are_the_message_itself() {
    use v1::from_server::Message as Down;
    let state = NetworkState {
        generation: Generation(7),
        ..NetworkState::default()
    };
    let down = v1::FromServer {
        message: Some(Down::NetworkSnapshot(encode_snapshot(&state))),
    };
    // Field 4, length-delimited, two bytes: field 1, varint 7.
    assert_eq!(down.encode_to_vec(), [0x22, 2, 0x08, 7]);
}

#[test]
fn what_the_model_cannot_hold_is_refused_by_field() {
    fn check<M, T>(message: M, expect: &str)
    where
        T: TryFrom<M, Error = Invalid> + std::fmt::Debug,
    {
        assert_eq!(T::try_from(message).unwrap_err().to_string(), expect);
    }
    let backend = |address: &str, port| v1::Backend {
        address: address.into(),
        port,
        ..v1::Backend::default()
    };
    check::<_, Backend>(
        backend("10.1", 80),
        "Backend.address holds \"10.1\", which is no IP address",
    );
    check::<_, Backend>(
        backend("10.0.0.1", 0),
        "Backend.port holds \"0\", which is no port (1 to 65535)",
    );
    check::<_, Backend>(
        backend("10.0.0.1", 70000),
        "Backend.port holds \"70000\", which is no port (1 to 65535)",
    );
    check::<_, ServicePort>(
        v1::ServicePort {
            protocol: 1,
            port: 1,
            ..v1::ServicePort::default()
        },
        "ServicePort.protocol holds \"1\", which is no protocol (6, 17 or 132)",
    );
    check::<_, Service>(
        v1::Service::default(),
        "Service.id holds \"0\", which is no service number (1 or more)",
    );
    check::<_, NodeNetwork>(
        v1::NodeNetwork {
            addresses: vec!["10.0.0.1".into()],
            pod_cidrs: vec!["10.244.0.1/16".into()],
            ..v1::NodeNetwork::default()
        },
        "NodeNetwork.pod_cidrs holds \"10.244.0.1/16\", which is no address range",
    );
    check::<_, NodeNetwork>(
        v1::NodeNetwork::default(),
        "NodeNetwork.addresses holds \"\", which is no address",
    );
    check::<_, PolicyPort>(
        v1::PolicyPort {
            protocol: 6,
            first: 9,
            last: 8,
            ..v1::PolicyPort::default()
        },
        "PolicyPort.first holds \"9-8\", which is no range of ports",
    );
    check::<_, NetworkDelta>(
        v1::NetworkDelta {
            endpoint_removals: vec!["x".into()],
            ..v1::NetworkDelta::default()
        },
        "NetworkDelta.endpoint_removals holds \"x\", which is no IP address",
    );
}
