//! NetworkPolicy in the kernel: compared with the reference over random clusters, policies and packets, and the cases
//! that people rely on one by one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun, TestRunOptions};
use waggle_abi::{Flow, FlowKey};
use waggle_datapath::Reason;
use waggle_model::network::{
    IpBlock, NetworkState, Peers, Policy, PolicyPort, PolicyRule, PortMatch, Protocol,
};
use waggle_model::{IdentityId, PolicyId};

use crate::Case;
use crate::frame;
use crate::random::{HERE, Random};
use crate::reference::{Kind, Packet, Reference};
use crate::sockets::serve_tcp;
use crate::state::{BILLING, HOST, OTHER_HOST, SHOP, With, ip, nodes};
use crate::world::{PATIENCE, Pod, World};

pub(crate) const CASES: &[Case] = &[
    ("the_kernel_agrees_with_the_reference", agreement),
    ("a_policy_cuts_what_it_forbids_and_nothing_else", cut),
    ("a_call_that_policy_forbids_fails_at_once", errno),
    ("a_pod_is_locked_until_its_policies_are_known", locked),
    ("errors_about_allowed_flows_pass", errors),
    ("rules_without_room_lock_their_pods_and_nothing_else", full),
    ("rulesets_outlive_agents_and_leave_when_unused", kept),
    ("the_verifiers_work_stays_within_its_budget", budget),
];

/// Cases of a default run; `WAGGLE_POLICY_CASES` asks for more.
const SAMPLE: usize = 4_000;
/// Packets between two changes of policy, and changes of one cluster.
const PACKETS: usize = 60;
const CHANGES: usize = 3;

const PASS: u32 = u32::MAX;
const LOCAL: u32 = 7;
const DROP: u32 = 2;

fn agreement() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let cases = number("WAGGLE_POLICY_CASES").unwrap_or(SAMPLE as u64);
    let seed = number("WAGGLE_POLICY_SEED").unwrap_or(1);
    let world = World::with_capacity(waggle_datapath::Capacity {
        slots: 4096,
        ..waggle_datapath::Capacity::default()
    });
    let pods: Vec<Pod> = HERE
        .iter()
        .map(|address| world.pod(address, SHOP))
        .collect();
    let links: BTreeMap<IpAddr, u32> = pods
        .iter()
        .map(|pod| (pod.address, pod.attachment.ifindex))
        .collect();
    let (mut done, mut cluster) = (0, seed);
    let (mut passed, mut wrong) = (0u64, Vec::new());
    while done < cases {
        compare(&world, &links, cluster, &mut |packet, expected, actual| {
            done += 1;
            passed += u64::from(expected);
            if expected != actual {
                wrong.push(format!(
                    "seed {cluster}: {packet:?} should pass: {expected}"
                ));
            }
        });
        cluster += 1;
    }
    let clusters = cluster - seed;
    println!(
        "policy: {done} cases in {clusters} clusters, {passed} passed, {} disagreements",
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {done}, first: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    assert!(
        passed * 5 > done && passed * 10 < done * 9,
        "the cases ask both ways: {passed} of {done}"
    );
}

/// One cluster: packets, other policies, packets.
fn compare(
    world: &World,
    links: &BTreeMap<IpAddr, u32>,
    seed: u64,
    tell: &mut impl FnMut(&Packet, bool, bool),
) {
    let mut random = Random::new(seed);
    let mut reference = Reference::new(random.cluster(), "node1");
    forget_flows(world);
    let mut before: Vec<Packet> = Vec::new();
    for _ in 0..CHANGES {
        world.apply(&reference.state);
        let packets: Vec<Packet> = (0..PACKETS)
            .map(|_| {
                let packet = random.packet(&before);
                before.push(packet);
                packet
            })
            .collect();
        let verdicts = run(
            world,
            packets.iter().map(|packet| seen(links, packet)).collect(),
        );
        for (packet, verdict) in packets.iter().zip(verdicts) {
            assert!([PASS, LOCAL, DROP].contains(&verdict), "verdict {verdict}");
            tell(packet, reference.passes(packet), verdict != DROP);
        }
        random.govern(&mut reference.state);
    }
}

