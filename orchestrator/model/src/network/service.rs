//! Services with their backends.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Cidr;
use crate::{ServiceId, TenantId};

/// Transport protocol of a port, with its IANA number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// 6.
    #[default]
    Tcp = 6,
    /// 17.
    Udp = 17,
    /// 132.
    Sctp = 132,
}

impl Protocol {
    /// IANA protocol number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// How a backend may be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Ready and staying.
    #[default]
    Ready,
    /// About to end, still answering: for views that have nobody ready.
    Terminating,
    /// Listed, but not for new calls. Connections that it has are its own.
    Unready,
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
    /// How it may be used.
    pub standing: Standing,
    /// Zones whose clients should prefer it (EndpointSlice hints); empty for no preference.
    pub for_zones: BTreeSet<String>,
    /// Nodes whose clients should prefer it (EndpointSlice hints); empty for no preference.
    pub for_nodes: BTreeSet<String>,
}

impl Backend {
    /// A ready backend of which nothing else is known.
    pub fn at(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            node: String::new(),
            hostname: String::new(),
            standing: Standing::Ready,
            for_zones: BTreeSet::new(),
            for_nodes: BTreeSet::new(),
        }
    }
}

/// One port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty for the only unnamed one.
    pub name: String,
    /// Transport.
    pub protocol: Protocol,
    /// Port at the VIP, host byte order.
    pub port: u16,
    /// Port at every node's address, host byte order.
    pub node_port: Option<u16>,
    /// Backends, sorted, no duplicates.
    pub backends: Vec<Backend>,
}

impl ServicePort {
    /// Backends for a view of the whole cluster: who is ready; while nobody is, who still answers.
    pub fn usable(&self) -> impl Iterator<Item = &Backend> {
        let ready = |backend: &Backend| backend.standing == Standing::Ready;
        let wanted = if self.backends.iter().any(ready) {
            Standing::Ready
        } else {
            Standing::Terminating
        };
        self.backends
            .iter()
            .filter(move |backend| backend.standing == wanted)
    }
}

/// Which tenants but its own may reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// These only; empty for none.
    To(BTreeSet<TenantId>),
    /// Every tenant.
    Everyone,
}

impl Default for Export {
    fn default() -> Self {
        Self::To(BTreeSet::new())
    }
}

/// Whose backends a node may choose from (internalTrafficPolicy, externalTrafficPolicy).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The whole cluster's.
    #[default]
    Cluster,
    /// The node's own; the client's address is kept.
    Local,
}

/// An address of a Service that clients outside the cluster use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct External {
    /// The address: a load balancer's, or one of spec.externalIPs.
    pub address: IpAddr,
    /// Node that answers ARP and neighbour solicitations for it; empty when something else routes it.
    pub announced_by: String,
}

/// A Service with its backends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Addresses for clients outside the cluster.
    pub external: Vec<External>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Who else may reach it.
    pub export: Export,
    /// Seconds for which a client keeps its backend (sessionAffinity: ClientIP).
    pub affinity_seconds: Option<u32>,
    /// Backends for callers inside the cluster.
    pub internal_scope: Scope,
    /// Backends for callers outside.
    pub external_scope: Scope,
    /// Port at which each node tells a load balancer whether it has backends of its own.
    pub health_check_port: Option<u16>,
    /// Clients outside that may come in by a load balancer's address; empty for every one.
    pub source_ranges: Vec<Cidr>,
    /// Replies go from the backend's node straight to the client.
    pub direct_return: bool,
    /// Canonical name that DNS answers with (ExternalName); empty for none.
    pub external_name: String,
}
