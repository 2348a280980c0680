//! Tables of questions and answers.

use proptest::prelude::*;
use waggle_model::network::{Backend, Endpoint, ServicePort};
use waggle_model::{Generation, IdentityId, ServiceId, TenantId};

use super::*;

fn backend(address: &str, port: u16, hostname: &str) -> Backend {
    Backend {
        node: "node1".into(),
        hostname: hostname.into(),
        ..Backend::at(address.parse().unwrap(), port)
    }
}

fn port(name: &str, protocol: Protocol, port: u16, backends: Vec<Backend>) -> ServicePort {
    ServicePort {
        name: name.into(),
        protocol,
        port,
        backends,
        ..ServicePort::default()
    }
}

fn service(
    id: u32,
    namespace: &str,
    name: &str,
    vips: &[&str],
    ports: Vec<ServicePort>,
) -> Service {
    Service {
        id: ServiceId(id),
        namespace: namespace.into(),
        name: name.into(),
        tenant: TenantId(2),
        vips: vips.iter().map(|v| v.parse().unwrap()).collect(),
        ports,
        ..Service::default()
    }
}

fn endpoint(address: &str, namespace: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        identity: IdentityId(9),
        tenant: TenantId(2),
        node: "node1".into(),
        namespace: namespace.into(),
        pod: "p".into(),
        host_ports: Vec::new(),
    }
}

fn zone() -> Zone {
    let headless = vec![
        port(
            "redis",
            Protocol::Tcp,
            6379,
            vec![
                backend("10.244.0.5", 6379, "redis-0"),
                backend("10.244.1.6", 6379, ""),
            ],
        ),
        port(
            "metrics",
            Protocol::Udp,
            9000,
            vec![backend("10.244.0.5", 9001, "redis-0")],
        ),
    ];
    let services = [
        service(
            1,
            "shop",
            "user-center",
            &["10.96.1.2", "fd00::2"],
            vec![
                port(
                    "http",
                    Protocol::Tcp,
                    80,
                    vec![backend("10.244.0.7", 8080, "")],
                ),
                port("", Protocol::Udp, 53, vec![]),
            ],
        ),
        service(2, "shop", "redis", &[], headless),
        service(3, "shop", "nobody", &[], vec![]),
    ];
    let endpoints = [
        endpoint("10.244.0.5", "shop"),
        endpoint("fd00:1::5", "shop"),
    ];
    let state = NetworkState {
        generation: Generation(7),
        services: services.into_iter().map(|s| (s.id, s)).collect(),
        endpoints: endpoints.into_iter().map(|e| (e.address, e)).collect(),
        ..NetworkState::default()
    };
    let options = ZoneOptions {
        domain: "cluster.local".into(),
        ranges: vec![
            "10.96.0.0/16".parse().unwrap(),
            "10.244.0.0/16".parse().unwrap(),
        ],
        dns_vip: Some("10.96.0.10".parse().unwrap()),
    };
    Zone::build(&state, &options).unwrap()
}

