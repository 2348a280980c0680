//! Sockets to backends that are gone are closed, wherever they are; no others.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use waggle_model::network::{NetworkState, Standing};

use crate::Case;
use crate::room::Room;
use crate::sockets::{at, serve_tcp, serve_udp};
use crate::state::{SHOP, With, ip, nodes};
use crate::world::{PATIENCE, Pod, World};

pub(crate) const CASES: &[Case] = &[
    (
        "sockets_to_a_backend_that_is_gone_are_closed_and_no_others",
        sockets_to_a_backend_that_is_gone_are_closed_and_no_others,
    ),
    (
        "a_service_that_goes_takes_its_sockets_along",
        a_service_that_goes_takes_its_sockets_along,
    ),
    (
        "a_backend_that_ends_or_is_not_ready_keeps_its_sockets",
        a_backend_that_ends_or_is_not_ready_keeps_its_sockets,
    ),
    (
        "what_went_stale_without_an_agent_is_closed_by_the_next",
        what_went_stale_without_an_agent_is_closed_by_the_next,
    ),
    (
        "a_socket_that_was_connected_anew_is_not_taken_for_the_old",
        a_socket_that_was_connected_anew_is_not_taken_for_the_old,
    ),
];

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const WEB2: &str = "10.244.1.4";
const VIP: &str = "10.96.0.5";
const OTHER_VIP: &str = "10.96.0.6";
/// What closing may take. The aim is 50 ms; a machine that does other things too needs more, and the figure is printed.
const SOON: Duration = Duration::from_millis(500);
/// After this, what was to be closed is closed.
const QUIET: Duration = Duration::from_millis(100);

/// Two backends and a caller.
struct Shop {
    world: World,
    pods: Vec<Pod>,
}

impl Shop {
    fn open() -> Self {
        let world = World::new();
        let pods: Vec<_> = [WEB, WEB2, CART]
            .iter()
            .map(|address| world.pod(address, SHOP))
            .collect();
        for (pod, address) in pods.iter().zip([WEB, WEB2]) {
            serve_tcp(&pod.room, at(address, 8080), "");
            drop(serve_udp(&pod.room, at(address, 8080), ""));
        }
        Self { world, pods }
    }

    fn cart(&self) -> &Room {
        &self.pods[2].room
    }

    /// Both VIPs with these backends.
    fn state(backends: &[&str], others: &[&str]) -> NetworkState {
        nodes()
            .pod(WEB, SHOP)
            .pod(WEB2, SHOP)
            .pod(CART, SHOP)
            .service(VIP, SHOP, backends, &[])
            .service(OTHER_VIP, SHOP, others, &[])
    }
}

/// A socket that is connected, in whatever way.
enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    fn tcp(room: &Room, to: SocketAddr) -> Self {
        let stream = room.run(move || TcpStream::connect(to)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a bound");
        Self::Tcp(stream)
    }

    fn udp(room: &Room, to: SocketAddr) -> Self {
        let socket = room.run(move || {
            let own: IpAddr = if to.is_ipv4() {
                ip("0.0.0.0")
            } else {
                ip("::")
            };
            let socket = UdpSocket::bind((own, 0)).expect("binds");
            socket.connect(to).expect("connects");
            socket
        });
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        Self::Udp(socket)
    }

    fn works(&mut self) {
        let mut answer = [0; 4];
        match self {
            Self::Tcp(stream) => {
                stream.write_all(b"?").expect("sends");
                assert_eq!(stream.read(&mut answer).expect("receives"), 1);
            }
            Self::Udp(socket) => {
                socket.send(b"?").expect("sends");
                socket.recv(&mut answer).expect("receives");
            }
        }
    }

    /// Waits until it is closed under its owner.
    fn closes(&mut self) {
        let mut answer = [0; 4];
        let fault = match self {
            Self::Tcp(stream) => stream.read(&mut answer).map(drop),
            Self::Udp(socket) => socket.recv(&mut answer).map(drop),
        };
        let fault = fault.expect_err("nothing was sent");
        assert_eq!(fault.kind(), ErrorKind::ConnectionAborted, "{fault}");
    }
}

/// Applies `state` and waits until every one of `lines` is closed.
fn closes_all(what: &str, lines: &mut [Line], change: impl FnOnce()) {
    let start = Instant::now();
    change();
    let applied = start.elapsed();
    lines.iter_mut().for_each(Line::closes);
    let closed = start.elapsed();
    println!("{what}: applied after {applied:?}, the last socket closed after {closed:?}");
    assert!(closed < SOON + applied, "{closed:?}");
}

