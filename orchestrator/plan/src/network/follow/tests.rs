use super::*;
use crate::identity::{Stirred, Wanted, add, assign};
use crate::world::{World, running};
use proptest::prelude::*;
use serde_json::{Value, json};
use waggle_model::Generation;

/// One thing that happens to a cluster.
#[derive(Debug, Clone)]
enum Change {
    /// A pod is there, with one of a few addresses, label values and states.
    Pod(u8, u8, u8, u8),
    PodGone(u8),
    /// A Service is there; of a kind that some have a say in, or not.
    Service(u8, u8),
    ServiceGone(u8),
    /// A slice of a Service names these pods.
    Slice(u8, u8, [u8; 2]),
    SliceGone(u8, u8),
    Node(u8, bool),
    NodeGone(u8),
    Namespace(bool),
    Policy(u8),
    PolicyGone,
    /// Everything gets its numbers, and what is gone loses them.
    Numbers,
    /// What came gets its numbers.
    NewNumbers,
    /// The state is followed.
    Look,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = prop_oneof![
        4 => (0..4u8, 0..5u8, 0..2u8, 0..3u8).prop_map(|(a, b, c, d)| Change::Pod(a, b, c, d)),
        1 => (0..4u8).prop_map(Change::PodGone),
        3 => (0..3u8, 0..4u8).prop_map(|(a, b)| Change::Service(a, b)),
        1 => (0..3u8).prop_map(Change::ServiceGone),
        3 => (0..3u8, 0..2u8, any::<[u8; 2]>()).prop_map(|(a, b, c)| Change::Slice(a, b, c)),
        1 => (0..3u8, 0..2u8).prop_map(|(a, b)| Change::SliceGone(a, b)),
        1 => (0..2u8, any::<bool>()).prop_map(|(a, b)| Change::Node(a, b)),
        1 => (0..2u8).prop_map(Change::NodeGone),
        1 => any::<bool>().prop_map(Change::Namespace),
        1 => (0..2u8).prop_map(Change::Policy),
        1 => Just(Change::PolicyGone),
        2 => Just(Change::Numbers),
        4 => Just(Change::NewNumbers),
        6 => Just(Change::Look),
    ];
    prop::collection::vec(one, 1..60)
}

fn pod(number: u8, address: u8, label: u8, phase: u8) -> Value {
    let mut value = crate::world::pod(&format!("pod{number}"), "0", "0");
    value["metadata"]["uid"] = json!(format!("pod-{number}"));
    value["metadata"]["labels"] = json!({"app": format!("app{label}")});
    value["spec"]["nodeName"] = json!("node0");
    let started = "2026-01-01T00:00:00Z".parse().unwrap();
    value["status"] = running(&format!("10.244.0.{}", 2 + address), started);
    match phase {
        1 => value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        2 => value["status"]["phase"] = json!("Succeeded"),
        _ => {}
    }
    value
}

