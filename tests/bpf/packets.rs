//! Every verdict of the packet hooks, by BPF_PROG_TEST_RUN on the programs as they are pinned.

use std::net::IpAddr;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use waggle_datapath::Reason;

use crate::Case;
use crate::frame;
use crate::state::{BILLING, HOST, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::{Pod, World};

pub(crate) const CASES: &[Case] = &[
    ("from_pod_gives_every_verdict", from_pod_gives_every_verdict),
    ("to_pod_gives_every_verdict", to_pod_gives_every_verdict),
    (
        "a_grant_opens_one_port_one_way_and_replies_pass",
        a_grant_opens_one_port_one_way_and_replies_pass,
    ),
    (
        "fragments_and_icmp_errors_have_explicit_verdicts",
        fragments_and_icmp_errors_have_explicit_verdicts,
    ),
    ("ipv6_takes_the_same_path", ipv6_takes_the_same_path),
    ("a_full_event_ring_is_counted", a_full_event_ring_is_counted),
];

/// "On to the next program": TCX_NEXT.
const PASS: u32 = u32::MAX;
const DROP: u32 = 2;
/// Into a pod of this node: TC_ACT_REDIRECT.
pub(crate) const LOCAL: u32 = 7;

/// A node with two pods of tenant shop and one of billing; another pod of each on the other node.
struct Scene {
    world: World,
    web: Pod,
    cart: Pod,
    bill: Pod,
}

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const BILL: &str = "10.244.1.4";
const FAR_SHOP: &str = "10.244.2.2";
const FAR_BILL: &str = "10.244.2.3";
const VIP: &str = "10.96.0.5";

fn scene(export: &[u32]) -> Scene {
    let world = World::new();
    let (web, cart, bill) = (
        world.pod(WEB, SHOP),
        world.pod(CART, SHOP),
        world.pod(BILL, BILLING),
    );
    let state = nodes().pod(WEB, SHOP).pod(CART, SHOP).pod(BILL, BILLING);
    let state = state.pod(FAR_SHOP, SHOP).pod(FAR_BILL, BILLING);
    world.apply(&state.service(VIP, SHOP, &[WEB, FAR_SHOP], export));
    world.drops();
    Scene {
        world,
        web,
        cart,
        bill,
    }
}

/// Runs the program `name` on `frame` as if at interface `ifindex`; returns its verdict and the frame after it.
fn run(world: &World, name: &str, ifindex: u32, frame: &[u8], repeat: u32) -> (u32, Vec<u8>) {
    let (pin, frame) = (world.pin("programs", name), frame.to_vec());
    world.host.run(move || {
        let program = SchedClassifier::from_pin(pin).expect("the program is pinned");
        // struct __sk_buff: ifindex is its eleventh word.
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(&frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).expect("the kernel runs it");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    })
}

/// The verdict, and that exactly it was counted, and that a drop was also reported.
pub(crate) fn check(
    world: &World,
    name: &str,
    ifindex: u32,
    frame: &[u8],
    expect: Result<u32, Reason>,
) {
    let (verdict, reason) = match expect {
        Ok(verdict) => (verdict, Reason::Forwarded),
        Err(reason) => (DROP, reason),
    };
    let mut actual = 0;
    let counted = world.counted(reason, || actual = run(world, name, ifindex, frame, 1).0);
    assert_eq!(
        actual, verdict,
        "{name}: verdict of a frame that should be {expect:?}"
    );
    // The pods' kernels multicast by themselves.
    let chatter = reason == Reason::LinkScope;
    assert!(
        counted == 1 || chatter && counted > 1,
        "{name}: {reason:?} is counted {counted} times"
    );
    let reported = world
        .drops()
        .into_iter()
        .map(|drop| (drop.hook, drop.reason));
    let mut reported: Vec<_> = reported
        .filter(|drop| chatter || drop.1 != Reason::LinkScope)
        .collect();
    reported.dedup();
    let expected: Vec<_> = expect
        .err()
        .map(|reason| (name.to_owned(), reason))
        .into_iter()
        .collect();
    assert!(
        reported
            .iter()
            .map(|(hook, reason)| ((*hook).to_owned(), *reason))
            .eq(expected),
        "{name}: {expect:?} is reported as {reported:?}"
    );
}

fn from_pod_gives_every_verdict() {
    let scene = scene(&[]);
    let here = scene.web.attachment.ifindex;
    let udp = |src: &str, dst: &str| frame::udp((ip(src), 4000), (ip(dst), 53));
    let truncated = udp(WEB, CART)[..36].to_vec();
    let mut short_header = udp(WEB, CART);
    short_header[14] = 0x43;
    let cases: Vec<(Vec<u8>, u32, Result<u32, Reason>)> = vec![
        (udp(WEB, CART), here, Ok(LOCAL)),
        (udp(WEB, FAR_SHOP), here, Ok(PASS)),
        (udp(WEB, "192.0.2.1"), here, Ok(PASS)),
        (udp(WEB, HOST), here, Ok(PASS)),
        (udp(WEB, OTHER_HOST), here, Ok(PASS)),
        (frame::echo(ip(WEB), ip(CART)), here, Ok(LOCAL)),
        (truncated, here, Err(Reason::Malformed)),
        (short_header, here, Err(Reason::Malformed)),
        (frame::arp(), here, Err(Reason::NotIp)),
        (udp(WEB, CART), 1, Err(Reason::UnknownLink)),
        (udp(CART, WEB), here, Err(Reason::InvalidSource)),
        (udp("192.0.2.9", WEB), here, Err(Reason::InvalidSource)),
        (udp(WEB, "224.0.0.251"), here, Err(Reason::LinkScope)),
        (udp(WEB, "255.255.255.255"), here, Err(Reason::LinkScope)),
        (udp(WEB, "10.244.1.77"), here, Err(Reason::UnknownEndpoint)),
        (udp(WEB, "10.244.2.77"), here, Err(Reason::UnknownEndpoint)),
        (udp(WEB, VIP), here, Err(Reason::Untranslated)),
        (udp(WEB, BILL), here, Err(Reason::TenantWall)),
        (udp(WEB, FAR_BILL), here, Err(Reason::TenantWall)),
        (
            frame::echo(ip(WEB), ip(BILL)),
            here,
            Err(Reason::TenantWall),
        ),
    ];
    for (frame, ifindex, expect) in cases {
        check(&scene.world, "from_pod", ifindex, &frame, expect);
    }
    let (_, delivered) = run(&scene.world, "from_pod", here, &udp(WEB, CART), 1);
    let mac = scene
        .cart
        .room
        .run(|| std::fs::read_to_string("/sys/class/net/eth0/address"));
    // /sys may show another namespace's interfaces; then the link itself is asked.
    let mac = mac
        .ok()
        .filter(|text| text.starts_with("0a:"))
        .unwrap_or_else(|| link_address(&scene.cart));
    let written: Vec<String> = delivered[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        written.join(":"),
        mac.trim(),
        "the frame is addressed to the receiving pod's interface"
    );
}

fn link_address(pod: &Pod) -> String {
    pod.room.run(|| {
        let output = std::process::Command::new("ip")
            .args(["-brief", "link", "show", "eth0"])
            .output();
        let text = String::from_utf8(output.expect("iproute2 is installed").stdout).expect("text");
        text.split_whitespace()
            .nth(2)
            .expect("an address")
            .to_owned()
    })
}

fn to_pod_gives_every_verdict() {
    let scene = scene(&[]);
    let here = scene.web.attachment.ifindex;
    let udp = |src: &str| frame::udp((ip(src), 4000), (ip(WEB), 53));
    let cases: Vec<(Vec<u8>, u32, Result<u32, Reason>)> = vec![
        (udp(FAR_SHOP), here, Ok(PASS)),
        (udp(HOST), here, Ok(PASS)),
        (udp(OTHER_HOST), here, Ok(PASS)),
        (udp("192.0.2.1"), here, Ok(PASS)),
        (frame::arp(), here, Ok(PASS)),
        (udp(FAR_SHOP)[..36].to_vec(), here, Err(Reason::Malformed)),
        (udp(FAR_SHOP), 1, Err(Reason::UnknownLink)),
        (udp("10.244.2.77"), here, Err(Reason::UnknownEndpoint)),
        (udp(VIP), here, Err(Reason::Untranslated)),
        (udp(FAR_BILL), here, Err(Reason::TenantWall)),
    ];
    for (frame, ifindex, expect) in cases {
        check(&scene.world, "to_pod", ifindex, &frame, expect);
    }
}

fn a_grant_opens_one_port_one_way_and_replies_pass() {
    let scene = scene(&[BILLING]);
    let (bill, web) = (scene.bill.attachment.ifindex, scene.web.attachment.ifindex);
    let (client, server) = ((ip(BILL), 4000), (ip(WEB), 8080));
    let syn = frame::tcp(client, server, 0x02);
    let reply = frame::tcp(server, client, 0x12);
    let world = &scene.world;
    check(world, "from_pod", web, &reply, Err(Reason::TenantWall));
    check(world, "from_pod", bill, &syn, Ok(LOCAL));
    check(world, "from_pod", web, &reply, Ok(LOCAL));
    check(
        world,
        "from_pod",
        bill,
        &frame::tcp(client, (ip(WEB), 22), 0x02),
        Err(Reason::TenantWall),
    );
    check(
        world,
        "from_pod",
        bill,
        &frame::udp((ip(BILL), 4000), (ip(CART), 8080)),
        Err(Reason::TenantWall),
    );
    // The same over the wire: forward at the receiving node, reply at the sending one.
    let (far_client, far_server) = ((ip(FAR_BILL), 5000), (ip(FAR_SHOP), 8080));
    check(
        world,
        "to_pod",
        web,
        &frame::tcp(far_client, server, 0x02),
        Ok(PASS),
    );
    check(
        world,
        "from_pod",
        web,
        &frame::tcp(server, far_client, 0x12),
        Ok(PASS),
    );
    check(
        world,
        "from_pod",
        bill,
        &frame::tcp((ip(BILL), 5001), far_server, 0x02),
        Ok(PASS),
    );
    check(
        world,
        "to_pod",
        bill,
        &frame::tcp(far_server, (ip(BILL), 5001), 0x12),
        Ok(PASS),
    );
    check(
        world,
        "to_pod",
        bill,
        &frame::tcp(far_server, (ip(BILL), 5002), 0x12),
        Err(Reason::TenantWall),
    );
    // Without the export the next packet of the client is refused at once.
    let state = nodes()
        .pod(WEB, SHOP)
        .pod(CART, SHOP)
        .pod(BILL, BILLING)
        .pod(FAR_SHOP, SHOP)
        .pod(FAR_BILL, BILLING);
    world.apply(&state.service(VIP, SHOP, &[WEB, FAR_SHOP], &[]));
    check(
        world,
        "from_pod",
        bill,
        &frame::tcp(client, server, 0x10),
        Err(Reason::TenantWall),
    );
}

fn fragments_and_icmp_errors_have_explicit_verdicts() {
    let scene = scene(&[BILLING]);
    let (bill, web) = (scene.bill.attachment.ifindex, scene.web.attachment.ifindex);
    let world = &scene.world;
    let (client, server) = ((ip(BILL), 4000), (ip(WEB), 8080));
    let later = frame::as_later_fragment(frame::udp((ip(WEB), 1), (ip(CART), 1)));
    check(world, "from_pod", web, &later, Ok(LOCAL));
    let across = frame::as_later_fragment(frame::udp(client, server));
    check(world, "from_pod", bill, &across, Err(Reason::Fragment));
    let error = frame::unreachable(ip(WEB), client, server);
    check(world, "from_pod", web, &error, Err(Reason::TenantWall));
    check(
        world,
        "from_pod",
        bill,
        &frame::udp(client, server),
        Ok(LOCAL),
    );
    check(world, "from_pod", web, &error, Ok(LOCAL));
    let cut = error[..error.len() - 10].to_vec();
    check(world, "from_pod", web, &cut, Err(Reason::Malformed));
}

fn ipv6_takes_the_same_path() {
    let world = World::new();
    let (near, mate, bill) = ("fd00:1::2", "fd00:1::3", "fd00:1::4");
    let pods = [
        world.pod(near, SHOP),
        world.pod(mate, SHOP),
        world.pod(bill, BILLING),
    ];
    let state = nodes().pod(near, SHOP).pod(mate, SHOP).pod(bill, BILLING);
    world.apply(&state.service("fd00:96::5", SHOP, &[near], &[BILLING]));
    world.drops();
    let udp = |src: &str, dst: &str, port: u16| frame::udp((ip(src), 4000), (ip(dst), port));
    let at = |index: usize| pods[index].attachment.ifindex;
    check(&world, "from_pod", at(0), &udp(near, mate, 1), Ok(LOCAL));
    check(
        &world,
        "from_pod",
        at(0),
        &udp(near, "2001:db8::1", 1),
        Ok(PASS),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &udp(mate, near, 1),
        Err(Reason::InvalidSource),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &udp(near, "ff02::1", 1),
        Err(Reason::LinkScope),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &udp(near, "fe80::1", 1),
        Err(Reason::LinkScope),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &udp(near, "fd00:96::5", 80),
        Err(Reason::Untranslated),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &udp(near, bill, 1),
        Err(Reason::TenantWall),
    );
    check(&world, "from_pod", at(2), &udp(bill, near, 8080), Ok(LOCAL));
    check(
        &world,
        "from_pod",
        at(0),
        &frame::unreachable(ip(near), (ip(bill), 4000), (ip(near), 8080)),
        Ok(LOCAL),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &with_extension(near, mate, 0),
        Ok(LOCAL),
    );
    check(
        &world,
        "from_pod",
        at(2),
        &with_extension(bill, near, 0x10),
        Err(Reason::Fragment),
    );
    check(
        &world,
        "from_pod",
        at(0),
        &endless_extensions(ip(near), ip(mate)),
        Err(Reason::Malformed),
    );
}

/// UDP behind hop-by-hop options and a fragment header with this offset.
fn with_extension(src: &str, dst: &str, offset: u8) -> Vec<u8> {
    let options = [44, 0, 1, 4, 0, 0, 0, 0];
    let fragment = [frame::UDP, 0, 0, offset, 0, 0, 0, 1];
    let segment = [0x0f, 0xa0, 0x1f, 0x90, 0, 8, 0, 0];
    frame::ip(ip(src), ip(dst), 0, &[options, fragment, segment].concat())
}

fn endless_extensions(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    frame::ip(src, dst, 60, &[[60u8, 0, 1, 4, 0, 0, 0, 0]; 9].concat())
}

fn a_full_event_ring_is_counted() {
    let scene = scene(&[]);
    let spoofed = frame::udp((ip(CART), 1), (ip(WEB), 1));
    let lost = scene.world.counted(Reason::EventLost, || {
        run(
            &scene.world,
            "from_pod",
            scene.web.attachment.ifindex,
            &spoofed,
            5000,
        );
    });
    assert!(lost > 0, "5,000 events don't fit into the ring");
    let reported = scene.world.drops().len();
    assert_eq!(
        u64::try_from(reported).expect("few") + lost,
        5000,
        "each drop is reported or counted as lost"
    );
}
