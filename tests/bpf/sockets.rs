//! Real calls between namespaces: services, what the caller sees, the tenant wall, other nodes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use aya::maps::{Array, Map, MapData};
use waggle_abi::Slot;
use waggle_datapath::{DnsRedirect, Reason};

use crate::Case;
use crate::log_sink;
use crate::room::Room;
use crate::state::{BILLING, HOST, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, World, eventually};

pub(crate) const CASES: &[Case] = &[
    (
        "tcp_through_a_vip_shows_the_vip",
        tcp_through_a_vip_shows_the_vip,
    ),
    (
        "udp_through_a_vip_shows_the_vip",
        udp_through_a_vip_shows_the_vip,
    ),
    (
        "a_dual_stack_socket_reaches_an_ipv4_vip",
        a_dual_stack_socket_reaches_an_ipv4_vip,
    ),
    (
        "calls_are_spread_over_the_backends",
        calls_are_spread_over_the_backends,
    ),
    (
        "the_wall_answers_with_an_errno_and_an_export_opens_it",
        the_wall_answers_with_an_errno_and_an_export_opens_it,
    ),
    (
        "an_endpoint_slice_cannot_open_another_tenants_wall",
        an_endpoint_slice_cannot_open_another_tenants_wall,
    ),
    (
        "a_service_without_backends_refuses",
        a_service_without_backends_refuses,
    ),
    (
        "an_address_of_the_services_range_that_no_service_has_refuses",
        an_address_of_the_services_range_that_no_service_has_refuses,
    ),
    (
        "slots_of_another_service_are_never_used",
        slots_of_another_service_are_never_used,
    ),
    (
        "a_spoofed_source_is_dropped_and_counted",
        a_spoofed_source_is_dropped_and_counted,
    ),
    (
        "the_host_reaches_pods_and_services",
        the_host_reaches_pods_and_services,
    ),
    (
        "the_dns_vip_is_the_nodes_own_listener",
        the_dns_vip_is_the_nodes_own_listener,
    ),
    (
        "another_node_is_routed_and_walled",
        another_node_is_routed_and_walled,
    ),
    ("ping_works_inside_a_tenant", ping_works_inside_a_tenant),
];

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const BILL: &str = "10.244.1.4";
const FAR_SHOP: &str = "10.244.2.2";
const FAR_BILL: &str = "10.244.2.3";
const VIP: &str = "10.96.0.5";

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// Listens in `room` and answers each connection with `word`.
pub(crate) fn serve_tcp(room: &Room, address: SocketAddr, word: &'static str) {
    let listener = room.run(move || TcpListener::bind(address).expect("the listener binds"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let answer = [word.as_bytes(), &buffer[..length]].concat();
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Answers each datagram with `word`; tells who asked.
pub(crate) fn serve_udp(
    room: &Room,
    address: SocketAddr,
    word: &'static str,
) -> Receiver<SocketAddr> {
    let socket = room.run(move || UdpSocket::bind(address).expect("the socket binds"));
    let (sender, askers) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, asker)) = socket.recv_from(&mut buffer) {
            // The test may have seen enough.
            let _ = sender.send(asker);
            if socket.send_to(word.as_bytes(), asker).is_err() {
                return;
            }
        }
    });
    askers
}

/// Connects from `room`, sends a byte; returns the answer and what the caller takes its peer for.
pub(crate) fn ask_tcp(room: &Room, address: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    room.run(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok((
            String::from_utf8_lossy(&answer[..length]).into_owned(),
            stream.peer_addr()?,
        ))
    })
}

/// Asks from a new unconnected socket; returns the answer and who gave it.
pub(crate) fn ask_udp(room: &Room, address: SocketAddr) -> std::io::Result<(String, SocketAddr)> {
    room.run(move || {
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"?", address)?;
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer)?;
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        Ok((text, from))
    })
}

fn connect_fault(room: &Room, address: SocketAddr) -> Option<i32> {
    // Not connect_timeout: its poll would hide which call failed.
    room.run(move || {
        TcpStream::connect(address)
            .err()
            .and_then(|error| error.raw_os_error())
    })
}

const EACCES: Option<i32> = Some(13);
const ECONNREFUSED: Option<i32> = Some(111);

