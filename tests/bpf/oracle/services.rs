//! Services drawn over all of their fields, where they are called, and what kube-proxy's documents say about which of their
//! endpoints answer. Nothing of the product decides here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use waggle_model::network::{
    Backend, Cidr, External, NetworkState, Protocol, Scope, Service, ServicePort, Standing,
};
use waggle_model::{ServiceId, TenantId};

use crate::random::Random;
use crate::state::{HOST, OTHER_HOST, SHOP, With, ip, nodes};

/// A pod: its name, and its address of each family.
pub(crate) type Placed = (&'static str, [&'static str; 2]);

/// Backends on the node, and one that only calls.
pub(crate) const HERE: [Placed; 3] = [
    ("a", ["10.244.1.2", "fd00:244:1::2"]),
    ("b", ["10.244.1.3", "fd00:244:1::3"]),
    ("caller", ["10.244.1.4", "fd00:244:1::4"]),
];
/// A backend of the other node.
pub(crate) const FAR: Placed = ("far", ["10.244.2.2", "fd00:244:2::2"]);
pub(crate) const HOSTS: [&str; 2] = [HOST, "fd00:172:30::11"];
pub(crate) const OTHER_HOSTS: [&str; 2] = [OTHER_HOST, "fd00:172:30::12"];
/// Outside of the cluster.
pub(crate) const WORLD: [&str; 2] = ["198.51.100.7", "2001:db8:51::7"];
pub(crate) const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:244::/32"];
pub(crate) const PORT: u16 = 80;
/// At the virtual address, nobody's.
pub(crate) const UNSERVED: u16 = 81;
pub(crate) const TARGET_PORT: u16 = 8080;

/// Where a service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    ClusterIp,
    UnservedPort,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

impl Target {
    pub(crate) const ALL: [Self; 5] = [
        Self::ClusterIp,
        Self::UnservedPort,
        Self::NodePort,
        Self::LoadBalancer,
        Self::ExternalIp,
    ];

    /// Not the virtual address.
    pub(crate) fn is_external(self) -> bool {
        matches!(self, Self::NodePort | Self::LoadBalancer | Self::ExternalIp)
    }
}

/// Whom loadBalancerSourceRanges lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sources {
    Everyone,
    /// Those outside, too.
    World,
    /// Nobody who calls here.
    Others,
}

impl Sources {
    pub(crate) fn ranges(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Everyone => None,
            Self::World => Some(["198.51.100.0/24", "2001:db8:51::/64"]),
            Self::Others => Some(["192.0.2.0/24", "2001:db8:1::/64"]),
        }
    }
}

/// Whom endpoints are hinted to (EndpointSlice `hints`, which trafficDistribution makes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hints {
    None,
    /// Each to its own node's zone.
    Zones,
    /// Each to its own node.
    Nodes,
    /// To their own zones, but for the other node's, which has none: hints count when everybody has one.
    SomeZones,
}

impl Hints {
    /// Zone that an endpoint is hinted to, and node.
    fn of(self, name: &str) -> [Option<&'static str>; 2] {
        let node = node_of(name);
        match self {
            Self::None => [None, None],
            Self::Zones => [Some(zone_of(node)), None],
            Self::Nodes => [None, Some(node)],
            Self::SomeZones => [(name != FAR.0).then(|| zone_of(node)), None],
        }
    }
}

/// A service, by its fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) number: u16,
    pub(crate) backends: &'static [(&'static str, Standing)],
    pub(crate) internal: Scope,
    pub(crate) external: Scope,
    pub(crate) affinity: bool,
    pub(crate) sources: Sources,
    pub(crate) hints: Hints,
}

/// Sets of endpoints, and how they are.
const BACKENDS: [&[(&str, Standing)]; 8] = {
    use Standing::{Ready, Terminating, Unready};
    [
        &[("a", Ready), ("far", Ready)],
        &[("a", Ready), ("b", Ready)],
        &[("far", Ready)],
        &[],
        &[("a", Terminating)],
        &[("a", Terminating), ("far", Ready)],
        &[("a", Unready)],
        &[("a", Ready), ("b", Terminating), ("far", Unready)],
    ]
};

/// Every set of endpoints under every pair of traffic policies; the other fields as the dice fall.
pub(crate) fn drawn(seed: u64) -> Vec<Spec> {
    let mut random = Random::new(seed);
    let mut specs = Vec::new();
    let scopes = [Scope::Cluster, Scope::Local];
    for backends in BACKENDS {
        for internal in scopes {
            for external in scopes {
                let hints = [Hints::None, Hints::Zones, Hints::Nodes, Hints::SomeZones];
                let sources = [Sources::Everyone, Sources::World, Sources::Others];
                specs.push(Spec {
                    number: u16::try_from(specs.len()).expect("few") + 1,
                    backends,
                    internal,
                    external,
                    affinity: random.one_in(3),
                    sources: sources[random.below(3)],
                    hints: hints[random.below(4)],
                });
            }
        }
    }
    specs
}

