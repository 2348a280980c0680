//! Services and a pool, and the addresses that they come to.

use serde_json::{Value, json};

use super::*;
use crate::world::World;

fn service(name: &str, spec: Value) -> Value {
    let mut value = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ports": [{"port": 80}]}});
    for (key, one) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = one.clone();
    }
    value
}

fn settle(world: &mut World, pool: Option<&str>) -> usize {
    let pool = pool.map(|text| text.parse::<AddressPool>().unwrap());
    world.settle(|world| plan(&world.snapshot, pool.as_ref(), world.now))
}

/// Addresses, and reason of the condition.
fn shown(world: &World, name: &str) -> (Vec<String>, String) {
    let status = &world.get("Service", "shop", name).unwrap()["status"];
    let rows = status["loadBalancer"]["ingress"].as_array().cloned();
    let rows = rows.unwrap_or_default();
    let address = |row: &Value| row["ip"].as_str().unwrap_or_default().to_owned();
    let reason = status["conditions"][0]["reason"].as_str();
    (
        rows.iter().map(address).collect(),
        reason.unwrap_or_default().to_owned(),
    )
}

fn has(addresses: &[&str], reason: &str) -> (Vec<String>, String) {
    let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    (addresses, reason.to_owned())
}

const POOL: &str = "192.0.2.1-192.0.2.3,2001:db8::1-2001:db8::2";

#[test]
fn addresses_are_given_kept_and_taken_back() {
    let mut world = World::new();
    world.put(service("a", json!({})));
    world.put(service("b", json!({"loadBalancerIP": "192.0.2.3"})));
    world.put(service("both", json!({"ipFamilies": ["IPv6", "IPv4"]})));
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "a"), has(&["192.0.2.1"], "Assigned"));
    assert_eq!(shown(&world, "b"), has(&["192.0.2.3"], "Assigned"));
    assert_eq!(
        shown(&world, "both"),
        has(&["2001:db8::1", "192.0.2.2"], "Assigned")
    );
    let ingress = &world.get("Service", "shop", "a").unwrap()["status"]["loadBalancer"]["ingress"];
    assert_eq!(*ingress, json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
    // Another one has to wait, and gets what becomes free.
    world.put(service("late", json!({})));
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "late"), has(&[], "PoolExhausted"));
    world.edit("Service", "shop", "a", |one| {
        one["spec"]["type"] = json!("NodePort")
    });
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "a"), has(&[], ""));
    assert_eq!(shown(&world, "late"), has(&["192.0.2.1"], "Assigned"));
    world.remove("Service", "shop", "late");
    world.put(service("new", json!({})));
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "new"), has(&["192.0.2.1"], "Assigned"));
    assert_eq!(shown(&world, "b"), has(&["192.0.2.3"], "Assigned"));
}

#[test]
fn wishes_are_met_or_the_reason_is_told() {
    let mut world = World::new();
    world.put(service("a", json!({"loadBalancerIP": "192.0.2.2"})));
    settle(&mut world, Some(POOL));
    world.put(service("thief", json!({"loadBalancerIP": "192.0.2.2"})));
    world.put(service(
        "outside",
        json!({"loadBalancerIP": "198.51.100.1"}),
    ));
    let mut asks = service("asks", json!({"ipFamilies": ["IPv4", "IPv6"]}));
    asks["metadata"]["annotations"] =
        json!({LOAD_BALANCER_IPS_ANNOTATION: "192.0.2.3, 2001:db8::2"});
    world.put(asks);
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "a"), has(&["192.0.2.2"], "Assigned"));
    assert_eq!(shown(&world, "thief"), has(&[], "AddressTaken"));
    assert_eq!(shown(&world, "outside"), has(&[], "NotInPool"));
    assert_eq!(
        shown(&world, "asks"),
        has(&["192.0.2.3", "2001:db8::2"], "Assigned")
    );
    // A wish that changes moves the Service.
    world.edit("Service", "shop", "a", |one| {
        one["spec"]["loadBalancerIP"] = json!("192.0.2.1");
    });
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "a"), has(&["192.0.2.1"], "Assigned"));
    assert_eq!(shown(&world, "thief"), has(&["192.0.2.2"], "Assigned"));
}

