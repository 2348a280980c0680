//! Programming that breaks off: whatever row fails, what the kernel says is of the old or of the new state, and it is
//! repaired by the next try or the next agent.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use waggle_abi::{ServiceKey, ServiceRow, Slot, TCP, map};
use waggle_datapath::Applied;
use waggle_model::network::NetworkState;

use crate::Case;
use crate::state::{BILLING, SHOP, With, ip, nodes};
use crate::world::World;

pub(crate) const CASES: &[Case] = &[
    (
        "whatever_row_fails_the_kernel_is_old_or_new_and_the_next_try_or_start_repairs_it",
        whatever_row_fails_the_kernel_is_old_or_new_and_the_next_try_or_start_repairs_it,
    ),
    (
        "many_services_come_in_few_calls_and_go_again",
        many_services_come_in_few_calls_and_go_again,
    ),
];

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const VIPS: [&str; 3] = ["10.96.0.5", "10.96.0.6", "10.96.0.7"];

fn open<M: TryFrom<Map, Error = MapError>>(world: &World, name: &str) -> M {
    let data = MapData::from_pin(world.pin("maps", name)).expect("pinned");
    M::try_from(Map::from_map_data(data).expect("of a known type")).expect("of this type")
}

/// Backends of a VIP's port 80, as a program finds them; `None` without a row.
fn backends(world: &World, vip: &str) -> Option<BTreeSet<IpAddr>> {
    let services: HashMap<MapData, ServiceKey, ServiceRow> = open(world, map::SERVICES);
    let slots: Array<MapData, Slot> = open(world, map::SLOTS);
    let key = ServiceKey {
        vip: ip(vip).into(),
        port: 80u16.to_be(),
        protocol: TCP,
        scope: 0,
    };
    let row = services.get(&key, 0).ok()?;
    let slots = (row.base..row.base + row.count).map(|index| slots.get(&index, 0).expect("a slot"));
    let slots = slots.inspect(|slot| assert_eq!(slot.service, row.service, "a slot of its own"));
    Some(slots.map(|slot| IpAddr::from(slot.addr)).collect())
}

fn seen(world: &World) -> [Option<BTreeSet<IpAddr>>; 3] {
    VIPS.map(|vip| backends(world, vip))
}

fn whatever_row_fails_the_kernel_is_old_or_new_and_the_next_try_or_start_repairs_it() {
    let mut world = World::new();
    let (_web, _cart) = (world.pod(WEB, SHOP), world.pod(CART, SHOP));
    let pods = nodes().pod(WEB, SHOP).pod(CART, SHOP);
    let states: [NetworkState; 2] = [
        pods.clone()
            .service(VIPS[0], SHOP, &[WEB], &[BILLING])
            .service(VIPS[1], SHOP, &[WEB, CART], &[]),
        pods.pod("10.244.2.9", SHOP)
            .service(VIPS[0], SHOP, &[CART, WEB], &[])
            .service(VIPS[1], SHOP, &[CART], &[BILLING])
            .service(VIPS[2], SHOP, &["10.244.2.9"], &[]),
    ];
    world.apply(&states[0]);
    let mut known = [seen(&world), Default::default()];
    world.apply(&states[1]);
    known[1] = seen(&world);
    assert_ne!(known[0], known[1]);
    let (mut at, mut broken) = (1, 0);
    // One row more before the fault each time, until none is left to fail.
    for rows in 0.. {
        let (before, next) = (&known[at], 1 - at);
        world.with(async move |datapath| datapath.fail_after(Some(rows)));
        let result = world.try_apply(&states[next]);
        let now = seen(&world);
        for (index, now) in now.iter().enumerate() {
            let either = [&before[index], &known[next][index]];
            assert!(either.contains(&now), "row {rows}, {}", VIPS[index]);
        }
        if rows % 4 < 2 {
            // The agent dies of it.
            world.open();
            assert_eq!(seen(&world), now, "a start alone changes nothing");
        } else {
            world.with(async |datapath| datapath.fail_after(None));
        }
        world.apply(&states[next]);
        assert_eq!(seen(&world), known[next], "repaired after row {rows}");
        world.open();
        let again = world.try_apply(&states[next]).expect("applies");
        assert_eq!(again, Applied::default(), "nothing else was left over");
        at = next;
        if result.is_ok() {
            break;
        }
        broken += 1;
    }
    assert!(broken > 10, "only {broken} rows could fail");
}

fn many_services_come_in_few_calls_and_go_again() {
    let world = World::new();
    let mut state = nodes().pod(WEB, SHOP);
    for number in 0..1500u32 {
        let [_, _, high, low] = number.to_be_bytes();
        state = state.service(&format!("10.97.{high}.{low}"), SHOP, &[WEB], &[]);
    }
    let rows = world.try_apply(&state).expect("applies").rows;
    // Two ports with a slot each and an address, and the nodes and pods that there are.
    assert!((7500..7520).contains(&rows), "{rows}");
    assert_eq!(backends(&world, "10.97.5.0"), Some([ip(WEB)].into()));
    state.services.retain(|id, _| id.0 % 2 == 0);
    assert_eq!(world.try_apply(&state).expect("applies").rows, 2250);
    assert_eq!(backends(&world, "10.97.5.0"), None);
    assert_eq!(backends(&world, "10.97.5.1"), Some([ip(WEB)].into()));
}
