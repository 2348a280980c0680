//! Direct server return: a call from outside for a backend of another node goes there as it came, and is answered from there.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use waggle_datapath::{FlowEvent, Reason};
use waggle_model::network::{Backend, External, NetworkState, PerFamily, TunnelMode, XdpMode};

use crate::Case;
use crate::frame;
use crate::mtu::transfer;
use crate::outside::serve_peer;
use crate::room::Room;
use crate::sockets::{ask_tcp, ask_udp, at, serve_tcp, serve_udp};
use crate::state::{SHOP, With, ip, nodes};
use crate::tunnel::{CART, FAR, NEAR, Net, WEB, forge, forward, state};
use crate::world::{PATIENCE, Pod, World, run_context, small};

pub(crate) const CASES: &[Case] = &[
    (
        "a_backend_elsewhere_answers_the_caller_itself",
        a_backend_elsewhere_answers_the_caller_itself,
    ),
    (
        "handed_flows_stay_where_they_are",
        handed_flows_stay_where_they_are,
    ),
    (
        "who_is_chosen_serves_whatever_its_own_table_says",
        who_is_chosen_serves_whatever_its_own_table_says,
    ),
    (
        "calls_are_handed_through_tunnels",
        calls_are_handed_through_tunnels,
    ),
    ("the_edge_hands_calls_over", the_edge_hands_calls_over),
    (
        "the_edge_leaves_alone_what_is_not_plain",
        the_edge_leaves_alone_what_is_not_plain,
    ),
];

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

const PORT: u16 = 30_080;
/// Of both nodes and of who calls, on one link.
const HOSTS: [[&str; 2]; 2] = [
    ["172.30.0.11", "fd00:172:30::11"],
    ["172.30.0.12", "fd00:172:30::12"],
];
const CALLER: [&str; 2] = ["172.30.0.99", "fd00:172:30::99"];
const ADDRESS: [&str; 2] = ["172.30.0.240", "fd00:172:30::240"];
const VIP: [&str; 2] = ["10.96.0.5", "fd00:96::5"];

/// Two nodes on the link of who calls them.
struct Link {
    caller: Room,
    near: World,
    web: Pod,
    far: World,
    cart: Pod,
}

fn both(texts: [&str; 2]) -> PerFamily<IpAddr> {
    PerFamily::of(texts.map(ip)).expect("one of each family")
}

impl Link {
    fn new() -> Self {
        let caller = Room::new();
        caller.ip("link add bridge type bridge");
        caller.ip("link set bridge up");
        caller.ip(&format!("address add {}/24 dev bridge", CALLER[0]));
        caller.ip(&format!("address add {}/64 dev bridge nodad", CALLER[1]));
        let [near, far] = ["node1", "node2"].map(|node| {
            let own = HOSTS[usize::from(node == "node2")];
            let host = Room::new();
            forward(&host);
            caller.ip(&format!("link add {node} type veth peer name eth0x"));
            caller.ip(&format!("link set eth0x netns {}", host.number()));
            caller.ip(&format!("link set {node} master bridge up"));
            host.ip("link set eth0x name eth0");
            host.ip("link set eth0 up");
            host.ip(&format!("address add {}/24 dev eth0", own[0]));
            host.ip(&format!("address add {}/64 dev eth0 nodad", own[1]));
            World::of(
                host,
                Room::new(),
                node,
                both(own),
                small(),
                TunnelMode::Auto,
            )
        });
        let (web, cart) = (near.pod_at(both(WEB), SHOP), far.pod_at(both(CART), SHOP));
        let link = Self {
            caller,
            near,
            web,
            far,
            cart,
        };
        link.apply(&exposed(&[CART]));
        // What the nodes' own talk does for them.
        for own in HOSTS[1] {
            let met = link.near.host.run(move || TcpStream::connect(at(own, 9)));
            met.expect_err("it refuses, and is known then");
        }
        link
    }

    fn apply(&self, state: &NetworkState) {
        self.near.apply(state);
        self.far.apply(state);
    }
}

/// Both nodes on one link, and a service of both families at [`PORT`] and at [`ADDRESS`].
fn exposed(backends: &[[&str; 2]]) -> NetworkState {
    let mut state = nodes();
    for (node, (own, range)) in state.nodes.values_mut().zip(HOSTS.into_iter().zip([1, 2])) {
        node.addresses = own.map(ip).into();
        let ranges = [
            format!("10.244.{range}.0/24"),
            format!("fd00:244:{range}::/64"),
        ];
        node.pod_cidrs = ranges.map(|range| range.parse().expect("a range")).into();
    }
    let pods = WEB.into_iter().chain(CART);
    let state = pods.fold(state, |state, address| state.pod(address, SHOP));
    direct(state, backends)
}

/// A service with direct return.
fn direct(state: NetworkState, backends: &[[&str; 2]]) -> NetworkState {
    let mut state = state.service(VIP[0], SHOP, &[], &[]);
    for service in state.services.values_mut() {
        service.vips = VIP.map(ip).into();
        service.direct_return = true;
        service.external = ADDRESS
            .map(|address| External {
                address: ip(address),
                announced_by: "node1".into(),
            })
            .into();
        for port in &mut service.ports {
            port.node_port = Some(PORT);
            let backends = backends.iter().flatten();
            port.backends = backends.map(|text| Backend::at(ip(text), 8080)).collect();
        }
    }
    state
}

