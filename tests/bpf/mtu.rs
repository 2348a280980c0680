//! Narrow ways: whoever sends more than fits is told so, or what it sends is cut, on every path that pods' packets take.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use waggle_model::network::{NetworkState, Protocol, TunnelMode};

use crate::Case;
use crate::room::Room;
use crate::sockets::at;
use crate::state::{SHOP, With, at_one_port};
use crate::tunnel::{CART, NEAR, Net, WEB, pattern, state};
use crate::world::{PATIENCE, eventually};

pub(crate) const CASES: &[Case] = &[
    (
        "pods_learn_what_fits_to_another_node",
        pods_learn_what_fits_to_another_node,
    ),
    (
        "pods_learn_what_fits_through_a_tunnel",
        pods_learn_what_fits_through_a_tunnel,
    ),
    (
        "a_narrow_way_between_nodes_carries_tunnels",
        a_narrow_way_between_nodes_carries_tunnels,
    ),
    (
        "errors_from_a_narrow_way_find_translated_flows",
        errors_from_a_narrow_way_find_translated_flows,
    ),
];

/// Behind the router and a narrow link.
const OUTSIDE: [&str; 2] = ["172.31.9.2", "fd00:31:9::2"];
const NARROW: u32 = 1300;
const PORT: u16 = 30_080;

/// The option of `ip`.
fn family(of: &str) -> &'static str {
    if of.contains(':') { "-6" } else { "-4" }
}

/// The path's MTU as the kernel of `room` knows it now.
fn path_mtu(room: &Room, to: &str) -> Option<u32> {
    let words = [family(to), "route", "get", to].map(String::from);
    room.run(move || {
        let output = Command::new("ip").args(words).output();
        let text = String::from_utf8(output.expect("iproute2 is installed").stdout);
        let text = text.expect("text");
        let mut words = text.split_whitespace().skip_while(|word| *word != "mtu");
        words.nth(1).map(|number| number.parse().expect("a number"))
    })
}

/// Sends `size` bytes, which fit as far as the pod's kernel knows, until it knows that only `mtu` fit.
fn learns(room: &Room, to: &'static str, size: usize, mtu: u32) {
    eventually(&format!("{to}: only {mtu} bytes fit"), || {
        room.run(move || {
            let any = if to.contains(':') {
                "[::]:0"
            } else {
                "0.0.0.0:0"
            };
            let socket = UdpSocket::bind(any).expect("binds");
            // With "don't fragment", because it seems to fit.
            socket.send_to(&vec![0; size], at(to, 9)).expect("sent");
        });
        path_mtu(room, to) == Some(mtu)
    });
}

/// `length` bytes there and back; each is looked at.
pub(crate) fn transfer(
    client: &Room,
    server: &Room,
    (listen, connect): (SocketAddr, SocketAddr),
    length: usize,
) {
    let listener = server.run(move || TcpListener::bind(listen).expect("binds"));
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("received");
        assert!(received == pattern(length), "{listen}: what was sent");
        stream.write_all(&received).expect("sent back");
    });
    client.run(move || {
        let mut stream =
            TcpStream::connect_timeout(&connect, Duration::from_secs(3)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        stream.write_all(&pattern(length)).expect("sent");
        stream.shutdown(Shutdown::Write).expect("said");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("received");
        assert!(received == pattern(length), "{connect}: what came back");
    });
    serving.join().expect("it served");
}

fn pods_learn_what_fits_to_another_node() {
    let net = Net::with(TunnelMode::Never);
    // Here the network knows where pods are.
    for (range, via) in [
        ("10.244.1.0/24", NEAR[0]),
        ("fd00:244:1::/64", NEAR[1]),
        ("10.244.2.0/24", crate::tunnel::FAR[0]),
        ("fd00:244:2::/64", crate::tunnel::FAR[1]),
    ] {
        net.router.ip(&format!("route add {range} via {via}"));
    }
    for (web, cart) in WEB.into_iter().zip(CART) {
        transfer(
            &net.web.room,
            &net.cart.room,
            (at(cart, 9000), at(cart, 9000)),
            1 << 20,
        );
        net.near.host.ip("link set eth0 mtu 1400");
        // Segments that are still to be cut are too big, each of them.
        transfer(
            &net.web.room,
            &net.cart.room,
            (at(cart, 9003), at(cart, 9003)),
            1 << 20,
        );
        assert_eq!(path_mtu(&net.web.room, cart), Some(1400), "{cart}");
        net.web
            .room
            .ip(&format!("{} route flush cache", family(cart)));
        learns(&net.web.room, cart, 1440, 1400);
        transfer(
            &net.web.room,
            &net.cart.room,
            (at(cart, 9001), at(cart, 9001)),
            1 << 20,
        );
        // In the middle: the router tells it.
        net.router.ip(&format!("link set far mtu {NARROW}"));
        learns(&net.web.room, cart, 1340, NARROW);
        transfer(
            &net.cart.room,
            &net.web.room,
            (at(web, 9002), at(web, 9002)),
            1 << 20,
        );
        net.near.host.ip("link set eth0 mtu 1500");
        net.router.ip("link set far mtu 1500");
    }
    net.assert_no_drops();
}