/// One line for an answer: the data of its records, sorted, or why there are none.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    match zone.answer(&Name::from_ascii(name).unwrap(), kind, 0) {
        Answer::Records {
            answers,
            additionals,
        } => {
            let text = |records: &[Record]| {
                let mut lines: Vec<_> = records.iter().map(|r| r.data.to_string()).collect();
                lines.sort();
                lines.join(", ")
            };
            assert!(answers.iter().chain(&additionals).all(|r| r.ttl == TTL));
            if additionals.is_empty() {
                text(&answers)
            } else {
                format!("{} + {}", text(&answers), text(&additionals))
            }
        }
        Answer::Alias { target, .. } => format!("alias {target}"),
        Answer::NoData(soa) => format!("nodata {}", soa.name),
        Answer::NoSuchName(soa) => format!("nxdomain {}", soa.name),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn names_are_answered_as_the_specification_says() {
    use RecordType as T;
    let zone = zone();
    for (name, kind, answer) in [
        ("user-center.shop.svc.cluster.local.", T::A, "10.96.1.2"),
        ("User-Center.SHOP.svc.Cluster.Local.", T::A, "10.96.1.2"),
        ("user-center.shop.svc.cluster.local.", T::AAAA, "fd00::2"),
        (
            "user-center.shop.svc.cluster.local.",
            T::MX,
            "nodata cluster.local.",
        ),
        (
            "redis.shop.svc.cluster.local.",
            T::A,
            "10.244.0.5, 10.244.1.6",
        ),
        (
            "redis.shop.svc.cluster.local.",
            T::AAAA,
            "nodata cluster.local.",
        ),
        ("redis-0.redis.shop.svc.cluster.local.", T::A, "10.244.0.5"),
        (
            "10-244-1-6.redis.shop.svc.cluster.local.",
            T::A,
            "10.244.1.6",
        ),
        (
            "redis-1.redis.shop.svc.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        (
            "nobody.shop.svc.cluster.local.",
            T::A,
            "nodata cluster.local.",
        ),
        ("10-244-0-5.shop.pod.cluster.local.", T::A, "10.244.0.5"),
        ("fd00-1--5.shop.pod.cluster.local.", T::AAAA, "fd00:1::5"),
        (
            "10-244-0-5.billing.pod.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        (
            "10-244-0-9.shop.pod.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        ("x.shop.pod.cluster.local.", T::A, "nxdomain cluster.local."),
        ("shop.pod.cluster.local.", T::A, "nodata cluster.local."),
        ("shop.svc.cluster.local.", T::A, "nodata cluster.local."),
        (
            "billing.svc.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        ("svc.cluster.local.", T::A, "nodata cluster.local."),
        (
            "cluster.local.",
            T::NS,
            "ns.dns.cluster.local. + 10.96.0.10",
        ),
        ("ns.dns.cluster.local.", T::A, "10.96.0.10"),
        ("dns-version.cluster.local.", T::TXT, "1.1.0"),
        (
            "example.com.shop.svc.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        (
            "example.com.cluster.local.",
            T::A,
            "nxdomain cluster.local.",
        ),
        ("example.com.", T::A, "not ours"),
        ("notcluster.local.", T::A, "not ours"),
    ] {
        assert_eq!(ask(&zone, name, kind), answer, "{name} {kind}");
    }
    assert!(ask(&zone, "cluster.local.", T::SOA).contains(" 7 7200 1800 86400 5"));
}

#[test]
fn srv_names_ports_and_targets() {
    let zone = zone();
    for (name, answer) in [
        (
            "_http._tcp.user-center.shop.svc.cluster.local.",
            "0 100 80 user-center.shop.svc.cluster.local. + 10.96.1.2, fd00::2",
        ),
        (
            "_redis._tcp.redis.shop.svc.cluster.local.",
            "0 100 6379 10-244-1-6.redis.shop.svc.cluster.local., 0 100 6379 redis-0.redis.shop.svc.cluster.local. \
             + 10.244.0.5, 10.244.1.6",
        ),
        (
            "_http._udp.user-center.shop.svc.cluster.local.",
            "nxdomain cluster.local.",
        ),
        (
            "_tcp.user-center.shop.svc.cluster.local.",
            "nodata cluster.local.",
        ),
        (
            "__udp.user-center.shop.svc.cluster.local.",
            "nxdomain cluster.local.",
        ),
        ("nobody.shop.svc.cluster.local.", "nodata cluster.local."),
    ] {
        assert_eq!(ask(&zone, name, RecordType::SRV), answer, "{name}");
    }
}

#[test]
fn addresses_have_names() {
    let zone = zone();
    for (name, answer) in [
        (
            "2.1.96.10.in-addr.arpa.",
            "user-center.shop.svc.cluster.local.",
        ),
        (
            "5.0.244.10.in-addr.arpa.",
            "redis-0.redis.shop.svc.cluster.local.",
        ),
        (
            "6.1.244.10.in-addr.arpa.",
            "10-244-1-6.redis.shop.svc.cluster.local.",
        ),
        ("9.9.244.10.in-addr.arpa.", "nxdomain in-addr.arpa."),
        ("1.1.1.1.in-addr.arpa.", "not ours"),
        ("244.10.in-addr.arpa.", "not ours"),
    ] {
        assert_eq!(ask(&zone, name, RecordType::PTR), answer, "{name}");
    }
    assert_eq!(
        ask(&zone, "2.1.96.10.in-addr.arpa.", RecordType::A),
        "nodata in-addr.arpa."
    );
}

#[test]
fn several_addresses_take_turns() {
    let zone = zone();
    let name = Name::from_ascii("redis.shop.svc.cluster.local.").unwrap();
    let first = |turn| match zone.answer(&name, RecordType::A, turn) {
        Answer::Records { answers, .. } => answers[0].data.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [first(0), first(1), first(2)],
        ["10.244.0.5", "10.244.1.6", "10.244.0.5"]
    );
}

proptest! {
    #[test]
    fn any_name_below_the_domain_gets_an_answer(labels in proptest::collection::vec("[a-z0-9_-]{1,12}", 0..6)) {
        let text = labels.iter().map(|l| format!("{l}.")).collect::<String>() + "cluster.local.";
        if let Ok(name) = Name::from_ascii(&text) {
            prop_assert_ne!(zone().answer(&name, RecordType::A, 3), Answer::NotOurs);
        }
    }
}

/// A Service of a test: its name, whether it has a VIP, and its backends with whether they have a host name.
type Drawn = (u8, bool, Vec<(u8, bool)>);

fn drawn_state(generation: u64, services: &[(u32, Drawn)], pods: &[(u8, u8)]) -> NetworkState {
    let service = |(id, (name, vip, backends)): &(u32, Drawn)| {
        let backends = backends.iter().map(|(last, named)| {
            let hostname = if *named {
                format!("h{last}")
            } else {
                String::new()
            };
            backend(&format!("10.244.0.{last}"), 80, &hostname)
        });
        let ports = vec![port("web", Protocol::Tcp, 80, backends.collect())];
        let vips: &[&str] = if *vip { &["10.96.0.5"] } else { &[] };
        service(
            *id,
            &format!("ns{}", name % 2),
            &format!("s{name}"),
            vips,
            ports,
        )
    };
    let pod = |(last, namespace): &(u8, u8)| {
        endpoint(&format!("10.244.0.{last}"), &format!("ns{namespace}"))
    };
    NetworkState {
        generation: Generation(generation),
        // Of two that claim one name only the last is in the state, as in a cluster.
        services: services
            .iter()
            .map(|one| (one.1.0, service(one)))
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_values()
            .map(|one| (one.id, one))
            .collect(),
        endpoints: pods.iter().map(pod).map(|one| (one.address, one)).collect(),
        ..NetworkState::default()
    }
}

proptest! {
    #[test]
    fn moving_along_is_building_anew(
        states in proptest::collection::vec((
            proptest::collection::vec((1u32..6, (0u8..4, any::<bool>(), proptest::collection::vec((1u8..5, any::<bool>()), 0..4))), 0..5),
            proptest::collection::vec((1u8..8, 0u8..3), 0..6),
        ), 1..6),
    ) {
        let options = ZoneOptions { domain: "cluster.local".into(), ranges: Vec::new(), dns_vip: None };
        let mut state = NetworkState::default();
        let mut zone = Zone::build(&state, &options).unwrap();
        for (generation, (services, pods)) in states.iter().enumerate() {
            let next = drawn_state(generation as u64 + 1, services, pods);
            zone.apply(&state.delta_to(&next));
            state = next;
            prop_assert_eq!(&zone, &Zone::build(&state, &options).unwrap());
        }
    }
}

#[test]
fn an_alias_leads_on() {
    let alias = |id, name: &str, target: &str| Service {
        external_name: target.into(),
        ..service(id, "shop", name, &[], vec![])
    };
    let mut zone = zone();
    let before = zone.clone();
    let delta = NetworkDelta {
        to: Generation(7),
        service_upserts: vec![alias(9, "db", "db.example.com")],
        ..NetworkDelta::default()
    };
    zone.apply(&delta);
    let name = Name::from_ascii("db.shop.svc.cluster.local.").unwrap();
    let target = Name::from_ascii("db.example.com.").unwrap();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT] {
        let Answer::Alias { record, target: to } = zone.answer(&name, kind, 0) else {
            panic!("{kind}: no alias");
        };
        assert_eq!(to, target);
        assert_eq!(record.name, name);
        assert_eq!(record.data, RData::CNAME(CNAME(target.clone())));
    }
    let Answer::Records { answers, .. } = zone.answer(&name, RecordType::CNAME, 0) else {
        panic!("no CNAME record");
    };
    assert_eq!(answers.len(), 1);
    let below = Name::from_ascii("x.db.shop.svc.cluster.local.").unwrap();
    let answer = zone.answer(&below, RecordType::A, 0);
    assert!(matches!(answer, Answer::NoSuchName(_)), "{answer:?}");
    let delta = NetworkDelta {
        to: Generation(7),
        service_removals: vec![ServiceId(9)],
        ..NetworkDelta::default()
    };
    zone.apply(&delta);
    assert_eq!(zone, before);
}
