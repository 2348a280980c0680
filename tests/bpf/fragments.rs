//! Packets that come in pieces: what is decided about the first piece holds for the rest.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use waggle_datapath::Reason;
use waggle_model::network::{NetworkState, Protocol};

use crate::Case;
use crate::frame;
use crate::packets::{LOCAL, check};
use crate::room::Room;
use crate::sockets::at;
use crate::state::{BILLING, SHOP, With, at_one_port, ip, nodes};
use crate::tunnel::{CART, NEAR, Net, ROUTER, WEB, pattern, state};
use crate::world::{World, eventually};

pub(crate) const CASES: &[Case] = &[
    (
        "later_fragments_go_where_their_first_went",
        later_fragments_go_where_their_first_went,
    ),
    (
        "large_datagrams_pass_policy_tunnels_and_translation",
        large_datagrams_pass_policy_tunnels_and_translation,
    ),
];

fn later_fragments_go_where_their_first_went() {
    for [server, client] in [["10.244.1.2", "10.244.1.4"], ["fd00:1::2", "fd00:1::4"]] {
        let world = World::new();
        let (_server, bill) = (world.pod(server, SHOP), world.pod(client, BILLING));
        let state = nodes().pod(server, SHOP).pod(client, BILLING);
        let vip = if ip(server).is_ipv4() {
            "10.96.0.5"
        } else {
            "fd00:96::5"
        };
        // The wall is open to one port.
        world.apply(&state.service(vip, SHOP, &[server], &[BILLING]));
        world.drops();
        let pieces = |port: u16, id: u16| -> [Vec<u8>; 2] {
            let (from, to): ((IpAddr, u16), _) = ((ip(client), 4000), (ip(server), port));
            frame::fragments(from, to, id)
        };
        let here = bill.attachment.ifindex;
        let verdict = |frame: &[u8], expect| check(&world, "from_pod", here, frame, expect);
        let [first, later] = pieces(8080, 7);
        verdict(&later, Err(Reason::Fragment));
        verdict(&first, Ok(LOCAL));
        verdict(&later, Ok(LOCAL));
        let [_, another] = pieces(8080, 8);
        verdict(&another, Err(Reason::Fragment));
        let [first, later] = pieces(22, 9);
        verdict(&first, Err(Reason::TenantWall));
        verdict(&later, Err(Reason::TenantWall));
    }
}

/// Answers each datagram with itself.
fn serve(room: &Room, address: SocketAddr) {
    let socket = room.run(move || UdpSocket::bind(address).expect("binds"));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            if socket.send_to(&buffer[..length], asker).is_err() {
                return;
            }
        }
    });
}

/// Sends a datagram of many pieces; what comes back is the same. The first may be lost: pieces of IPv6 that are too big for a
/// pod's link are not cut again, their sender is told.
fn ask(room: &Room, to: SocketAddr) {
    room.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("binds");
        let limit = Some(Duration::from_secs(1));
        socket.set_read_timeout(limit).expect("a limit");
        let (sent, mut answer) = (pattern(8000), vec![0; 65_536]);
        eventually(&format!("{to} answers"), || {
            socket.send_to(&sent, to).expect("sent");
            let Ok((length, from)) = socket.recv_from(&mut answer) else {
                return false;
            };
            assert_eq!(from, to);
            assert!(answer[..length] == sent, "{to}: what came back");
            true
        });
    });
}

/// Every pod may send and receive datagrams at one port alone.
fn governed() -> NetworkState {
    let policy = at_one_port(Protocol::Udp, 9000);
    let mut state = state();
    for (index, backend) in WEB.into_iter().chain(CART).enumerate() {
        let vip = match ip(backend) {
            IpAddr::V4(_) => format!("10.96.0.{index}"),
            IpAddr::V6(_) => format!("fd00:96::{index}"),
        };
        state = state.service(&vip, SHOP, &[backend], &[]);
    }
    for service in state.services.values_mut() {
        let far = CART.map(ip).contains(&service.ports[0].backends[0].address);
        for port in &mut service.ports {
            port.node_port = Some(if far { 30_081 } else { 30_080 });
            for backend in &mut port.backends {
                backend.port = 9000;
            }
        }
    }
    state.policies.insert(policy.id, policy);
    state
}

fn large_datagrams_pass_policy_tunnels_and_translation() {
    let net = Net::new();
    net.apply(&governed());
    for index in [0, 1] {
        serve(&net.web.room, at(WEB[index], 9000));
        serve(&net.cart.room, at(CART[index], 9000));
        serve(&net.router, at(ROUTER[0][index], 9000));
        // Through the tunnel, masqueraded, and at node ports with the backend here and behind the tunnel.
        ask(&net.web.room, at(CART[index], 9000));
        ask(&net.web.room, at(ROUTER[0][index], 9000));
        ask(&net.router, at(NEAR[index], 30_080));
        ask(&net.router, at(NEAR[index], 30_081));
    }
}