fn sockets_to_a_backend_that_is_gone_are_closed_and_no_others() {
    let shop = Shop::open();
    let world = &shop.world;
    world.apply(&Shop::state(&[WEB], &[WEB]));
    let IpAddr::V4(vip) = ip(VIP) else {
        panic!("IPv4")
    };
    let mapped = SocketAddr::new(IpAddr::V6(vip.to_ipv6_mapped()), 80);
    let mut stale: Vec<_> = [shop.cart(), &world.host, &shop.pods[0].room]
        .iter()
        .flat_map(|room| {
            [
                Line::tcp(room, at(VIP, 80)),
                Line::udp(room, at(VIP, 80)),
                Line::tcp(room, mapped),
                Line::udp(room, mapped),
            ]
        })
        .collect();
    let mut right: Vec<_> = [shop.cart(), &world.host]
        .iter()
        .flat_map(|room| {
            [
                Line::tcp(room, at(WEB, 8080)),
                Line::udp(room, at(WEB, 8080)),
                Line::tcp(room, at(OTHER_VIP, 80)),
                Line::udp(room, at(OTHER_VIP, 80)),
            ]
        })
        .collect();
    world.apply(&Shop::state(&[WEB, WEB2], &[WEB]));
    std::thread::sleep(QUIET);
    stale.iter_mut().chain(&mut right).for_each(Line::works);
    closes_all("a backend left", &mut stale, || {
        world.apply(&Shop::state(&[WEB2], &[WEB]))
    });
    std::thread::sleep(QUIET);
    right.iter_mut().for_each(Line::works);
    Line::tcp(shop.cart(), at(VIP, 80)).works();
}

fn a_service_that_goes_takes_its_sockets_along() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(&[WEB], &[WEB]));
    let mut stale = [
        Line::tcp(shop.cart(), at(OTHER_VIP, 80)),
        Line::udp(shop.cart(), at(OTHER_VIP, 80)),
    ];
    let mut right = Line::tcp(shop.cart(), at(VIP, 80));
    closes_all("a service left", &mut stale, || {
        let mut state = Shop::state(&[WEB], &[WEB]);
        state
            .services
            .retain(|_, service| service.vips == [ip(VIP)]);
        shop.world.apply(&state);
    });
    std::thread::sleep(QUIET);
    right.works();
}

fn a_backend_that_ends_or_is_not_ready_keeps_its_sockets() {
    let shop = Shop::open();
    let state = |standing| {
        let mut state = Shop::state(&[WEB, WEB2], &[WEB]);
        for service in state.services.values_mut() {
            for port in &mut service.ports {
                port.backends[0].standing = standing;
            }
        }
        state
    };
    shop.world.apply(&Shop::state(&[WEB], &[WEB]));
    let mut lines = [
        Line::tcp(shop.cart(), at(VIP, 80)),
        Line::udp(shop.cart(), at(VIP, 80)),
    ];
    for standing in [Standing::Terminating, Standing::Unready] {
        shop.world.apply(&state(standing));
        std::thread::sleep(QUIET);
        lines.iter_mut().for_each(Line::works);
    }
    closes_all("a backend that ended left", &mut lines, || {
        shop.world.apply(&Shop::state(&[WEB2], &[WEB]))
    });
}

fn what_went_stale_without_an_agent_is_closed_by_the_next() {
    let mut shop = Shop::open();
    shop.world.apply(&Shop::state(&[WEB], &[WEB]));
    let mut stale = [
        Line::tcp(shop.cart(), at(VIP, 80)),
        Line::udp(shop.cart(), at(VIP, 80)),
        Line::tcp(&shop.world.host, at(VIP, 80)),
    ];
    let mut right = [
        Line::tcp(shop.cart(), at(OTHER_VIP, 80)),
        Line::tcp(shop.cart(), at(WEB, 8080)),
    ];
    for attach_first in [true, false] {
        shop.world.close();
        shop.world.open();
        let attach = || {
            for pod in &shop.pods {
                shop.world
                    .attach(&pod.uid, pod.room.path(), pod.address, SHOP)
                    .expect("adopted");
            }
        };
        if attach_first {
            attach();
            closes_all("a backend left unseen", &mut stale, || {
                shop.world.apply(&Shop::state(&[WEB2], &[WEB]))
            });
        } else {
            stale = [
                Line::tcp(shop.cart(), at(VIP, 80)),
                Line::udp(shop.cart(), at(VIP, 80)),
                Line::tcp(&shop.world.host, at(VIP, 80)),
            ];
            closes_all("the same before its pods were adopted", &mut stale, || {
                shop.world.apply(&Shop::state(&[WEB], &[WEB]));
                attach();
            });
        }
        std::thread::sleep(QUIET);
        right.iter_mut().for_each(Line::works);
    }
}

fn a_socket_that_was_connected_anew_is_not_taken_for_the_old() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(&[WEB], &[WEB]));
    let mut line = Line::udp(shop.cart(), at(VIP, 80));
    line.works();
    let Line::Udp(socket) = &line else {
        panic!("UDP")
    };
    let again = socket.try_clone().expect("cloned");
    shop.cart()
        .run(move || again.connect(at(WEB, 8080)))
        .expect("connects directly");
    assert_eq!(socket.peer_addr().expect("a peer"), at(WEB, 8080));
    shop.world.apply(&Shop::state(&[WEB2], &[WEB]));
    std::thread::sleep(QUIET);
    line.works();
}
