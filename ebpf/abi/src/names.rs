//! Names and sizes of maps and programs, which both sides spell out.

use crate::layout::state_hash;
use crate::{AffinityKey, AffinityRow, Flow, FlowKey, NatRow, PeerRow, SocketKey, VipRow};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $text;)*
        /// Every name.
        pub const ALL: &[&str] = &[$($text,)*];
        pub(crate) const LAYOUT: &str = concat!($($text, ",",)*);
    };
}

/// Maps, as they are pinned.
pub mod map {
    names! {
        /// Array of one [`crate::Config`].
        CONFIG = "CONFIG";
        /// Hash: [`crate::ServiceKey`] to [`crate::ServiceRow`].
        SERVICES = "SERVICES";
        /// Array of [`crate::Slot`].
        SLOTS = "SLOTS";
        /// Hash: [`crate::Addr`] to [`crate::EndpointRow`].
        ENDPOINTS = "ENDPOINTS";
        /// Longest prefix match: [`crate::Addr`] to [`crate::RangeRow`]. Addresses that belong to pods, to services, or to
        /// nodes behind a tunnel; one of a pod that is no endpoint is a pod that this node knows nothing about.
        RANGES = "RANGES";
        /// Hash: interface index to [`crate::LinkRow`].
        LINKS = "LINKS";
        /// Hash: network namespace cookie to [`crate::OwnerRow`].
        SOCKET_OWNERS = "SOCKET_OWNERS";
        /// Hash: [`crate::GrantKey`] to service number.
        GRANTS = "GRANTS";
        /// Longest prefix match: [`crate::RuleKey`] to the number of a policy that allows it.
        POLICY = "POLICY";
        /// Longest prefix match: [`crate::BlockKey`] to a class, the peer in rules; 0 for none.
        BLOCKS = "BLOCKS";
        /// LRU hash: [`crate::FlowKey`] to [`crate::Flow`].
        FLOWS = "FLOWS";
        /// Array of [`crate::MaglevRow`]: Maglev tables.
        MAGLEV = "MAGLEV";
        /// LRU hash: [`crate::FlowKey`] to [`crate::NatRow`].
        NAT = "NAT";
        /// LRU hash: [`crate::FragmentKey`] to [`crate::FragmentRow`].
        FRAGMENTS = "FRAGMENTS";
        /// Longest prefix match: [`crate::SourceKey`] to nothing.
        SOURCES = "SOURCES";
        /// Hash: socket cookie to [`crate::PeerRow`].
        SOCK_PEER = "SOCK_PEER";
        /// LRU hash: [`crate::SocketKey`] to [`crate::VipRow`]. For sockets that send datagrams to several VIPs or backends.
        SOCK_VIP = "SOCK_VIP";
        /// LRU hash: [`crate::AffinityKey`] to [`crate::AffinityRow`].
        AFFINITY = "AFFINITY";
        /// Per-CPU array of [`crate::Counter`], one for each reason.
        COUNTERS = "COUNTERS";
        /// Hash: [`crate::ObjectKey`] to [`crate::ObjectCount`]. Programs add rows and count in them; user space removes those
        /// of objects that are gone.
        OBJECT_COUNTS = "OBJECT_COUNTS";
        /// Array of [`crate::ServiceCount`]. User space gives rows to services, programs count in them.
        SERVICE_COUNTS = "SERVICE_COUNTS";
        /// Ring buffer of [`crate::Event`].
        EVENTS = "EVENTS";
    }
}

/// Maps of connection state, which programs fill: name, and number of their layout. They outlive a change of the rest of
/// the ABI, so numbers in them must mean the same to the next one.
pub const STATE: &[(&str, u64)] = &[
    (map::FLOWS, state_hash(FlowKey::LAYOUT, Flow::LAYOUT)),
    (map::NAT, state_hash(FlowKey::LAYOUT, NatRow::LAYOUT)),
    (map::SOCK_PEER, state_hash("u64", PeerRow::LAYOUT)),
    (map::SOCK_VIP, state_hash(SocketKey::LAYOUT, VipRow::LAYOUT)),
    (
        map::AFFINITY,
        state_hash(AffinityKey::LAYOUT, AffinityRow::LAYOUT),
    ),
];