fn pods_learn_what_fits_through_a_tunnel() {
    // Before its node knows of another one: its own link promises too much.
    let net = Net::before_others_are_known();
    for cart in CART {
        assert_eq!(path_mtu(&net.web.room, cart), None);
        learns(&net.web.room, cart, 1440, 1430);
        transfer(
            &net.web.room,
            &net.cart.room,
            (at(cart, 9000), at(cart, 9000)),
            4 << 20,
        );
    }
    net.assert_no_drops();
}

fn a_narrow_way_between_nodes_carries_tunnels() {
    let net = Net::new();
    net.router.ip(&format!("link set far mtu {NARROW}"));
    for cart in CART {
        transfer(
            &net.web.room,
            &net.cart.room,
            (at(cart, 9000), at(cart, 9000)),
            1 << 20,
        );
    }
    net.assert_no_drops();
}

/// The pod on the near node is governed, and is called at a node port too.
fn governed() -> NetworkState {
    let policy = at_one_port(Protocol::Tcp, 9000);
    let mut state = state()
        .service("10.96.0.5", SHOP, &[WEB[0]], &[])
        .service("fd00:96::5", SHOP, &[WEB[1]], &[])
        .service("10.96.0.6", SHOP, &[CART[0]], &[])
        .service("fd00:96::6", SHOP, &[CART[1]], &[]);
    for service in state.services.values_mut() {
        let far = service.vips[0].to_string().ends_with('6');
        for port in &mut service.ports {
            port.node_port = Some(if far { PORT + 1 } else { PORT });
            for backend in &mut port.backends {
                backend.port = 9000;
            }
        }
    }
    state.policies.insert(policy.id, policy);
    state
}

fn errors_from_a_narrow_way_find_translated_flows() {
    let net = Net::new();
    let (middle, outside) = (Room::new(), Room::new());
    net.router.ip("link add narrow type veth peer name inner");
    net.router
        .ip(&format!("link set inner netns {}", middle.number()));
    middle.ip("link add wide type veth peer name eth0");
    middle.ip(&format!("link set eth0 netns {}", outside.number()));
    for (room, link, address) in [
        (&net.router, "narrow", ["172.31.8.1/24", "fd00:31:8::1/64"]),
        (&middle, "inner", ["172.31.8.2/24", "fd00:31:8::2/64"]),
        (&middle, "wide", ["172.31.9.1/24", "fd00:31:9::1/64"]),
        (&outside, "eth0", ["172.31.9.2/24", "fd00:31:9::2/64"]),
    ] {
        for one in address {
            let nodad = if one.contains(':') { " nodad" } else { "" };
            room.ip(&format!("address add {one} dev {link}{nodad}"));
        }
        room.ip(&format!("link set {link} up"));
    }
    crate::tunnel::forward(&middle);
    net.router.ip(&format!("link set narrow mtu {NARROW}"));
    middle.ip(&format!("link set inner mtu {NARROW}"));
    for (room, to, via) in [
        (&middle, "default", "172.31.8.1"),
        (&middle, "default", "fd00:31:8::1"),
        (&outside, "default", "172.31.9.1"),
        (&outside, "default", "fd00:31:9::1"),
        (&net.router, "172.31.9.0/24", "172.31.8.2"),
        (&net.router, "fd00:31:9::/64", "fd00:31:8::2"),
    ] {
        room.ip(&format!("{} route add {to} via {via}", family(via)));
    }
    net.apply(&governed());
    for (index, out) in OUTSIDE.into_iter().enumerate() {
        // Masqueraded.
        transfer(
            &net.web.room,
            &outside,
            (at(out, 9000), at(out, 9000)),
            256 << 10,
        );
        assert_eq!(path_mtu(&net.web.room, out), Some(NARROW), "{out}");
        // To a backend here, which was told already; and to one that is behind the tunnel, which was not.
        let node = NEAR[index];
        let web = (at(WEB[index], 9000), at(node, PORT));
        transfer(&outside, &net.web.room, web, 256 << 10);
        let cart = (at(CART[index], 9000), at(node, PORT + 1));
        transfer(&outside, &net.cart.room, cart, 256 << 10);
    }
}
