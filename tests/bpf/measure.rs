//! What a verdict costs, by running a program many times over one packet. Not a test: only when asked for
//! (`WAGGLE_BENCH=policy`), because figures depend on the machine.

use std::net::Ipv4Addr;
use std::time::Duration;

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use waggle_model::network::{IpBlock, NetworkState, Peers, Policy, PolicyRule};
use waggle_model::{IdentityId, PolicyId};

use crate::Case;
use crate::frame;
use crate::state::{SHOP, With, ip, nodes};
use crate::world::{Pod, World};

pub(crate) const CASES: &[Case] = &[("policy_verdicts", policy_verdicts)];

const WEB: &str = "10.244.1.2";
const SIZES: [u32; 3] = [10, 1_000, 10_000];
const ROUNDS: usize = 9;
const REPEAT: u32 = 50_000;

/// One pod whose ingress has this many rules, each for one address.
fn governed(rules: u32) -> NetworkState {
    let mut state = nodes().pod(WEB, SHOP);
    let rule = |number: u32| {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number);
        PolicyRule {
            peers: Peers::Of {
                identities: [IdentityId(1_000 + number)].into(),
                blocks: vec![IpBlock {
                    range: format!("{address}/32").parse().expect("a range"),
                    except: vec![],
                }],
            },
            ports: vec![],
        }
    };
    if rules > 0 {
        let policy = Policy {
            id: PolicyId(1),
            subjects: [IdentityId(SHOP * 10)].into(),
            ingress: Some((0..rules).map(rule).collect()),
            ..Policy::default()
        };
        state.policies.insert(policy.id, policy);
    }
    state
}

/// Nanoseconds of one run.
fn cost(world: &World, pod: &Pod, frame: &[u8]) -> Duration {
    let (pin, frame) = (world.pin("programs", "to_pod"), frame.to_vec());
    let ifindex = pod.attachment.ifindex;
    world.host.run(move || {
        let program = SchedClassifier::from_pin(pin).expect("pinned");
        let mut context = [0u8; 192];
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: REPEAT,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).expect("the kernel runs it");
        assert_eq!(result.return_value, u32::MAX, "it passes");
        result.duration
    })
}

fn policy_verdicts() {
    let world = World::with_capacity(waggle_datapath::Capacity::default());
    let pod = world.pod(WEB, SHOP);
    let peer = |number: u32| {
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        std::net::IpAddr::V4(Ipv4Addr::from(first + number))
    };
    println!("to_pod, nanoseconds a packet: median of {ROUNDS} rounds [lowest, highest]");
    world.apply(&governed(0));
    let plain = frame::udp((peer(0), 4000), (ip(WEB), 80));
    print("no policy", &mut rounds(|| cost(&world, &pod, &plain)));
    for size in SIZES {
        let started = std::time::Instant::now();
        world.apply(&governed(size));
        println!("{size} rules written in {:?}", started.elapsed());
        let known = frame::udp((peer(size / 2), 4000), (ip(WEB), 80));
        // A later fragment is never remembered: each one asks the rules.
        let asking = frame::as_later_fragment(known.clone());
        print(
            &format!("{size} rules, flow known"),
            &mut rounds(|| cost(&world, &pod, &known)),
        );
        print(
            &format!("{size} rules, rules asked"),
            &mut rounds(|| cost(&world, &pod, &asking)),
        );
    }
}

fn rounds(measure: impl Fn() -> Duration) -> Vec<Duration> {
    (0..ROUNDS).map(|_| measure()).collect()
}

fn print(what: &str, rounds: &mut [Duration]) {
    rounds.sort_unstable();
    let nanos = |index: usize| rounds[index].as_nanos();
    println!(
        "{what}: {} [{}, {}]",
        nanos(ROUNDS / 2),
        nanos(0),
        nanos(ROUNDS - 1)
    );
}
