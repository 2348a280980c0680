//! What rows are made from: the cluster's network state and what is particular to this node; and what a change of either
//! makes worth a second look.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use waggle_abi::{Addr, LinkRow, RULESET_NONE};
use waggle_model::IdentityId;
use waggle_model::network::{Cidr, NetworkDelta, NetworkState, TunnelMode};

use crate::claim::Claimant;
use crate::enforce::Governed;

/// The DNS VIP becomes the node's own listener, whatever the Service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsRedirect {
    /// Virtual address that pods have in resolv.conf; port 53, UDP and TCP.
    pub vip: IpAddr,
    /// Where this node's DNS listens.
    pub listener: SocketAddr,
}

/// A pod that is connected here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPod {
    /// Host end of its veth.
    pub ifindex: u32,
    /// Its row in `LINKS`.
    pub link: LinkRow,
    /// Hardware address of the pod's end.
    pub mac: [u8; 6],
    /// Hardware address of the host's end.
    pub gateway_mac: [u8; 6],
}

/// What is particular to one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name, as endpoints spell it.
    pub name: String,
    /// Its underlay addresses, known before the network state names them.
    pub addresses: Vec<IpAddr>,
    /// Cookie of its own network namespace.
    pub host_netns: u64,
    /// Where its traffic with other nodes and the outside passes.
    pub uplink: Uplink,
    /// Ranges of its underlay addresses' links: who is in there is reached without a gateway.
    pub links: Vec<Cidr>,
    /// When it sends through its tunnel.
    pub tunnel_mode: TunnelMode,
    /// Interface of that tunnel; 0 for none.
    pub tunnel: u32,
}

impl LocalNode {
    /// Its underlay address of a family.
    pub fn address(&self, ipv4: bool) -> Option<IpAddr> {
        let mut own = self.addresses.iter();
        own.find(|address| address.is_ipv4() == ipv4).copied()
    }
}

/// The interface that leads to other nodes and out of the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its index; 0 for none.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Everything that rows are made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) state: NetworkState,
    pub(crate) local: LocalNode,
    /// Where the DNS VIP goes; `None` leaves it to the Service.
    pub(crate) dns: Option<DnsRedirect>,
    /// Pods that are connected, by interface index.
    pub(crate) pods: BTreeMap<u32, LocalPod>,
    /// Rulesets of their identities; who is not in here stays under what its link says.
    pub(crate) governed: BTreeMap<IdentityId, Governed>,
    /// Number of the next ruleset.
    pub(crate) next_ruleset: u32,
    /// Where services' addresses are from.
    pub(crate) service_ranges: Vec<Cidr>,
    /// Programs report new calls and flows.
    pub(crate) tell_new: bool,
}

impl Facts {
    /// A pod's row with the identity and tenant that count: the state's, once it knows the address.
    pub(crate) fn placed(&self, pod: &LocalPod) -> LinkRow {
        let mut link = pod.link;
        let known = self.state.endpoints.get(&IpAddr::from(link.addr));
        if let Some(endpoint) = known.filter(|endpoint| endpoint.node == self.local.name) {
            link.identity = endpoint.identity.0;
            link.tenant = endpoint.tenant.0;
        }
        link
    }

    /// Whether no policy is known that says what pods of this node with this identity may receive.
    pub(crate) fn is_open(&self, identity: IdentityId) -> bool {
        let governed = self.governed.get(&identity);
        governed.is_none_or(|governed| governed.ingress == RULESET_NONE)
    }
}

/// Something of others that a claimant's rows depend on. What it is named after is no fact: a Service always looks at
/// itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fact {
    /// Who has this address.
    Endpoint(IpAddr),
    /// Where pods' addresses lie.
    Ranges,
    /// Which zones nodes are in.
    Zones,
}

/// Which claimants a delta speaks of, and which facts it changes. `before` is the state that it applies to.
pub(crate) fn changed(
    before: &NetworkState,
    delta: &NetworkDelta,
) -> (BTreeSet<Claimant>, BTreeSet<Fact>) {
    let upserts = delta.service_upserts.iter().map(|one| one.id);
    let services = upserts.chain(delta.service_removals.iter().copied());
    let upserts = delta.endpoint_upserts.iter().map(|one| one.address);
    let endpoints: Vec<_> = upserts
        .chain(delta.endpoint_removals.iter().copied())
        .collect();
    let upserts = delta.node_upserts.iter().map(|one| one.name.clone());
    let nodes = upserts.chain(delta.node_removals.iter().cloned());
    let claimants = services
        .map(Claimant::Service)
        .chain(endpoints.iter().copied().map(Claimant::Endpoint))
        .chain(nodes.map(Claimant::Node));
    let mut facts: BTreeSet<Fact> = endpoints.iter().copied().map(Fact::Endpoint).collect();
    let moved = |node: &waggle_model::network::NodeNetwork| {
        let known = before.nodes.get(&node.name);
        known.is_none_or(|known| known.pod_cidrs != node.pod_cidrs)
    };
    if !delta.node_removals.is_empty() || delta.node_upserts.iter().any(moved) {
        facts.insert(Fact::Ranges);
    }
    let rezoned = |node: &waggle_model::network::NodeNetwork| {
        let known = before.nodes.get(&node.name);
        known.map_or("", |known| known.zone.as_str()) != node.zone
    };
    if !delta.node_removals.is_empty() || delta.node_upserts.iter().any(rezoned) {
        facts.insert(Fact::Zones);
    }
    (claimants.collect(), facts)
}

impl LocalPod {
    /// Its addresses.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Addr> + use<> {
        [self.link.addr, self.link.addr_other]
            .into_iter()
            .filter(|addr| *addr != Addr::NONE)
    }
}