/// Programs, by their function's name.
pub mod program {
    names! {
        /// cgroup/connect4.
        CONNECT4 = "connect4";
        /// cgroup/connect6.
        CONNECT6 = "connect6";
        /// cgroup/sendmsg4.
        SENDMSG4 = "sendmsg4";
        /// cgroup/sendmsg6.
        SENDMSG6 = "sendmsg6";
        /// cgroup/recvmsg4.
        RECVMSG4 = "recvmsg4";
        /// cgroup/recvmsg6.
        RECVMSG6 = "recvmsg6";
        /// cgroup/getpeername4.
        GETPEERNAME4 = "getpeername4";
        /// cgroup/getpeername6.
        GETPEERNAME6 = "getpeername6";
        /// cgroup/sock_release.
        SOCK_RELEASE = "sock_release";
        /// tcx ingress of the host end of a pod's veth.
        FROM_POD = "from_pod";
        /// tcx egress of the host end of a pod's veth.
        TO_POD = "to_pod";
        /// tcx ingress of the uplink.
        FROM_UPLINK = "from_uplink";
        /// tcx egress of the uplink.
        TO_UPLINK = "to_uplink";
        /// XDP of the uplink.
        EDGE = "edge";
        /// tcx ingress of the tunnel.
        FROM_TUNNEL = "from_tunnel";
        /// tcx egress of the tunnel.
        TO_TUNNEL = "to_tunnel";
    }
}

/// Default capacities, entries.
pub mod limit {
    /// Service ports.
    pub const SERVICES: u32 = 262_144;
    /// Backends of all service ports; twice what is in use is needed while a set is replaced.
    pub const SLOTS: u32 = 1_048_576;
    /// Pods of the cluster, nodes and virtual addresses.
    pub const ENDPOINTS: u32 = 262_144;
    /// Pod ranges, and addresses of nodes behind a tunnel.
    pub const RANGES: u32 = 16_384;
    /// Pods of one node.
    pub const LINKS: u32 = 16_384;
    /// Exported backends.
    pub const GRANTS: u32 = 65_536;
    /// Rules of all rulesets; old and new ones are there together while one replaces the other.
    pub const POLICY: u32 = 262_144;
    /// Address ranges of all rulesets.
    pub const BLOCKS: u32 = 65_536;
    /// Flows between tenants and of pods that policies govern.
    pub const FLOWS: u32 = 65_536;
    /// Rows of all Maglev tables, of four entries; twice what is in use is needed while a set is replaced.
    pub const MAGLEV: u32 = 524_288;
    /// Translated flows, two rows each.
    pub const NAT: u32 = 131_072;
    /// Packets that come in fragments, at once; the least recently used is replaced when full.
    pub const FRAGMENTS: u32 = 8_192;
    /// Source ranges of all services.
    pub const SOURCES: u32 = 65_536;
    /// Sockets that talk to a VIP; and peers of those that send datagrams to several.
    pub const SOCK_VIP: u32 = 65_536;
    /// Callers that keep a backend.
    pub const AFFINITY: u32 = 65_536;
    /// Services, policies and identities that are counted for; what is more is only in the sums.
    pub const OBJECT_COUNTS: u32 = 131_072;
    /// Services that are counted in a row of their own, the quicker way; a power of two.
    pub const SERVICE_COUNTS: u32 = 65_536;
    /// Bytes of the event ring.
    pub const EVENTS: u32 = 256 * 1024;
}

/// How many rows each table may take on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Service ports.
    pub services: u32,
    /// Backend slots.
    pub slots: u32,
    /// Addresses of the cluster.
    pub endpoints: u32,
    /// Pod ranges.
    pub ranges: u32,
    /// Pods here.
    pub links: u32,
    /// Exported backends.
    pub grants: u32,
    /// Rules.
    pub policy: u32,
    /// Address ranges in rules.
    pub blocks: u32,
    /// Flows between tenants and of pods that policies govern; the least recently used is replaced when full.
    pub flows: u32,
    /// Sockets that talk to a VIP: further ones see the backend as their peer. As many peers of sockets that send
    /// datagrams to several; of those the least recently used is replaced when full.
    pub sock_vip: u32,
    /// Callers that keep a backend; the least recently used is replaced when full.
    pub affinity: u32,
    /// Rows of Maglev tables.
    pub maglev: u32,
    /// Rows of translated flows; the least recently used is replaced when full.
    pub nat: u32,
    /// Source ranges of services.
    pub sources: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            services: limit::SERVICES,
            slots: limit::SLOTS,
            endpoints: limit::ENDPOINTS,
            ranges: limit::RANGES,
            links: limit::LINKS,
            grants: limit::GRANTS,
            policy: limit::POLICY,
            blocks: limit::BLOCKS,
            flows: limit::FLOWS,
            sock_vip: limit::SOCK_VIP,
            affinity: limit::AFFINITY,
            maglev: limit::MAGLEV,
            nat: limit::NAT,
            sources: limit::SOURCES,
        }
    }
}
