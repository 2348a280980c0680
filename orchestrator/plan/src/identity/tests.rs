//! Numbers: unique, stable, migrated.

use super::*;
use crate::world::{World, pod};
use proptest::prelude::*;
use serde_json::{Value, json};
use waggle_model::network::{NamedPort, Protocol};

fn key(tenant: &str, namespace: &str) -> IdentityKey {
    IdentityKey {
        tenant: tenant.to_owned(),
        namespace: namespace.to_owned(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        ports: vec![NamedPort {
            name: "http".to_owned(),
            protocol: Protocol::Udp,
            port: 80,
        }],
    }
}

fn wanted(names: &BTreeSet<u8>) -> Wanted {
    let text = |number: &u8| format!("n{number}");
    Wanted {
        tenants: names
            .iter()
            .map(|n| format!("t{}", n % 4))
            .chain([SYSTEM_TENANT.to_owned()])
            .collect(),
        identities: names
            .iter()
            .map(|n| key(&format!("t{}", n % 4), &text(n)))
            .collect(),
        services: names.iter().map(text).collect(),
        policies: names.iter().map(text).collect(),
    }
}

#[test]
fn the_system_and_the_host_have_their_own_numbers() {
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &wanted(&[1, 2].into())));
    assert_eq!(registry.tenant(SYSTEM_TENANT), Some(TenantId::SYSTEM));
    assert!(
        registry
            .tenant("t1")
            .is_some_and(|id| id.0 > TenantId::SYSTEM.0)
    );
    assert!(
        registry
            .identity(&key("t1", "n1"))
            .is_some_and(|id| id.0 > IdentityId::HOST.0)
    );
    assert!(registry.service("n1").is_some_and(|id| id.0 > 0));
    let text = serde_json::to_string(&registry).unwrap();
    assert_eq!(serde_json::from_str::<Registry>(&text).unwrap(), registry);
}

#[test]
fn a_registry_is_its_parts_and_a_change_is_in_few_of_them() {
    let numbers = |count: u32| Wanted {
        services: (0..count).map(|number| format!("s{number:05}")).collect(),
        ..wanted(&(0..90).collect())
    };
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &numbers(3000)));
    let together = |registry: &Registry| {
        let mut found = Registry::default();
        for part in registry.parts() {
            let text = serde_json::to_string(&registry.part(part)).unwrap();
            found.add(serde_json::from_str(&text).unwrap());
        }
        found
    };
    assert_eq!(together(&registry), registry);
    let changes = assign(&registry, &numbers(3001));
    let parts: Vec<_> = registry.changed_parts(&changes).into_iter().collect();
    assert_eq!(parts, [Part::Services(2), Part::Rest]);
    registry.apply(changes);
    let changes = assign(&registry, &numbers(1));
    let parts: Vec<_> = registry.changed_parts(&changes).into_iter().collect();
    let runs = [0, 1, 2].map(Part::Services);
    assert_eq!(parts, [&runs[..], &[Part::Rest]].concat());
    registry.apply(changes);
    assert_eq!(
        registry.part(Part::Services(1)),
        Registry {
            tenants: BTreeMap::new(),
            ..Registry::default()
        }
    );
    assert_eq!(together(&registry), registry);
}

#[test]
fn a_number_that_was_given_back_is_not_the_next() {
    let mut registry = Registry::default();
    registry.apply(assign(&registry, &wanted(&[1].into())));
    let first = registry.service("n1").unwrap();
    registry.apply(assign(&registry, &wanted(&[].into())));
    assert_eq!(registry.service("n1"), None);
    registry.apply(assign(&registry, &wanted(&[2].into())));
    assert_ne!(registry.service("n2"), Some(first));
}

#[test]
fn numbers_go_around_without_touching_the_reserved_or_used() {
    let mut numbers = Numbers::new([u32::MAX, 2].into_iter(), u32::MAX, 1);
    assert_eq!((numbers.take(), numbers.take()), (3, 4));
}

