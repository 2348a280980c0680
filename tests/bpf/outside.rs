//! The outside of the cluster: what leaves it gets the node's address, what comes in by the uplink reaches services.
//! The namespace behind the uplink plays the outside too: it has an address that belongs to no node, and no way to
//! pods' addresses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

use waggle_datapath::Reason;
use waggle_model::network::{External, NetworkState};

use crate::Case;
use crate::frame;
use crate::parsing::run;
use crate::room::Room;
use crate::sockets::{ask_tcp, ask_udp, at, serve_tcp, serve_udp};
use crate::state::{BILLING, HOST, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, Pod, World, eventually};

pub(crate) const CASES: &[Case] = &[
    (
        "what_leaves_the_cluster_has_the_nodes_address",
        what_leaves_the_cluster_has_the_nodes_address,
    ),
    (
        "an_error_from_outside_reaches_the_pod",
        an_error_from_outside_reaches_the_pod,
    ),
    (
        "who_reaches_a_pod_directly_is_answered_by_it",
        who_reaches_a_pod_directly_is_answered_by_it,
    ),
    (
        "masquerade_keeps_clear_of_the_hosts_ports",
        masquerade_keeps_clear_of_the_hosts_ports,
    ),
    (
        "a_node_port_reaches_a_backend_here_with_the_callers_address",
        a_node_port_reaches_a_backend_here_with_the_callers_address,
    ),
    (
        "a_flow_for_which_no_port_is_left_is_dropped",
        a_flow_for_which_no_port_is_left_is_dropped,
    ),
    (
        "a_node_port_reaches_a_backend_elsewhere_from_the_nodes_address",
        a_node_port_reaches_a_backend_elsewhere_from_the_nodes_address,
    ),
    (
        "no_node_speaks_for_a_pod_that_calls_past_its_socket",
        no_node_speaks_for_a_pod_that_calls_past_its_socket,
    ),
    (
        "a_service_without_backends_refuses_at_once_from_outside",
        a_service_without_backends_refuses_at_once_from_outside,
    ),
    (
        "an_announced_address_is_answered_for_and_served",
        an_announced_address_is_answered_for_and_served,
    ),
    (
        "neighbours_of_ipv6_find_an_announced_address",
        neighbours_of_ipv6_find_an_announced_address,
    ),
    (
        "callers_from_outside_keep_their_backend_for_its_time",
        callers_from_outside_keep_their_backend_for_its_time,
    ),
    (
        "tracked_flows_stay_when_backends_change",
        tracked_flows_stay_when_backends_change,
    ),
];

const WEB: &str = "10.244.1.2";
/// Belongs to nobody in the cluster.
const WORLD: &str = "198.51.100.7";

/// A node with a pod, and an outside that knows nothing of pods.
fn scene() -> (World, Pod) {
    let world = World::new();
    world.other.ip(&format!("address add {WORLD}/32 dev far"));
    world.other.ip("route del 10.244.1.0/24");
    world
        .host
        .ip(&format!("route add {WORLD}/32 via {OTHER_HOST}"));
    let web = world.pod(WEB, SHOP);
    world.apply(&nodes().pod(WEB, SHOP));
    (world, web)
}

/// Answers each connection with the address that it comes from; tells it too.
pub(crate) fn serve_peer(room: &Room, address: SocketAddr) -> Receiver<SocketAddr> {
    let listener = room.run(move || TcpListener::bind(address).expect("the listener binds"));
    let (sender, peers) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().expect("it is connected");
            let mut one = [0];
            let answered = stream
                .read_exact(&mut one)
                .and_then(|()| stream.write_all(peer.to_string().as_bytes()));
            if answered.is_err() || sender.send(peer).is_err() {
                return;
            }
        }
    });
    peers
}

fn what_leaves_the_cluster_has_the_nodes_address() {
    let (world, web) = scene();
    let callers = serve_peer(&world.other, at(WORLD, 80));
    for _ in 0..3 {
        ask_tcp(&web.room, at(WORLD, 80)).expect("the outside answers");
        let caller = callers.recv_timeout(PATIENCE).expect("it was called");
        assert_eq!(
            caller.ip(),
            ip(HOST),
            "the node's address is what the outside sees"
        );
        assert!(caller.port() >= 32_768, "{caller}");
    }
    let askers = serve_udp(&world.other, at(WORLD, 53), "answer");
    let (answer, from) = ask_udp(&web.room, at(WORLD, 53)).expect("an answer");
    assert_eq!((answer.as_str(), from), ("answer", at(WORLD, 53)));
    let asker = askers.recv_timeout(PATIENCE).expect("it was asked");
    assert_eq!(asker.ip(), ip(HOST));
    web.room.run(|| ping(WORLD));
    // What stays inside keeps its address.
    world.other.ip(&format!("route add {WEB}/32 via {HOST}"));
    let callers = serve_peer(&world.other, at(OTHER_HOST, 80));
    ask_tcp(&web.room, at(OTHER_HOST, 80)).expect("the other node answers");
    assert_eq!(
        callers.recv_timeout(PATIENCE).expect("it was called").ip(),
        ip(WEB)
    );
}

