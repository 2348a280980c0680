//! Objects in, network state out.

use serde_json::{Value, json};
use waggle_model::EXPORT_ANNOTATION;
use waggle_model::network::{
    Export, External, Peers, Policy, PolicyPort, PolicyRule, PortMatch, Scope, Service, Standing,
};

use super::*;
use crate::identity::{Wanted, assign};
use crate::world::{World, running};

fn namespace(name: &str, tenant: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"waggle.dev/tenant": tenant}}})
}

fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("svc-{name}")},
        "spec": {"selector": {"app": "web"}, "clusterIP": address, "ports": [
            {"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "sctp", "port": 99, "protocol": "SCTP"},
        ]},
    })
}

fn pod(name: &str, address: &str) -> Value {
    let mut value = crate::world::pod(name, "0", "0");
    value["metadata"]["uid"] = json!(format!("pod-{name}"));
    value["spec"]["nodeName"] = json!("node1");
    value["status"] = running(address, "2026-01-01T00:00:00Z".parse().unwrap());
    value
}

fn shop() -> World {
    let mut world = World::new();
    world.put(namespace("shop", "shop"));
    world.put(namespace("billing", "billing"));
    let mut node = crate::world::node("node1", "4", "4Gi");
    node["spec"]["podCIDR"] = json!("10.244.0.0/24");
    world.put(node);
    world.put(service("web", "10.96.0.20"));
    world.put(pod("a", "10.244.0.2"));
    world.put(pod("b", "10.244.0.3"));
    slices(&mut world);
    world
}

fn slices(world: &mut World) {
    world.settle(|world| {
        crate::endpoint_slice::plan(&world.snapshot, crate::Scope::EVERYTHING, world.now)
    });
}

fn registry(world: &World) -> Registry {
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &Wanted::of(&world.snapshot)));
    registry
}

fn state(world: &World) -> NetworkState {
    network_state(&world.snapshot, &registry(world), &|_| None, Generation(7))
}

fn backends(world: &World, port: usize) -> Vec<String> {
    let state = state(world);
    let service = state
        .services
        .values()
        .find(|one| one.name == "web")
        .unwrap();
    service.ports[port]
        .usable()
        .map(|one| format!("{}:{}", one.address, one.port))
        .collect()
}

#[test]
fn services_endpoints_and_nodes_are_there() {
    let world = shop();
    let (state, registry) = (state(&world), registry(&world));
    assert_eq!(state.generation, Generation(7));
    let service = &state.services[&registry.service("svc-web").unwrap()];
    assert_eq!(service.tenant, registry.tenant("shop").unwrap());
    assert_eq!(service.vips, [IpAddr::from([10, 96, 0, 20])]);
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port))
        .collect();
    assert_eq!(
        ports,
        [("http", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]
    );
    assert_eq!(backends(&world, 0), ["10.244.0.2:8080", "10.244.0.3:8080"]);
    assert_eq!(backends(&world, 1), ["10.244.0.2:53", "10.244.0.3:53"]);
    let endpoint = &state.endpoints[&IpAddr::from([10, 244, 0, 2])];
    assert_eq!(
        (endpoint.pod.as_str(), endpoint.node.as_str()),
        ("a", "node1")
    );
    assert_eq!(endpoint.tenant, registry.tenant("shop").unwrap());
    assert_eq!(endpoint.identity, registry.identities().next().unwrap().1);
    assert_eq!(
        state.nodes["node1"].pod_cidrs[0].to_string(),
        "10.244.0.0/24"
    );
}

#[test]
fn a_deleted_pod_leaves_before_its_slice_is_rewritten() {
    let mut world = shop();
    world.delete("Pod", "shop", "a");
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    assert!(
        state(&world)
            .endpoints
            .contains_key(&IpAddr::from([10, 244, 0, 2])),
        "it still sends and answers"
    );
    slices(&mut world);
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    world.delete("Pod", "shop", "b");
    assert_eq!(
        backends(&world, 0),
        ["10.244.0.2:8080", "10.244.0.3:8080"],
        "better than nobody"
    );
    world.remove("Pod", "shop", "a");
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    assert_eq!(state(&world).endpoints.len(), 1);
}

