//! NetworkPolicies with every selector resolved to identities.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cidr, Protocol};
use crate::{IdentityId, PolicyId, TenantId};

/// What an identity number stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The number.
    pub id: IdentityId,
    /// Tenant.
    pub tenant: TenantId,
    /// Namespace of its pods.
    pub namespace: String,
    /// Labels that its pods have in common.
    pub labels: BTreeMap<String, String>,
    /// Named ports of its pods, sorted.
    pub ports: Vec<NamedPort>,
}

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// The number, host byte order.
    pub port: u16,
}

/// A NetworkPolicy (networking.k8s.io/v1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Number in the kernel's tables; stable for the object's life.
    pub id: PolicyId,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Whose traffic it governs.
    pub subjects: BTreeSet<IdentityId>,
    /// What may come in to the subjects; `None` leaves this direction alone.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What the subjects may send; `None` leaves this direction alone.
    pub egress: Option<Vec<PolicyRule>>,
}

/// One thing that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// From or to whom.
    pub peers: Peers,
    /// At which ports of the receiver; empty for every port and protocol.
    pub ports: Vec<PolicyPort>,
}

/// The other side of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peers {
    /// Whoever it is.
    Everyone,
    /// These.
    Of {
        /// Pods, by identity.
        identities: BTreeSet<IdentityId>,
        /// Address ranges.
        blocks: Vec<IpBlock>,
    },
}

/// An address range with holes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct IpBlock {
    /// The range.
    pub range: Cidr,
    /// Parts of it that are left out.
    pub except: Vec<Cidr>,
}

/// Ports of the receiver that a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyPort {
    /// Transport.
    pub protocol: Protocol,
    /// Which of its ports.
    pub port: PortMatch,
}

/// Which port numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortMatch {
    /// All of the protocol.
    Every,
    /// From the first to the last, both included; host byte order.
    Range(u16, u16),
    /// The receiver's container port of that name.
    Named(String),
}
