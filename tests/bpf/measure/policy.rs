//! What a verdict costs at a number of rules, by running `to_pod` over one packet: of a flow that is known, and of one
//! that asks the rules each time.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use serde_json::json;
use waggle_model::network::{IpBlock, NetworkState, Peers, Policy, PolicyRule};
use waggle_model::{IdentityId, PolicyId};

use super::{nanoseconds, run, spread};
use crate::frame;
use crate::state::{SHOP, With, ip, nodes};
use crate::world::{Pod, World};

const WEB: &str = "10.244.1.2";
const ROUNDS: usize = 9;
const REPEAT: u32 = 50_000;
/// TCX_NEXT.
const PASS: u32 = u32::MAX;

/// One pod whose ingress has this many rules, each for one address.
fn governed(rules: u32) -> NetworkState {
    let mut state = nodes().pod(WEB, SHOP);
    let rule = |number: u32| PolicyRule {
        peers: Peers::Of {
            identities: [IdentityId(1_000 + number)].into(),
            blocks: vec![IpBlock {
                range: format!("{}/32", peer(number)).parse().expect("a range"),
                except: vec![],
            }],
        },
        ports: vec![],
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

fn peer(number: u32) -> IpAddr {
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    IpAddr::V4(Ipv4Addr::from(first + number))
}

/// With this many rules; 0 for no policy at all.
pub(super) fn measure(rules: u32) {
    let world = World::with_capacity(waggle_datapath::Capacity::default());
    let pod = world.pod(WEB, SHOP);
    world.apply(&governed(0));
    let started = Instant::now();
    world.apply(&governed(rules));
    let written = started.elapsed();
    let known = frame::udp((peer(rules / 2), 4000), (ip(WEB), 80));
    // A later fragment is never remembered: each one asks the rules.
    let asking = frame::as_later_fragment(known.clone());
    let line = json!({
        "rules": rules,
        "written_ms": written.as_secs_f64() * 1e3,
        "known_ns": spread(cost(&world, &pod, &known)),
        "asked_ns": spread(cost(&world, &pod, &asking)),
    });
    println!("{line}");
}

fn cost(world: &World, pod: &Pod, frame: &[u8]) -> Vec<f64> {
    let ifindex = pod.attachment.ifindex;
    let (times, verdict) = run(world, "to_pod", ifindex, frame, REPEAT, ROUNDS);
    assert_eq!(verdict, PASS, "it passes");
    nanoseconds(&times)
}