/// Instructions that the kernel may look at while it verifies one program; it gives up at a million.
const BUDGET: u32 = 400_000;

fn budget() {
    let world = World::new();
    for name in waggle_abi::program::ALL {
        let info = ProgramInfo::from_pin(world.pin("programs", name)).expect("pinned");
        let verified = info.verified_instruction_count().expect("the kernel tells");
        println!("{name}: {verified} instructions verified");
        assert!(
            verified < BUDGET,
            "{name}: {verified} instructions verified"
        );
    }
}

fn forget_flows(world: &World) {
    let data = MapData::from_pin(world.state_pin("FLOWS")).expect("pinned");
    let map = Map::from_map_data(data).expect("a map");
    let mut flows: HashMap<_, FlowKey, Flow> = map.try_into().expect("a hash");
    let keys: Vec<FlowKey> = flows.keys().filter_map(Result::ok).collect();
    for key in keys {
        flows.remove(&key).expect("it was there");
    }
}

/// The hook that sees a packet: program, interface, frame.
fn seen(links: &BTreeMap<IpAddr, u32>, packet: &Packet) -> (&'static str, u32, Vec<u8>) {
    let frame = written(packet);
    match links.get(&packet.src.0) {
        Some(ifindex) => ("from_pod", *ifindex, frame),
        None => ("to_pod", links[&packet.dst.0], frame),
    }
}

fn written(packet: &Packet) -> Vec<u8> {
    let (src, dst) = (packet.src, packet.dst);
    let echo = |kind: u8, number: u16| {
        let [high, low] = number.to_be_bytes();
        frame::ip(src.0, dst.0, frame::ICMP, &[kind, 0, 0, 0, high, low, 0, 1])
    };
    match packet.kind {
        Kind::Syn => frame::tcp(src, dst, 0x02),
        Kind::SynAck => frame::tcp(src, dst, 0x12),
        Kind::Ack => frame::tcp(src, dst, 0x10),
        Kind::Udp => frame::udp(src, dst),
        Kind::Sctp => frame::sctp(src, dst),
        Kind::EchoRequest => echo(8, src.1),
        Kind::EchoReply => echo(0, dst.1),
        Kind::LaterFragment => frame::as_later_fragment(frame::udp(src, dst)),
    }
}