fn tcp_through_a_vip_shows_the_vip() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(
        &nodes()
            .pod(WEB, SHOP)
            .pod(CART, SHOP)
            .service(VIP, SHOP, &[WEB], &[]),
    );
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let before = link_packets(&world, &web.attachment.interface);
    let translated = world.counted(Reason::Translated, || {
        let (answer, peer) = ask_tcp(&cart.room, at(VIP, 80)).expect("the service answers");
        assert_eq!(answer, "web?");
        assert_eq!(peer, at(VIP, 80), "getpeername shows what was called");
    });
    assert_eq!(translated, 1, "translated once, at connect");
    let after = link_packets(&world, &web.attachment.interface);
    assert_eq!(
        after, before,
        "pods of one node talk past the receiving veth's host end"
    );
    let (answer, peer) =
        ask_tcp(&web.room, at(VIP, 80)).expect("a pod reaches itself through its service");
    assert_eq!((answer.as_str(), peer), ("web?", at(VIP, 80)));
    let (answer, peer) = ask_tcp(&cart.room, at(WEB, 8080)).expect("a pod is reached directly");
    assert_eq!((answer.as_str(), peer), ("web?", at(WEB, 8080)));
    assert_eq!(world.drops(), []);
}

/// Packets that the host's stack has sent into `interface`.
fn link_packets(world: &World, interface: &str) -> u64 {
    let interface = interface.to_owned();
    world.host.run(move || {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("device statistics");
        let line = text.lines().find_map(|line| {
            line.trim()
                .strip_prefix(&format!("{interface}:"))
                .map(str::to_owned)
        });
        let line = line.expect("the interface is listed");
        line.split_whitespace()
            .nth(9)
            .and_then(|field| field.parse().ok())
            .expect("transmitted packets")
    })
}

fn udp_through_a_vip_shows_the_vip() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(
        &nodes()
            .pod(WEB, SHOP)
            .pod(CART, SHOP)
            .service(VIP, SHOP, &[WEB], &[]),
    );
    let askers = serve_udp(&web.room, at(WEB, 8080), "web");
    cart.room.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        let mut buffer = [0; 64];
        socket.send_to(b"?", at(VIP, 80)).expect("unconnected");
        let (length, from) = socket.recv_from(&mut buffer).expect("an answer");
        assert_eq!(
            (&buffer[..length], from),
            (&b"web"[..], at(VIP, 80)),
            "the answer comes from what was asked"
        );
        let connected = UdpSocket::bind("0.0.0.0:0").expect("binds");
        connected.set_read_timeout(Some(PATIENCE)).expect("a bound");
        connected.connect(at(VIP, 80)).expect("connects");
        assert_eq!(connected.peer_addr().expect("a peer"), at(VIP, 80));
        connected.send(b"?").expect("connected");
        let (length, from) = connected.recv_from(&mut buffer).expect("an answer");
        assert_eq!((&buffer[..length], from), (&b"web"[..], at(VIP, 80)));
    });
    let asker = askers
        .recv_timeout(PATIENCE)
        .expect("the backend was asked");
    assert_eq!(asker.ip(), ip(CART), "the backend sees the pod itself");
}

fn a_dual_stack_socket_reaches_an_ipv4_vip() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(
        &nodes()
            .pod(WEB, SHOP)
            .pod(CART, SHOP)
            .service(VIP, SHOP, &[WEB], &[]),
    );
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let _askers = serve_udp(&web.room, at(WEB, 8080), "web");
    let IpAddr::V4(vip) = ip(VIP) else {
        panic!("IPv4")
    };
    let mapped = SocketAddr::new(IpAddr::V6(vip.to_ipv6_mapped()), 80);
    let (answer, peer) = ask_tcp(&cart.room, mapped).expect("the service answers");
    assert_eq!((answer.as_str(), peer), ("web?", mapped));
    cart.room.run(move || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        socket.send_to(b"?", mapped).expect("sent");
        let (_, from) = socket.recv_from(&mut [0; 64]).expect("an answer");
        assert_eq!(from, mapped);
    });
}

fn calls_are_spread_over_the_backends() {
    let world = World::new();
    let (web, cart, bill) = (
        world.pod(WEB, SHOP),
        world.pod(CART, SHOP),
        world.pod("10.244.1.5", SHOP),
    );
    let state = nodes()
        .pod(WEB, SHOP)
        .pod(CART, SHOP)
        .pod("10.244.1.5", SHOP);
    world.apply(&state.clone().service(VIP, SHOP, &[WEB, CART], &[]));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    serve_tcp(&cart.room, at(CART, 8080), "cart");
    let ask = |times: usize| -> BTreeSet<String> {
        (0..times)
            .map(|_| ask_tcp(&bill.room, at(VIP, 80)).expect("an answer").0)
            .collect()
    };
    // Sixty calls miss one of two backends once in 2^59 runs.
    assert_eq!(ask(60), ["cart?".to_owned(), "web?".to_owned()].into());
    world.apply(&state.service(VIP, SHOP, &[CART], &[]));
    assert_eq!(
        ask(20),
        ["cart?".to_owned()].into(),
        "a backend that left is asked no more"
    );
}

