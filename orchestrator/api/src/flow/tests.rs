//! Who waits for whom, in made-up floods.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn builtin() -> Config {
    let objects = objects();
    let of = |kind: &'static str| objects.iter().filter(move |one| one["kind"] == kind);
    Config::read(of("FlowSchema"), of("PriorityLevelConfiguration"))
}

fn user(name: &str, groups: &[&str]) -> User {
    let mut groups: Vec<String> = groups.iter().map(|one| (*one).to_owned()).collect();
    groups.push(crate::access::AUTHENTICATED.into());
    User {
        name: name.into(),
        groups,
        ..User::default()
    }
}

fn action(verb: &str, group: &str, resource: &str, namespace: &str) -> Action {
    Action {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        ..Action::default()
    }
}

#[test]
fn requests_are_in_the_flows_that_kubernetes_puts_them_in() {
    let config = builtin();
    let account = |namespace: &str| User::service_account(namespace, "x", "");
    let node = user("system:node:n1", &["system:nodes"]);
    let beat = "kube-node-lease";
    for (who, what, expect) in [
        (
            user("root", &["system:masters"]),
            action("list", "", "pods", ""),
            "exempt/exempt",
        ),
        (
            node.clone(),
            action("update", "coordination.k8s.io", "leases", beat),
            "system-node-high/node-high",
        ),
        (
            node.clone(),
            action("patch", "", "nodes", ""),
            "system-node-high/node-high",
        ),
        (node, action("list", "", "pods", ""), "system-nodes/system"),
        (
            account("kube-system"),
            action("get", "coordination.k8s.io", "leases", "kube-system"),
            "system-leader-election/leader-election",
        ),
        (
            account("kube-system"),
            action("list", "", "pods", "shop"),
            "kube-system-service-accounts/workload-high",
        ),
        (
            account("shop"),
            action("list", "", "pods", "shop"),
            "service-accounts/workload-low",
        ),
        (
            user("ann", &[]),
            action("get", "apps", "deployments", "shop"),
            "global-default/global-default",
        ),
        (
            User::anonymous(),
            Action {
                verb: "get".into(),
                path: "/livez".into(),
                ..Action::default()
            },
            "probes/exempt",
        ),
        (
            User::default(),
            action("get", "", "pods", "shop"),
            "catch-all/catch-all",
        ),
    ] {
        let flow = config.flow(&who, &what);
        assert_eq!(
            format!("{}/{}", flow.schema.0, flow.level.0),
            expect,
            "{who:?} {what:?}"
        );
    }
    let flow = |name: &str| {
        config
            .flow(&user(name, &[]), &action("get", "", "pods", "a"))
            .hash
    };
    assert_eq!(flow("ann"), flow("ann"));
    assert_ne!(flow("ann"), flow("eve"));
}

#[test]
fn a_schema_whose_level_is_missing_takes_nothing() {
    let schema = json!({
        "metadata": {"name": "mine"},
        "spec": {"priorityLevelConfiguration": {"name": "nowhere"}, "matchingPrecedence": 1, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]},
    });
    let config = Config::read([&schema], []);
    let flow = config.flow(&user("ann", &[]), &action("get", "", "pods", "shop"));
    assert_eq!(flow.schema.0, "catch-all");
}

#[test]
fn a_level_that_borrows_never_holds_up_its_lender() {
    let (config, mut gate) = (builtin(), Gate::default());
    gate.arrange(245, &config, 0);
    let flow = |who: &User| config.flow(who, &action("list", "", "pods", ""));
    let (eve, node) = (user("eve", &[]), user("system:node:n1", &["system:nodes"]));
    let mut went = 0;
    while let Entry::Goes(_) = gate.enter(&flow(&eve), 1, 0) {
        went += 1;
    }
    // Its own 20, and what system, node-high, workload-high and workload-low lend.
    assert_eq!(went, 20 + 9 + 10 + 20 + 90);
    for _ in 0..30 {
        assert!(matches!(gate.enter(&flow(&node), 1, 0), Entry::Goes(_)));
    }
}