#[test]
fn a_wish_of_a_family_that_the_service_lacks_is_told() {
    let mut world = World::new();
    world.put(service("stray", json!({"loadBalancerIP": "2001:db8::2"})));
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "stray"), has(&["192.0.2.1"], "NoFamily"));
}

#[test]
fn what_two_have_is_the_older_ones() {
    let mut world = World::new();
    for (name, created) in [
        ("young", "2026-01-02T00:00:00Z"),
        ("old", "2026-01-01T00:00:00Z"),
    ] {
        let mut one = service(name, json!({}));
        one["metadata"]["creationTimestamp"] = json!(created);
        one["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ipMode": "VIP"}]},
            "conditions": [{"type": CONDITION, "status": "True", "reason": "Assigned", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        world.put(one);
    }
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "old"), has(&["192.0.2.2"], "Assigned"));
    assert_eq!(shown(&world, "young"), has(&["192.0.2.1"], "Assigned"));
}

#[test]
fn addresses_of_nodes_are_not_given_and_nobody_takes_the_pool_by_naming_it() {
    let mut world = World::new();
    let mut node = crate::world::node("node1", "4", "4Gi");
    node["status"]["addresses"] = json!([{"type": "InternalIP", "address": "192.0.2.1"}]);
    world.put(node);
    let named = json!(["192.0.2.2", "192.0.2.3"]);
    world.put(service(
        "external",
        json!({"type": "ClusterIP", "externalIPs": named}),
    ));
    world.put(service("a", json!({})));
    settle(&mut world, Some(POOL));
    assert_eq!(shown(&world, "a"), has(&["192.0.2.2"], "Assigned"));
}

#[test]
fn without_a_pool_a_service_waits_and_is_told_what_to_configure() {
    let mut world = World::new();
    world.put(service("a", json!({})));
    let told = plan(&world.snapshot, None, world.now);
    assert_eq!(told.events.len(), 1);
    assert!(told.events[0].warning && told.events[0].message.contains("--load-balancer-pool"));
    settle(&mut world, None);
    assert_eq!(shown(&world, "a"), has(&[], "NoPool"));
    // Another controller serves it then: neither its address nor its status is ours.
    world.edit("Service", "shop", "a", |one| {
        one["status"]["loadBalancer"]["ingress"] = json!([{"ip": "203.0.113.1"}]);
    });
    settle(&mut world, None);
    assert_eq!(shown(&world, "a"), has(&["203.0.113.1"], ""));
    // What came of a pool goes with it.
    world.put(service("b", json!({})));
    settle(&mut world, Some("192.0.2.9-192.0.2.20"));
    assert_eq!(shown(&world, "b").1, "Assigned");
    settle(&mut world, None);
    assert_eq!(shown(&world, "b"), has(&[], "NoPool"));
}

#[test]
fn other_classes_and_families_that_the_pool_lacks() {
    let mut world = World::new();
    let mut other = service("other", json!({"loadBalancerClass": "example.com/lb"}));
    other["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}});
    world.put(other.clone());
    world.put(service(
        "prefers",
        json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
    ));
    world.put(service(
        "requires",
        json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
    ));
    world.put(service(
        "named",
        json!({"loadBalancerClass": LOAD_BALANCER_CLASS}),
    ));
    world.put(service("six", json!({"ipFamilies": ["IPv6"]})));
    settle(&mut world, Some("192.0.2.1-192.0.2.9"));
    let status = &world.get("Service", "shop", "other").unwrap()["status"];
    assert_eq!(*status, other["status"]);
    assert_eq!(shown(&world, "named").1, "Assigned");
    assert_eq!(shown(&world, "prefers").1, "Assigned");
    assert_eq!(shown(&world, "prefers").0.len(), 1);
    assert_eq!(shown(&world, "requires").1, "PoolExhausted");
    assert_eq!(shown(&world, "six"), has(&[], "PoolExhausted"));
}