/// An echo request and its answer.
fn ping(address: &str) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")
        .expect("ping sockets are permitted");
    let kind = (SockType::Datagram, SockProtocol::Icmp);
    let socket = socket(AddressFamily::Inet, kind.0, SockFlag::empty(), kind.1);
    let socket = UdpSocket::from(socket.expect("a ping socket"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    socket
        .send_to(&[8, 0, 0, 0, 0, 0, 0, 1], at(address, 0))
        .expect("sent");
    let mut answer = [0; 64];
    let (_, from) = socket.recv_from(&mut answer).expect("an answer");
    assert_eq!((from.ip(), answer[0]), (ip(address), 0), "an echo reply");
}

fn an_error_from_outside_reaches_the_pod() {
    let (_world, web) = scene();
    web.room.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect(at(WORLD, 9)).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        socket.send(b"?").expect("sent");
        let error = socket.recv(&mut [0; 8]).expect_err("nobody listens there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

fn who_reaches_a_pod_directly_is_answered_by_it() {
    let (world, web) = scene();
    world
        .other
        .ip(&format!("route add {WEB}/32 via {HOST} src {WORLD}"));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let (answer, _) = ask_tcp(&world.other, at(WEB, 8080)).expect("the pod answers");
    assert_eq!(answer, "web?");
    serve_udp(&web.room, at(WEB, 8081), "web");
    let (answer, from) = ask_udp(&world.other, at(WEB, 8081)).expect("the pod answers");
    assert_eq!((answer.as_str(), from), ("web", at(WEB, 8081)));
    world.other.run(|| ping(WEB));
}

/// The pod asks from the port that the host's own socket to the same peer has, and the other way round.
fn masquerade_keeps_clear_of_the_hosts_ports() {
    let (world, web) = scene();
    let callers = serve_peer(&world.other, at(WORLD, 80));
    let from = |room: &Room, port: u16| {
        room.run(move || {
            let socket = socket_at(port);
            let mut stream = connect(socket, at(WORLD, 80));
            stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
            stream.write_all(b"?").expect("sent");
            let mut seen = [0; 64];
            let length = stream.read(&mut seen).expect("an answer");
            (
                String::from_utf8_lossy(&seen[..length]).into_owned(),
                stream,
            )
        })
    };
    let (host_seen, host) = from(&world.host, 40_001);
    assert_eq!(host_seen, format!("{HOST}:40001"));
    callers.recv_timeout(PATIENCE).expect("it was called");
    let (pod_seen, pod) = from(&web.room, 40_001);
    assert_ne!(pod_seen, host_seen, "the host has that port");
    callers.recv_timeout(PATIENCE).expect("it was called");
    // A port that the pod's flow has already is not the host's any more, on the wire.
    let (first, first_stream) = from(&web.room, 40_002);
    assert_eq!(first, format!("{HOST}:40002"), "a free port is kept");
    callers.recv_timeout(PATIENCE).expect("it was called");
    let (second, second_stream) = from(&world.host, 40_002);
    assert_ne!(second, first);
    drop((host, pod, first_stream, second_stream));
}

/// SCTP keeps its ports, because its checksum covers them: two pods can't have the same one towards one peer.
fn a_flow_for_which_no_port_is_left_is_dropped() {
    const CART: &str = "10.244.1.3";
    let (world, _web) = scene();
    let _cart = world.pod(CART, SHOP);
    world.apply(&nodes().pod(WEB, SHOP).pod(CART, SHOP));
    let verdict = |from: &str| {
        let frame = frame::sctp((ip(from), 5_000), (ip(WORLD), 6_000));
        run(&world, "to_uplink", vec![frame])[0]
    };
    assert_eq!(verdict(WEB), u32::MAX, "on to the wire");
    let dropped = world.counted(Reason::NoPort, || {
        assert_eq!(verdict(CART), 2, "dropped");
        assert_eq!(verdict(WEB), u32::MAX, "who has the port keeps it");
    });
    assert_eq!(dropped, 1);
}

fn socket_at(port: u16) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
    };
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::empty(),
        None,
    )
    .expect("a socket");
    setsockopt(&fd, sockopt::ReuseAddr, &true).expect("an option");
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrIn::new(0, 0, 0, 0, port),
    )
    .expect("the port is free here");
    fd
}

