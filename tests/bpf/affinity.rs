//! Who keeps a backend: callers of a service with session affinity, and conversations by datagrams.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};

use aya::maps::{HashMap, Map, MapData};
use waggle_abi::{AffinityKey, AffinityRow};
use waggle_model::network::{NetworkState, Standing};

use crate::Case;
use crate::room::Room;
use crate::sockets::{ask_tcp, at, serve_tcp, serve_udp};
use crate::state::{HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, Pod, World};

pub(crate) const CASES: &[Case] = &[
    (
        "a_caller_keeps_its_backend_while_it_serves",
        a_caller_keeps_its_backend_while_it_serves,
    ),
    ("affinity_ends_with_its_time", affinity_ends_with_its_time),
    (
        "a_conversation_by_datagrams_stays_with_one_backend",
        a_conversation_by_datagrams_stays_with_one_backend,
    ),
    (
        "a_socket_sees_each_vip_that_it_talks_to",
        a_socket_sees_each_vip_that_it_talks_to,
    ),
    (
        "a_node_port_is_called_from_pods_and_the_node",
        a_node_port_is_called_from_pods_and_the_node,
    ),
];

const CART: &str = "10.244.1.3";
const VIP: &str = "10.96.0.5";
const OTHER_VIP: &str = "10.96.0.6";
/// Seven, so that a search has something to search.
const BACKENDS: [(&str, &str); 7] = [
    ("10.244.1.10", "a"),
    ("10.244.1.11", "b"),
    ("10.244.1.12", "c"),
    ("10.244.1.13", "d"),
    ("10.244.1.14", "e"),
    ("10.244.1.15", "f"),
    ("10.244.1.16", "g"),
];

struct Shop {
    world: World,
    cart: Pod,
    _backends: Vec<Pod>,
}

impl Shop {
    fn open() -> Self {
        let world = World::new();
        let cart = world.pod(CART, SHOP);
        let backends: Vec<_> = BACKENDS
            .iter()
            .map(|(address, _)| world.pod(address, SHOP))
            .collect();
        for (pod, (address, word)) in backends.iter().zip(BACKENDS) {
            serve_tcp(&pod.room, at(address, 8080), word);
            drop(serve_udp(&pod.room, at(address, 8080), word));
        }
        Self {
            world,
            cart,
            _backends: backends,
        }
    }

    fn state(affinity: Option<u32>) -> NetworkState {
        let all: Vec<_> = BACKENDS.iter().map(|(address, _)| *address).collect();
        let pods = nodes().pod(CART, SHOP);
        let mut state = all
            .iter()
            .fold(pods, |state, address| state.pod(address, SHOP))
            .service(VIP, SHOP, &all, &[])
            .service(OTHER_VIP, SHOP, &all, &[]);
        for service in state.services.values_mut() {
            service.affinity_seconds = affinity;
        }
        state
    }
}

/// Who answers `times` calls.
fn answers(room: &Room, times: usize) -> BTreeSet<String> {
    (0..times)
        .map(|_| ask_tcp(room, at(VIP, 80)).expect("an answer").0)
        .collect()
}

fn a_caller_keeps_its_backend_while_it_serves() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(None));
    assert!(
        answers(&shop.cart.room, 60).len() > 1,
        "without affinity calls are spread"
    );
    shop.world.apply(&Shop::state(Some(600)));
    for room in [&shop.cart.room, &shop.world.host] {
        let mut left = BTreeSet::new();
        // Until one is left, in whatever order chance takes them away; the others keep who is kept.
        for _ in 1..BACKENDS.len() {
            let kept = answers(room, 12);
            assert_eq!(kept.len(), 1, "{kept:?}");
            let word = kept.first().expect("one").trim_end_matches('?').to_owned();
            assert!(left.insert(word), "{left:?} have left");
            let mut state = Shop::state(Some(600));
            for port in state.services.values_mut().flat_map(|one| &mut one.ports) {
                for backend in &mut port.backends {
                    let name = BACKENDS.iter().find(|(a, _)| ip(a) == backend.address);
                    if name.is_some_and(|(_, word)| left.contains(*word)) {
                        backend.standing = Standing::Terminating;
                    }
                }
            }
            shop.world.apply(&state);
        }
        shop.world.apply(&Shop::state(Some(600)));
    }
}