#[test]
fn unready_and_ended_pods_and_namesakes_are_no_backends() {
    let mut world = shop();
    world.edit("Pod", "shop", "a", |pod| {
        pod["status"]["phase"] = json!("Failed")
    });
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    assert_eq!(state(&world).endpoints.len(), 1);
    world.remove("Pod", "shop", "b");
    let mut namesake = pod("b", "10.244.0.9");
    namesake["metadata"]["uid"] = json!("another");
    namesake["status"]["conditions"] = json!([]);
    world.put(namesake);
    assert_eq!(backends(&world, 0), Vec::<String>::new());
    slices(&mut world);
    assert_eq!(backends(&world, 0), Vec::<String>::new());
}

#[test]
fn an_unready_pod_is_listed_but_not_used() {
    let mut world = shop();
    world.edit("Pod", "shop", "a", |pod| {
        pod["status"]["conditions"] = json!([])
    });
    slices(&mut world);
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    let state = state(&world);
    let service = state.services.values().find(|one| one.name == "web");
    let standings: Vec<_> = service.unwrap().ports[0]
        .backends
        .iter()
        .map(|one| (one.address.to_string(), one.standing))
        .collect();
    assert_eq!(
        standings,
        [
            ("10.244.0.2".to_owned(), Standing::Unready),
            ("10.244.0.3".to_owned(), Standing::Ready)
        ],
        "its connections are its own"
    );
}

#[test]
fn exports_name_tenants_that_exist() {
    for (text, expect) in [
        (json!(""), Some(vec![])),
        (json!("billing"), Some(vec!["billing"])),
        (json!(" billing , nobody,"), Some(vec!["billing"])),
        (json!("billing,*"), None),
    ] {
        let mut world = shop();
        world.edit("Service", "shop", "web", |one| {
            one["metadata"]["annotations"] = json!({EXPORT_ANNOTATION: text})
        });
        let (state, registry) = (state(&world), registry(&world));
        let expect = expect.map_or(Export::Everyone, |names| {
            Export::To(
                names
                    .iter()
                    .map(|name| registry.tenant(name).unwrap())
                    .collect(),
            )
        });
        assert_eq!(
            state.services.values().next().unwrap().export,
            expect,
            "{text}"
        );
    }
}

#[test]
fn host_network_pods_have_no_endpoint_and_reserved_addresses_do() {
    let mut world = shop();
    world.edit("Pod", "shop", "a", |pod| {
        pod["spec"]["hostNetwork"] = json!(true)
    });
    let mut early = crate::world::pod("early", "0", "0");
    early["metadata"]["uid"] = json!("pod-early");
    early["spec"]["nodeName"] = json!("node1");
    world.put(early);
    let address = IpAddr::from([10, 244, 0, 77]);
    let reserved = |pod: &Pod| {
        let early = pod.metadata.uid.as_deref() == Some("pod-early");
        early.then(|| PerFamily::single(address))
    };
    let state = network_state(&world.snapshot, &registry(&world), &reserved, Generation(1));
    let names: Vec<&str> = state
        .endpoints
        .values()
        .map(|one| one.pod.as_str())
        .collect();
    assert_eq!(names, ["b", "early"]);
    assert_eq!(state.endpoints[&address].namespace, "shop");
}

#[test]
fn a_headless_service_has_backends_without_ports_too() {
    let mut world = shop();
    world.edit("Service", "shop", "web", |one| {
        one["spec"]["clusterIP"] = json!("None");
        one["spec"]["ports"] = json!([]);
    });
    slices(&mut world);
    let state = state(&world);
    let service = state.services.values().next().unwrap();
    assert!(service.vips.is_empty());
    assert_eq!(backends(&world, 0), ["10.244.0.2:0", "10.244.0.3:0"]);
}