fn the_wall_answers_with_an_errno_and_an_export_opens_it() {
    let world = World::new();
    let (web, bill) = (world.pod(WEB, SHOP), world.pod(BILL, BILLING));
    let state = |export: &[u32]| {
        nodes()
            .pod(WEB, SHOP)
            .pod(BILL, BILLING)
            .service(VIP, SHOP, &[WEB], export)
    };
    serve_tcp(&web.room, at(WEB, 8080), "web");
    serve_tcp(&web.room, at(WEB, 9090), "private");
    let _askers = serve_udp(&web.room, at(WEB, 8080), "web");
    world.apply(&state(&[]));
    world.drops();
    for target in [at(VIP, 80), at(WEB, 8080)] {
        assert_eq!(connect_fault(&bill.room, target), EACCES, "{target}");
    }
    let sent = bill.room.run(|| {
        UdpSocket::bind("0.0.0.0:0")
            .expect("binds")
            .send_to(b"?", at(VIP, 80))
    });
    assert_eq!(
        sent.expect_err("walled").kind(),
        ErrorKind::PermissionDenied
    );
    let drops = world.drops();
    let seen: Vec<_> = drops
        .iter()
        .map(|d| (d.hook, d.reason, d.source_tenant.0, d.destination_tenant.0))
        .collect();
    let wall = |hook| (hook, Reason::TenantWall, BILLING, SHOP);
    assert_eq!(seen, [wall("connect"), wall("connect"), wall("sendmsg")]);
    assert_eq!(
        drops[0].destination,
        Some(at(VIP, 80)),
        "the report names what was called"
    );
    for _ in 0..2 {
        world.apply(&state(&[BILLING]));
        for target in [at(VIP, 80), at(WEB, 8080)] {
            assert_eq!(
                ask_tcp(&bill.room, target).expect("exported").0,
                "web?",
                "{target}"
            );
            // The backend's answer goes to another tenant's pod, through the same hooks.
            let answer = ask_udp(&bill.room, target).expect("exported");
            assert_eq!(answer, ("web".into(), target));
        }
        assert_eq!(
            connect_fault(&bill.room, at(WEB, 9090)),
            EACCES,
            "only the exported port is open"
        );
        world.apply(&state(&[]));
        assert_eq!(
            connect_fault(&bill.room, at(VIP, 80)),
            EACCES,
            "closed again"
        );
    }
}

fn an_endpoint_slice_cannot_open_another_tenants_wall() {
    let world = World::new();
    let (web, bill) = (world.pod(WEB, SHOP), world.pod(BILL, BILLING));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    // Billing's own service names shop's pod, and exports it to itself and everyone it can think of.
    let state =
        nodes()
            .pod(WEB, SHOP)
            .pod(BILL, BILLING)
            .service(VIP, BILLING, &[WEB], &[BILLING, SHOP]);
    world.apply(&state);
    assert_eq!(connect_fault(&bill.room, at(VIP, 80)), EACCES);
}

fn a_service_without_backends_refuses() {
    let world = World::new();
    let cart = world.pod(CART, SHOP);
    world.apply(&nodes().pod(CART, SHOP).service(VIP, SHOP, &[], &[]));
    let refused = world.counted(Reason::NoBackend, || {
        assert_eq!(
            connect_fault(&cart.room, at(VIP, 80)),
            ECONNREFUSED,
            "no backend"
        );
        assert_eq!(
            connect_fault(&cart.room, at(VIP, 81)),
            ECONNREFUSED,
            "no such port"
        );
    });
    assert_eq!(refused, 2);
}