fn affinity_ends_with_its_time() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(Some(600)));
    let map = MapData::from_pin(shop.world.state_pin("AFFINITY"))
        .and_then(Map::from_map_data)
        .expect("the map is pinned");
    let mut rows: HashMap<_, AffinityKey, AffinityRow> = map.try_into().expect("a hash");
    let mut seen = BTreeSet::new();
    // Sixty choices out of seven are all the same once in 7^59 runs.
    for _ in 0..60 {
        seen.extend(answers(&shop.cart.room, 1));
        let keys: Vec<_> = rows.keys().collect::<Result<_, _>>().expect("keys");
        assert_eq!(keys.len(), 1);
        let mut row = rows.get(&keys[0], 0).expect("a row");
        let age = 601 * 1_000_000_000;
        // A machine that has not run that long has nothing that old.
        row.seen = row.seen.saturating_sub(age);
        if row.seen == 0 {
            println!("skipped: the machine runs for less than {age} ns");
            return;
        }
        rows.insert(keys[0], row, 0).expect("written");
    }
    assert!(seen.len() > 1, "{seen:?}");
}

/// Sends to `to` and says who answered, and as whom.
fn ask(socket: &UdpSocket, to: SocketAddr) -> (String, SocketAddr) {
    let mut answer = [0; 16];
    socket.send_to(b"?", to).expect("sends");
    let (length, from) = socket.recv_from(&mut answer).expect("an answer");
    (String::from_utf8_lossy(&answer[..length]).into(), from)
}

fn unconnected() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
    socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
    socket
}

fn a_conversation_by_datagrams_stays_with_one_backend() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(None));
    let first = shop.cart.room.run(|| {
        let mut all = BTreeSet::new();
        for _ in 0..40 {
            let socket = unconnected();
            let words: BTreeSet<_> = (0..4).map(|_| ask(&socket, at(VIP, 80)).0).collect();
            assert_eq!(words.len(), 1, "one conversation, one backend");
            all.extend(words);
        }
        assert!(all.len() > 1, "conversations are spread");
        let socket = unconnected();
        let word = ask(&socket, at(VIP, 80)).0;
        (socket, word)
    });
    let (socket, word) = first;
    let mut state = Shop::state(None);
    for port in state.services.values_mut().flat_map(|one| &mut one.ports) {
        port.backends.retain(|backend| {
            BACKENDS
                .iter()
                .any(|(a, w)| ip(a) == backend.address && *w != word)
        });
    }
    shop.world.apply(&state);
    shop.cart.room.run(move || {
        let words: BTreeSet<_> = (0..4).map(|_| ask(&socket, at(VIP, 80)).0).collect();
        assert_eq!(words.len(), 1);
        assert!(!words.contains(&word), "its backend has left");
    });
}

fn a_socket_sees_each_vip_that_it_talks_to() {
    let shop = Shop::open();
    shop.world.apply(&Shop::state(None));
    shop.cart.room.run(|| {
        let socket = unconnected();
        for _ in 0..20 {
            for vip in [VIP, OTHER_VIP] {
                assert_eq!(ask(&socket, at(vip, 80)).1, at(vip, 80));
            }
        }
        // Connected, it may still send elsewhere, and back.
        let socket = unconnected();
        socket.connect(at(VIP, 80)).expect("connects");
        assert_eq!(socket.peer_addr().expect("a peer"), at(VIP, 80));
        socket.send(b"?").expect("sends");
        assert_eq!(
            socket.recv_from(&mut [0; 4]).expect("an answer").1,
            at(VIP, 80)
        );
        socket.send_to(b"?", at(OTHER_VIP, 80)).expect("sends");
        assert_eq!(socket.peer_addr().expect("a peer"), at(VIP, 80));
        // Bound first, as a server that also calls.
        let socket = UdpSocket::bind((ip(CART), 9999)).expect("binds");
        socket.set_read_timeout(Some(PATIENCE)).expect("a bound");
        socket.connect(at(VIP, 80)).expect("connects");
        socket.send(b"?").expect("sends");
        socket.recv(&mut [0; 4]).expect("an answer");
    });
}

fn a_node_port_is_called_from_pods_and_the_node() {
    let shop = Shop::open();
    let mut state = Shop::state(None);
    for service in state.services.values_mut() {
        for port in &mut service.ports {
            port.node_port = Some(30_080 + u16::from(service.vips[0] != ip(VIP)));
        }
    }
    shop.world.apply(&state);
    for room in [&shop.cart.room, &shop.world.host] {
        for port in [30_080, 30_081] {
            let (_, peer) = ask_tcp(room, at(HOST, port)).expect("an answer");
            assert_eq!(peer, at(HOST, port));
        }
    }
}
