//! The network state of a cluster: what every node's datapath and DNS are made from. The same value for every
//! node; what is particular to one node (its own DNS listener, its own pods' links) is added by its agent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::{Generation, IdentityId, ServiceId, TenantId};

/// Transport protocol of a service port, with its IANA number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// 6.
    Tcp = 6,
    /// 17.
    Udp = 17,
}

impl Protocol {
    /// IANA protocol number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// One place where a service port is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Address of the pod.
    pub address: IpAddr,
    /// Port there, host byte order.
    pub port: u16,
    /// Node it runs on; empty when unknown.
    pub node: String,
    /// Its name below a headless Service; empty for none.
    pub hostname: String,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for the only unnamed one.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// Port at the VIP, host byte order.
    pub port: u16,
    /// Ready backends, sorted, no duplicates.
    pub backends: Vec<Backend>,
}

/// Which tenants but its own may reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// These only; empty for none.
    To(BTreeSet<TenantId>),
    /// Every tenant.
    Everyone,
}

/// A Service with its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Number in the kernel's tables; stable for the object's life.
    pub id: ServiceId,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Tenant of its namespace.
    pub tenant: TenantId,
    /// Virtual addresses; empty for a headless one.
    pub vips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Who else may reach it.
    pub export: Export,
}

/// Who owns an address. Every pod of the cluster has one, its own node's or not.
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
}

/// Where a node is reached and which addresses are behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Node name.
    pub name: String,
    /// Underlay address.
    pub address: IpAddr,
    /// Range of its pods' addresses.
    pub pod_cidr: Cidr,
}

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid address range {text:?}: write ADDRESS/PREFIX such as 10.244.0.0/16, with no bits set after the prefix"
)]
pub struct InvalidCidr {
    /// The text as given.
    pub text: String,
}

impl Cidr {
    /// First address.
    pub fn address(self) -> IpAddr {
        self.address
    }
    /// Bits that all its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    /// Bits of the family.
    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }
    /// Whether `address` lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && (self.prefix == 0
                || bits(address) >> (self.width() - self.prefix)
                    == bits(self.address) >> (self.width() - self.prefix))
    }
    /// How many addresses it holds, at most `u64::MAX`.
    pub fn size(self) -> u64 {
        1u64.checked_shl(u32::from(self.width() - self.prefix))
            .unwrap_or(u64::MAX)
    }
    /// The address at `index` from the first; `None` past the end.
    pub fn nth(self, index: u64) -> Option<IpAddr> {
        (index < self.size()).then(|| match self.address {
            IpAddr::V4(v4) => {
                IpAddr::V4((v4.to_bits() + u32::try_from(index).unwrap_or(u32::MAX)).into())
            }
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(index)).into()),
        })
    }
    /// The `index`th part of it when cut into ranges of `prefix` bits; `None` past the end.
    pub fn subnet(self, prefix: u8, index: u64) -> Option<Self> {
        if prefix < self.prefix || prefix > self.width() {
            return None;
        }
        let count = 1u64
            .checked_shl(u32::from(prefix - self.prefix))
            .unwrap_or(u64::MAX);
        if index >= count {
            return None;
        }
        let offset = u128::from(index) << (self.width() - prefix);
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + u32::try_from(offset).ok()?).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + offset).into()),
        };
        Some(Self { address, prefix })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl std::str::FromStr for Cidr {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let cidr = Self { address, prefix };
        if prefix > cidr.width() {
            return Err(invalid());
        }
        let host = u32::from(cidr.width() - prefix);
        let mask = if host == 0 {
            0
        } else {
            u128::MAX >> (128 - host)
        };
        if bits(address) & mask != 0 {
            Err(invalid())
        } else {
            Ok(cidr)
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Everything a datapath and a DNS zone are made from, at one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Orders states; 0 before the first.
    pub generation: Generation,
    /// By number.
    pub services: BTreeMap<ServiceId, Service>,
    /// By address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// By name.
    pub nodes: BTreeMap<String, NodeNetwork>,
}

/// What leads from one network state to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDelta {
    /// The generation it applies to.
    pub from: Generation,
    /// The generation it leads to.
    pub to: Generation,
    /// New or changed services.
    pub service_upserts: Vec<Service>,
    /// Services that are gone.
    pub service_removals: Vec<ServiceId>,
    /// New or changed endpoints.
    pub endpoint_upserts: Vec<Endpoint>,
    /// Addresses that belong to nobody now.
    pub endpoint_removals: Vec<IpAddr>,
    /// New or changed nodes.
    pub node_upserts: Vec<NodeNetwork>,
    /// Nodes that are gone.
    pub node_removals: Vec<String>,
}

