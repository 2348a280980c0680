//! Tables of clusters and pods, and batches of random ones under the checker.

use proptest::prelude::*;
use serde_json::{Value, json};

mod gangs;
mod profiles;
mod waiting;

use super::*;
use crate::world::{World, node, pod};

fn run(world: &mut World) -> Plan {
    let plan = plan(
        &world.snapshot,
        &Settings::default(),
        &mut Queue::default(),
        world.now,
    );
    assert_eq!(crate::check::scheduling(&world.snapshot, &plan), []);
    assert_eq!(crate::check::gangs(&world.snapshot, &plan), []);
    world.apply(&plan);
    assert_eq!(world.refused, 0);
    let again = super::plan(
        &world.snapshot,
        &Settings::default(),
        &mut Queue::default(),
        world.now,
    );
    assert_eq!(again.writes, [], "replanning");
    plan
}

fn world(nodes: &[Value], pods: &[Value]) -> World {
    let mut world = World::new();
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "shop"}}}));
    nodes
        .iter()
        .chain(pods)
        .for_each(|value| world.put(value.clone()));
    world
}

fn place(world: &World, name: &str) -> String {
    world.get("Pod", "shop", name).unwrap()["spec"]["nodeName"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}

/// Why the pod waits, leaving preemption aside.
fn refusal(world: &World, name: &str) -> String {
    let whole = whole_refusal(world, name);
    let filters = whole.split(" preemption: ").next();
    filters.unwrap_or_default().to_owned()
}

fn whole_refusal(world: &World, name: &str) -> String {
    let pod = world.get("Pod", "shop", name).unwrap();
    let row = &pod["status"]["conditions"][0];
    assert_eq!(
        (&row["type"], &row["status"]),
        (&json!("PodScheduled"), &json!("False")),
        "{pod}"
    );
    row["message"].as_str().unwrap().to_owned()
}

fn with(mut value: Value, path: &str, part: Value) -> Value {
    let (parent, name) = path.rsplit_once('/').unwrap();
    value.pointer_mut(parent).unwrap()[name] = part;
    value
}

/// One pod called `p` on these nodes goes to `expect`, or is refused with that message.
fn check(nodes: &[Value], pods: &[Value], expect: &str) {
    let mut world = world(nodes, pods);
    run(&mut world);
    let found = match place(&world, "p") {
        none if none.is_empty() => refusal(&world, "p"),
        node => node,
    };
    assert_eq!(found, expect);
}

fn bound(name: &str, cpu: &str, node: &str) -> Value {
    let mut value = pod(name, cpu, "1Mi");
    value["spec"]["nodeName"] = json!(node);
    value["status"] = crate::world::running("10.244.0.9", "2026-01-01T00:00:00Z".parse().unwrap());
    value
}

#[test]
fn the_emptier_node_is_taken() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let other = with(
        bound("x", "2", "a"),
        "/metadata/labels",
        json!({"app": "other"}),
    );
    check(&nodes, &[pod("p", "1", "1Gi"), other], "b");
}

#[test]
fn resources_are_never_exceeded() {
    let nodes = [
        node("a", "1", "1Gi"),
        node("b", "2", "1Gi"),
        node("c", "2", "8Gi"),
    ];
    check(&nodes, &[pod("p", "2", "2Gi")], "c");
    check(
        &nodes[..2],
        &[pod("p", "2", "2Gi")],
        "0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.",
    );
    let small = with(
        node("a", "9", "9Gi"),
        "/status/allocatable/pods",
        json!("1"),
    );
    check(
        &[small],
        &[bound("x", "0", "a"), pod("p", "0", "0")],
        "0/1 nodes are available: 1 Too many pods.",
    );
    check(
        &[],
        &[pod("p", "0", "0")],
        "no nodes available to schedule pods",
    );
}

#[test]
fn ended_pods_use_nothing() {
    let over = with(bound("x", "1", "a"), "/status/phase", json!("Succeeded"));
    check(&[node("a", "1", "1Gi")], &[over, pod("p", "1", "1Mi")], "a");
}

#[test]
fn taints_keep_pods_away_unless_tolerated() {
    let taint = json!([{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]);
    let tainted = with(node("a", "4", "4Gi"), "/spec/taints", taint);
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: db}.";
    check(
        std::slice::from_ref(&tainted),
        &[pod("p", "0", "0")],
        refused,
    );
    let tolerant = with(
        pod("p", "0", "0"),
        "/spec/tolerations",
        json!([{"key": "dedicated", "operator": "Exists"}]),
    );
    check(&[tainted], &[tolerant], "a");
    let soft = json!([{"key": "old", "effect": "PreferNoSchedule"}]);
    let unloved = with(node("a", "8", "8Gi"), "/spec/taints", soft);
    check(
        &[unloved, node("b", "4", "4Gi")],
        &[pod("p", "0", "0")],
        "b",
    );
}

