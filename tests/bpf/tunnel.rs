//! Two nodes that share no link: a router is between them that knows nothing of pods.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use waggle_abi::TUNNEL_PORT;
use waggle_datapath::{FlowEvent, Reason};
use waggle_model::network::{
    NetworkState, NodeNetwork, Peers, PerFamily, Policy, PolicyPort, PolicyRule, PortMatch,
    Protocol, TunnelMode,
};
use waggle_model::{IdentityId, PolicyId};

use crate::Case;
use crate::frame;
use crate::lifecycle::lose_link;
use crate::mtu::transfer;
use crate::room::Room;
use crate::sockets::{ask_tcp, ask_udp, at, serve_tcp, serve_udp};
use crate::state::{BILLING, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, Pod, World, small};

pub(crate) const CASES: &[Case] = &[
    (
        "pods_behind_a_router_talk_through_the_tunnel",
        pods_behind_a_router_talk_through_the_tunnel,
    ),
    (
        "wall_and_policy_hold_through_the_tunnel",
        wall_and_policy_hold_through_the_tunnel,
    ),
    (
        "hosts_and_node_ports_reach_pods_through_the_tunnel",
        hosts_and_node_ports_reach_pods_through_the_tunnel,
    ),
    (
        "a_tunnel_believes_only_the_node_that_has_the_source",
        a_tunnel_believes_only_the_node_that_has_the_source,
    ),
    (
        "tunnels_outlive_agents_and_links",
        tunnels_outlive_agents_and_links,
    ),
];

pub(crate) const NEAR: [&str; 2] = ["172.31.1.11", "fd00:31:1::11"];
pub(crate) const FAR: [&str; 2] = ["172.31.2.12", "fd00:31:2::12"];
/// The router's, in the link of each node.
pub(crate) const ROUTER: [[&str; 2]; 2] = [
    ["172.31.1.1", "fd00:31:1::1"],
    ["172.31.2.1", "fd00:31:2::1"],
];
pub(crate) const WEB: [&str; 2] = ["10.244.1.2", "fd00:244:1::2"];
pub(crate) const CART: [&str; 2] = ["10.244.2.2", "fd00:244:2::2"];
const BILL: &str = "10.244.2.3";

/// Both nodes and what is between them.
pub(crate) struct Net {
    pub(crate) router: Room,
    pub(crate) near: World,
    pub(crate) far: World,
    /// On the near node.
    pub(crate) web: Pod,
    /// On the far node.
    pub(crate) cart: Pod,
    /// On the far node, of another tenant.
    bill: Pod,
}

fn both(texts: [&str; 2]) -> PerFamily<IpAddr> {
    PerFamily::of(texts.map(ip)).expect("one of each family")
}

/// Makes a router of it.
pub(crate) fn forward(room: &Room) {
    room.run(|| {
        for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").expect("forwarding");
        }
    });
}

/// The link of a node: its end `eth0`, the router's end `name`.
fn join(router: &Room, host: &Room, name: &str, own: [&str; 2], gateway: [&str; 2]) {
    forward(host);
    host.run(|| {
        for scope in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{scope}/keep_addr_on_down");
            std::fs::write(path, "1").expect("set");
        }
    });
    router.ip(&format!("link add {name} type veth peer name eth0x"));
    router.ip(&format!("link set eth0x netns {}", host.number()));
    router.ip(&format!("link set {name} up"));
    host.ip("link set eth0x name eth0");
    host.ip("link set eth0 up");
    for (own, gateway) in own.into_iter().zip(gateway) {
        let (family, bits) = if ip(own).is_ipv4() {
            ("-4", 24)
        } else {
            ("-6", 64)
        };
        let nodad = if family == "-6" { " nodad" } else { "" };
        router.ip(&format!("address add {gateway}/{bits} dev {name}{nodad}"));
        host.ip(&format!("address add {own}/{bits} dev eth0{nodad}"));
        host.ip(&format!("{family} route add default via {gateway}"));
    }
}

pub(crate) fn state() -> NetworkState {
    state_of(&[0, 1])
}