/// A delta that does not fit the state it was given; a snapshot is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("network delta applies to generation {expected}, but this node is at {found}")]
pub struct GenerationGap {
    /// What the delta starts from.
    pub expected: Generation,
    /// Where the state is.
    pub found: Generation,
}

impl NetworkState {
    /// The change that leads from `self` to `next`.
    pub fn delta_to(&self, next: &Self) -> NetworkDelta {
        let (service_upserts, service_removals) = changes(&self.services, &next.services);
        let (endpoint_upserts, endpoint_removals) = changes(&self.endpoints, &next.endpoints);
        let (node_upserts, node_removals) = changes(&self.nodes, &next.nodes);
        NetworkDelta {
            from: self.generation,
            to: next.generation,
            service_upserts,
            service_removals,
            endpoint_upserts,
            endpoint_removals,
            node_upserts,
            node_removals,
        }
    }

    /// Moves this state along `delta`.
    ///
    /// # Errors
    /// [`GenerationGap`] when the delta starts elsewhere; the state is then unchanged.
    pub fn apply(&mut self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        if delta.from != self.generation {
            return Err(GenerationGap {
                expected: delta.from,
                found: self.generation,
            });
        }
        delta
            .service_removals
            .iter()
            .for_each(|id| drop(self.services.remove(id)));
        delta
            .endpoint_removals
            .iter()
            .for_each(|address| drop(self.endpoints.remove(address)));
        delta
            .node_removals
            .iter()
            .for_each(|name| drop(self.nodes.remove(name)));
        self.services
            .extend(delta.service_upserts.into_iter().map(|s| (s.id, s)));
        self.endpoints
            .extend(delta.endpoint_upserts.into_iter().map(|e| (e.address, e)));
        self.nodes
            .extend(delta.node_upserts.into_iter().map(|n| (n.name.clone(), n)));
        self.generation = delta.to;
        Ok(())
    }
}

impl NetworkDelta {
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        self.service_upserts.is_empty()
            && self.service_removals.is_empty()
            && self.endpoint_upserts.is_empty()
            && self.endpoint_removals.is_empty()
            && self.node_upserts.is_empty()
            && self.node_removals.is_empty()
    }
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> (Vec<V>, Vec<K>) {
    let upserts = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .map(|(_, v)| v.clone());
    let removals = old.keys().filter(|key| !new.contains_key(key)).cloned();
    (upserts.collect(), removals.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cidrs_are_cut_and_counted() {
        let pods: Cidr = "10.244.0.0/16".parse().unwrap();
        assert_eq!(pods.subnet(24, 3).unwrap().to_string(), "10.244.3.0/24");
        assert_eq!(pods.subnet(24, 256), None);
        assert_eq!(pods.nth(259).unwrap().to_string(), "10.244.1.3");
        assert!(pods.contains("10.244.255.1".parse().unwrap()));
        assert!(!pods.contains("10.245.0.1".parse().unwrap()));
        assert!(!pods.contains("::1".parse().unwrap()));
        for text in [
            "10.244.0.1/16",
            "10.244.0.0",
            "10.244.0.0/33",
            "x/8",
            "fd00::1/64",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert!(
            "0.0.0.0/0"
                .parse::<Cidr>()
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
    }

    fn endpoint(last: u8, tenant: u32) -> Endpoint {
        Endpoint {
            address: IpAddr::from([10, 244, 0, last]),
            identity: IdentityId(tenant),
            tenant: TenantId(tenant),
            node: "node1".into(),
            namespace: "shop".into(),
            pod: format!("pod-{last}"),
        }
    }

    fn state(generation: u64, rows: Vec<(u8, u32)>) -> NetworkState {
        let endpoints = rows
            .into_iter()
            .map(|(last, tenant)| endpoint(last, tenant));
        NetworkState {
            generation: Generation(generation),
            endpoints: endpoints.map(|e| (e.address, e)).collect(),
            ..NetworkState::default()
        }
    }

    proptest! {
        #[test]
        fn a_delta_leads_to_the_state_it_was_made_for(
            old in proptest::collection::vec((0u8..20, 1u32..4), 0..12),
            new in proptest::collection::vec((0u8..20, 1u32..4), 0..12),
        ) {
            let (mut old, new) = (state(1, old), state(2, new));
            let delta = old.delta_to(&new);
            old.apply(delta).unwrap();
            prop_assert_eq!(&old, &new);
            prop_assert!(old.delta_to(&new).is_empty());
        }
    }

    #[test]
    fn a_gap_is_refused_and_changes_nothing() {
        let (mut old, new) = (state(1, vec![(1, 1)]), state(3, vec![]));
        let delta = state(2, vec![]).delta_to(&new);
        let before = old.clone();
        assert!(old.apply(delta).is_err());
        assert_eq!(old, before);
    }
}