fn connect(fd: std::os::fd::OwnedFd, to: SocketAddr) -> TcpStream {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is IPv4");
    };
    let to = nix::sys::socket::SockaddrIn::from(to);
    nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &to).expect("it connects");
    TcpStream::from(fd)
}

const PORT: u16 = 30_080;
const ADDRESS: &str = "172.30.0.240";
const FAR: &str = "10.244.2.2";

/// A service at [`PORT`] of every node and at [`ADDRESS`], which this node announces.
fn exposed(backends: &[&str]) -> NetworkState {
    let mut state = nodes().pod(WEB, SHOP).pod(FAR, SHOP);
    state = state.service("10.96.0.5", SHOP, backends, &[]);
    for service in state.services.values_mut() {
        service.external = vec![External {
            address: ip(ADDRESS),
            announced_by: "node1".into(),
        }];
        for port in &mut service.ports {
            port.node_port = Some(PORT);
        }
    }
    state
}

fn a_node_port_reaches_a_backend_here_with_the_callers_address() {
    let (world, web) = scene();
    world.apply(&exposed(&[WEB]));
    let callers = serve_peer(&web.room, at(WEB, 8080));
    for _ in 0..3 {
        let (_, peer) = ask_tcp(&world.other, at(HOST, PORT)).expect("the service answers");
        assert_eq!(peer, at(HOST, PORT));
        let caller = callers.recv_timeout(PATIENCE).expect("it was called");
        assert_eq!(caller.ip(), ip(OTHER_HOST), "the caller's own address");
    }
    serve_udp(&web.room, at(WEB, 8080), "web");
    let (answer, from) = ask_udp(&world.other, at(HOST, PORT)).expect("the service answers");
    assert_eq!((answer.as_str(), from), ("web", at(HOST, PORT)));
}

fn a_node_port_reaches_a_backend_elsewhere_from_the_nodes_address() {
    let (world, _web) = scene();
    // The other node's pod.
    world.other.ip(&format!("address add {FAR}/32 dev lo"));
    world.apply(&exposed(&[FAR]));
    let callers = serve_peer(&world.other, at(FAR, 8080));
    // From an address that is neither's.
    let caller = ask_from(&world.other, at(WORLD, 0), at(HOST, PORT)).expect("the service answers");
    assert!(caller.starts_with(&format!("{HOST}:")), "{caller}");
    assert_eq!(
        callers.recv_timeout(PATIENCE).expect("called").ip(),
        ip(HOST)
    );
}

/// Raw packets to a node port of another tenant's service, whose backend is on a third node: translated, they would come
/// from a node, whom every tenant lets in.
fn no_node_speaks_for_a_pod_that_calls_past_its_socket() {
    const FAR_BILL: &str = "10.244.2.3";
    let (world, _web) = scene();
    world.other.ip(&format!("address add {FAR_BILL}/32 dev lo"));
    world.apply(&exposed(&[FAR]).pod(FAR_BILL, BILLING));
    eventually("the call is dropped", || {
        let dropped = world.counted(Reason::Untranslated, || {
            world.other.run(|| {
                let socket = UdpSocket::bind(at(FAR_BILL, 0)).expect("binds");
                socket.send_to(b"?", at(HOST, PORT)).expect("sends");
            });
        });
        dropped > 0
    });
}

/// Connects from an address of `room`; returns the answer.
fn ask_from(room: &Room, from: SocketAddr, to: SocketAddr) -> std::io::Result<String> {
    room.run(move || {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
        let SocketAddr::V4(from) = from else {
            panic!("{from} is IPv4");
        };
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::empty(),
            None,
        )?;
        bind(
            std::os::fd::AsRawFd::as_raw_fd(&fd),
            &SockaddrIn::from(from),
        )?;
        let mut stream = connect(fd, to);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"?")?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
    })
}

fn a_service_without_backends_refuses_at_once_from_outside() {
    let (world, _web) = scene();
    world.apply(&exposed(&[]));
    for to in [at(HOST, PORT), at(ADDRESS, 80), at(ADDRESS, 81)] {
        let started = std::time::Instant::now();
        let error = ask_tcp(&world.other, to).expect_err("there is nobody");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        assert!(started.elapsed().as_secs() < 1, "{to} refuses at once");
        world.other.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            socket.connect(to).expect("connected");
            socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
            socket.send(b"?").expect("sent");
            let error = socket.recv(&mut [0; 8]).expect_err("nobody is there");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        });
    }
    assert!(world.counts()[&Reason::NoBackend] >= 6);
}