#[test]
fn cordoned_and_unready_nodes_are_left_out() {
    let cordoned = with(node("a", "4", "4Gi"), "/spec/unschedulable", json!(true));
    let unready = with(
        node("b", "4", "4Gi"),
        "/status/conditions",
        json!([{"type": "Ready", "status": "Unknown"}]),
    );
    let expect = "0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, \
                  1 node(s) were unschedulable.";
    check(&[cordoned, unready], &[pod("p", "0", "0")], expect);
}

fn zone(name: &str, zone: &str) -> Value {
    with(node(name, "8", "8Gi"), "/metadata/labels/zone", json!(zone))
}

#[test]
fn node_selector_and_affinity() {
    let nodes = [zone("a", "x"), zone("b", "y")];
    let picky = with(
        pod("p", "0", "0"),
        "/spec/nodeSelector",
        json!({"zone": "y"}),
    );
    check(&nodes, &[picky], "b");
    let term = |values: Value| json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": values}]});
    let required = |values: Value| {
        let selector = json!({"nodeSelectorTerms": [term(values)]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}});
        with(pod("p", "0", "0"), "/spec/affinity", affinity)
    };
    check(&nodes, &[required(json!(["y"]))], "b");
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    check(&nodes, &[required(json!(["z"]))], refused);
    let liked = json!([{"weight": 5, "preference": term(json!(["y"]))}]);
    let affinity =
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": liked}});
    check(
        &nodes,
        &[with(pod("p", "0", "0"), "/spec/affinity", affinity)],
        "b",
    );
}

#[test]
fn host_ports_are_given_once() {
    let ported = |name: &str| {
        with(
            pod(name, "0", "0"),
            "/spec/containers/0/ports",
            json!([{"containerPort": 80, "hostPort": 80}]),
        )
    };
    let mut world = world(
        &[node("a", "4", "4Gi"), node("b", "4", "4Gi")],
        &[ported("p"), ported("q"), ported("r")],
    );
    run(&mut world);
    assert_ne!(place(&world, "p"), place(&world, "q"));
    let refused =
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(refusal(&world, "r"), refused);
}

#[test]
fn pods_of_one_owner_are_spread() {
    let nodes = [
        node("a", "16", "16Gi"),
        node("b", "4", "4Gi"),
        node("c", "4", "4Gi"),
    ];
    let pods: Vec<Value> = (0..6)
        .map(|index| pod(&format!("p{index}"), "100m", "1Mi"))
        .collect();
    let mut world = world(&nodes, &pods);
    run(&mut world);
    for name in ["a", "b", "c"] {
        assert_eq!(world.snapshot.pods_on(name).count(), 2, "{name}");
    }
}

fn spread(name: &str, key: &str, max_skew: i32) -> Value {
    let constraint = json!([{
        "maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
    }]);
    with(
        pod(name, "0", "0"),
        "/spec/topologySpreadConstraints",
        constraint,
    )
}

#[test]
fn topology_spread_is_kept() {
    let nodes = [zone("a", "x"), zone("b", "x"), zone("c", "y")];
    let pods: Vec<Value> = (0..4)
        .map(|index| spread(&format!("p{index}"), "zone", 1))
        .collect();
    let mut world = world(&nodes, &pods);
    run(&mut world);
    assert_eq!(world.snapshot.pods_on("c").count(), 2);
    let full = with(zone("c", "y"), "/status/allocatable/pods", json!("0"));
    check(
        &[zone("a", "x"), full, node("d", "8", "8Gi")],
        &[
            with(bound("x", "0", "a"), "/metadata/labels/app", json!("web")),
            spread("p", "zone", 1),
        ],
        "0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints, \
         1 node(s) didn't match pod topology spread constraints (missing required label).",
    );
}

