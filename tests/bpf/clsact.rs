//! Nodes whose kernel has no tcx: cases of what attaching may break are tried a second time with packet programs as clsact
//! filters, and what only filters have is looked at here. `WAGGLE_TEST_PACKET_HOOKS=clsact` tries every case so.

use std::cell::Cell;

use waggle_datapath::PacketHooks;

use crate::Case;
use crate::room::Room;
use crate::state::{HOST, SHOP, With, nodes};
use crate::world::World;

pub(crate) const CASES: &[Case] = &[(
    "filters_of_others_stay_and_ours_follow_the_uplink",
    filters_of_others_stay_and_ours_follow_the_uplink,
)];

/// Cases that are tried both ways.
const AGAIN: &[&str] = &[
    "an_agents_death_changes_nothing_and_the_next_adopts",
    "a_new_agents_programs_take_over",
    "maps_of_another_size_are_made_anew",
    "attaching_twice_adopts_and_a_new_namespace_replaces",
    "detaching_and_sweeping_leave_no_trace",
    "agents_are_killed_and_upgraded_under_live_connections",
    "tcp_through_a_vip_shows_the_vip",
    "a_spoofed_source_is_dropped_and_counted",
    "another_node_is_routed_and_walled",
    "a_policy_cuts_what_it_forbids_and_nothing_else",
    "what_leaves_the_cluster_has_the_nodes_address",
    "a_node_port_reaches_a_backend_here_with_the_callers_address",
    "a_node_port_reaches_a_backend_elsewhere_from_the_nodes_address",
    "a_backend_elsewhere_answers_the_caller_itself",
    "tunnels_outlive_agents_and_links",
];

const VARIABLE: &str = "WAGGLE_TEST_PACKET_HOOKS";
const WEB: &str = "10.244.1.2";

thread_local! {
    static FORCED: Cell<bool> = const { Cell::new(false) };
}

/// How nodes of this test, or of this process, attach packet programs.
pub(crate) fn hooks() -> Option<PacketHooks> {
    let asked = std::env::var(VARIABLE).is_ok_and(|way| way == "clsact");
    (asked || FORCED.get()).then_some(PacketHooks::Clsact)
}

/// Has a child process do as this test does.
pub(crate) fn pass_on(child: &mut std::process::Command) {
    if hooks().is_some() {
        child.env(VARIABLE, "clsact");
    }
}

/// The second tries among `cases`: their names and what they do.
pub(crate) fn again(cases: &[Case]) -> Vec<(String, fn())> {
    let twice = cases.iter().filter(|(name, _)| AGAIN.contains(name));
    twice
        .map(|(name, check)| (format!("{name}_by_clsact"), *check))
        .collect()
}

/// Runs a test with its nodes as of a kernel without tcx.
pub(crate) fn forced(check: fn()) {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            FORCED.set(false);
        }
    }
    FORCED.set(true);
    let _reset = Reset;
    check();
}

/// Filters at one side of an interface, as iproute2 tells.
pub(crate) fn filters(room: &Room, interface: &str, side: &str) -> String {
    let arguments = ["filter", "show", "dev", interface, side].map(str::to_owned);
    room.run(move || {
        let output = std::process::Command::new("tc").args(arguments).output();
        let output = output.expect("iproute2 is installed");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    })
}

/// Numbers of the programs in our filters there.
pub(crate) fn programs(room: &Room, interface: &str, side: &str) -> Vec<u32> {
    let text = filters(room, interface, side);
    let ours = text.lines().filter(|line| line.contains(" pref 120 "));
    let words = ours.filter_map(|line| line.split(" id ").nth(1));
    words
        .filter_map(|rest| rest.split(' ').next()?.parse().ok())
        .collect()
}

fn filters_of_others_stay_and_ours_follow_the_uplink() {
    forced(|| {
        let mut world = World::new();
        let web = world.pod(WEB, SHOP);
        world.apply(&nodes().pod(WEB, SHOP));
        // Somebody else's, which lets everything through.
        let pin = world.pin("programs", "to_tunnel").display().to_string();
        let theirs = "filter replace dev eth0 ingress pref 7 handle 7 bpf da pinned";
        tc(&world.host, &format!("{theirs} {pin}"));
        for side in ["ingress", "egress"] {
            assert_eq!(programs(&world.host, "eth0", side).len(), 1, "{side}");
            let host_end = programs(&world.host, &web.attachment.interface, side);
            assert_eq!(host_end.len(), 1, "{side}");
        }
        let before = programs(&world.host, "eth0", "ingress");
        // The node's address moves to another interface, and an agent finds it there.
        world.close();
        world.host.ip("link add moved type veth peer name beyond");
        world.host.ip("link set moved up");
        let address = format!("{}/24", HOST);
        world.host.ip(&format!("address del {address} dev eth0"));
        world.host.ip(&format!("address add {address} dev moved"));
        world.open();
        let after = programs(&world.host, "moved", "ingress");
        assert!(after.len() == 1 && after != before, "{after:?}");
        for side in ["ingress", "egress"] {
            assert_eq!(programs(&world.host, "eth0", side), [0; 0], "{side}");
        }
        let others = filters(&world.host, "eth0", "ingress");
        assert!(others.contains(" pref 7 "), "{others}");
    });
}

fn tc(room: &Room, arguments: &str) {
    let words: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
    room.run(move || {
        let output = std::process::Command::new("tc").args(words).output();
        let output = output.expect("iproute2 is installed");
        assert!(output.status.success(), "{output:?}");
    });
}