#[test]
fn the_cluster_api_belongs_to_the_system_and_has_a_hand_made_slice() {
    let mut world = shop();
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    world.put(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "uid": "svc-api"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}}));
    world.put(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "endpoints": [{"addresses": ["172.30.0.1"]}], "ports": [{"name": "https", "port": 6443}]}));
    let (state, registry) = (state(&world), registry(&world));
    let service = &state.services[&registry.service("svc-api").unwrap()];
    assert_eq!(service.tenant, TenantId::SYSTEM);
    assert_eq!(service.ports[0].backends[0].port, 6443);
}

/// The only Service, with `spec` over its own.
fn service_with(world: &mut World, spec: Value) -> Service {
    world.edit("Service", "shop", "web", |one| {
        for (key, value) in spec.as_object().into_iter().flatten() {
            one["spec"][key] = value.clone();
        }
    });
    slices(world);
    let state = state(world);
    let service = state.services.values().find(|one| one.name == "web");
    service.unwrap().clone()
}

#[test]
fn an_alias_has_its_name_and_nothing_else() {
    let spec = json!({"type": "ExternalName", "externalName": "DB.example.com."});
    let service = service_with(&mut shop(), spec);
    assert_eq!(service.external_name, "db.example.com");
    assert!(service.vips.is_empty() && service.ports.is_empty());
}

