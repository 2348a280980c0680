//! Gangs: bound whole or not at all, whom they displace, and how they are displaced.

use serde_json::{Value, json};

use super::*;

fn gang(name: &str, least: i64) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": least}}}})
}

fn member(name: &str, group: &str, cpu: &str) -> Value {
    with(
        pod(name, cpu, "1Mi"),
        "/spec/schedulingGroup",
        json!({"podGroupName": group}),
    )
}

#[test]
fn a_gang_is_bound_whole_or_not_at_all() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let pods = ["r1", "r2", "r3"].map(|name| member(name, "red", "3"));
    let mut shop = world(&nodes, &pods);
    run(&mut shop);
    assert_eq!(
        refusal(&shop, "r1"),
        "waiting for pod group \"red\" to appear"
    );
    shop.put(gang("red", 4));
    run(&mut shop);
    assert_eq!(
        refusal(&shop, "r1"),
        "waiting for minCount pods from a gang \"red\" to appear"
    );
    shop.edit("PodGroup", "shop", "red", |one| {
        one["spec"]["schedulingPolicy"]["gang"]["minCount"] = json!(3)
    });
    run(&mut shop);
    assert_eq!(
        refusal(&shop, "r1"),
        "0/2 nodes are available: 2 Insufficient cpu. pod group \"red\": 2 of 3 pods that must run together fit."
    );
    shop.put(node("c", "4", "4Gi"));
    let plan = run(&mut shop);
    assert!(
        matches!(&plan.writes[0], Write::Gang(binds) if binds.len() == 3),
        "{plan:?}"
    );
    let status = &shop.get("PodGroup", "shop", "red").unwrap()["status"]["conditions"][0];
    assert_eq!(
        (&status["type"], &status["status"]),
        (&json!("PodGroupInitiallyScheduled"), &json!("True"))
    );
}

#[test]
fn a_gang_that_does_not_fit_holds_nothing() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let mut pods: Vec<Value> = ["r1", "r2", "r3"]
        .map(|name| member(name, "red", "3"))
        .into();
    pods.extend(["s1", "s2"].map(|name| member(name, "blue", "3")));
    let mut shop = world(&nodes, &pods);
    shop.put(gang("red", 3));
    shop.put(gang("blue", 2));
    run(&mut shop);
    assert_eq!(["r1", "r2", "r3"].map(|name| place(&shop, name)), [""; 3]);
    let mut blue = ["s1", "s2"].map(|name| place(&shop, name));
    blue.sort();
    assert_eq!(blue, ["a", "b"]);
    // A member that is made again only has to fit itself.
    shop.remove("Pod", "shop", "s1");
    shop.put(member("s3", "blue", "3"));
    run(&mut shop);
    assert_ne!(place(&shop, "s3"), "");
}

fn important(pod: Value, priority: i64) -> Value {
    with(pod, "/spec/priority", json!(priority))
}

/// A pod that runs on `node`.
fn there(name: &str, node: &str, priority: i64) -> Value {
    let pod = with(pod(name, "3", "1Mi"), "/spec/nodeName", json!(node));
    important(pod, priority)
}

fn is_going(shop: &World, name: &str) -> bool {
    let pod = shop.get("Pod", "shop", name).unwrap();
    !pod["metadata"]["deletionTimestamp"].is_null()
}

#[test]
fn a_gang_displaces_less_important_pods_and_waits_for_all_of_them() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "4Gi"));
    let mut shop = world(&nodes, &[]);
    for (name, node, priority) in [("dear", "a", 5), ("cheap", "b", 0), ("mean", "c", 1)] {
        shop.put(there(name, node, priority));
    }
    shop.put(gang("red", 2));
    for name in ["r1", "r2"] {
        shop.put(important(member(name, "red", "3"), 10));
    }
    run(&mut shop);
    let going = ["dear", "cheap", "mean"].map(|name| is_going(&shop, name));
    assert_eq!(going, [false, true, true], "the least harm");
    let promised = |name: &str| {
        let pod = shop.get("Pod", "shop", name).unwrap();
        pod["status"]["nominatedNodeName"].clone()
    };
    let mut both = ["r1", "r2"].map(|name| promised(name).to_string());
    both.sort();
    assert_eq!(both, ["\"b\"", "\"c\""]);
    // One is gone, the other not yet: nobody of the gang starts, and nobody slips in.
    shop.remove("Pod", "shop", "cheap");
    shop.put(pod("late", "3", "1Mi"));
    run(&mut shop);
    assert_eq!(["r1", "r2", "late"].map(|name| place(&shop, name)), [""; 3]);
    shop.remove("Pod", "shop", "mean");
    let plan = run(&mut shop);
    let together = |write: &Write| matches!(write, Write::Gang(binds) if binds.len() == 2);
    assert!(plan.writes.iter().any(together), "{plan:?}");
    assert_eq!(place(&shop, "late"), "");
}

