//! What programming a number of services costs, by the way an agent goes: a network state becomes desired rows, these
//! become steps, the steps are in the kernel's maps. At first, when an agent starts anew, and for one change.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;
use waggle_datapath::{Capacity, Datapath};
use waggle_model::network::{Backend, NetworkDelta, NetworkState, Protocol, Service, ServicePort};
use waggle_model::{Generation, ServiceId, TenantId};

use super::spread;
use crate::state::{SHOP, With, nodes};
use crate::world::World;

const PODS: [&str; 2] = ["10.244.1.2", "10.244.1.3"];
/// Changes of each kind.
const CHANGES: u32 = 101;

/// One port with one backend, as the rules of the peers have it.
fn service(number: u32, pod: &str) -> Service {
    let first = u32::from(Ipv4Addr::new(10, 96, 1, 1));
    Service {
        id: ServiceId(number + 1),
        namespace: "bench".into(),
        name: format!("service-{number}"),
        tenant: TenantId(SHOP),
        vips: vec![IpAddr::V4(Ipv4Addr::from(first + number))],
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            backends: vec![Backend::at(crate::state::ip(pod), 7000)],
            ..ServicePort::default()
        }],
        ..Service::default()
    }
}

fn state(count: u32) -> NetworkState {
    let mut state = nodes().pod(PODS[0], SHOP).pod(PODS[1], SHOP);
    let services = (0..count).map(|number| service(number, PODS[0]));
    state.services = services.map(|service| (service.id, service)).collect();
    state
}

/// With this many services.
pub(super) fn measure(count: u32) {
    let mut world = World::with_capacity(Capacity::default());
    let state = state(count);
    let Took {
        told,
        written,
        processor,
        rows,
    } = apply(&world, state.clone());
    assert!(rows >= 2 * count as usize, "only {rows} rows");
    // The next agent finds everything in place.
    let opening = Instant::now();
    world.open();
    let opened = opening.elapsed();
    let again = apply(&world, state.clone());
    assert_eq!(again.rows, 0, "it is all there");
    let [moved, added, removed] = changes(&world, count, state.generation);
    let line = json!({
        "services": count,
        "rows": rows,
        "cold_ms": milliseconds(told + written),
        "cold_processor_ms": milliseconds(processor),
        "cold_told_ms": milliseconds(told),
        "cold_written_ms": milliseconds(written),
        "restart_opened_ms": milliseconds(opened),
        "restart_compared_ms": milliseconds(again.told + again.written),
        "moved_us": spread(moved),
        "added_us": spread(added),
        "removed_us": spread(removed),
    });
    println!("{line}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

struct Took {
    /// Until it is known what should be.
    told: Duration,
    /// From then on until it is.
    written: Duration,
    /// What of both the thread ran: the rest it waited for a processor.
    processor: Duration,
    rows: usize,
}

fn apply(world: &World, state: NetworkState) -> Took {
    world.with(async move |datapath| {
        let (started, ran) = (Instant::now(), ran());
        datapath.set_state(&state);
        let told = started.elapsed();
        let applied = datapath.carry_out().await.expect("it applies");
        let took = Took {
            told,
            written: started.elapsed() - told,
            processor: self::ran() - ran,
            rows: applied.rows,
        };
        assert!(applied.refused.is_empty(), "{:?}", applied.refused);
        took
    })
}

/// Processor time of this thread so far.
fn ran() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel tells");
    let of = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// Microseconds of each change of one service: its backend, its coming, its going.
fn changes(world: &World, count: u32, from: Generation) -> [Vec<f64>; 3] {
    world.with(async move |datapath| {
        let mut generation = from;
        let mut samples = [Vec::new(), Vec::new(), Vec::new()];
        for turn in 0..CHANGES {
            let known = turn.wrapping_mul(7919) % count;
            let pod = PODS[1 - (turn / count % 2) as usize];
            let new = service(count + turn, PODS[0]);
            let upsert = |service| (vec![service], Vec::new());
            let steps = [
                (upsert(service(known, pod)), 2),
                (upsert(new.clone()), 3),
                ((Vec::new(), vec![new.id]), 2),
            ];
            for (samples, ((upserts, removals), rows)) in samples.iter_mut().zip(steps) {
                let to = Generation(generation.0 + 1);
                let delta = NetworkDelta {
                    from: generation,
                    to,
                    service_upserts: upserts,
                    service_removals: removals,
                    ..NetworkDelta::default()
                };
                samples.push(change(datapath, delta, rows).await);
                generation = to;
            }
        }
        samples
    })
}

async fn change(datapath: &Datapath, delta: NetworkDelta, rows: usize) -> f64 {
    let started = Instant::now();
    datapath.advance(delta).expect("no gap");
    let applied = datapath.carry_out().await.expect("it applies");
    let elapsed = started.elapsed();
    assert_eq!(applied.rows, rows, "a change writes its own rows");
    elapsed.as_secs_f64() * 1e6
}