fn run(world: &World, frames: Vec<(&'static str, u32, Vec<u8>)>) -> Vec<u32> {
    let pins = ["from_pod", "to_pod"].map(|name| (name, world.pin("programs", name)));
    world.host.run(move || {
        let programs: BTreeMap<_, _> = pins
            .into_iter()
            .map(|(name, pin)| (name, SchedClassifier::from_pin(pin).expect("pinned")))
            .collect();
        let verdict = |(name, ifindex, frame): (&'static str, u32, Vec<u8>)| {
            // struct __sk_buff: ifindex is its eleventh word.
            let mut context = [0u8; 192];
            context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
            let options = TestRunOptions {
                data_in: Some(&frame),
                ctx_in: Some(&context),
                repeat: 1,
                ..TestRunOptions::default()
            };
            let result = programs[name]
                .test_run(options)
                .expect("the kernel runs it");
            result.return_value
        };
        frames.into_iter().map(verdict).collect()
    })
}

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const FAR: &str = "10.244.2.2";

/// Identity of the pods of [`SHOP`].
const SHOPPERS: IdentityId = IdentityId(SHOP * 10);
/// Identity that WEB has in these tests.
const SERVER: IdentityId = IdentityId(77);

/// WEB, of an identity of its own, and CART here, FAR on the other node; all of one tenant.
pub(crate) fn shop(policies: Vec<Policy>) -> NetworkState {
    let mut state = nodes().pod(WEB, SHOP).pod(CART, SHOP).pod(FAR, SHOP);
    let mut server = state.identities[&SHOPPERS].clone();
    server.id = SERVER;
    state.identities.insert(SERVER, server);
    state.endpoints.get_mut(&ip(WEB)).expect("there").identity = SERVER;
    state.policies = (1..)
        .zip(policies)
        .map(|(id, policy)| {
            (
                PolicyId(id),
                Policy {
                    id: PolicyId(id),
                    ..policy
                },
            )
        })
        .collect();
    state
}

pub(crate) fn from_pods(port: u16) -> PolicyRule {
    PolicyRule {
        peers: Peers::Of {
            identities: [SHOPPERS].into(),
            blocks: vec![],
        },
        ports: vec![PolicyPort {
            protocol: Protocol::Tcp,
            port: PortMatch::Range(port, port),
        }],
    }
}

pub(crate) fn ingress(rules: Vec<PolicyRule>) -> Policy {
    Policy {
        subjects: [SERVER].into(),
        ingress: Some(rules),
        ..Policy::default()
    }
}

fn egress(subject: IdentityId, rules: Vec<PolicyRule>) -> Policy {
    Policy {
        subjects: [subject].into(),
        egress: Some(rules),
        ..Policy::default()
    }
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// An open connection from `pod`.
pub(crate) fn open(pod: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = pod
        .room
        .run(move || TcpStream::connect_timeout(&to, Duration::from_secs(3)))?;
    stream.set_read_timeout(Some(Duration::from_millis(700)))?;
    Ok(stream)
}

fn answers(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut answer).is_ok()
}

fn cut() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(&shop(vec![]));
    serve_tcp(&web.room, at(WEB, 80), "web");
    serve_tcp(&web.room, at(WEB, 81), "web");
    serve_tcp(&cart.room, at(CART, 90), "car");
    let mut allowed = open(&cart, at(WEB, 80)).expect("nothing governs it");
    let mut forbidden = open(&cart, at(WEB, 81)).expect("nothing governs it");
    let mut own = open(&web, at(CART, 90)).expect("nothing governs it");
    assert!(answers(&mut allowed) && answers(&mut forbidden) && answers(&mut own));
    world.apply(&shop(vec![ingress(vec![from_pods(80)])]));
    assert!(answers(&mut allowed), "port 80 is still allowed");
    assert!(
        answers(&mut own),
        "what the pod opened itself is no ingress"
    );
    let counted = world.counted(Reason::PolicyIngress, || {
        assert!(!answers(&mut forbidden), "port 81 is not");
    });
    assert!(counted > 0, "each drop has its reason");
    world.apply(&shop(vec![ingress(vec![])]));
    assert!(!answers(&mut allowed), "nothing is allowed now");
    assert!(answers(&mut own));
    world.apply(&shop(vec![ingress(vec![]), egress(SERVER, vec![])]));
    assert!(
        !answers(&mut own),
        "its packets are not allowed out any more"
    );
}

