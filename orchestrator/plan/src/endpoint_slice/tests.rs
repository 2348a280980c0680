//! Services and pods, and the slices they make.

use serde_json::{Value, json};

use super::*;
use crate::world::{World, running};

fn service(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"team": "front"}},
        "spec": {
            "selector": {"app": "web"}, "clusterIP": "10.96.0.20",
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    });
    change(&mut value);
    value
}

fn pod(name: &str, address: &str) -> Value {
    let mut value = crate::world::pod(name, "0", "0");
    value["spec"]["nodeName"] = json!("node1");
    value["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    value["status"] = running(address, "2026-01-01T00:00:00Z".parse().unwrap());
    value
}

fn settle(world: &mut World) -> usize {
    world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now))
}

/// (address, ready, serving, terminating) of every endpoint, sorted.
fn rows(world: &World) -> Vec<(String, bool, bool, bool)> {
    let slices = world.all("EndpointSlice");
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let mut rows: Vec<_> = endpoints
        .map(|one| {
            let flag = |name: &str| one["conditions"][name].as_bool().unwrap();
            let address = one["addresses"][0].as_str().unwrap().to_owned();
            (address, flag("ready"), flag("serving"), flag("terminating"))
        })
        .collect();
    rows.sort();
    rows
}

#[test]
fn ready_unready_and_terminating_pods_are_told_apart() {
    let mut world = World::new();
    world.put(service(|_| ()));
    world.put(pod("a", "10.244.0.2"));
    world.put(pod("b", "10.244.0.3"));
    world.put(pod("c", "10.244.0.4"));
    world.put(pod("d", "10.244.0.5"));
    world.edit("Pod", "shop", "b", |pod| {
        pod["status"]["conditions"] = json!([])
    });
    world.delete("Pod", "shop", "c");
    world.edit("Pod", "shop", "d", |pod| {
        pod["status"]["phase"] = json!("Failed")
    });
    let mut stranger = pod("e", "10.244.0.6");
    stranger["metadata"]["labels"]["app"] = json!("other");
    world.put(stranger);
    world.put(crate::world::pod("unbound", "0", "0"));
    settle(&mut world);
    let expect = [
        ("10.244.0.2".to_owned(), true, true, false),
        ("10.244.0.3".to_owned(), false, false, false),
        ("10.244.0.4".to_owned(), false, true, true),
    ];
    assert_eq!(rows(&world), expect);
    let slice = world.all("EndpointSlice")[0];
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
    );
    assert_eq!(slice["metadata"]["labels"][SERVICE_NAME_LABEL], "web");
    assert_eq!(slice["metadata"]["labels"][MANAGED_BY_LABEL], MANAGER);
    assert_eq!(slice["metadata"]["labels"]["team"], "front");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Service");
    let first = slice["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["addresses"][0] == "10.244.0.2")
        .unwrap();
    assert_eq!(
        (&first["nodeName"], &first["targetRef"]["name"]),
        (&json!("node1"), &json!("a"))
    );
}

#[test]
fn publish_not_ready_addresses_publishes_them() {
    let mut world = World::new();
    world.put(service(|one| {
        one["spec"]["publishNotReadyAddresses"] = json!(true)
    }));
    world.put(pod("a", "10.244.0.2"));
    world.edit("Pod", "shop", "a", |pod| {
        pod["status"]["conditions"] = json!([])
    });
    settle(&mut world);
    assert_eq!(
        rows(&world),
        [("10.244.0.2".to_owned(), true, false, false)]
    );
}

#[test]
fn ports_are_resolved_for_each_pod() {
    let mut world = World::new();
    world.put(service(|_| ()));
    world.put(pod("a", "10.244.0.2"));
    let mut other = pod("b", "10.244.0.3");
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
    world.put(other);
    settle(&mut world);
    let mut ports: Vec<i64> = world
        .all("EndpointSlice")
        .iter()
        .map(|slice| slice["ports"][0]["port"].as_i64().unwrap())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
    for (target, expect) in [(json!(8081), json!(8081)), (json!(null), json!(80))] {
        let mut world = World::new();
        world.put(service(|one| {
            one["spec"]["ports"][0]["targetPort"] = target
        }));
        world.put(pod("a", "10.244.0.2"));
        settle(&mut world);
        assert_eq!(world.all("EndpointSlice")[0]["ports"][0]["port"], expect);
    }
}

#[test]
fn a_headless_service_names_hosts() {
    let mut world = World::new();
    world.put(service(|one| one["spec"]["clusterIP"] = json!("None")));
    let mut named = pod("a", "10.244.0.2");
    named["spec"]["hostname"] = json!("alpha");
    named["spec"]["subdomain"] = json!("web");
    world.put(named);
    settle(&mut world);
    let slice = world.all("EndpointSlice")[0];
    assert_eq!(slice["endpoints"][0]["hostname"], "alpha");
    assert_eq!(slice["metadata"]["labels"][slices_label()], "");
}

fn slices_label() -> &'static str {
    "service.kubernetes.io/headless"
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let mut world = World::new();
    world.put(service(|_| ()));
    settle(&mut world);
    assert_eq!(world.all("EndpointSlice").len(), 1);
    world.put(pod("a", "10.244.0.2"));
    settle(&mut world);
    assert_eq!(rows(&world).len(), 1);
    world.remove("Pod", "shop", "a");
    settle(&mut world);
    assert_eq!(
        (world.all("EndpointSlice").len(), rows(&world).len()),
        (1, 0)
    );
}