/// Calls at the node port and at the address, of one family.
fn answers_itself(link: &Link, family: usize) {
    let callers = serve_peer(&link.cart.room, at(CART[family], 8080));
    serve_udp(&link.cart.room, at(CART[family], 8080), "cart");
    for to in [at(HOSTS[0][family], PORT), at(ADDRESS[family], 80)] {
        let (_, peer) = ask_tcp(&link.caller, to).expect("the service answers");
        assert_eq!(peer, to);
        let caller = callers.recv_timeout(PATIENCE).expect("it was called");
        assert_eq!(caller.ip(), ip(CALLER[family]), "the caller's own address");
        let (answer, from) = ask_udp(&link.caller, to).expect("the service answers");
        assert_eq!((answer.as_str(), from), ("cart", to));
    }
}

fn a_backend_elsewhere_answers_the_caller_itself() {
    let link = Link::new();
    for family in [0, 1] {
        answers_itself(&link, family);
        // Datagrams that are cut.
        let to = at(ADDRESS[family], 80);
        let answer = link.caller.run(move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("binds");
            socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
            socket.send_to(&[7; 4000], to).expect("sent");
            let mut answer = [0; 64];
            let length = socket.recv(&mut answer).expect("an answer");
            String::from_utf8_lossy(&answer[..length]).into_owned()
        });
        assert_eq!(answer, "cart");
    }
    // Nobody else is asked for the same.
    link.near.apply(&exposed(&[]));
    let error = ask_tcp(&link.caller, at(ADDRESS[0], 80)).expect_err("there is nobody");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

fn handed_flows_stay_where_they_are() {
    let link = Link::new();
    serve_tcp(&link.cart.room, at(CART[0], 8080), "cart");
    serve_tcp(&link.web.room, at(WEB[0], 8080), "web");
    let mut stream = link
        .caller
        .run(|| TcpStream::connect(at(HOSTS[0][0], PORT)).expect("connected"));
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let mut ask = |what: &str| {
        stream.write_all(b"?").expect("sent");
        let mut answer = [0; 64];
        let length = stream
            .read(&mut answer)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(&answer[..length], b"cart?", "{what}");
    };
    ask("first");
    link.apply(&exposed(&[WEB]));
    ask("other backends");
    let (answer, _) = ask_tcp(&link.caller, at(HOSTS[0][0], PORT)).expect("the service answers");
    assert_eq!(answer, "web?", "a new flow");
    link.near.host.ip("neighbour flush dev eth0");
    ask("neighbours unknown");
    link.near
        .host
        .ip(&format!("neighbour del {} dev eth0", HOSTS[1][0]));
    ask("neighbour asked for");
}

/// The other node knows of a backend more, so that its own table would send some callers away again.
fn who_is_chosen_serves_whatever_its_own_table_says() {
    let link = Link::new();
    serve_tcp(&link.cart.room, at(CART[0], 8080), "cart");
    link.near.apply(&exposed(&[CART]));
    link.far.apply(&exposed(&[WEB, CART]));
    for _ in 0..20 {
        let (answer, _) = ask_tcp(&link.caller, at(ADDRESS[0], 80)).expect("the service answers");
        assert_eq!(answer, "cart?");
    }
    // And when it knows of none that is there, nobody is told so in the wrong name.
    link.far.apply(&exposed(&[WEB]));
    let dropped = link.far.counted(Reason::NoBackend, || {
        let to = at(ADDRESS[0], 80);
        link.caller.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
            socket.send_to(b"?", to).expect("sent");
        });
        link.far.await_count(Reason::NoBackend, 0);
    });
    assert!(dropped > 0);
}

fn calls_are_handed_through_tunnels() {
    let net = Net::new();
    net.apply(&direct(state(), &[CART]));
    for family in [0, 1] {
        let callers = serve_peer(&net.cart.room, at(CART[family], 8080));
        serve_udp(&net.cart.room, at(CART[family], 8080), "cart");
        let to = at(NEAR[family], PORT);
        let (_, peer) = ask_tcp(&net.router, to).expect("the service answers");
        assert_eq!(peer, to);
        let caller = callers.recv_timeout(PATIENCE).expect("it was called");
        let own = crate::tunnel::ROUTER[0][family];
        assert_eq!(caller.ip(), ip(own), "the caller's own address");
        let (answer, from) = ask_udp(&net.router, to).expect("the service answers");
        assert_eq!((answer.as_str(), from), ("cart", to));
    }
    let mut other = direct(state(), &[CART]);
    for service in other.services.values_mut() {
        for port in &mut service.ports {
            port.backends = vec![Backend::at(ip(CART[0]), 9000)];
        }
    }
    net.apply(&other);
    transfer(
        &net.router,
        &net.cart.room,
        (at(CART[0], 9000), at(NEAR[0], PORT)),
        1 << 20,
    );
    net.assert_no_drops();
    // A pod is not believed to be outside because somebody hands its packets over; nor is a stranger a node.
    let handed = |source: &str| {
        let mut frame = frame::udp((ip(source), 4000), (ip(FAR[0]), PORT));
        frame[6..8].copy_from_slice(&waggle_abi::HANDED_MAC);
        frame
    };
    let system = waggle_abi::TENANT_SYSTEM;
    for (room, from, source) in [
        (&net.far.host, FAR[0], CART[0]),
        (&net.far.host, FAR[0], WEB[0]),
        (&net.router, crate::tunnel::ROUTER[0][0], "192.0.2.1"),
    ] {
        let before = net.near.counts()[&Reason::TunnelSource];
        forge(room, from, system, &handed(source));
        net.near.await_count(Reason::TunnelSource, before);
    }
}

