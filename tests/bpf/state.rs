//! Network states in a few words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use waggle_model::network::{
    Backend, Endpoint, Export, Identity, NetworkState, NodeNetwork, Peers, Policy, PolicyPort,
    PolicyRule, PortMatch, Protocol, Service, ServicePort,
};
use waggle_model::{Generation, IdentityId, PolicyId, ServiceId, TenantId};

pub(crate) const HOST: &str = "172.30.0.11";
pub(crate) const OTHER_HOST: &str = "172.30.0.12";
pub(crate) const SHOP: u32 = 2;
pub(crate) const BILLING: u32 = 3;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Two nodes, no pods, no services.
pub(crate) fn nodes() -> NetworkState {
    let node = |name: &str, address: &str, cidr: &str| NodeNetwork {
        name: name.into(),
        addresses: vec![ip(address)],
        pod_cidrs: vec![cidr.parse().expect("a range")],
        zone: String::new(),
    };
    let nodes = [
        node("node1", HOST, "10.244.1.0/24"),
        node("node2", OTHER_HOST, "10.244.2.0/24"),
    ];
    NetworkState {
        generation: Generation(1),
        nodes: nodes
            .into_iter()
            .map(|node| (node.name.clone(), node))
            .collect(),
        ..NetworkState::default()
    }
}

/// A policy under which the pods of tenant [`SHOP`] talk at one port alone.
pub(crate) fn at_one_port(protocol: Protocol, port: u16) -> Policy {
    let rule = || PolicyRule {
        peers: Peers::Everyone,
        ports: vec![PolicyPort {
            protocol,
            port: PortMatch::Range(port, port),
        }],
    };
    Policy {
        id: PolicyId(1),
        subjects: [IdentityId(SHOP * 10)].into(),
        ingress: Some(vec![rule()]),
        egress: Some(vec![rule()]),
        ..Policy::default()
    }
}

pub(crate) trait With {
    /// A pod; its node is told by its address.
    fn pod(self, address: &str, tenant: u32) -> Self;
    /// A service at port 80, TCP and UDP, of `tenant`, with backends at port 8080.
    fn service(self, vip: &str, tenant: u32, backends: &[&str], export: &[u32]) -> Self;
}

impl With for NetworkState {
    fn pod(mut self, address: &str, tenant: u32) -> Self {
        let far = ["10.244.2.", "fd00:244:2:"];
        let node = if far.iter().any(|start| address.starts_with(start)) {
            "node2"
        } else {
            "node1"
        };
        let endpoint = Endpoint {
            address: ip(address),
            identity: IdentityId(tenant * 10),
            tenant: TenantId(tenant),
            node: node.into(),
            namespace: "test".into(),
            pod: address.replace(['.', ':'], "-"),
            host_ports: Vec::new(),
        };
        let identity = Identity {
            id: endpoint.identity,
            tenant: endpoint.tenant,
            namespace: endpoint.namespace.clone(),
            ..Identity::default()
        };
        self.identities.entry(identity.id).or_insert(identity);
        self.endpoints.insert(endpoint.address, endpoint);
        self
    }

    fn service(mut self, vip: &str, tenant: u32, backends: &[&str], export: &[u32]) -> Self {
        let backends: Vec<_> = backends
            .iter()
            .map(|text| Backend::at(ip(text), 8080))
            .collect();
        let port = |protocol| ServicePort {
            name: String::new(),
            protocol,
            port: 80,
            backends: backends.clone(),
            ..ServicePort::default()
        };
        let id = ServiceId(u32::try_from(self.services.len()).expect("few") + 1);
        let tenants: BTreeSet<_> = export.iter().map(|tenant| TenantId(*tenant)).collect();
        let service = Service {
            id,
            namespace: "test".into(),
            name: format!("service-{id}"),
            tenant: TenantId(tenant),
            vips: vec![ip(vip)],
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            export: Export::To(tenants),
            ..Service::default()
        };
        self.services.insert(id, service);
        self
    }
}