/// Nodes with addresses of these families: 0 is IPv4, 1 is IPv6.
fn state_of(families: &[usize]) -> NetworkState {
    let node = |name: &str, addresses: [&str; 2], ranges: [&str; 2]| NodeNetwork {
        name: name.into(),
        addresses: families.iter().map(|index| ip(addresses[*index])).collect(),
        pod_cidrs: ranges.map(|range| range.parse().expect("a range")).into(),
        zone: String::new(),
    };
    let mut state = nodes();
    for node in [
        node("node1", NEAR, ["10.244.1.0/24", "fd00:244:1::/64"]),
        node("node2", FAR, ["10.244.2.0/24", "fd00:244:2::/64"]),
    ] {
        state.nodes.insert(node.name.clone(), node);
    }
    let pods = WEB.into_iter().chain(CART);
    let state = pods.fold(state, |state, address| state.pod(address, SHOP));
    state.pod(BILL, BILLING)
}

impl Net {
    pub(crate) fn new() -> Self {
        Self::with(TunnelMode::Auto)
    }

    pub(crate) fn with(tunnel: TunnelMode) -> Self {
        Self::make(tunnel, &[0, 1], &state())
    }

    /// The pods are connected when their nodes know of no other.
    pub(crate) fn before_others_are_known() -> Self {
        Self::make(TunnelMode::Auto, &[0, 1], &NetworkState::default())
    }

    fn make(tunnel: TunnelMode, families: &[usize], first: &NetworkState) -> Self {
        let router = Room::new();
        forward(&router);
        let [near, far] = [
            ("near", "node1", NEAR, ROUTER[0]),
            ("far", "node2", FAR, ROUTER[1]),
        ]
        .map(|(link, node, own, gateway)| {
            let host = Room::new();
            join(&router, &host, link, own, gateway);
            let addresses = families.iter().map(|index| ip(own[*index]));
            let addresses = PerFamily::of(addresses).expect("one of each family");
            let world = World::of(host, Room::new(), node, addresses, small(), tunnel);
            world.apply(first);
            world
        });
        let (web, cart) = (near.pod_at(both(WEB), SHOP), far.pod_at(both(CART), SHOP));
        let bill = far.pod(BILL, BILLING);
        let net = Self {
            router,
            near,
            far,
            web,
            cart,
            bill,
        };
        net.apply(&state_of(families));
        net
    }

    pub(crate) fn assert_no_drops(&self) {
        assert_eq!(drops(&self.near), []);
        assert_eq!(drops(&self.far), []);
    }

    pub(crate) fn apply(&self, state: &NetworkState) {
        self.near.apply(state);
        self.far.apply(state);
    }
}

/// But for those of what kernels multicast by themselves.
fn drops(world: &World) -> Vec<FlowEvent> {
    let is_chatter = |drop: &FlowEvent| drop.destination.is_some_and(|to| to.ip().is_multicast());
    let drops = world.drops().into_iter();
    drops.filter(|drop| !is_chatter(drop)).collect()
}

/// What comes out is what went in: each byte is made from its position.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let byte = |at: usize| (at ^ (at >> 8) ^ (at >> 16)) as u8;
    (0..length).map(byte).collect()
}

/// Sends `length` bytes from one room to another, and looks at each of them there.
fn bulk(from: &Room, to: &Room, address: SocketAddr, length: usize) {
    let listener = to.run(move || TcpListener::bind(address).expect("binds"));
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("received");
        received
    });
    from.run(move || {
        let mut stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(3)).expect("connects");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        stream.write_all(&pattern(length)).expect("sent");
    });
    let received = receiver.join().expect("it received");
    assert!(received == pattern(length), "{address}: what was sent");
}

fn pods_behind_a_router_talk_through_the_tunnel() {
    talk(&Net::new());
    // Both families in tunnels over IPv6.
    talk(&Net::make(TunnelMode::Auto, &[1], &state_of(&[1])));
}

fn talk(net: &Net) {
    for (web, cart) in WEB.into_iter().zip(CART) {
        serve_tcp(&net.cart.room, at(cart, 8080), "cart");
        serve_tcp(&net.web.room, at(web, 8080), "web");
        serve_udp(&net.cart.room, at(cart, 8080), "cart");
        let (answer, _) = ask_tcp(&net.web.room, at(cart, 8080)).expect("there");
        assert_eq!(answer, "cart?");
        let (answer, _) = ask_tcp(&net.cart.room, at(web, 8080)).expect("and back");
        assert_eq!(answer, "web?");
        let (answer, from) = ask_udp(&net.web.room, at(cart, 8080)).expect("by datagram");
        assert_eq!((answer.as_str(), from), ("cart", at(cart, 8080)));
        bulk(&net.web.room, &net.cart.room, at(cart, 9000), 8 << 20);
        bulk(&net.cart.room, &net.web.room, at(web, 9000), 8 << 20);
    }
    net.assert_no_drops();
    // Who comes now knows that there is less room on the way.
    let later = net.near.pod("10.244.1.9", SHOP);
    let mtu = later.room.run(|| mtu_of("eth0"));
    assert_eq!(mtu, 1500 - 70);
}