fn service(number: u8, kind: u8) -> Value {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("svc{number}"), "namespace": "shop", "uid": format!("svc-{number}")},
        "spec": {"clusterIP": format!("10.96.0.{}", 10 + number), "ports": [{"name": "http", "port": 80}]},
    });
    match kind {
        1 => value["spec"]["externalIPs"] = json!(["172.30.0.240"]),
        2 => {
            value["spec"]["type"] = json!("LoadBalancer");
            value["status"] = json!({"loadBalancer": {"ingress": [{"ip": "172.30.0.240"}]},
                "conditions": [{"type": crate::load_balancer::CONDITION, "status": "True", "reason": "Assigned",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        }
        3 => value["spec"]["sessionAffinity"] = json!("ClientIP"),
        _ => {}
    }
    value
}

fn slice(service: u8, number: u8, pods: [u8; 2]) -> Value {
    let endpoint = |pod: u8| {
        let pod = pod % 4;
        json!({"addresses": [format!("10.244.0.{}", 2 + pod)], "nodeName": "node0",
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": format!("pod{pod}")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("svc{service}-{number}"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": format!("svc{service}")}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": pods.map(endpoint)})
}

fn node(number: u8, ready: bool) -> Value {
    let mut node = crate::world::node(&format!("node{number}"), "4", "4Gi");
    node["spec"]["podCIDR"] = json!(format!("10.244.{number}.0/24"));
    node["status"]["conditions"] =
        json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
    node
}

fn policy(label: u8) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "only", "namespace": "shop", "uid": "policy"},
        "spec": {"podSelector": {"matchLabels": {"app": format!("app{label}")}}, "ingress": []}})
}

fn happen(snapshot: &mut Snapshot, change: &Change) {
    let object = match change {
        Change::Pod(number, address, label, phase) => pod(*number, *address, *label, *phase),
        Change::Service(number, kind) => service(*number, *kind),
        Change::Slice(of, number, pods) => slice(*of, *number, *pods),
        Change::Node(number, ready) => node(*number, *ready),
        Change::Namespace(other) => {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop",
            "labels": {"waggle.dev/tenant": if *other { "other" } else { "shop" }}}})
        }
        Change::Policy(label) => policy(*label),
        Change::PodGone(number) => {
            return snapshot.remove("v1", "Pod", "shop", &format!("pod{number}"));
        }
        Change::ServiceGone(number) => {
            return snapshot.remove("v1", "Service", "shop", &format!("svc{number}"));
        }
        Change::SliceGone(of, number) => {
            let name = format!("svc{of}-{number}");
            return snapshot.remove("discovery.k8s.io/v1", "EndpointSlice", "shop", &name);
        }
        Change::NodeGone(number) => {
            return snapshot.remove("v1", "Node", "", &format!("node{number}"));
        }
        Change::PolicyGone => {
            return snapshot.remove("networking.k8s.io/v1", "NetworkPolicy", "shop", "only");
        }
        Change::Numbers | Change::NewNumbers | Change::Look => return,
    };
    snapshot.upsert(&object).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn what_is_followed_is_what_would_be_made_anew(changes in changes()) {
        let mut snapshot = Snapshot::default();
        let mut registry = Arc::new(Registry::default());
        let (mut follower, mut state) = (Follower::default(), NetworkState::default());
        let mut numbered = 0;
        happen(&mut snapshot, &Change::Namespace(false));
        happen(&mut snapshot, &Change::Node(0, true));
        for change in changes.iter().chain([&Change::Numbers, &Change::Look]) {
            happen(&mut snapshot, change);
            match change {
                Change::Numbers => {
                    let mut next = Registry::clone(&registry);
                    next.apply(assign(&registry, &Wanted::of(&snapshot)));
                    registry = Arc::new(next);
                    numbered = snapshot.position();
                }
                Change::NewNumbers => {
                    let touched = snapshot.touched_since(numbered);
                    let Some(touched) = touched else { continue };
                    let stirred = Stirred::by(&touched, &snapshot, &registry);
                    if stirred.all {
                        continue;
                    }
                    let mut next = Registry::clone(&registry);
                    next.apply(add(&registry, &stirred.new));
                    let rest = assign(&next, &Wanted::of(&snapshot));
                    prop_assert!(rest.identities.is_empty() && rest.services.is_empty(), "{rest:?}");
                    registry = Arc::new(next);
                    numbered = snapshot.position();
                }
                Change::Look => {
                    let delta = follower.advance(&state, &snapshot, &registry, &|_| None);
                    state.apply(delta).unwrap();
                    let anew = network_state(&snapshot, &registry, &|_| None, state.generation);
                    prop_assert_eq!(&state, &anew);
                }
                _ => {}
            }
        }
    }
}