proptest! {
    #[test]
    fn numbers_are_unique_and_stable(rounds in proptest::collection::vec(proptest::collection::btree_set(0u8..20, 0..10), 1..8)) {
        let mut registry = Registry::default();
        for names in rounds {
            let before = registry.clone();
            let wanted = wanted(&names);
            registry.apply(assign(&registry, &wanted));
            prop_assert!(assign(&registry, &wanted).is_empty());
            prop_assert_eq!(registry.tenants.keys().cloned().collect::<BTreeSet<_>>(), wanted.tenants.clone());
            prop_assert_eq!(registry.services.keys().cloned().collect::<BTreeSet<_>>(), wanted.services.clone());
            for (uid, id) in &registry.services {
                prop_assert!(before.service(uid).is_none_or(|old| old == *id));
            }
            let numbers: BTreeSet<_> = registry.services.values().collect();
            prop_assert_eq!(numbers.len(), registry.services.len());
            let rows: Vec<_> = registry.identities.values().collect();
            prop_assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
        }
    }
}

#[test]
fn a_record_of_the_older_form_is_read_and_its_numbers_are_not_given_again() {
    let text = r#"{"tenants": {"system": 1, "shop": 2}, "identities": {"shop": {"front": 2, "back": 3}},
        "services": {"uid": 4}, "next_tenant": 3, "next_identity": 4, "next_service": 5}"#;
    let mut registry: Registry = serde_json::from_str(text).unwrap();
    let old = IdentityKey {
        tenant: "shop".to_owned(),
        namespace: "front".to_owned(),
        ..IdentityKey::default()
    };
    assert_eq!(registry.identity(&old), Some(IdentityId(2)));
    assert_eq!(registry.service("uid"), Some(ServiceId(4)));
    let next = Wanted {
        tenants: ["system".to_owned(), "shop".to_owned()].into(),
        identities: [key("shop", "front")].into(),
        services: ["uid".to_owned()].into(),
        policies: ["one".to_owned()].into(),
    };
    registry.apply(assign(&registry, &next));
    assert_eq!(
        registry.identity(&key("shop", "front")),
        Some(IdentityId(4))
    );
    assert_eq!(registry.identity(&old), None);
    assert_eq!(registry.policy("one"), Some(PolicyId(1)));
}

fn labelled(name: &str, labels: Value) -> Value {
    let mut value = pod(name, "0", "0");
    value["metadata"]["uid"] = json!(format!("pod-{name}"));
    value["metadata"]["labels"] = labels;
    value
}

fn keys(world: &World) -> Vec<IdentityKey> {
    Wanted::of(&world.snapshot).identities.into_iter().collect()
}

#[test]
fn pods_of_two_revisions_share_an_identity_unless_a_policy_tells_them_apart() {
    let mut world = World::new();
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    world.put(labelled(
        "a",
        json!({"app": "web", "pod-template-hash": "1"}),
    ));
    world.put(labelled(
        "b",
        json!({"app": "web", "pod-template-hash": "2"}),
    ));
    let before = keys(&world);
    assert_eq!(before.len(), 1);
    assert_eq!(
        before[0].labels,
        [("app".to_owned(), "web".to_owned())].into()
    );
    let policy = |spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "shop", "uid": "p"}, "spec": spec})
    };
    world.put(policy(
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
    ));
    assert_eq!(keys(&world), before, "a policy renumbers nobody");
    let peer = json!({"podSelector": {"matchExpressions": [{"key": "pod-template-hash", "operator": "Exists"}]}});
    world.put(policy(
        json!({"podSelector": {}, "egress": [{"to": [peer]}]}),
    ));
    assert_eq!(keys(&world).len(), 2);
}

#[test]
fn named_ports_of_containers_and_sidecars_make_an_identity_and_the_hosts_pods_have_none() {
    let mut world = World::new();
    let mut web = labelled("web", json!({}));
    web["spec"]["containers"][0]["ports"] = json!([
        {"name": "http", "containerPort": 8080}, {"containerPort": 1},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
    ]);
    web["spec"]["initContainers"] = json!([
        {"name": "side", "restartPolicy": "Always", "ports": [{"name": "metrics", "containerPort": 9}]},
        {"name": "once", "ports": [{"name": "no", "containerPort": 10}]},
    ]);
    world.put(web);
    let mut host = labelled("host", json!({"x": "y"}));
    host["spec"]["hostNetwork"] = json!(true);
    world.put(host);
    let keys = keys(&world);
    assert_eq!(keys.len(), 1);
    let ports: Vec<_> = keys[0]
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port))
        .collect();
    assert_eq!(
        ports,
        [
            ("dns", Protocol::Udp, 53),
            ("http", Protocol::Tcp, 8080),
            ("metrics", Protocol::Tcp, 9),
        ]
    );
}