fn apart(name: &str, app: &str) -> Value {
    let term = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]);
    let affinity =
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    with(pod(name, "0", "0"), "/spec/affinity", affinity)
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let mut both = world(
        &nodes,
        &[apart("p", "web"), apart("q", "web"), apart("r", "web")],
    );
    run(&mut both);
    assert_ne!(place(&both, "p"), place(&both, "q"));
    assert_eq!(
        refusal(&both, "r"),
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let mut hermit = apart("hermit", "web");
    hermit["metadata"]["labels"] = json!({"app": "hermit"});
    hermit["spec"]["nodeName"] = json!("a");
    check(
        &nodes[..1],
        &[hermit.clone(), pod("p", "0", "0")],
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
    let mut crowd = bound("x", "0", "a");
    crowd["metadata"]["labels"] = json!({"app": "crowd"});
    check(&nodes, &[crowd, apart("p", "crowd")], "b");
}

#[test]
fn affinity_follows_and_lets_the_first_one_begin() {
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    let near = |name: &str| with(pod(name, "0", "0"), "/spec/affinity", affinity.clone());
    let nodes = [zone("a", "x"), zone("b", "y"), zone("c", "y")];
    let mut world = world(&nodes, &[near("p"), near("q"), near("r")]);
    run(&mut world);
    let zones: Vec<bool> = ["p", "q", "r"]
        .iter()
        .map(|name| place(&world, name) == "a")
        .collect();
    assert!(zones.iter().all(|&one| one == zones[0]), "{zones:?}");
    let stranger = with(near("p"), "/metadata/labels/app", json!("other"));
    check(
        &nodes,
        &[stranger],
        "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.",
    );
}

#[test]
fn the_important_come_first_and_then_the_old() {
    let mut world = world(&[node("a", "1", "1Gi")], &[pod("old", "1", "1Mi")]);
    world.pass(5);
    world.put(with(pod("king", "1", "1Mi"), "/spec/priority", json!(1000)));
    run(&mut world);
    assert_eq!(
        (
            place(&world, "king").as_str(),
            place(&world, "old").as_str()
        ),
        ("a", "")
    );
}

#[test]
fn gates_other_schedulers_and_deleted_pods_are_respected() {
    let gated = with(
        pod("p", "0", "0"),
        "/spec/schedulingGates",
        json!([{"name": "wait"}]),
    );
    let foreign = with(pod("q", "0", "0"), "/spec/schedulerName", json!("other"));
    let deleted = with(
        pod("r", "0", "0"),
        "/metadata/deletionTimestamp",
        json!("2026-01-01T00:00:00Z"),
    );
    let mut world = world(&[node("a", "4", "4Gi")], &[gated, foreign, deleted]);
    let plan = run(&mut world);
    assert!(refusal(&world, "p").contains("scheduling gates"));
    assert_eq!(plan.writes.len(), 1);
}

#[test]
fn a_refusal_is_told_once_and_lifted_when_room_appears() {
    let mut world = world(&[], &[pod("p", "1", "1Mi")]);
    let plan = run(&mut world);
    assert_eq!(plan.events[0].reason, "FailedScheduling");
    world.put(node("a", "4", "4Gi"));
    run(&mut world);
    assert_eq!(place(&world, "p"), "a");
}

fn any_pod(index: usize) -> impl Strategy<Value = Value> {
    (0u32..30, 0u32..30, 0..4u8, 0..6u8).prop_map(move |(cpu, memory, owner, rule)| {
        let name = format!("p{index}");
        let mut value = match rule {
            0 => apart(&name, "web"),
            1 => spread(&name, "zone", 1),
            2 => with(
                pod(&name, "0", "0"),
                "/spec/containers/0/ports",
                json!([{"containerPort": 1, "hostPort": 1}]),
            ),
            _ => pod(&name, "0", "0"),
        };
        let requests =
            json!({"cpu": format!("{}m", cpu * 100), "memory": format!("{}Mi", memory * 10)});
        value["spec"]["containers"][0]["resources"]["requests"] = requests;
        value["metadata"]["labels"]["app"] = json!(if owner == 0 { "web" } else { "db" });
        value
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn random_batches_keep_every_invariant(
        nodes in proptest::collection::vec((0u32..8, 0u32..8, 0..3u8), 0..6),
        pods in (0..25usize).prop_flat_map(|count| (0..count).map(any_pod).collect::<Vec<_>>()),
    ) {
        let mut world = World::new();
        for (index, (cpu, memory, zone)) in nodes.into_iter().enumerate() {
            let mut value = node(&format!("n{index}"), &cpu.to_string(), &format!("{memory}Gi"));
            if zone > 0 {
                value["metadata"]["labels"]["zone"] = json!(zone.to_string());
            }
            world.put(value);
        }
        pods.into_iter().for_each(|pod| world.put(pod));
        run(&mut world);
    }
}

fn important(name: &str, cpu: &str, priority: i32) -> Value {
    let mut value = pod(name, cpu, "1Mi");
    value["spec"]["priority"] = json!(priority);
    value
}

fn ending(world: &World) -> Vec<String> {
    let pods = world.all("Pod").into_iter();
    pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_important_pod_displaces_where_it_harms_least() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let mut dear = bound("dear", "3", "a");
    dear["spec"]["priority"] = json!(50);
    let (cheap, spared) = (bound("cheap", "3", "b"), bound("spared", "1", "b"));
    let mut world = world(&nodes, &[dear, cheap, spared, important("p", "3", 100)]);
    let plan = run(&mut world);
    assert_eq!(ending(&world), ["cheap"]);
    assert!(plan.events.iter().any(|event| event.reason == "Preempted"));
    let waiting = world.get("Pod", "shop", "p").unwrap();
    assert_eq!(waiting["status"]["nominatedNodeName"], "b");
    // A lesser pod doesn't slip into the promised room.
    world.put(important("lesser", "3", 1));
    world.agents_end();
    run(&mut world);
    assert_eq!(
        (
            place(&world, "p").as_str(),
            place(&world, "lesser").as_str()
        ),
        ("b", "")
    );
}

#[test]
fn nobody_is_displaced_in_vain_or_by_the_polite() {
    let nodes = [node("a", "4", "4Gi")];
    for (priority, cpu, policy) in [
        (0, "3", "PreemptLowerPriority"),
        (100, "9", "PreemptLowerPriority"),
        (100, "3", "Never"),
    ] {
        let mut p = important("p", cpu, priority);
        p["spec"]["preemptionPolicy"] = json!(policy);
        let mut world = world(&nodes, &[bound("x", "3", "a"), p]);
        run(&mut world);
        assert_eq!(ending(&world), [""; 0], "{priority} {cpu} {policy}");
    }
}

#[test]
fn budgets_choose_the_node() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let guarded = with(
        bound("x", "3", "a"),
        "/metadata/labels",
        json!({"app": "guarded"}),
    );
    let mut world = world(
        &nodes,
        &[guarded, bound("y", "3", "b"), important("p", "3", 9)],
    );
    world.put(json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "shop"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "guarded"}}}, "status": {"disruptionsAllowed": 0}}));
    run(&mut world);
    assert_eq!(ending(&world), ["y"]);
}