#[test]
fn rules_of_choosing_are_carried() {
    let mut world = shop();
    let plain = service_with(&mut world, json!({}));
    assert_eq!(plain.affinity_seconds, None);
    assert_eq!(plain.internal_scope, Scope::Cluster);
    let service = service_with(
        &mut world,
        json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
            "loadBalancerSourceRanges": [" 192.0.2.7/24", "2001:db8::/32"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
    );
    assert_eq!(service.affinity_seconds, Some(10_800));
    assert_eq!(service.internal_scope, Scope::Local);
    assert_eq!(service.external_scope, Scope::Local);
    assert_eq!(service.health_check_port, Some(30_999));
    assert_eq!(service.ports[0].node_port, Some(30_080));
    let ranges: Vec<String> = service
        .source_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ranges, ["192.0.2.0/24", "2001:db8::/32"]);
    assert!(!service.direct_return);
    world.edit("Service", "shop", "web", |one| {
        one["metadata"]["annotations"] = json!({"waggle.dev/direct-return": "true"});
        one["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 60}});
    });
    let service = service_with(&mut world, json!({"type": "NodePort"}));
    assert!(service.direct_return);
    assert_eq!(service.affinity_seconds, Some(60));
    // A NodePort Service has neither.
    assert_eq!(service.health_check_port, None);
    assert!(service.source_ranges.is_empty());
}

fn ready_node(name: &str, address: &str, range: &str) -> Value {
    let mut node = crate::world::node(name, "4", "4Gi");
    node["spec"]["podCIDR"] = json!(range);
    node["status"]["addresses"] = json!([{"type": "InternalIP", "address": address}]);
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    node
}

#[test]
fn one_ready_node_announces_a_load_balancers_address() {
    let mut world = shop();
    world.put(ready_node("node1", "172.30.0.11", "10.244.0.0/24"));
    world.put(ready_node("node2", "172.30.0.12", "10.244.1.0/24"));
    let pool = "172.30.0.220-172.30.0.229".parse().unwrap();
    let balance = |world: &mut World| {
        world.settle(|world| crate::load_balancer::plan(&world.snapshot, Some(&pool), world.now))
    };
    service_with(
        &mut world,
        json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.7"]}),
    );
    balance(&mut world);
    let found = service_with(&mut world, json!({})).external;
    let row = |text: &str, node: &str| External {
        address: text.parse().unwrap(),
        announced_by: node.to_owned(),
    };
    let node = found[0].announced_by.clone();
    assert!(node.starts_with("node"), "{found:?}");
    assert_eq!(found, [row("172.30.0.220", &node), row("198.51.100.7", "")]);
    // Its node goes away: the other one takes over, and nobody when there is none.
    let other = if node == "node1" { "node2" } else { "node1" };
    let unready = |one: &mut Value| one["status"]["conditions"][0]["status"] = json!("Unknown");
    world.edit("Node", "", &node, unready);
    assert_eq!(
        service_with(&mut world, json!({})).external[0].announced_by,
        other
    );
    world.edit("Node", "", other, unready);
    assert_eq!(
        service_with(&mut world, json!({})).external[0].announced_by,
        ""
    );
    for name in ["node1", "node2"] {
        world.edit("Node", "", name, |one| {
            one["status"]["conditions"][0]["status"] = json!("True");
        });
    }
    // Local: where the backends are.
    let local = json!({"externalTrafficPolicy": "Local"});
    for node in ["node1", "node2"] {
        for pod in ["a", "b"] {
            world.edit("Pod", "shop", pod, |one| {
                one["spec"]["nodeName"] = json!(node)
            });
        }
        let service = service_with(&mut world, local.clone());
        assert_eq!(service.external[0].announced_by, node);
    }
    // Nobody gets it by naming it.
    let mut thief = self::service("thief", "10.96.0.21");
    thief["spec"]["externalIPs"] = json!(["172.30.0.220", "198.51.100.8"]);
    world.put(thief);
    let all = state(&world);
    let thief = all.services.values().find(|one| one.name == "thief");
    assert_eq!(thief.unwrap().external, [row("198.51.100.8", "")]);
    // Another type has no such address, before its status is written too.
    let service = service_with(&mut world, json!({"type": "NodePort"}));
    assert_eq!(service.external, [row("198.51.100.7", "")]);
}

#[test]
fn addresses_of_another_load_balancer_are_served_and_not_announced() {
    let mut world = shop();
    world.put(ready_node("node1", "172.30.0.11", "10.244.0.0/24"));
    world.edit("Service", "shop", "web", |one| {
        one["status"] = json!({"loadBalancer": {"ingress": [
            {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "lb.example.com"}]}});
    });
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"});
    let found = service_with(&mut world, spec).external;
    let expect = External {
        address: "203.0.113.1".parse().unwrap(),
        announced_by: String::new(),
    };
    assert_eq!(found, [expect]);
}

#[test]
fn unready_pods_serve_where_they_are_published() {
    let mut world = shop();
    world.edit("Pod", "shop", "a", |pod| {
        pod["status"]["conditions"] = json!([])
    });
    service_with(&mut world, json!({}));
    assert_eq!(backends(&world, 0), ["10.244.0.3:8080"]);
    service_with(&mut world, json!({"publishNotReadyAddresses": true}));
    assert_eq!(backends(&world, 0), ["10.244.0.2:8080", "10.244.0.3:8080"]);
}

fn policy(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("policy-{name}")}, "spec": spec})
}

/// Pods a (app=web) and b (app=db, port http) of namespace shop, c (app=web) of namespace billing of another tenant.
fn governed(spec: Value) -> (Policy, BTreeMap<&'static str, IdentityId>) {
    let mut world = shop();
    let edit = |world: &mut World, name: &str, app: &str| {
        world.edit("Pod", "shop", name, |pod| {
            pod["metadata"]["labels"] = json!({"app": app})
        });
    };
    edit(&mut world, "a", "web");
    edit(&mut world, "b", "db");
    world.edit("Namespace", "", "billing", |namespace| {
        namespace["metadata"]["labels"]["team"] = json!("money")
    });
    let mut far = pod("c", "10.244.0.4");
    far["metadata"]["namespace"] = json!("billing");
    far["metadata"]["labels"] = json!({"app": "web"});
    world.put(far);
    world.put(policy("p", spec));
    let state = state(&world);
    let identity = |last: u8| state.endpoints[&IpAddr::from([10, 244, 0, last])].identity;
    let names = [("a", identity(2)), ("b", identity(3)), ("c", identity(4))].into();
    assert!(state.identities.len() == 3);
    (state.policies.into_values().next().unwrap(), names)
}

