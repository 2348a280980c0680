//! What each packet program costs, by test run over one frame. Programs that translate leave another frame behind, so
//! these are run once at a time, where caches are colder than on a busy link.

use serde_json::json;
use waggle_datapath::Capacity;

use super::{nanoseconds, run, spread};
use crate::frame;
use crate::state::{HOST, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::World;

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const FAR: &str = "10.244.2.2";
const WORLD: &str = "198.51.100.7";
const NODE_PORT: u16 = 30_080;
/// Of a service whose backend is on another node and answers the caller itself.
const HANDED_PORT: u16 = 30_081;
const REPEAT: u32 = 50_000;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Rounds of each cell.
pub(super) fn measure(rounds: u32) {
    let world = World::with_capacity(Capacity::default());
    let (web, _cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let state = nodes().pod(WEB, SHOP).pod(CART, SHOP).pod(FAR, SHOP);
    let mut state = state.service("10.96.0.5", SHOP, &[WEB], &[]);
    state = state.service("10.96.0.6", SHOP, &[FAR], &[]);
    for (service, node_port) in state.services.values_mut().zip([NODE_PORT, HANDED_PORT]) {
        service.direct_return = node_port == HANDED_PORT;
        for port in &mut service.ports {
            port.node_port = Some(node_port);
        }
    }
    world.apply(&state);
    // As after the first packet.
    let neighbour = format!("neighbour replace {OTHER_HOST} lladdr 02:00:00:00:00:02 dev eth0");
    world.host.ip(&neighbour);
    let uplink = world
        .host
        .run(|| nix::net::if_::if_nametoindex("eth0").expect("an uplink"));
    let pod = web.attachment.ifindex;
    let udp = |from: &str, to: &str, port| frame::udp((ip(from), 4000), (ip(to), port));
    let tcp =
        |from: &str, to: &str, port, flags| frame::tcp((ip(from), 4001), (ip(to), port), flags);
    let call = |flags| tcp(WORLD, HOST, NODE_PORT, flags);
    // A flow through the node port and one to the outside that are known from then on.
    let known = [
        ("from_uplink", uplink, call(SYN)),
        ("from_uplink", uplink, tcp(WORLD, HOST, HANDED_PORT, SYN)),
        ("to_uplink", uplink, tcp(WEB, WORLD, 80, SYN)),
    ];
    for (program, link, frame) in known {
        run(&world, program, link, &frame, 1, 1);
    }
    let cells = [
        (
            "from_pod",
            "to a pod of the node",
            pod,
            udp(WEB, CART, 53),
            REPEAT,
        ),
        (
            "from_pod",
            "to a pod of another node",
            pod,
            udp(WEB, FAR, 53),
            REPEAT,
        ),
        (
            "from_pod",
            "to the outside",
            pod,
            udp(WEB, WORLD, 53),
            REPEAT,
        ),
        ("to_pod", "from the node", pod, udp(HOST, WEB, 53), REPEAT),
        (
            "to_pod",
            "from the outside",
            pod,
            udp(WORLD, WEB, 53),
            REPEAT,
        ),
        (
            "from_uplink",
            "the node's own",
            uplink,
            udp(WORLD, HOST, 22),
            REPEAT,
        ),
        (
            "from_uplink",
            "from another node's pod",
            uplink,
            udp(FAR, WEB, 53),
            REPEAT,
        ),
        (
            "from_uplink",
            "a known call of a node port",
            uplink,
            call(ACK),
            1,
        ),
        (
            "from_uplink",
            "a known call that is handed over",
            uplink,
            tcp(WORLD, HOST, HANDED_PORT, ACK),
            1,
        ),
        (
            "edge",
            "a known call that is handed over",
            uplink,
            tcp(WORLD, HOST, HANDED_PORT, ACK),
            1,
        ),
        (
            "edge",
            "another node's pod to a pod",
            uplink,
            udp(FAR, WEB, 53),
            REPEAT,
        ),
        (
            "to_uplink",
            "the node's own",
            uplink,
            udp(HOST, OTHER_HOST, 22),
            REPEAT,
        ),
        (
            "to_uplink",
            "a pod's known flow to the outside",
            uplink,
            tcp(WEB, WORLD, 80, ACK),
            1,
        ),
    ];
    for (program, what, link, frame, repeat) in cells {
        let (times, verdict) = run(&world, program, link, &frame, repeat, rounds as usize);
        let line = json!({
            "program": program,
            "what": what,
            "repeat": repeat,
            "verdict": verdict,
            "ns": spread(nanoseconds(&times)),
        });
        println!("{line}");
    }
}