#[test]
fn two_important_pods_displace_different_ones() {
    let nodes = [node("a", "4", "4Gi"), node("b", "4", "4Gi")];
    let lesser = [bound("x", "3", "a"), bound("y", "3", "b")];
    let mut world = world(&nodes, &lesser);
    world.put(important("p", "3", 9));
    world.put(important("q", "3", 9));
    run(&mut world);
    assert_eq!(ending(&world), ["x", "y"]);
    world.agents_end();
    run(&mut world);
    assert_ne!(place(&world, "p"), place(&world, "q"));
}

#[test]
fn anti_affinity_is_mended_by_displacing() {
    let nodes = [node("a", "4", "4Gi")];
    let mut p = important("p", "1", 9);
    p["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "rival"}}}]}});
    let rival = with(
        bound("x", "1", "a"),
        "/metadata/labels",
        json!({"app": "rival"}),
    );
    let mut world = world(&nodes, &[rival, bound("friend", "1", "a"), p]);
    run(&mut world);
    assert_eq!(ending(&world), ["x"]);
}

#[test]
fn a_node_with_the_image_is_preferred() {
    let mut with_image = node("b", "4", "4Gi");
    with_image["status"]["images"] = json!([{"names": ["web:1"], "sizeBytes": 2_000_000_000u64}]);
    check(
        &[node("a", "4", "4Gi"), with_image, node("c", "4", "4Gi")],
        &[pod("p", "1", "1Gi")],
        "b",
    );
}

#[test]
fn why_nobody_makes_room_is_told() {
    let nodes = [
        node("a", "4", "4Gi"),
        node("b", "1", "4Gi"),
        with(node("c", "4", "4Gi"), "/spec/unschedulable", json!(true)),
    ];
    let pods = [bound("x", "3", "a"), pod("p", "2", "1Mi")];
    let mut shop = world(&nodes, &pods);
    run(&mut shop);
    assert_eq!(
        whole_refusal(&shop, "p"),
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. \
         preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
    let never = with(
        pod("p", "2", "1Mi"),
        "/spec/preemptionPolicy",
        json!("Never"),
    );
    let mut shop = world(&nodes[2..], &[never]);
    run(&mut shop);
    assert_eq!(
        whole_refusal(&shop, "p"),
        "0/1 nodes are available: 1 node(s) were unschedulable. \
         preemption: not eligible due to preemptionPolicy=Never."
    );
}