#[test]
fn a_level_without_queues_refuses_and_a_full_queue_does() {
    let (config, mut gate) = (builtin(), Gate::default());
    gate.arrange(49, &config, 0);
    let nobody = config.flow(&User::default(), &action("get", "", "pods", "shop"));
    let ann = config.flow(&user("ann", &[]), &action("get", "", "pods", "shop"));
    let mut last = Entry::Refused(Refusal::Seats);
    for _ in 0..100 {
        last = gate.enter(&nobody, 1, 0);
    }
    assert_eq!(last, Entry::Refused(Refusal::Seats));
    for _ in 0..1000 {
        last = gate.enter(&ann, 1, 0);
    }
    assert_eq!(last, Entry::Refused(Refusal::Queue));
    let load = gate
        .loads()
        .into_iter()
        .find(|load| load.level == "global-default");
    assert_eq!(load.unwrap().waiting, 6 * 50, "a flow fills its own hand");
}

/// Ann comes with one request at a time into a flood of eve's; how many of eve's go ahead while ann waits.
#[test]
fn a_flood_takes_turns_with_everybody_else() {
    let (config, mut gate) = (builtin(), Gate::default());
    gate.arrange(49, &config, 0);
    let flow = |name: &str| config.flow(&user(name, &[]), &action("list", "", "pods", "shop"));
    let (eve, ann) = (flow("eve"), flow("ann"));
    let mut running = std::collections::VecDeque::new();
    for _ in 0..400 {
        if let Entry::Goes(ticket) = gate.enter(&eve, 1, 0) {
            running.push_back(ticket);
        }
    }
    let mut now = 0;
    for _ in 0..50 {
        let Entry::Waits(mine) = gate.enter(&ann, 1, now) else {
            panic!("the flood has every seat");
        };
        let mut passed = 0;
        loop {
            now += 10_000;
            gate.leave(running.pop_front().unwrap(), now);
            let called = gate.called();
            if called.contains(&mine) {
                break;
            }
            running.extend(called);
            passed += 1;
            assert!(passed <= 2, "eve goes before ann again and again");
        }
        gate.leave(mine, now);
        running.extend(gate.called());
        // Eve sends as much as she can.
        while let Entry::Waits(_) = gate.enter(&eve, 1, now) {}
    }
}

fn level(name: &str, shares: u32, lends: u32, queues: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lends,
        "limitResponse": {"type": "Queue", "queuing": {
            "queues": queues, "handSize": 2.min(queues), "queueLengthLimit": 5}}}}})
}