fn mtu_of(interface: &str) -> u32 {
    let output = Command::new("ip")
        .args(["-o", "link", "show", interface])
        .output();
    let text = String::from_utf8(output.expect("iproute2 is installed").stdout).expect("text");
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).expect("an MTU").parse().expect("a number")
}

fn wall_and_policy_hold_through_the_tunnel() {
    let net = Net::new();
    serve_tcp(&net.bill.room, at(BILL, 8080), "bill");
    for port in [8080, 8081] {
        serve_tcp(&net.cart.room, at(CART[0], port), "cart");
    }
    let error = ask_tcp(&net.web.room, at(BILL, 8080)).expect_err("another tenant's");
    assert_eq!(error.raw_os_error(), Some(13), "{error}");
    // The sender does not know of the policy that the receiver is under.
    let mut governed = state();
    let rule = PolicyRule {
        peers: Peers::Of {
            identities: [IdentityId(SHOP * 10)].into(),
            blocks: vec![],
        },
        ports: vec![PolicyPort {
            protocol: Protocol::Tcp,
            port: PortMatch::Range(8080, 8080),
        }],
    };
    let policy = Policy {
        id: PolicyId(1),
        subjects: [IdentityId(SHOP * 10)].into(),
        ingress: Some(vec![rule]),
        ..Policy::default()
    };
    governed.policies.insert(policy.id, policy);
    net.far.apply(&governed);
    let (answer, _) = ask_tcp(&net.web.room, at(CART[0], 8080)).expect("allowed");
    assert_eq!(answer, "cart?");
    let denied = net.far.counted(Reason::PolicyIngress, || {
        ask_tcp(&net.web.room, at(CART[0], 8081)).expect_err("not allowed");
    });
    assert!(denied > 0);
    let drops = drops(&net.far);
    assert!(
        drops.iter().all(|drop| drop.hook == "from_tunnel"),
        "{drops:?}"
    );
}

fn hosts_and_node_ports_reach_pods_through_the_tunnel() {
    let net = Net::new();
    for (index, cart) in CART.into_iter().enumerate() {
        serve_tcp(&net.cart.room, at(cart, 8080), "cart");
        let (answer, _) = ask_tcp(&net.near.host, at(cart, 8080)).expect("the other node's host");
        assert_eq!(answer, "cart?");
        serve_tcp(&net.near.host, at(NEAR[index], 8081), "near");
        let (answer, _) = ask_tcp(&net.cart.room, at(NEAR[index], 8081)).expect("its host");
        assert_eq!(answer, "near?");
        serve_tcp(&net.far.host, at(FAR[index], 8081), "far");
        let (answer, _) = ask_tcp(&net.web.room, at(FAR[index], 8081)).expect("the far host");
        assert_eq!(answer, "far?");
    }
    let mut exposed = state().service("10.96.0.5", SHOP, &[CART[0]], &[]).service(
        "10.96.0.6",
        SHOP,
        &[CART[0]],
        &[],
    );
    for (service, number) in exposed.services.values_mut().zip(30_080..) {
        for port in &mut service.ports {
            port.node_port = Some(number);
            port.backends[0].port = [8080, 9000][usize::from(number - 30_080)];
        }
    }
    net.apply(&exposed);
    let (answer, _) = ask_tcp(&net.router, at(NEAR[0], 30_080)).expect("from outside");
    assert_eq!(answer, "cart?");
    // Segments that fill the outside's links.
    transfer(
        &net.router,
        &net.cart.room,
        (at(CART[0], 9000), at(NEAR[0], 30_081)),
        1 << 20,
    );
    serve_udp(&net.cart.room, at(CART[0], 8080), "cart");
    let (answer, from) = ask_udp(&net.router, at(NEAR[0], 30_080)).expect("from outside");
    assert_eq!((answer.as_str(), from), ("cart", at(NEAR[0], 30_080)));
    net.assert_no_drops();
}