/// The same calls, with the program before all others in charge: those through it are told by its name.
fn the_edge_hands_calls_over() {
    let mut link = Link::new();
    link.near.config.xdp = XdpMode::Generic;
    link.near.open();
    link.near.apply(&exposed(&[CART]));
    link.near
        .with(async |datapath| datapath.tell_new(true))
        .expect("told");
    for family in [0, 1] {
        answers_itself(&link, family);
    }
    let told = link.near.drops();
    let handed = |event: &&FlowEvent| event.reason == Reason::Translated;
    let hooks: Vec<_> = told.iter().filter(handed).map(|one| one.hook).collect();
    assert_eq!(hooks, ["edge"; 8], "{told:?}");
    // Without it they take the longer way.
    link.near.config.xdp = XdpMode::Never;
    link.near.open();
    link.near.apply(&exposed(&[CART]));
    serve_tcp(&link.cart.room, at(CART[0], 8081), "cart");
    ask_tcp(&link.caller, at(ADDRESS[0], 80)).expect("the service answers");
}

/// In its ring, in its table and in its verdict: the edge does to a frame what the uplink's hook would, or leaves it alone.
fn the_edge_leaves_alone_what_is_not_plain() {
    let link = Link::new();
    let mut governed = exposed(&[CART]);
    for service in governed.services.values_mut() {
        service.source_ranges = vec!["192.0.2.0/24".parse().expect("a range")];
    }
    link.near.apply(&governed);
    let (near, far) = (ip(HOSTS[0][0]), ip(ADDRESS[0]));
    let caller = ip("192.0.2.1");
    let call = |src: IpAddr, to: (IpAddr, u16)| frame::tcp((src, 4000), to, 2);
    let mut optioned = call(caller, (near, PORT));
    optioned[14] = 0x46;
    let mut handed = call(caller, (near, PORT));
    handed[6..8].copy_from_slice(&waggle_abi::HANDED_MAC);
    let cases = [
        ("a call", call(caller, (near, PORT)), XDP_TX),
        ("of the address", call(caller, (far, 80)), XDP_TX),
        (
            "from an unwanted caller",
            call(ip("198.51.100.1"), (far, 80)),
            XDP_DROP,
        ),
        (
            "of a port that nobody serves",
            call(caller, (far, 81)),
            XDP_PASS,
        ),
        ("in a pod's name", call(ip(CART[0]), (near, PORT)), XDP_PASS),
        ("of a pod", call(caller, (ip(CART[0]), 8080)), XDP_PASS),
        (
            "of the outside",
            call(caller, (ip("192.0.2.9"), 80)),
            XDP_PASS,
        ),
        ("with options", optioned, XDP_PASS),
        ("handed over", handed, XDP_PASS),
        (
            "in fragments",
            frame::fragments((caller, 4000), (near, PORT), 7)[0].clone(),
            XDP_PASS,
        ),
        ("an echo", frame::echo(caller, near), XDP_PASS),
        ("ARP", frame::arp(), XDP_PASS),
        (
            "cut short",
            call(caller, (near, PORT))[..40].to_vec(),
            XDP_PASS,
        ),
    ];
    let pin = link.near.pin("programs", "edge");
    for (what, frame, expected) in cases {
        let pin = pin.clone();
        let sent = frame.clone();
        let (verdict, out) = link.near.host.run(move || {
            // A test run does not mind which kind of handle it has.
            let program = SchedClassifier::from_pin(pin).expect("pinned");
            let mut out = vec![0; frame.len()];
            let uplink = nix::net::if_::if_nametoindex("eth0").expect("an uplink");
            let context = run_context("edge", uplink, frame.len());
            let options = TestRunOptions {
                ctx_in: Some(&context),
                data_in: Some(&frame),
                data_out: Some(&mut out),
                repeat: 1,
                ..TestRunOptions::default()
            };
            let run = program.test_run(options).expect("it runs");
            (run.return_value, out)
        });
        assert_eq!(verdict, expected, "{what}");
        assert_eq!(
            out[12..],
            sent[12..],
            "{what}: only hardware addresses change"
        );
        assert_eq!(out[..12] != sent[..12], verdict == XDP_TX, "{what}");
    }
    assert!(link.near.counts()[&Reason::SourceRange] > 0);
}