#[test]
fn services_without_selector_are_left_alone() {
    let mut world = World::new();
    world.put(service(|one| one["spec"]["selector"] = json!(null)));
    let manual = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "manual", "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "web"}},
        "endpoints": [{"addresses": ["172.30.0.1"], "conditions": {"ready": true}}],
    });
    world.put(manual);
    assert_eq!(settle(&mut world), 0);
    let mut world = World::new();
    world.put(service(|_| ()));
    world.put(pod("a", "10.244.0.2"));
    settle(&mut world);
    world.edit("Service", "shop", "web", |one| {
        one["spec"]["selector"] = json!(null)
    });
    let before = rows(&world);
    world.put(pod("b", "10.244.0.3"));
    assert_eq!(settle(&mut world), 0);
    assert_eq!(rows(&world), before, "they are the user's from now on");
}

#[test]
fn what_a_service_says_of_others_is_not_said_of_its_slices() {
    let mut world = World::new();
    world.put(service(|one| {
        one["metadata"]["labels"] = json!({
            "team": "front", SERVICE_NAME_LABEL: "x", MANAGED_BY_LABEL: "y", HEADLESS_LABEL: "",
        });
        one["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    }));
    settle(&mut world);
    let slices = world.all("EndpointSlice");
    let families = slices
        .iter()
        .map(|one| one["addressType"].as_str().unwrap());
    let mut families: Vec<&str> = families.collect();
    families.sort_unstable();
    assert_eq!(families, ["IPv4", "IPv6"], "an empty one of each");
    for slice in slices {
        let labels = json!({"team": "front", SERVICE_NAME_LABEL: "web", MANAGED_BY_LABEL: MANAGER});
        assert_eq!(slice["metadata"]["labels"], labels);
        assert_eq!(slice["metadata"]["generateName"], "web-");
    }
}

#[test]
fn slices_say_since_when_their_pods_are_so() {
    let mut world = World::new();
    world.put(service(|one| {
        one["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z")
    }));
    let said = |world: &World| {
        let all = world.all("EndpointSlice");
        all[0]["metadata"]["annotations"][LAST_CHANGE].clone()
    };
    settle(&mut world);
    assert_eq!(
        said(&world),
        "2026-01-01T00:00:00Z",
        "the Service was made then"
    );
    let mut late = pod("a", "10.244.0.2");
    late["status"] = running("10.244.0.2", "2026-01-01T00:00:07Z".parse().unwrap());
    world.put(late);
    settle(&mut world);
    assert_eq!(said(&world), "2026-01-01T00:00:07Z");
    let mut later = pod("b", "10.244.0.3");
    later["status"] = running("10.244.0.3", "2026-01-01T00:00:09Z".parse().unwrap());
    world.put(later);
    settle(&mut world);
    assert_eq!(said(&world), "2026-01-01T00:00:09Z");
    world.remove("Pod", "shop", "a");
    settle(&mut world);
    assert_eq!(
        said(&world),
        Value::Null,
        "nobody knows since when one is gone"
    );
}

#[test]
fn many_endpoints_are_cut_into_slices_and_one_change_is_one_write() {
    let mut world = World::new();
    world.put(service(|_| ()));
    for index in 0..250 {
        world.put(pod(
            &format!("p{index}"),
            &format!("10.244.{}.{}", index / 200, index % 200 + 2),
        ));
    }
    settle(&mut world);
    let slices = world.all("EndpointSlice");
    assert_eq!(slices.len(), 3);
    assert!(
        slices
            .iter()
            .all(|slice| slice["endpoints"].as_array().unwrap().len() <= 100)
    );
    assert_eq!(rows(&world).len(), 250);
    world.delete("Pod", "shop", "p7");
    let change = plan(&world.snapshot, Scope::EVERYTHING, world.now);
    assert_eq!(change.writes.len(), 1);
    for index in 0..250 {
        if index % 3 != 0 {
            world.remove("Pod", "shop", &format!("p{index}"));
        }
    }
    settle(&mut world);
    assert_eq!(rows(&world).len(), 84);
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let mut world = World::new();
    let mut node = crate::world::node("node1", "4", "4Gi");
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "z1"});
    world.put(node);
    world.put(service(|_| ()));
    world.put(pod("a", "10.244.0.2"));
    world.put(pod("unready", "10.244.0.3"));
    world.edit("Pod", "shop", "unready", |pod| {
        pod["status"]["conditions"] = json!([])
    });
    // On a node that says no zone.
    let mut stray = pod("stray", "10.244.1.2");
    stray["spec"]["nodeName"] = json!("node2");
    world.put(stray);
    let zones = json!([{"name": "z1"}]);
    let nodes = json!([{"name": "node1"}]);
    for (distribution, own, stray) in [
        (Value::Null, Value::Null, Value::Null),
        (
            json!("PreferClose"),
            json!({ "forZones": zones }),
            Value::Null,
        ),
        (
            json!("PreferSameZone"),
            json!({ "forZones": zones }),
            Value::Null,
        ),
        (
            json!("PreferSameNode"),
            json!({ "forZones": zones, "forNodes": nodes }),
            json!({"forNodes": [{"name": "node2"}]}),
        ),
        (Value::Null, Value::Null, Value::Null),
    ] {
        world.edit("Service", "shop", "web", |one| {
            one["spec"]["trafficDistribution"] = distribution.clone();
        });
        settle(&mut world);
        let slice = world.all("EndpointSlice")[0].clone();
        let of = |address: &str| {
            let all = slice["endpoints"].as_array().unwrap();
            let found = all.iter().find(|one| one["addresses"][0] == address);
            found.unwrap().clone()
        };
        assert_eq!(of("10.244.0.2")["hints"], own, "{distribution}");
        assert_eq!(of("10.244.0.2")["zone"], "z1");
        assert_eq!(of("10.244.0.3")["hints"], Value::Null, "{distribution}");
        assert_eq!(of("10.244.1.2")["hints"], stray, "{distribution}");
    }
}