fn errno() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let here = |rules| shop(vec![ingress(rules)]);
    world.apply(&here(vec![from_pods(80)]));
    serve_tcp(&web.room, at(WEB, 80), "web");
    let refused = |pod: &Pod, to: SocketAddr| {
        let started = std::time::Instant::now();
        let error = open(pod, to).expect_err("policy forbids it");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{to}");
        assert!(started.elapsed() < PATIENCE / 10, "at once");
    };
    assert!(answers(
        &mut open(&cart, at(WEB, 80)).expect("port 80 is open")
    ));
    refused(&cart, at(WEB, 81));
    world.apply(&here(vec![from_pods(80)]).service("10.96.0.5", SHOP, &[WEB], &[]));
    refused(&cart, at("10.96.0.5", 80));
    // Policies come and go over a service that is there.
    serve_tcp(&web.room, at(WEB, 8080), "web");
    for _ in 0..2 {
        world.apply(&shop(vec![]).service("10.96.0.5", SHOP, &[WEB], &[]));
        assert!(answers(
            &mut open(&cart, at("10.96.0.5", 80)).expect("nothing governs it")
        ));
        world.apply(&here(vec![from_pods(80)]).service("10.96.0.5", SHOP, &[WEB], &[]));
        refused(&cart, at("10.96.0.5", 80));
    }
    let only = PolicyRule {
        peers: Peers::Of {
            identities: [SERVER].into(),
            blocks: vec![IpBlock {
                range: "172.30.0.0/24".parse().expect("a range"),
                except: vec![format!("{OTHER_HOST}/32").parse().expect("a range")],
            }],
        },
        ports: vec![],
    };
    world.apply(&shop(vec![egress(SHOPPERS, vec![only])]));
    assert!(answers(
        &mut open(&cart, at(WEB, 80)).expect("the server is allowed")
    ));
    let counted = world.counted(Reason::PolicyEgress, || {
        refused(&cart, at(FAR, 80));
        refused(&cart, at(OTHER_HOST, 80));
        refused(&cart, at("192.0.2.1", 80));
    });
    assert_eq!(counted, 3);
    serve_tcp(&cart.room, at("127.0.0.1", 90), "own");
    serve_tcp(&cart.room, at(CART, 91), "own");
    for own in [at("127.0.0.1", 90), at(CART, 91)] {
        let stream = open(&cart, own);
        assert!(answers(
            &mut stream.expect("what stays in the pod is nobody's to forbid")
        ));
    }
    serve_tcp(&world.host, at(HOST, 90), "dns");
    let own = open(&cart, at(HOST, 90));
    assert!(answers(&mut own.expect("a pod's own node is always there")));
}

fn locked() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let frame =
        |from: &str, to: &str| vec![("from_pod", 0, frame::udp((ip(from), 1), (ip(to), 2)))];
    let verdict = |pod: &Pod, to: &str| {
        let mut frames = frame(&pod.address.to_string(), to);
        frames[0].1 = pod.attachment.ifindex;
        run(&world, frames)[0]
    };
    assert_eq!(verdict(&web, CART), DROP, "no state was applied");
    assert_eq!(verdict(&web, HOST), PASS, "the host is always there");
    world.apply(&shop(vec![]));
    assert_eq!(verdict(&web, CART), LOCAL);
    let mut unknown = shop(vec![]);
    unknown.identities.remove(&SERVER);
    world.apply(&unknown);
    assert_eq!(verdict(&web, CART), DROP, "its policies can't be known");
    assert_eq!(verdict(&cart, WEB), DROP);
    // One that is connected when the state is known is governed from its first packet.
    world.apply(&shop(vec![egress(SHOPPERS, vec![])]));
    let late = world.pod("10.244.1.9", SHOP);
    assert_eq!(verdict(&late, "192.0.2.1"), DROP);
    world.apply(&shop(vec![egress(IdentityId(BILLING * 10), vec![])]));
    assert_eq!(verdict(&late, "192.0.2.1"), PASS);
}

fn errors() {
    let world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    world.apply(&shop(vec![
        ingress(vec![]),
        egress(SERVER, vec![from_pods(53)]),
    ]));
    let asked = (ip(FAR), 53);
    let mut udp = from_pods(53);
    udp.ports[0].protocol = Protocol::Udp;
    world.apply(&shop(vec![ingress(vec![]), egress(SERVER, vec![udp])]));
    let ifindex = web.attachment.ifindex;
    let request = ("from_pod", ifindex, frame::udp((ip(WEB), 4000), asked));
    let about = |from: &str| {
        (
            "to_pod",
            ifindex,
            frame::unreachable(ip(from), (ip(WEB), 4000), asked),
        )
    };
    assert_eq!(
        run(&world, vec![about(FAR)]),
        [DROP],
        "about nothing that was sent"
    );
    assert_eq!(run(&world, vec![request, about(FAR)]), [PASS, PASS]);
    assert_eq!(
        run(&world, vec![about("192.0.2.1")]),
        [PASS],
        "a router on the way"
    );
    let reply = ("to_pod", ifindex, frame::udp(asked, (ip(WEB), 4000)));
    assert_eq!(run(&world, vec![reply]), [PASS]);
    world.apply(&shop(vec![ingress(vec![]), egress(SERVER, vec![])]));
    let reply = ("to_pod", ifindex, frame::udp(asked, (ip(WEB), 4000)));
    assert_eq!(
        run(&world, vec![reply, about(FAR)]),
        [DROP, DROP],
        "the flow is forbidden now"
    );
    drop(cart);
}