impl Spec {
    /// Address of a target in a family.
    pub(crate) fn address(&self, target: Target, family: usize) -> IpAddr {
        let number = self.number;
        let text = match (target, family) {
            (Target::NodePort, _) => HOSTS[family].to_owned(),
            (Target::ClusterIp | Target::UnservedPort, 0) => format!("10.96.0.{number}"),
            (Target::ClusterIp | Target::UnservedPort, _) => format!("fd00:96::{number:x}"),
            (Target::LoadBalancer, 0) => format!("172.31.1.{number}"),
            (Target::LoadBalancer, _) => format!("fd00:172:31:1::{number:x}"),
            (Target::ExternalIp, 0) => format!("172.31.2.{number}"),
            (Target::ExternalIp, _) => format!("fd00:172:31:2::{number:x}"),
        };
        ip(&text)
    }

    pub(crate) fn port(&self, target: Target) -> u16 {
        match target {
            Target::NodePort => 30_000 + self.number,
            Target::UnservedPort => UNSERVED,
            _ => PORT,
        }
    }

    /// Who answers under a traffic policy: who is ready, and while nobody is, who is about to end (KEP-1669). Without a policy,
    /// of who is ready those that are hinted to this node or its zone, if there are any and everybody is hinted somewhere
    /// (KEP-2433, KEP-3015).
    pub(crate) fn answering(&self, scope: Scope) -> BTreeSet<&'static str> {
        let of = |standing| {
            let wanted = move |one: &&(&'static str, Standing)| {
                one.1 == standing && (scope == Scope::Cluster || one.0 != FAR.0)
            };
            let found = self.backends.iter().filter(wanted);
            found.map(|one| one.0).collect::<BTreeSet<_>>()
        };
        let ready = of(Standing::Ready);
        if ready.is_empty() {
            return of(Standing::Terminating);
        }
        let near = |here: [Option<&str>; 2]| {
            let hinted = |name: &&&str| (0..2).any(|kind| self.hints.of(name)[kind].is_some());
            let own = |name: &&&str| {
                let hint = self.hints.of(name);
                (0..2).any(|kind| hint[kind].is_some() && hint[kind] == here[kind])
            };
            let all = ready.iter().filter(hinted).count() == ready.len();
            let near: BTreeSet<_> = ready.iter().filter(own).copied().collect();
            (all && !near.is_empty()).then_some(near)
        };
        if scope == Scope::Cluster
            && let Some(near) = near([Some(zone_of("node1")), Some("node1")])
        {
            return near;
        }
        ready
    }

    /// As the network state has it.
    fn service(&self) -> Service {
        let backends = (0..2).flat_map(|family| {
            self.backends.iter().map(move |(name, standing)| {
                let ready = *standing == Standing::Ready;
                let hint = |kind: usize| self.hints.of(name)[kind].filter(|_| ready);
                Backend {
                    standing: *standing,
                    node: node_of(name).into(),
                    for_zones: hint(0).into_iter().map(str::to_owned).collect(),
                    for_nodes: hint(1).into_iter().map(str::to_owned).collect(),
                    ..Backend::at(ip(address_of(name, family)), TARGET_PORT)
                }
            })
        });
        let mut backends: Vec<Backend> = backends.collect();
        backends.sort_by_key(|backend| backend.address);
        let port = |protocol| ServicePort {
            protocol,
            port: PORT,
            node_port: Some(self.port(Target::NodePort)),
            backends: backends.clone(),
            ..ServicePort::default()
        };
        let both = |target| (0..2).map(move |family| self.address(target, family));
        let external = both(Target::LoadBalancer).chain(both(Target::ExternalIp));
        let ranges = self.sources.ranges().into_iter().flatten();
        Service {
            id: ServiceId(u32::from(self.number)),
            namespace: "test".into(),
            name: format!("service-{}", self.number),
            tenant: TenantId(SHOP),
            vips: both(Target::ClusterIp).collect(),
            external: external
                .map(|address| External {
                    address,
                    announced_by: String::new(),
                })
                .collect(),
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
            affinity_seconds: self.affinity.then_some(10_800),
            internal_scope: self.internal,
            external_scope: self.external,
            source_ranges: ranges
                .map(|range| range.parse::<Cidr>().expect("a range"))
                .collect(),
            ..Service::default()
        }
    }
}

fn node_of(name: &str) -> &'static str {
    if name == FAR.0 { "node2" } else { "node1" }
}

fn zone_of(node: &str) -> &'static str {
    if node == "node1" { "east" } else { "west" }
}

pub(crate) fn address_of(name: &str, family: usize) -> &'static str {
    let mut all = HERE.iter().chain([&FAR]);
    all.find(|pod| pod.0 == name).expect("a pod").1[family]
}

/// The cluster with these services.
pub(crate) fn state(specs: &[Spec]) -> NetworkState {
    let mut state = nodes();
    let addresses = [HOSTS[1], OTHER_HOSTS[1]];
    let ranges = ["fd00:244:1::/64", "fd00:244:2::/64"];
    for (index, node) in state.nodes.values_mut().enumerate() {
        node.addresses.push(ip(addresses[index]));
        node.zone = zone_of(&node.name).into();
        node.pod_cidrs.push(ranges[index].parse().expect("a range"));
    }
    for (_, [v4, v6]) in HERE.into_iter().chain([FAR]) {
        state = state.pod(v4, SHOP);
        let mut endpoint = state.endpoints[&ip(v4)].clone();
        endpoint.address = ip(v6);
        state.endpoints.insert(endpoint.address, endpoint);
    }
    let services = specs.iter().map(Spec::service);
    state.services = services
        .map(|one| (one.id, one))
        .collect::<BTreeMap<_, _>>();
    state
}
