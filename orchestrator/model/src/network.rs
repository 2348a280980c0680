//! The network state of a cluster: what every node's datapath and DNS are made from. The same value for every
//! node; what is particular to one node (its own DNS listener, its own pods' links) is added by its agent.

mod cidr;
mod family;
mod policy;
mod pool;
mod port_range;
mod service;
mod state;
mod tunnel;
mod xdp;

use std::net::IpAddr;

pub use cidr::{Cidr, InvalidCidr};
pub use family::{InvalidFamilies, OfFamily, PerFamily};
pub use policy::{Identity, IpBlock, NamedPort, Peers, Policy, PolicyPort, PolicyRule, PortMatch};
pub use pool::{AddressPool, InvalidPool};
pub use port_range::{InvalidPortRange, PortRange};
pub use service::{Backend, Export, External, Protocol, Scope, Service, ServicePort, Standing};
pub use state::{GenerationGap, NetworkDelta, NetworkState};
pub use tunnel::{InvalidTunnelMode, TunnelMode};
pub use xdp::{InvalidXdpMode, XdpMode};

use crate::{IdentityId, TenantId};

/// Who owns an address. Every pod of the cluster has one for each of its addresses, its own node's or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Address of the pod.
    pub address: IpAddr,
    /// What policy knows it by.
    pub identity: IdentityId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Node it is bound to.
    pub node: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// A port of a node that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Transport.
    pub protocol: Protocol,
    /// Address of the node that it is served at; `None` for every one.
    pub address: Option<IpAddr>,
    /// Port of the node, host byte order.
    pub port: u16,
    /// Port of the pod, host byte order.
    pub pod_port: u16,
}

/// Where a node is reached and which addresses are behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Node name.
    pub name: String,
    /// Underlay addresses, at most one of each family, the primary first; never empty.
    pub addresses: Vec<IpAddr>,
    /// Ranges of its pods' addresses, at most one of each family; never empty.
    pub pod_cidrs: Vec<Cidr>,
    /// Failure zone (topology.kubernetes.io/zone); empty when unknown.
    pub zone: String,
}

impl NodeNetwork {
    /// Underlay address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter();
        addresses
            .find(|address| address.is_ipv4() == like.is_ipv4())
            .copied()
    }

    /// Whether `address` lies in one of its pods' ranges.
    pub fn has_pod(&self, address: IpAddr) -> bool {
        self.pod_cidrs.iter().any(|range| range.contains(address))
    }
}