fn full() {
    let world = World::with_capacity(waggle_datapath::Capacity {
        policy: 3,
        flows: 1024,
        sock_vip: 1024,
        ..waggle_datapath::Capacity::default()
    });
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    serve_tcp(&web.room, at(WEB, 80), "web");
    let ports = |ports: &[u16]| {
        shop(vec![ingress(
            ports.iter().copied().map(from_pods).collect(),
        )])
    };
    world.apply(&ports(&[80, 81]));
    answers(&mut open(&cart, at(WEB, 80)).expect("two rules fit"));
    let state = ports(&[80, 82, 83, 84]).service("10.96.0.5", SHOP, &[CART], &[]);
    let applied = world.try_apply(&state).expect("everything else applies");
    let faults: Vec<String> = applied
        .refused
        .iter()
        .map(|refusal| refusal.fault.to_string())
        .collect();
    assert_eq!(
        faults,
        ["4 policy rules are needed but this node's datapath has room for 3"]
    );
    let denied = open(&cart, at(WEB, 80)).expect_err("what a full table can't say is denied");
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    serve_tcp(&cart.room, at(CART, 8080), "cart");
    answers(&mut open(&web, at("10.96.0.5", 80)).expect("services go on"));
    let applied = world.try_apply(&ports(&[80, 82, 83])).expect("applies");
    assert_eq!(applied.refused, [], "they fit once the old ones are gone");
    answers(&mut open(&cart, at(WEB, 80)).expect("port 80 is open"));
    let applied = world.try_apply(&ports(&[80, 85, 86])).expect("applies");
    assert_eq!(applied.refused, [], "room is made for them");
    answers(&mut open(&cart, at(WEB, 80)).expect("port 80 is open"));
}

fn kept() {
    let mut world = World::new();
    let (web, cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let state = shop(vec![ingress(vec![from_pods(80)])]);
    world.apply(&state);
    let rows = |world: &World| {
        let data = MapData::from_pin(world.pin("maps", "POLICY")).expect("pinned");
        let map = Map::from_map_data(data).expect("a map");
        let rules: aya::maps::lpm_trie::LpmTrie<_, waggle_abi::RuleKey, u32> =
            map.try_into().expect("a trie");
        let keys = rules.keys().map(|key| key.expect("readable").data());
        keys.map(|key| key.ruleset).collect::<Vec<_>>()
    };
    let before = rows(&world);
    assert_eq!(before.len(), 1);
    let syn = |port| {
        (
            "from_pod",
            cart.attachment.ifindex,
            frame::tcp((ip(CART), 40_000), (ip(WEB), port), 2),
        )
    };
    world.open();
    assert_eq!(
        run(&world, vec![syn(80), syn(81)]),
        [LOCAL, DROP],
        "nobody applied anything"
    );
    let applied = world.try_apply(&state).expect("applies");
    assert_eq!(applied.rows, 0, "everything was found");
    assert_eq!(
        rows(&world),
        before,
        "the same content under the same number"
    );
    world.apply(&shop(vec![ingress(vec![from_pods(81)])]));
    let after = rows(&world);
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert_eq!(run(&world, vec![syn(80), syn(81)]), [DROP, LOCAL]);
    world.apply(&shop(vec![]));
    assert_eq!(rows(&world), Vec::<u32>::new());
    drop(web);
}
