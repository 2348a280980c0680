//! What is counted for services and policies, what is told of flows that are let through, and that counts stay exact
//! however fast they come.

use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use waggle_datapath::{PolicyTally, Reason, ServiceTally};
use waggle_model::{PolicyId, ServiceId};

use crate::Case;
use crate::policy::{from_pods, ingress, open, shop};
use crate::sockets::{ask_tcp, ask_udp, at, serve_tcp, serve_udp};
use crate::state::{BILLING, SHOP, With, nodes};
use crate::world::{World, eventually};

pub(crate) const CASES: &[Case] = &[
    ("calls_are_counted_for_their_services", services),
    ("flows_and_refusals_are_counted_for_policies", policies),
    ("what_is_let_through_is_told_while_somebody_listens", told),
    ("counts_are_exact_in_a_flood", flood),
];

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const VIP: &str = "10.96.0.5";
const EMPTY: &str = "10.96.0.6";

fn services() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let pods = nodes().pod(WEB, SHOP).pod(CART, SHOP);
    let one = pods.clone().service(VIP, SHOP, &[WEB], &[]);
    let state = one.clone().service(EMPTY, SHOP, &[], &[]);
    world.apply(&state);
    let number = |vip: &str| {
        let mut services = state.services.values();
        let found = services.find(|service| service.vips == [crate::state::ip(vip)]);
        found.expect("a service").id
    };
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let _asked = serve_udp(&web.room, at(WEB, 8080), "web");
    for _ in 0..3 {
        ask_tcp(&cart.room, at(VIP, 80)).expect("an answer");
    }
    ask_udp(&cart.room, at(VIP, 80)).expect("an answer");
    for _ in 0..2 {
        ask_tcp(&cart.room, at(EMPTY, 80)).expect_err("nobody serves");
    }
    let of = |id: ServiceId| {
        let tallies = world.with(async |datapath| datapath.tallies());
        let tallies = tallies.expect("counts are readable");
        tallies.services().get(&id).copied()
    };
    let tally = |calls, refused| Some(ServiceTally { calls, refused });
    assert_eq!(of(number(VIP)), tally(4, 0));
    assert_eq!(of(number(EMPTY)), tally(0, 2));
    // Two numbers share a row of the quick counts: one of them is counted elsewhere.
    let mut both = state.clone();
    let mut twin = both.services[&number(VIP)].clone();
    twin.id = ServiceId(number(VIP).0 + waggle_abi::limit::SERVICE_COUNTS);
    twin.vips = vec![crate::state::ip("10.96.0.7")];
    both.services.insert(twin.id, twin.clone());
    world.apply(&both);
    ask_tcp(&cart.room, at("10.96.0.7", 80)).expect("an answer");
    assert_eq!([of(number(VIP)), of(twin.id)], [tally(4, 0), tally(1, 0)]);
    world.apply(&state);
    assert_eq!([of(number(VIP)), of(twin.id)], [tally(4, 0), None]);
    world.apply(&pods);
    assert_eq!(of(number(VIP)), None, "it is gone");
    world.apply(&one);
    assert_eq!(of(number(VIP)), None, "another one begins at zero");
}

fn policies() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(&shop(vec![ingress(vec![from_pods(80)]), ingress(vec![])]));
    serve_tcp(&web.room, at(WEB, 80), "web");
    let of = |number| {
        let tallies = world.with(async |datapath| datapath.tallies());
        let tallies = tallies.expect("counts are readable");
        tallies.policies().get(&PolicyId(number)).copied()
    };
    let tally = |allowed, denied_ingress| {
        Some(PolicyTally {
            allowed,
            denied_ingress,
            denied_egress: 0,
        })
    };
    for _ in 0..2 {
        ask_tcp(&cart.room, at(WEB, 80)).expect("port 80 is open");
    }
    assert_eq!((of(1), of(2)), (tally(2, 0), None));
    for _ in 0..3 {
        open(&cart, at(WEB, 81)).expect_err("port 81 is not");
    }
    assert_eq!(
        (of(1), of(2)),
        (tally(2, 3), tally(0, 3)),
        "neither of the two allowed it"
    );
    world.apply(&shop(vec![ingress(vec![from_pods(80)])]));
    assert_eq!((of(1), of(2)), (tally(2, 3), None), "one is gone");
}

fn told() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let state = nodes().pod(WEB, SHOP).pod(CART, SHOP);
    world.apply(&state.service(VIP, SHOP, &[WEB], &[]));
    serve_tcp(&web.room, at(WEB, 8080), "web");
    let seen = |targets: &[SocketAddr]| -> Vec<_> {
        world.drops();
        for target in targets {
            ask_tcp(&cart.room, *target).expect("an answer");
        }
        let events = world.drops().into_iter();
        events
            .map(|event| (event.reason, event.destination.expect("known")))
            .collect()
    };
    let tell = |on: bool| {
        let told = world.with(async move |datapath| datapath.tell_new(on));
        told.expect("the kernel is told");
    };
    let (through_vip, direct) = (at(VIP, 80), at(WEB, 8080));
    assert_eq!(seen(&[through_vip]), [], "nobody asked");
    tell(true);
    assert_eq!(
        seen(&[through_vip, direct]),
        [
            (Reason::Translated, through_vip),
            (Reason::Forwarded, direct)
        ]
    );
    tell(false);
    assert_eq!(seen(&[through_vip]), [], "nobody asks any more");
}

/// Denials of each kind in the flood.
const DENIALS: u64 = 100_000;

fn flood() {
    let world = World::new();
    let (_web, bill) = (world.pod(WEB, SHOP), world.pod(CART, BILLING));
    let state = |export: &[u32]| {
        let pods = nodes().pod(WEB, SHOP).pod(CART, BILLING);
        pods.service(VIP, SHOP, &[WEB], export)
    };
    world.apply(&state(&[BILLING]));
    let bound = || UdpSocket::bind("0.0.0.0:0").expect("binds");
    // Let in once: from now on only the packet hooks see what it sends.
    let connected = bill.room.run(move || {
        let socket = bound();
        socket.connect(at(WEB, 8080)).expect("exported");
        socket
    });
    let calling = bill.room.run(bound);
    world.apply(&state(&[]));
    world.drops();
    let before = world.counts();
    let begun = Instant::now();
    let (packets, calls) = std::thread::scope(|scope| {
        let packets = scope.spawn(|| {
            let sent = (0..DENIALS).filter(|_| connected.send(b"x").is_ok());
            sent.count() as u64
        });
        let calls = scope.spawn(|| {
            let walled = (0..DENIALS).filter(|_| calling.send_to(b"x", at(VIP, 80)).is_err());
            walled.count() as u64
        });
        (packets.join(), calls.join())
    });
    let (packets, calls) = (packets.expect("sends"), calls.expect("calls"));
    let rate = (packets + calls) as f64 / begun.elapsed().as_secs_f64();
    println!("flood: {rate:.0} denials a second");
    assert_eq!((packets, calls), (DENIALS, DENIALS));
    let grown = |reason| world.counts()[&reason] - before[&reason];
    eventually("every packet came by", || {
        grown(Reason::TenantWall) >= packets + calls
    });
    assert_eq!(grown(Reason::TenantWall), packets + calls, "exact");
    let told = world.drops().len() as u64;
    assert_eq!(
        told + grown(Reason::EventLost),
        packets + calls,
        "each was told or counted as lost"
    );
}