#[derive(Debug, Clone)]
enum Step {
    Enter {
        level: usize,
        flow: u64,
        width: u32,
    },
    /// The nth of those present leaves.
    Leave(usize),
    Arrange {
        seats: u32,
        queues: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, 0u64..1000, 0u32..12)
            .prop_map(|(level, flow, width)| Step::Enter { level, flow, width }),
        5 => (0usize..50).prop_map(Step::Leave),
        1 => (1u32..40, 1u32..9).prop_map(|(seats, queues)| Step::Arrange { seats, queues }),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn arranged(gate: &mut Gate, seats: u32, queues: u32, now: i64) {
    let levels = [
        level("a", 10, 50, queues),
        level("b", 30, 90, 4),
        level("c", 1, 0, queues),
    ];
    gate.arrange(seats, &Config::read([], &levels), now);
}

proptest! {
    /// Whatever happens: what is in use is what those who go ahead have, a level's own seats are its own, nobody
    /// waits beside a free seat, and in the end everybody had a turn and every seat is free.
    #[test]
    fn no_seat_is_lost_and_nobody_is_forgotten(steps in proptest::collection::vec(step(), 1..200)) {
        let mut gate = Gate::default();
        arranged(&mut gate, 20, 4, 0);
        let (mut running, mut waiting) = (Vec::new(), Vec::new());
        let mut now = 0;
        let mut stable = true;
        for step in steps {
            now += 1000;
            match step {
                Step::Enter { level, flow, width } => {
                    let before = gate.loads()[level_at(&gate, NAMES[level])].clone();
                    let flow = Flow {
                        schema: Default::default(),
                        level: (NAMES[level].to_owned(), String::new()),
                        hash: flow,
                    };
                    let entry = gate.enter(&flow, width, now);
                    match entry {
                        Entry::Goes(ticket) => running.push(ticket),
                        Entry::Waits(ticket) => waiting.push(ticket),
                        Entry::Refused(_) => {}
                    }
                    let own = before.nominal.unwrap_or(0);
                    let width = width.clamp(1, own.max(1));
                    if stable && before.waiting == 0 && before.seats + width <= own {
                        prop_assert!(matches!(entry, Entry::Goes(_)), "{before:?} {width}");
                    }
                }
                Step::Leave(nth) => {
                    let all = running.len() + waiting.len();
                    if all > 0 {
                        let nth = nth % all;
                        let ticket = if nth < running.len() {
                            running.remove(nth)
                        } else {
                            waiting.remove(nth - running.len())
                        };
                        gate.leave(ticket, now);
                    }
                }
                Step::Arrange { seats, queues } => {
                    arranged(&mut gate, seats, queues, now);
                    stable = false;
                }
            }
            for ticket in gate.called() {
                let at = waiting.iter().position(|one| *one == ticket);
                prop_assert!(at.is_some(), "called without waiting");
                waiting.retain(|one| *one != ticket);
                running.push(ticket);
            }
            let loads = gate.loads();
            prop_assert_eq!(loads.iter().map(|one| one.running).sum::<usize>(), running.len());
            prop_assert_eq!(loads.iter().map(|one| one.waiting).sum::<usize>(), waiting.len());
            for load in loads {
                prop_assert!(load.waiting == 0 || load.running > 0, "somebody waits for nobody: {load:?}");
            }
        }
        while let Some(ticket) = running.pop() {
            now += 1000;
            gate.leave(ticket, now);
            for ticket in gate.called() {
                waiting.retain(|one| *one != ticket);
                running.push(ticket);
            }
        }
        prop_assert!(waiting.is_empty(), "somebody was never called");
        for load in gate.loads() {
            prop_assert_eq!((load.seats, load.running, load.waiting), (0, 0, 0));
        }
    }

    /// Flows that always have something waiting get the same, whatever their requests cost.
    #[test]
    fn flows_get_the_same_part(costs in proptest::collection::vec((1u32..5, 1i64..50), 2..5)) {
        let mut gate = Gate::default();
        let levels = [level("a", 1000, 0, 64)];
        gate.arrange(10, &Config::read([], &levels), 0);
        let mut now = 0;
        let mut had = vec![0; costs.len()];
        let flows: Vec<Flow> = (0..costs.len())
            .map(|at| Flow {
                schema: Default::default(),
                level: ("a".to_owned(), String::new()),
                // Hands that share no queue.
                hash: (at * 8 + at * 8 * 64) as u64,
            })
            .collect();
        let mut tickets = std::collections::HashMap::new();
        // Ends by time: (end, flow, ticket).
        let mut running: Vec<(i64, usize, Ticket)> = Vec::new();
        for _ in 0..3000 {
            for (at, (width, took)) in costs.iter().enumerate() {
                loop {
                    match gate.enter(&flows[at], *width, now) {
                        Entry::Goes(ticket) => running.push((now + took * 1000, at, ticket)),
                        Entry::Waits(ticket) => drop(tickets.insert(ticket, at)),
                        Entry::Refused(_) => break,
                    }
                }
            }
            running.sort_unstable_by_key(|one| std::cmp::Reverse(one.0));
            let (end, at, ticket) = running.pop().unwrap();
            now = end;
            had[at] += costs[at].1 * i64::from(costs[at].0);
            gate.leave(ticket, now);
            for ticket in gate.called() {
                let at = tickets.remove(&ticket).unwrap();
                running.push((now + costs[at].1 * 1000, at, ticket));
            }
        }
        let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
        prop_assert!(most - least <= most / 3, "{costs:?} had {had:?}");
    }
}

fn level_at(gate: &Gate, name: &str) -> usize {
    gate.loads()
        .iter()
        .position(|load| load.level == name)
        .unwrap()
}

#[test]
fn reading_much_at_once_is_wide() {
    for (objects, expect) in [
        (0, 1),
        (1, 1),
        (100, 1),
        (101, 2),
        (1000, 10),
        (1_000_000, WIDEST),
    ] {
        assert_eq!(width(objects), expect, "{objects}");
    }
    assert!(can_deal(128, 6) && can_deal(64, 8) && !can_deal(4096, 6) && !can_deal(4, 5));
}