fn an_address_of_the_services_range_that_no_service_has_refuses() {
    let world = World::new();
    let cart = world.pod(CART, SHOP);
    let range = "10.96.0.0/16".parse().expect("a range");
    world.with(async move |datapath| datapath.set_service_ranges(vec![range]));
    world.apply(&nodes().pod(CART, SHOP));
    let refused = world.counted(Reason::NoBackend, || {
        for address in ["10.96.0.0", "10.96.255.255"] {
            let fault = connect_fault(&cart.room, at(address, 80));
            assert_eq!(fault, ECONNREFUSED, "{address}");
            let fault = connect_fault(&world.host, at(address, 80));
            assert_eq!(fault, ECONNREFUSED, "{address}, from the node");
        }
    });
    assert_eq!(refused, 4);
}

fn slots_of_another_service_are_never_used() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(
        &nodes()
            .pod(WEB, SHOP)
            .pod(CART, SHOP)
            .service(VIP, SHOP, &[WEB], &[]),
    );
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let map = MapData::from_pin(world.pin("maps", "SLOTS"))
        .and_then(Map::from_map_data)
        .expect("the map is pinned");
    let mut slots: Array<_, Slot> = map.try_into().expect("an array");
    for index in 0..8 {
        let slot = slots.get(&index, 0).expect("a slot");
        slots
            .set(
                index,
                Slot {
                    service: slot.service + 1000,
                    ..slot
                },
                0,
            )
            .expect("written");
    }
    let counted = world.counted(Reason::Inconsistent, || {
        assert_eq!(connect_fault(&cart.room, at(VIP, 80)), EACCES);
    });
    assert_eq!(counted, 1);
    world.with(async |datapath| {
        let forwarding = datapath.forward_logs();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !log_sink::has("slots of the service at port 80 belong to another service") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        tokio::select! {
            fault = forwarding => panic!("{fault}"),
            waited = waited => waited.expect("the program's own words arrive in the log"),
        }
    });
}

fn a_spoofed_source_is_dropped_and_counted() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP));
    let askers = serve_udp(&web.room, at(WEB, 8080), "web");
    world.drops();
    cart.room.ip("address add 10.244.1.99/32 dev lo");
    let before = world.counts()[&Reason::InvalidSource];
    cart.room.run(|| {
        let socket = UdpSocket::bind("10.244.1.99:7000").expect("binds to what it added");
        socket
            .send_to(b"?", at(WEB, 8080))
            .expect("leaves the pod's stack");
    });
    world.await_count(Reason::InvalidSource, before);
    assert!(askers.try_recv().is_err(), "nothing arrives");
    let drop = world
        .drops()
        .into_iter()
        .find(|drop| drop.reason == Reason::InvalidSource)
        .expect("reported");
    assert_eq!(
        (drop.source, drop.ifindex),
        (Some(at("10.244.1.99", 7000)), cart.attachment.ifindex)
    );
}

fn the_host_reaches_pods_and_services() {
    let world = World::new();
    let (web, bill) = (world.pod(WEB, SHOP), world.pod(BILL, BILLING));
    world.apply(
        &nodes()
            .pod(WEB, SHOP)
            .pod(BILL, BILLING)
            .service(VIP, SHOP, &[WEB], &[]),
    );
    serve_tcp(&web.room, at(WEB, 8080), "web");
    serve_tcp(&world.host, at(HOST, 9100), "host");
    assert_eq!(
        ask_tcp(&world.host, at(WEB, 8080)).expect("a probe").0,
        "web?"
    );
    let (answer, peer) =
        ask_tcp(&world.host, at(VIP, 80)).expect("the node's own sockets are translated too");
    assert_eq!((answer.as_str(), peer), ("web?", at(VIP, 80)));
    assert_eq!(
        ask_tcp(&bill.room, at(HOST, 9100))
            .expect("nodes are reachable")
            .0,
        "host?"
    );
    assert_eq!(world.drops(), []);
}

fn the_dns_vip_is_the_nodes_own_listener() {
    let world = World::new();
    let bill = world.pod(BILL, BILLING);
    let dns = DnsRedirect {
        vip: ip("10.96.0.10"),
        listener: at(HOST, 5353),
    };
    world.with(async move |datapath| datapath.set_dns(Some(dns)));
    world.apply(&nodes().pod(BILL, BILLING));
    let _askers = serve_udp(&world.host, at(HOST, 5353), "name");
    serve_tcp(&world.host, at(HOST, 5353), "name");
    bill.room.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        socket.send_to(b"?", at("10.96.0.10", 53)).expect("sent");
        let (_, from) = socket.recv_from(&mut [0; 64]).expect("an answer");
        assert_eq!(
            from,
            at("10.96.0.10", 53),
            "resolvers drop answers from anywhere else"
        );
    });
    assert_eq!(
        ask_tcp(&bill.room, at("10.96.0.10", 53))
            .expect("TCP too")
            .0,
        "name?"
    );
}

