//! Round trips of every network message, and what is refused.

use proptest::prelude::*;

use super::*;

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ]
}

fn ports() -> impl Strategy<Value = ServicePort> {
    let backend = (addresses(), 1u16.., "[a-z]{0,3}", "[a-z]{0,3}").prop_map(
        |(address, port, node, hostname)| Backend {
            address,
            port,
            node,
            hostname,
        },
    );
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (
        "[a-z]{0,4}",
        protocol,
        1u16..,
        proptest::collection::vec(backend, 0..4),
    )
        .prop_map(|(name, protocol, port, backends)| ServicePort {
            name,
            protocol,
            port,
            backends,
        })
}

fn services() -> impl Strategy<Value = Service> {
    let export = prop_oneof![
        proptest::collection::btree_set(any::<u32>().prop_map(TenantId), 0..4).prop_map(Export::To),
        Just(Export::Everyone),
    ];
    let lists = (
        proptest::collection::vec(addresses(), 0..3),
        proptest::collection::vec(ports(), 0..3),
    );
    (
        1u32..,
        "[a-z]{1,5}",
        "[a-z]{1,5}",
        any::<u32>(),
        lists,
        export,
    )
        .prop_map(
            |(id, namespace, name, tenant, (vips, ports), export)| Service {
                id: ServiceId(id),
                namespace,
                name,
                tenant: TenantId(tenant),
                vips,
                ports,
                export,
            },
        )
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    (addresses(), any::<u32>(), any::<u32>(), "[a-z]{0,4}").prop_map(
        |(address, identity, tenant, text)| Endpoint {
            address,
            identity: IdentityId(identity),
            tenant: TenantId(tenant),
            node: text.clone(),
            namespace: format!("n{text}"),
            pod: format!("p{text}"),
        },
    )
}

fn nodes() -> impl Strategy<Value = NodeNetwork> {
    (addresses(), 0u64..256, "[a-z]{1,4}").prop_map(|(address, index, name)| {
        let pods: Cidr = "10.244.0.0/16".parse().unwrap();
        NodeNetwork {
            name,
            address,
            pod_cidr: pods.subnet(24, index).unwrap(),
        }
    })
}

fn states() -> impl Strategy<Value = NetworkState> {
    let services = proptest::collection::vec(services(), 0..4);
    let endpoints = proptest::collection::vec(endpoints(), 0..4);
    let nodes = proptest::collection::vec(nodes(), 0..4);
    (any::<u64>(), services, endpoints, nodes).prop_map(
        |(generation, services, endpoints, nodes)| NetworkState {
            generation: Generation(generation),
            services: services.into_iter().map(|s| (s.id, s)).collect(),
            endpoints: endpoints.into_iter().map(|e| (e.address, e)).collect(),
            nodes: nodes.into_iter().map(|n| (n.name.clone(), n)).collect(),
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
            protocol: 132,
            port: 1,
            ..v1::ServicePort::default()
        },
        "ServicePort.protocol holds \"132\", which is no protocol (6 or 17)",
    );
    check::<_, Service>(
        v1::Service::default(),
        "Service.id holds \"0\", which is no service number (1 or more)",
    );
    check::<_, NodeNetwork>(
        v1::NodeNetwork {
            pod_cidr: "10.244.0.1/16".into(),
            ..v1::NodeNetwork::default()
        },
        "NodeNetwork.pod_cidr holds \"10.244.0.1/16\", which is no address range",
    );
    check::<_, NetworkDelta>(
        v1::NetworkDelta {
            endpoint_removals: vec!["x".into()],
            ..v1::NetworkDelta::default()
        },
        "NetworkDelta.endpoint_removals holds \"x\", which is no IP address",
    );
}