fn only_rule(spec: Value) -> (PolicyRule, BTreeMap<&'static str, IdentityId>) {
    let (policy, names) = governed(spec);
    (policy.ingress.unwrap().remove(0), names)
}

fn from(peers: Value) -> Value {
    json!({"podSelector": {}, "ingress": [{"from": peers}]})
}

#[test]
fn a_policy_governs_the_pods_that_it_selects_in_its_namespace() {
    let (policy, names) = governed(json!({"podSelector": {"matchLabels": {"app": "web"}}}));
    assert_eq!(
        (policy.namespace.as_str(), policy.name.as_str()),
        ("shop", "p")
    );
    assert_eq!(policy.subjects, [names["a"]].into());
    assert_eq!(policy.ingress, Some(vec![]), "nothing may come in");
    assert_eq!(policy.egress, None);
    let (policy, names) = governed(json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert_eq!(policy.subjects, [names["a"], names["b"]].into());
    assert_eq!((policy.ingress, policy.egress), (None, Some(vec![])));
    let (policy, _) = governed(json!({"podSelector": {}, "egress": [{}]}));
    let all = PolicyRule {
        peers: Peers::Everyone,
        ports: vec![],
    };
    assert_eq!(
        (policy.ingress, policy.egress),
        (Some(vec![]), Some(vec![all]))
    );
}

#[test]
fn peers_are_pods_here_or_pods_of_namespaces_or_both_or_ranges() {
    let web = json!({"matchLabels": {"app": "web"}});
    let money = json!({"matchLabels": {"team": "money"}});
    for (peers, expect) in [
        (json!([{"podSelector": web}]), vec!["a"]),
        (json!([{"podSelector": {}}]), vec!["a", "b"]),
        (json!([{"namespaceSelector": money}]), vec!["c"]),
        (json!([{"namespaceSelector": {}}]), vec!["a", "b", "c"]),
        (
            json!([{"namespaceSelector": {}, "podSelector": web}]),
            vec!["a", "c"],
        ),
        (
            json!([{"namespaceSelector": money}, {"podSelector": web}]),
            vec!["a", "c"],
        ),
        (
            json!([{"podSelector": {"matchLabels": {"app": "none"}}}]),
            vec![],
        ),
    ] {
        let (rule, names) = only_rule(from(peers.clone()));
        let expect = Peers::Of {
            identities: expect.iter().map(|name| names[name]).collect(),
            blocks: vec![],
        };
        assert_eq!(rule.peers, expect, "{peers}");
    }
    let block = json!({"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]});
    let (rule, _) = only_rule(from(json!([{"ipBlock": block}])));
    let Peers::Of { identities, blocks } = rule.peers else {
        panic!("a range is not everyone");
    };
    assert!(identities.is_empty());
    assert_eq!(blocks[0].range.to_string(), "10.0.0.0/8");
    assert_eq!(blocks[0].except[0].to_string(), "10.1.0.0/16");
    assert_eq!(only_rule(from(json!([]))).0.peers, Peers::Everyone);
}

#[test]
fn ports_are_numbers_ranges_names_or_a_whole_transport() {
    let ports = json!([{"port": 80}, {"port": 1000, "endPort": 2000, "protocol": "UDP"}, {"port": "http"}, {"protocol": "SCTP"}]);
    let (rule, _) = only_rule(json!({"podSelector": {}, "ingress": [{"ports": ports}]}));
    let port = |protocol, port| PolicyPort { protocol, port };
    assert_eq!(
        rule.ports,
        [
            port(Protocol::Tcp, PortMatch::Range(80, 80)),
            port(Protocol::Udp, PortMatch::Range(1000, 2000)),
            port(Protocol::Tcp, PortMatch::Named("http".to_owned())),
            port(Protocol::Sctp, PortMatch::Every),
        ]
    );
    let (policy, _) = governed(json!({"podSelector": {}, "ingress": [{"ports": [{"port": 0}]}]}));
    assert_eq!(
        policy.ingress,
        Some(vec![]),
        "a port that can't be means nothing, not all"
    );
}
