//! Questions and the lines that answer them.

use std::collections::BTreeSet;

use waggle_model::network::{
    Backend, Identity, NodeNetwork, Peers, PolicyPort, PolicyRule, PortMatch, Protocol, Service,
    ServicePort,
};
use waggle_model::{PolicyId, ServiceId};

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// shop/web and shop/cart of tenant 2 on node1, bill/pay of tenant 3 on node2.
fn state() -> NetworkState {
    let mut state = NetworkState::default();
    for (name, address, range) in [
        ("node1", "172.30.0.11", "10.244.1.0/24"),
        ("node2", "172.30.0.12", "10.244.2.0/24"),
    ] {
        let node = NodeNetwork {
            name: name.to_owned(),
            addresses: vec![ip(address)],
            pod_cidrs: vec![range.parse().unwrap()],
            zone: String::new(),
        };
        state.nodes.insert(name.to_owned(), node);
    }
    for (id, namespace, pod, address, tenant, node) in [
        (10, "shop", "web", "10.244.1.2", 2, "node1"),
        (11, "shop", "cart", "10.244.1.3", 2, "node1"),
        (12, "bill", "pay", "10.244.2.2", 3, "node2"),
    ] {
        let identity = Identity {
            id: IdentityId(id),
            tenant: TenantId(tenant),
            namespace: namespace.to_owned(),
            ..Identity::default()
        };
        state.identities.insert(identity.id, identity);
        let endpoint = Endpoint {
            address: ip(address),
            identity: IdentityId(id),
            tenant: TenantId(tenant),
            node: node.to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            host_ports: vec![],
        };
        state.endpoints.insert(endpoint.address, endpoint);
    }
    state
}

fn govern(state: &mut NetworkState) {
    let rule = |ids: &[u32], port: u16| PolicyRule {
        peers: Peers::Of {
            identities: ids.iter().map(|id| IdentityId(*id)).collect(),
            blocks: vec![],
        },
        ports: vec![PolicyPort {
            protocol: Protocol::Tcp,
            port: PortMatch::Range(port, port),
        }],
    };
    let policy = |id: u32, name: &str, rules: Vec<PolicyRule>| Policy {
        id: PolicyId(id),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        subjects: [IdentityId(10)].into(),
        ingress: Some(rules),
        egress: None,
    };
    for policy in [
        policy(1, "deny-all", vec![]),
        policy(2, "web-in", vec![rule(&[12], 443), rule(&[11], 80)]),
    ] {
        state.policies.insert(policy.id, policy);
    }
}

fn export(state: &mut NetworkState) {
    let service = Service {
        id: ServiceId(1),
        namespace: "shop".to_owned(),
        name: "front".to_owned(),
        tenant: TenantId(2),
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 443,
            backends: vec![Backend::at(ip("10.244.1.2"), 443)],
            ..ServicePort::default()
        }],
        export: Export::To(BTreeSet::from([TenantId(3)])),
        ..Service::default()
    };
    state.services.insert(service.id, service);
}

fn check(state: &NetworkState, from: &str, to: &str, port: u16, allowed: bool, last: &str) {
    let question = Question {
        from: ip(from),
        to: ip(to),
        protocol: 6,
        port,
    };
    let answer = why(state, &question);
    assert_eq!(answer.allowed, allowed, "{from} -> {to}:{port}");
    let text = answer.steps.last().unwrap().to_string();
    assert!(text.contains(last), "{from} -> {to}:{port}: {text}");
}

const WEB: &str = "10.244.1.2";
const CART: &str = "10.244.1.3";
const PAY: &str = "10.244.2.2";

#[test]
fn the_deciding_rule_has_a_name() {
    let mut state = state();
    check(
        &state,
        CART,
        WEB,
        80,
        true,
        "no NetworkPolicy governs the ingress of shop/web",
    );
    check(&state, PAY, WEB, 443, false, "tenants 3 and 2 are separate");
    govern(&mut state);
    check(
        &state,
        CART,
        WEB,
        80,
        true,
        "allowed by NetworkPolicy shop/web-in, ingress rule 2",
    );
    check(
        &state,
        CART,
        WEB,
        81,
        false,
        "governed by shop/deny-all, shop/web-in",
    );
    check(&state, "192.0.2.1", WEB, 80, false, "no rule allows it");
    check(&state, "172.30.0.11", WEB, 80, true, "its own node (node1)");
    check(&state, WEB, "172.30.0.11", 53, true, "its own node (node1)");
    check(&state, "172.30.0.12", WEB, 80, false, "no rule allows it");
    check(&state, CART, "10.244.1.77", 80, false, "no pod has it");
    check(&state, PAY, WEB, 443, false, "are separate");
    export(&mut state);
    check(&state, PAY, WEB, 443, true, "shop/web-in, ingress rule 1");
    check(&state, PAY, WEB, 80, false, "are separate");
}