#[test]
fn nobody_goes_for_a_gang_that_does_not_fit_whole() {
    let check = |priorities: [i64; 2], policy: &str| {
        let nodes = ["a", "b"].map(|name| node(name, "4", "4Gi"));
        let mut shop = world(&nodes, &[]);
        shop.put(there("one", "a", priorities[0]));
        shop.put(there("two", "b", priorities[1]));
        shop.put(gang("red", 2));
        for name in ["r1", "r2"] {
            let pod = important(member(name, "red", "3"), 10);
            shop.put(with(pod, "/spec/preemptionPolicy", json!(policy)));
        }
        run(&mut shop);
        let going = ["one", "two"].map(|name| is_going(&shop, name));
        (going, whole_refusal(&shop, "r1"))
    };
    let usual = "PreemptLowerPriority";
    assert_eq!(check([0, 0], usual).0, [true, true]);
    let (going, why) = check([0, 20], usual);
    assert_eq!(going, [false, false]);
    assert!(why.contains("preemption: 0/2 nodes are available"), "{why}");
    assert_eq!(check([0, 0], "Never").0, [false, false]);
    let nodes = ["a", "b"].map(|name| node(name, "4", "4Gi"));
    let mut shop = world(&nodes, &[]);
    shop.put(there("one", "a", 0));
    shop.put(gang("red", 3));
    for name in ["r1", "r2", "r3"] {
        shop.put(important(member(name, "red", "3"), 10));
    }
    run(&mut shop);
    assert!(!is_going(&shop, "one"), "the third has no place");
    // What was tried and taken back holds nothing.
    shop.put(pod("small", "3", "1Mi"));
    run(&mut shop);
    assert_eq!(place(&shop, "small"), "b");
}

#[test]
fn a_gang_is_explained() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let pods = ["r1", "r2", "r3"].map(|name| member(name, "red", "3"));
    let mut shop = world(&nodes, &pods);
    shop.put(gang("red", 3));
    run(&mut shop);
    let told = explain(&shop.snapshot, &Settings::default(), "shop", "r1");
    let told = told.unwrap().gang.unwrap();
    assert_eq!((told.min_count, told.bound, told.fitting), (3, 0, 2));
    let seats: Vec<_> = told.members.iter().map(|one| one.node.as_deref()).collect();
    assert_eq!(seats.iter().flatten().count(), 2);
    assert_eq!(told.members.len(), 3);
    assert_eq!(seats[2], None, "the last one");
}

/// A member that runs on `node`.
fn seated(name: &str, group: &str, node: &str) -> Value {
    with(member(name, group, "3"), "/spec/nodeName", json!(node))
}

fn budget(app: &str, allowed: i64) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": app, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": app}}}, "status": {"disruptionsAllowed": allowed}})
}

fn going(shop: &World) -> Vec<String> {
    let pods = shop.all("Pod").into_iter();
    let going = pods.filter(|one| !one["metadata"]["deletionTimestamp"].is_null());
    going
        .filter_map(|one| one["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

fn dead(name: &str) -> Value {
    let taint = json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}]);
    with(node(name, "4", "4Gi"), "/spec/taints", taint)
}

#[test]
fn a_promise_on_a_node_that_died_is_not_waited_for() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "4Gi"));
    let mut shop = world(&nodes, &[]);
    for (name, node, priority) in [("one", "a", 0), ("two", "b", 0), ("dear", "c", 5)] {
        shop.put(there(name, node, priority));
    }
    shop.put(gang("red", 2));
    for name in ["r1", "r2"] {
        shop.put(important(member(name, "red", "3"), 10));
    }
    run(&mut shop);
    assert_eq!(going(&shop), ["one", "two"]);
    shop.put(dead("a"));
    run(&mut shop);
    // What leaves `b` leaves it for the gang still, and the other member finds another place.
    assert_eq!(going(&shop), ["dear", "one", "two"]);
    shop.remove("Pod", "shop", "two");
    shop.remove("Pod", "shop", "dear");
    run(&mut shop);
    let mut both = ["r1", "r2"].map(|name| place(&shop, name));
    both.sort();
    assert_eq!(both, ["b", "c"]);

    let mut shop = world(&nodes[..2], &[there("one", "a", 0), there("dear", "b", 5)]);
    shop.put(important(pod("p", "3", "1Mi"), 10));
    run(&mut shop);
    assert_eq!(going(&shop), ["one"]);
    shop.put(dead("a"));
    run(&mut shop);
    assert_eq!(going(&shop), ["dear", "one"], "nor by a pod of its own");
}