fn an_announced_address_is_answered_for_and_served() {
    let (world, web) = scene();
    world.apply(&exposed(&[WEB]));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let (answer, peer) = ask_tcp(&world.other, at(ADDRESS, 80)).expect("the service answers");
    assert_eq!((answer.as_str(), peer), ("web?", at(ADDRESS, 80)));
    // Announced by another node: not answered for here.
    let mut state = exposed(&[WEB]);
    for service in state.services.values_mut() {
        service.external[0].announced_by = "node2".into();
    }
    world.apply(&state);
    world.other.ip("neighbour flush dev far");
    let error = ask_tcp(&world.other, at(ADDRESS, 80)).expect_err("nobody answers ARP");
    assert_ne!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn neighbours_of_ipv6_find_an_announced_address() {
    const ADDRESS_V6: &str = "fd00:172:30::240";
    let (world, _web) = scene();
    world
        .other
        .ip("address add fd00:172:30::2/64 dev far nodad");
    let mut state = exposed(&[WEB]);
    for service in state.services.values_mut() {
        service.external.push(External {
            address: ip(ADDRESS_V6),
            announced_by: "node1".into(),
        });
    }
    world.apply(&state);
    eventually("the neighbour is known", || {
        world.other.run(|| {
            let socket = UdpSocket::bind("[::]:0").expect("binds");
            socket.send_to(b"?", at(ADDRESS_V6, 80)).expect("sends");
            let output = std::process::Command::new("ip")
                .args(["-6", "neighbour", "show", ADDRESS_V6])
                .output();
            let output = output.expect("iproute2 is installed").stdout;
            String::from_utf8_lossy(&output).contains("lladdr")
        })
    });
}

/// Most callers would keep their backend by the Maglev table alone: none may lose it.
fn callers_from_outside_keep_their_backend_for_its_time() {
    const MANY: u16 = 30;
    let (world, web) = scene();
    let names = ["web", "cart", "till", "shelf"];
    let addresses = [WEB, "10.244.1.3", "10.244.1.4", "10.244.1.5"];
    let others: Vec<Pod> = addresses[1..]
        .iter()
        .map(|pod| world.pod(pod, SHOP))
        .collect();
    let rooms = std::iter::once(&web).chain(&others);
    for ((pod, address), name) in rooms.zip(addresses).zip(names) {
        serve_tcp(&pod.room, at(address, 8080), name);
    }
    let with = |count: usize| {
        let pods = addresses[1..].iter();
        let mut state = pods.fold(exposed(&addresses[..count]), |state, pod| {
            state.pod(pod, SHOP)
        });
        for service in state.services.values_mut() {
            service.affinity_seconds = Some(600);
        }
        state
    };
    world
        .host
        .ip(&format!("route add 198.51.100.0/24 via {OTHER_HOST}"));
    let callers: Vec<String> = (20..20 + MANY)
        .map(|last| format!("198.51.100.{last}"))
        .collect();
    for caller in &callers {
        world.other.ip(&format!("address add {caller}/32 dev lo"));
    }
    let ask = || -> Vec<String> {
        let call = |caller: &String| {
            let answer = ask_from(&world.other, at(caller, 0), at(HOST, PORT));
            answer.expect("the service answers")
        };
        callers.iter().map(call).collect()
    };
    world.apply(&with(2));
    let first = ask();
    assert!(first.contains(&"web?".to_owned()) && first.contains(&"cart?".to_owned()));
    world.apply(&with(4));
    assert_eq!(ask(), first, "new backends take nobody away");
}

fn tracked_flows_stay_when_backends_change() {
    let (world, web) = scene();
    let cart = world.pod("10.244.1.3", SHOP);
    let with = |backends: &[&str]| exposed(backends).pod("10.244.1.3", SHOP);
    world.apply(&with(&[WEB]));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    serve_tcp(&cart.room, at("10.244.1.3", 8080), "cart");
    let mut stream = world
        .other
        .run(|| TcpStream::connect(at(HOST, PORT)).expect("connected"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut ask = |expected: &str| {
        stream.write_all(b"?").expect("sent");
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&answer[..length]), expected);
    };
    ask("web?");
    world.apply(&with(&["10.244.1.3"]));
    ask("web?");
    let (answer, _) = ask_tcp(&world.other, at(HOST, PORT)).expect("the service answers");
    assert_eq!(answer, "cart?", "a new flow goes to who is a backend now");
    ask("web?");
}