/// A change of one Service looks at nothing else: how it is told apart is that nobody looks at the rest again.
#[test]
fn one_service_is_one_service() {
    let mut world = World::new();
    for number in 0..200 {
        let mut value = service(number, 0);
        value["metadata"]["name"] = json!(format!("svc{number}"));
        world.put(value);
        world.put(slice(number, 0, [0, 1]));
    }
    for number in 0..4 {
        world.put(pod(number, number, 0, 0));
    }
    world.put(node(0, true));
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &Wanted::of(&world.snapshot)));
    let registry = Arc::new(registry);
    let asked = std::cell::Cell::new(0);
    let reserved = |_: &Pod| {
        asked.set(asked.get() + 1);
        None
    };
    let (mut follower, mut state) = (Follower::default(), NetworkState::default());
    let delta = follower.advance(&state, &world.snapshot, &registry, &reserved);
    assert_eq!(
        (delta.to, delta.service_upserts.len()),
        (Generation(1), 200)
    );
    state.apply(delta).unwrap();
    let looked = asked.replace(0);
    assert!(looked > 0);
    world.put(slice(7, 0, [2, 3]));
    let delta = follower.advance(&state, &world.snapshot, &registry, &reserved);
    assert_eq!((delta.service_upserts.len(), asked.get()), (1, 0));
    state.apply(delta).unwrap();
    // A pod that ends leaves the services that name it, and no others.
    world.put(pod(2, 2, 0, 1));
    let delta = follower.advance(&state, &world.snapshot, &registry, &reserved);
    assert_eq!((delta.service_upserts.len(), asked.get()), (1, 1));
    state.apply(delta).unwrap();
    // A node that comes or falls silent is no pod's and no service's matter, unless it may announce somebody's address.
    asked.set(0);
    for (number, ready, expect) in [(1, true, 1), (0, false, 0)] {
        world.put(node(number, ready));
        let delta = follower.advance(&state, &world.snapshot, &registry, &reserved);
        assert_eq!((delta.node_upserts.len(), asked.get()), (expect, 0));
        state.apply(delta).unwrap();
    }
    world.snapshot.remove("v1", "Node", "", "node1");
    let delta = follower.advance(&state, &world.snapshot, &registry, &reserved);
    assert_eq!(
        (delta.node_removals, asked.get()),
        (vec!["node1".to_owned()], 0)
    );
}

/// Nor does a pod that is the first of its identity, nor a number that is given up.
#[test]
fn one_new_identity_is_one_pod() {
    let mut world = World::new();
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    world.put(node(0, true));
    for number in 0..100 {
        world.put(pod(number, number, 0, 0));
    }
    let asked = std::cell::Cell::new(0);
    let reserved = |_: &Pod| {
        asked.set(asked.get() + 1);
        None
    };
    let (mut follower, mut state) = (Follower::default(), NetworkState::default());
    let mut registry = Arc::new(Registry::default());
    let mut look = |world: &World, registry: &Arc<Registry>| {
        let delta = follower.advance(&state, &world.snapshot, registry, &reserved);
        state.apply(delta.clone()).unwrap();
        (delta, asked.replace(0))
    };
    let renumbered = |registry: &Registry, changes| {
        let mut next = registry.clone();
        next.apply(changes);
        Arc::new(next)
    };
    look(&world, &registry);
    let changes = assign(&registry, &Wanted::of(&world.snapshot));
    registry = renumbered(&registry, changes);
    look(&world, &registry);

    world.put(pod(100, 100, 1, 0));
    // Looked at before it has a number, and again with it.
    assert_eq!(look(&world, &registry).1, 1);
    let changes = add(&registry, &Wanted::of(&world.snapshot));
    registry = renumbered(&registry, changes);
    let (delta, looked) = look(&world, &registry);
    assert_eq!((delta.identity_upserts.len(), looked), (1, 1));
    assert_eq!(
        delta.endpoint_upserts[0].identity,
        delta.identity_upserts[0].id
    );

    world.snapshot.remove("v1", "Pod", "shop", "pod100");
    look(&world, &registry);
    let changes = assign(&registry, &Wanted::of(&world.snapshot));
    registry = renumbered(&registry, changes);
    let (delta, looked) = look(&world, &registry);
    assert_eq!((delta.identity_removals.len(), looked), (1, 0));
}