#[test]
fn budgets_are_counted_over_the_whole_gang() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "4Gi"));
    let mut shop = world(&nodes, &[]);
    for (name, node, app, priority) in [
        ("one", "a", "web", 0),
        ("two", "b", "web", 0),
        ("dear", "c", "db", 5),
    ] {
        let pod = there(name, node, priority);
        shop.put(with(pod, "/metadata/labels", json!({"app": app})));
    }
    shop.put(budget("web", 1));
    shop.put(gang("red", 2));
    for name in ["r1", "r2"] {
        shop.put(important(member(name, "red", "3"), 10));
    }
    run(&mut shop);
    let going = going(&shop);
    assert_eq!(going.len(), 2);
    assert!(going.contains(&"dear".to_owned()), "{going:?}");
}

#[test]
fn others_go_before_a_gang_is_torn() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "4Gi"));
    let with_minimum = |least: i64, mode: Value| {
        let mut shop = world(&nodes, &[there("dear", "c", 5)]);
        let group = gang("red", least);
        shop.put(with(group, "/spec/disruptionMode", mode));
        shop.put(seated("r1", "red", "a"));
        shop.put(seated("r2", "red", "b"));
        shop.put(important(pod("p", "3", "1Mi"), 10));
        run(&mut shop);
        going(&shop)
    };
    assert_eq!(with_minimum(2, Value::Null), ["dear"]);
    assert_eq!(
        with_minimum(1, Value::Null).len(),
        1,
        "it can do without one"
    );
    assert_ne!(with_minimum(1, Value::Null), ["dear"]);
    assert_eq!(with_minimum(1, json!({"single": {}})).len(), 1);
    assert_eq!(with_minimum(1, json!({"all": {}})), ["dear"]);
}

#[test]
fn a_gang_that_must_be_torn_goes_whole_or_not_at_all() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "4Gi"));
    let with_priority = |other: i64| {
        let mut shop = world(&nodes[..2], &[]);
        shop.put(gang("red", 2));
        shop.put(seated("r1", "red", "a"));
        shop.put(important(seated("r2", "red", "b"), other));
        shop.put(important(pod("p", "3", "1Mi"), 10));
        run(&mut shop);
        going(&shop)
    };
    assert_eq!(with_priority(0), ["r1", "r2"]);
    assert_eq!(with_priority(20), [""; 0], "somebody in it matters more");

    // What the rest of the gang held is free for others.
    let mut shop = world(&nodes, &[there("dear", "c", 20)]);
    shop.put(gang("red", 2));
    shop.put(seated("r1", "red", "a"));
    shop.put(seated("r2", "red", "b"));
    shop.put(gang("blue", 2));
    for name in ["b1", "b2"] {
        shop.put(important(member(name, "blue", "3"), 10));
    }
    run(&mut shop);
    assert_eq!(going(&shop), ["r1", "r2"]);
    shop.remove("Pod", "shop", "r1");
    shop.remove("Pod", "shop", "r2");
    run(&mut shop);
    let mut both = ["b1", "b2"].map(|name| place(&shop, name));
    both.sort();
    assert_eq!(both, ["a", "b"]);
}

#[test]
fn a_gang_never_displaces_its_own() {
    let mut shop = world(&[node("a", "4", "4Gi")], &[]);
    shop.put(gang("red", 2));
    shop.put(seated("r1", "red", "a"));
    shop.put(important(member("r2", "red", "3"), 10));
    run(&mut shop);
    assert_eq!(going(&shop), [""; 0]);
}

/// Gangs of which none finds room, on so many nodes; how many pods each plan tells why.
fn told(gangs: usize, members: usize, nodes: usize) -> Vec<usize> {
    let nodes: Vec<Value> = (0..nodes)
        .map(|index| node(&format!("n{index}"), "1", "4Gi"))
        .collect();
    let mut shop = world(&nodes, &[]);
    for index in 0..gangs {
        let name = format!("g{index}");
        shop.put(gang(&name, i64::try_from(members).unwrap() + 1));
        for member in 0..=members {
            // All but one find a place.
            let cpu = if member == members { "3" } else { "1m" };
            let pod = self::member(&format!("{name}-{member}"), &name, cpu);
            shop.put(pod);
        }
    }
    let mut queue = Queue::default();
    let mut told = Vec::new();
    for _ in 0..gangs {
        let plan = plan(&shop.snapshot, &Settings::default(), &mut queue, shop.now);
        told.push(plan.writes.len());
        shop.apply(&plan);
        if plan.again_after != Some(1) {
            break;
        }
    }
    told
}

#[test]
fn gangs_that_find_no_room_take_turns() {
    assert_eq!(told(3, 4, 5), [15], "a few are all tried at once");
    let many = told(12, 40, 30);
    assert!(many.len() > 1, "a bounded number in one plan: {many:?}");
    assert_eq!(many.iter().sum::<usize>(), 12 * 41, "each has its turn");
}