fn another_node_is_routed_and_walled() {
    let world = World::new();
    let (web, bill) = (world.pod(WEB, SHOP), world.pod(BILL, BILLING));
    let state = |export: &[u32]| {
        let state = nodes()
            .pod(WEB, SHOP)
            .pod(BILL, BILLING)
            .pod(FAR_SHOP, SHOP)
            .pod(FAR_BILL, BILLING);
        state
            .service(VIP, SHOP, &[FAR_SHOP], export)
            .service("10.96.0.6", SHOP, &[WEB], export)
    };
    for address in [FAR_SHOP, FAR_BILL, "10.244.2.77"] {
        world.other.ip(&format!("address add {address}/32 dev lo"));
    }
    world.apply(&state(&[]));
    serve_tcp(&world.other, at(FAR_SHOP, 8080), "far");
    serve_tcp(&web.room, at(WEB, 8080), "web");
    assert_eq!(
        ask_tcp(&web.room, at(VIP, 80)).expect("over the wire").0,
        "far?"
    );
    assert_eq!(connect_fault(&bill.room, at(VIP, 80)), EACCES);
    let from = |source: &'static str| {
        let source: std::net::SocketAddrV4 = format!("{source}:0").parse().expect("an address");
        world.other.run(move || {
            let socket = UdpSocket::bind(source).expect("binds");
            socket
                .send_to(b"?", at(WEB, 8080))
                .expect("leaves the other node");
        });
    };
    for (source, reason) in [
        (FAR_BILL, Reason::TenantWall),
        ("10.244.2.77", Reason::UnknownEndpoint),
    ] {
        let before = world.counts()[&reason];
        from(source);
        world.await_count(reason, before);
    }
    assert_eq!(
        ask_tcp(&world.other, at(WEB, 8080))
            .expect("the other node itself")
            .0,
        "web?"
    );
    let askers = serve_udp(&web.room, at(WEB, 8080), "web");
    from(FAR_SHOP);
    assert_eq!(
        askers.recv_timeout(PATIENCE).expect("same tenant").ip(),
        ip(FAR_SHOP)
    );
    world.apply(&state(&[BILLING]));
    assert_eq!(
        ask_tcp(&bill.room, at(VIP, 80))
            .expect("exported, and its replies come back")
            .0,
        "far?"
    );
    from(FAR_BILL);
    assert_eq!(
        askers.recv_timeout(PATIENCE).expect("exported").ip(),
        ip(FAR_BILL)
    );
    eventually("routes of nodes that left go", || {
        let mut without = state(&[]);
        without.nodes.remove("node2");
        world.apply(&without);
        let routes = world.host.run(|| {
            let output = std::process::Command::new("ip")
                .args(["route", "show", "proto", "119"])
                .output();
            String::from_utf8(output.expect("iproute2 is installed").stdout).expect("text")
        });
        routes.contains("unreachable 10.244.1.0/24") && !routes.contains(OTHER_HOST)
    });
}

fn ping_works_inside_a_tenant() {
    let world = World::new();
    let (web, cart, bill) = (
        world.pod(WEB, SHOP),
        world.pod(CART, SHOP),
        world.pod(BILL, BILLING),
    );
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP).pod(BILL, BILLING));
    let ping = |room: &Room, to: &'static str| {
        room.run(move || {
            std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")
                .expect("ping sockets are permitted");
            let kind = nix::sys::socket::SockType::Datagram;
            let protocol = nix::sys::socket::SockProtocol::Icmp;
            let flags = nix::sys::socket::SockFlag::empty();
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                kind,
                flags,
                protocol,
            );
            let socket = UdpSocket::from(socket.expect("a ping socket"));
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .expect("a bound");
            socket.send_to(&[8, 0, 0, 0, 0, 0, 0, 1], at(to, 0))?;
            socket.recv_from(&mut [0; 64]).map(|(_, from)| from.ip())
        })
    };
    assert_eq!(ping(&cart.room, WEB).expect("an echo"), ip(WEB));
    assert_eq!(
        ping(&world.host, WEB).expect("an echo to the host"),
        ip(WEB)
    );
    let dropped = world.counted(Reason::TenantWall, || {
        ping(&bill.room, WEB).expect_err("walled");
    });
    assert_eq!(dropped, 1);
    drop(web);
}