/// A VXLAN packet (RFC 7348) that a program of its own makes: sent from `from`'s room to the near node.
pub(crate) fn forge(from: &Room, source: &str, tenant: u32, inner: &[u8]) {
    let (source, inner) = (at(source, 0), inner.to_vec());
    let [_, high, middle, low] = tenant.to_be_bytes();
    let payload = [&[8, 0, 0, 0, high, middle, low, 0], &inner[..]].concat();
    from.run(move || {
        let socket = UdpSocket::bind(source).expect("binds");
        let sent = socket.send_to(&payload, at(NEAR[0], TUNNEL_PORT));
        sent.expect("sent");
    });
}

fn a_tunnel_believes_only_the_node_that_has_the_source() {
    let net = Net::new();
    let udp = |src: &str, dst: &str| {
        let mut frame = frame::udp((ip(src), 4000), (ip(dst), 8080));
        frame[..6].copy_from_slice(&waggle_abi::TUNNEL_MAC);
        frame[6..12].copy_from_slice(&waggle_abi::TUNNEL_PEER_MAC);
        frame
    };
    let sum = |mut frame: Vec<u8>| {
        let words = frame[14..34]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let (far, router) = (&net.far.host, &net.router);
    let (cart, web) = (CART[0], WEB[0]);
    // The real thing, made by hand: it arrives.
    let socket = net
        .web
        .room
        .run(move || UdpSocket::bind(at(web, 8080)).expect("binds"));
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    forge(far, FAR[0], SHOP, &sum(udp(cart, web)));
    let (_, from) = socket.recv_from(&mut [0; 64]).expect("it arrives");
    assert_eq!(from, at(cart, 4000));
    let system = waggle_abi::TENANT_SYSTEM;
    let cases: [(&Room, &str, u32, Vec<u8>, Reason); 8] = [
        (far, FAR[0], BILLING, udp(cart, web), Reason::TunnelSource),
        (far, FAR[0], system, udp(cart, web), Reason::TunnelSource),
        (
            router,
            ROUTER[0][0],
            SHOP,
            udp(cart, web),
            Reason::TunnelSource,
        ),
        (far, FAR[0], system, udp(NEAR[0], web), Reason::TunnelSource),
        (far, FAR[0], SHOP, udp(web, web), Reason::TunnelSource),
        (
            far,
            FAR[0],
            SHOP,
            udp("192.0.2.1", web),
            Reason::TunnelSource,
        ),
        (far, FAR[0], SHOP, udp(cart, BILL), Reason::NotHere),
        (
            far,
            FAR[0],
            SHOP,
            udp(cart, "10.244.1.77"),
            Reason::UnknownEndpoint,
        ),
    ];
    for (room, source, tenant, frame, reason) in cases {
        let before = net.near.counts()[&reason];
        forge(room, source, tenant, &frame);
        net.near.await_count(reason, before);
    }
    // What came through no tunnel has no sender, wherever it comes in.
    for program in ["from_tunnel", "from_uplink"] {
        let before = net.near.counts()[&Reason::TunnelSource];
        let (pin, frame) = (net.near.pin("programs", program), udp(cart, web));
        net.near.host.run(move || {
            let program = SchedClassifier::from_pin(pin).expect("pinned");
            let options = TestRunOptions {
                data_in: Some(&frame),
                repeat: 1,
                ..TestRunOptions::default()
            };
            assert_eq!(program.test_run(options).expect("it runs").return_value, 2);
        });
        net.near.await_count(Reason::TunnelSource, before);
    }
    socket.set_nonblocking(true).expect("set");
    socket
        .recv_from(&mut [0; 64])
        .expect_err("nothing else arrived");
}

fn tunnels_outlive_agents_and_links() {
    let mut net = Net::new();
    let cart = at(CART[0], 8080);
    serve_tcp(&net.cart.room, cart, "cart");
    let mut live = net.web.room.run(move || {
        let stream = TcpStream::connect_timeout(&cart, Duration::from_secs(3)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream
    });
    let mut echo = |what: &str| {
        live.write_all(b"!")
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut answer = [0; 8];
        let length = live
            .read(&mut answer)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(&answer[..length], b"cart!", "{what}");
    };
    echo("before");
    net.near.close();
    echo("without an agent");
    net.near.open();
    net.near.apply(&state());
    echo("with the next agent");
    assert_eq!(
        net.near.try_apply(&state()).expect("applies").routes,
        0,
        "nothing to change"
    );
    net.near.with(async |datapath| {
        lose_link(datapath, "waggle-vxlan", "10.244.2.0/24 dev waggle-vxlan").await;
    });
    echo("after the link was down");
    let (answer, _) = ask_tcp(&net.near.host, cart).expect("the host too");
    assert_eq!(answer, "cart?");
}
