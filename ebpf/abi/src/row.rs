//! Keys and values of the maps. Ports are in network byte order everywhere. Fields that are only there to fill are
//! called `pad` and are zero.

use crate::Addr;
use crate::layout::rows;

rows! {
    /// `CONFIG`, one row: what programs must know about their node.
    pub struct Config [120] {
        /// Cookie of the node's own network namespace (SO_NETNS_COOKIE); its sockets belong to the system tenant.
        pub host_netns: u64,
        /// Number of the next ruleset; kept here so that none is used twice while flows remember it.
        pub next_ruleset: u32,
        /// Interface that leads to other nodes and out of the cluster; 0 for none.
        pub uplink: u32,
        /// Interface of the tunnel to nodes that share no link with this one; 0 for none.
        pub tunnel: u32,
        /// Bits of [`config_flag`].
        pub flags: u32,
        /// The node's IPv4 address, which pods' traffic to the outside gets; [`Addr::NONE`] for none.
        pub node_v4: Addr,
        /// The node's IPv6 address; [`Addr::NONE`] for none.
        pub node_v6: Addr,
        /// First address of the services' IPv4 range; [`Addr::NONE`] for none.
        pub services_v4: Addr,
        /// Bits that addresses in that range have in common.
        pub services_v4_mask: Addr,
        /// First address of the services' IPv6 range; [`Addr::NONE`] for none.
        pub services_v6: Addr,
        /// Bits that addresses in that range have in common.
        pub services_v6_mask: Addr,
    }

    /// Value of `RANGES` (key: an address, by prefix): who has the addresses in it.
    pub struct RangeRow [20] {
        /// Underlay address of the node, when it is sent to there; else [`Addr::NONE`].
        pub node: Addr,
        /// Bits of [`range_flag`].
        pub flags: u32,
    }

    /// Key of `SERVICES`: where a service port is called.
    pub struct ServiceKey [20] {
        /// Virtual address; [`Addr::any`] for "the address of a node" (node ports).
        pub vip: Addr,
        /// Port there, network byte order.
        pub port: u16,
        /// IANA number.
        pub protocol: u8,
        /// Who calls: one of [`scope`].
        pub scope: u8,
    }

    /// Value of `SERVICES`: a slab of `SLOTS`, sorted by address and port. One write of this row flips a service to
    /// another set of backends.
    pub struct ServiceRow [32] {
        /// First slot.
        pub base: u32,
        /// Number of slots; 0 refuses connections.
        pub count: u32,
        /// Service number.
        pub service: u32,
        /// Tenant that owns it.
        pub tenant: u32,
        /// Bits of [`service_flag`].
        pub flags: u32,
        /// Seconds of silence for which a caller keeps its backend; 0 for no affinity.
        pub affinity: u32,
        /// First row of its table in `MAGLEV`.
        pub maglev: u32,
        /// Entries of that table, a prime, four a row; 0 for none.
        pub maglev_size: u32,
    }

    /// Value of `SLOTS`: one backend.
    pub struct Slot [24] {
        /// Address.
        pub addr: Addr,
        /// Port, network byte order.
        pub port: u16,
        /// Zero.
        pub pad: u16,
        /// Service that the slab was written for; a reader that finds another one came too late.
        pub service: u32,
    }

    /// Value of `ENDPOINTS` (key: [`Addr`]): what an address of the cluster is.
    pub struct EndpointRow [40] {
        /// What policy knows it by.
        pub identity: u32,
        /// Its tenant.
        pub tenant: u32,
        /// One of [`endpoint_kind`].
        pub kind: u32,
        /// Host end of its veth on this node; 0 when it isn't here.
        pub ifindex: u32,
        /// Hardware address of the pod's end; zero when it isn't here.
        pub mac: [u8; 6],
        /// Hardware address of the host's end.
        pub gateway_mac: [u8; 6],
        /// Ruleset of what it may receive; 0 when it isn't here or not governed.
        pub ingress: u32,
        /// Ruleset of what it may send; 0 when it isn't here or not governed.
        pub egress: u32,
        /// Bits of [`endpoint_flag`].
        pub flags: u32,
    }

    /// Value of `LINKS` (key: interface index): who is behind the host end of a veth.
    pub struct LinkRow [64] {
        /// Address that it may send from.
        pub addr: Addr,
        /// Second address, of the other family; [`Addr::NONE`] for none.
        pub addr_other: Addr,
        /// What policy knows it by.
        pub identity: u32,
        /// Its tenant.
        pub tenant: u32,
        /// Cookie of its network namespace, the key in `SOCKET_OWNERS`.
        pub netns: u64,
        /// Number made of the pod's UID; names its interface.
        pub pod: u64,
        /// Ruleset of what it may receive; 0 when it is not governed.
        pub ingress: u32,
        /// Ruleset of what it may send; 0 when it is not governed.
        pub egress: u32,
    }

    /// Value of `SOCKET_OWNERS` (key: network namespace cookie): whose sockets are in there.
    pub struct OwnerRow [44] {
        /// What policy knows it by.
        pub identity: u32,
        /// Its tenant.
        pub tenant: u32,
        /// Ruleset of what it may send; 0 when it is not governed.
        pub egress: u32,
        /// Address of the pod.
        pub addr: Addr,
        /// Its address of the other family; [`Addr::NONE`] for none.
        pub addr_other: Addr,
    }

    /// Key of `POLICY` (value: number of a policy that allows it). Prefixes end behind the peer, behind the protocol's
    /// padding, or anywhere in the port; [`rule_bits`] counts them.
    pub struct RuleKey [12] {
        /// Which ruleset; never 0.
        pub ruleset: u32,
        /// Identity, class of addresses, or [`crate::PEER_ANY`].
        pub peer: u32,
        /// IANA number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Port of the receiver, network byte order.
        pub port: u16,
    }

    /// Key of `BLOCKS` (value: class): addresses that a ruleset tells apart.
    pub struct BlockKey [20] {
        /// Which ruleset; never 0.
        pub ruleset: u32,
        /// Address; prefixes end in it.
        pub addr: Addr,
    }

    /// Key of `GRANTS` (value: service number): an exported backend, and to whom.
    pub struct GrantKey [24] {
        /// Backend's address.
        pub addr: Addr,
        /// Backend's port, network byte order.
        pub port: u16,
        /// IANA number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Tenant that may come in; [`crate::TENANT_ANY`] for every one.
        pub tenant: u32,
    }

    /// A flow as one of its packets shows it. As the key of `FLOWS` the lower end comes first, whoever opened it.
    pub struct FlowKey [40] {
        /// One end.
        pub src: Addr,
        /// The other.
        pub dst: Addr,
        /// Network byte order.
        pub src_port: u16,
        /// Network byte order.
        pub dst_port: u16,
        /// IANA number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }

    /// Value of `FLOWS`: what it was let through under. When that is not so any more, the rules are asked again.
    pub struct Flow [32] {
        /// Last packet of either direction that passed, nanoseconds of the monotonic clock.
        pub seen: u64,
        /// Bits of [`flow_state`].
        pub state: u32,
        /// Ruleset of its opener's egress; 0 when that is not here or not governed.
        pub egress: u32,
        /// Ruleset of the other end's ingress; 0 when that is not here or not governed.
        pub ingress: u32,
        /// Identity of its opener.
        pub opener: u32,
        /// Identity of the other end.
        pub answerer: u32,
        /// Zero.
        pub pad: u32,
    }

    /// Value of `MAGLEV`: a few entries of a table. The kernel rounds what an array holds up to 8 bytes.
    pub struct MaglevRow [8] {
        /// Slots, counted from their service's first.
        pub slots: [u16; 4],
    }

    /// Value of `NAT` (key: [`FlowKey`], a packet as it comes): the packet as it goes on. Each translated flow has two
    /// rows, one a direction.
    pub struct NatRow [48] {
        /// Source from here on.
        pub src: Addr,
        /// Destination from here on.
        pub dst: Addr,
        /// Network byte order; the identifier of an ICMP echo request.
        pub src_port: u16,
        /// Network byte order; the identifier of an ICMP echo reply.
        pub dst_port: u16,
        /// Service number; 0 for masquerade.
        pub service: u32,
        /// Last packet, nanoseconds of the monotonic clock.
        pub seen: u64,
    }

    /// Key of `FRAGMENTS`: a packet that was cut.
    pub struct FragmentKey [40] {
        /// Source.
        pub src: Addr,
        /// Destination.
        pub dst: Addr,
        /// Its number, network byte order.
        pub id: u32,
        /// IANA number in front of the cut part.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }

    /// Value of `FRAGMENTS`: what its first fragment says.
    pub struct FragmentRow [16] {
        /// When that came, nanoseconds of the monotonic clock.
        pub seen: u64,
        /// Network byte order; an echo's number at the end that asked.
        pub src_port: u16,
        /// Network byte order; the same.
        pub dst_port: u16,
        /// IANA number of the transport.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }

    /// Key data of `SOURCES`, a longest prefix match over all of it: who may call a service that names its callers.
    pub struct SourceKey [20] {
        /// Service number.
        pub service: u32,
        /// Caller's address.
        pub addr: Addr,
    }

    /// Value of `SOCK_PEER` (key: socket cookie): what a socket called last, and what it reached.
    pub struct PeerRow [56] {
        /// Address that was called.
        pub vip: Addr,
        /// Backend's address.
        pub backend: Addr,
        /// Port that was called, network byte order.
        pub vip_port: u16,
        /// Backend's port, network byte order.
        pub backend_port: u16,
        /// Service number.
        pub service: u32,
        /// Cookie of the socket's network namespace.
        pub netns: u64,
        /// IANA number.
        pub protocol: u8,
        /// One of [`peer_kind`].
        pub kind: u8,
        /// Zero.
        pub pad: [u8; 6],
    }

    /// Key of `SOCK_VIP`: a peer as the kernel sees it, of a socket that talks to more than one.
    pub struct SocketKey [32] {
        /// Socket cookie.
        pub socket: u64,
        /// Backend's address.
        pub addr: Addr,
        /// Backend's port, network byte order.
        pub port: u16,
        /// Zero.
        pub pad: u16,
        /// Zero.
        pub pad_end: u32,
    }

    /// Value of `SOCK_VIP`: the peer as the program called it.
    pub struct VipRow [20] {
        /// Virtual address.
        pub addr: Addr,
        /// Port, network byte order.
        pub port: u16,
        /// Zero.
        pub pad: u16,
    }

    /// Key of `AFFINITY`: a caller of a service port.
    pub struct AffinityKey [24] {
        /// Who calls; [`Addr::NONE`] for the node itself.
        pub client: Addr,
        /// Service number.
        pub service: u32,
        /// Port that is called, network byte order.
        pub port: u16,
        /// IANA number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }

    /// Value of `AFFINITY`: the backend that the caller keeps.
    pub struct AffinityRow [32] {
        /// Backend's address.
        pub backend: Addr,
        /// Last call, nanoseconds of the monotonic clock.
        pub seen: u64,
        /// Backend's port, network byte order.
        pub port: u16,
        /// Zero.
        pub pad: [u8; 6],
    }

    /// Key of `OBJECT_COUNTS`: what is counted for.
    pub struct ObjectKey [8] {
        /// One of [`object_kind`].
        pub kind: u32,
        /// Number of the object.
        pub number: u32,
    }

    /// Value of `OBJECT_COUNTS`.
    pub struct ObjectCount [16] {
        /// Calls, datagrams or flows that passed.
        pub passed: u64,
        /// Calls or packets that did not.
        pub refused: u64,
    }

    /// Value of `SERVICE_COUNTS` (key: service number, modulo its entries): what was done for one service.
    pub struct ServiceCount [32] {
        /// Calls, datagrams or flows that passed.
        pub passed: u64,
        /// Calls or packets that did not.
        pub refused: u64,
        /// Service that has it; 0 for none. Others with that key are counted in `OBJECT_COUNTS`.
        pub service: u32,
        /// Zero.
        pub pad: u32,
        /// Zero; keeps a row within a cache line.
        pub pad_end: u64,
    }

    /// Value of `COUNTERS` (key: number of a [`crate::Reason`]), one for each CPU.
    pub struct Counter [16] {
        /// Packets; calls for the socket hooks.
        pub packets: u64,
        /// Bytes from the Ethernet header on; 0 for the socket hooks.
        pub bytes: u64,
    }
}

/// Bits of [`Config::flags`].
pub mod config_flag {
    /// New calls and flows are told through `EVENTS`, too.
    pub const TELL_NEW: u32 = 1;
}

/// What [`ObjectKey::kind`] says.
pub mod object_kind {
    /// A service, by its number: calls sent to a backend; calls refused for lack of one, or for who called.
    pub const SERVICE: u32 = 1;
    /// A policy, by its number: flows that it let through.
    pub const POLICY: u32 = 2;
    /// What no policy of these pods let in, by their identity.
    pub const INGRESS_OF: u32 = 3;
    /// What no policy of these pods let out, by their identity.
    pub const EGRESS_OF: u32 = 4;
}

/// What [`EndpointRow::kind`] says.
pub mod endpoint_kind {
    /// A pod.
    pub const POD: u32 = 0;
    /// This node, or something that runs in its network namespace: rule 1.
    pub const HOST: u32 = 1;
    /// A virtual address of a service; never seen in a packet that went through the socket hooks.
    pub const VIP: u32 = 2;
    /// Another node: outside for policies, of no tenant.
    pub const NODE: u32 = 3;
}

/// What [`ServiceKey::scope`] says.
pub mod scope {
    /// Pods and nodes.
    pub const INSIDE: u8 = 0;
    /// Whoever comes by the uplink.
    pub const OUTSIDE: u8 = 1;
}

/// Bits of [`RangeRow::flags`].
pub mod range_flag {
    /// What is for there, and what comes from there, goes through the tunnel.
    pub const TUNNEL: u32 = 1;
    /// Services' addresses are from there: one that none has is nobody's.
    pub const SERVICES: u32 = 2;
}

/// Bits of [`EndpointRow::flags`].
pub mod endpoint_flag {
    /// This node answers for the address on its link.
    pub const ANNOUNCED: u32 = 1;
}

/// Bits of [`ServiceRow::flags`].
pub mod service_flag {
    /// Every tenant may reach it.
    pub const EXPORTED_TO_ALL: u32 = 1;
    /// Only callers in `SOURCES` may come in.
    pub const SOURCES: u32 = 2;
    /// Backends of other nodes get calls as they came, and answer the caller themselves.
    pub const DIRECT_RETURN: u32 = 4;
    /// Every backend is a pod of the service's own tenant whose ingress this node does not govern: of the rules only the
    /// caller's egress is left to ask. It saves a lookup at each call and decides nothing: should it come too late, the
    /// packet hooks refuse what the socket hook let through.
    pub const OPEN_BACKENDS: u32 = 8;
}

/// Bits of [`Flow::state`].
pub mod flow_state {
    /// Alive.
    pub const OPEN: u32 = 0;
    /// A TCP FIN or RST was seen; ends soon.
    pub const CLOSING: u32 = 1;
    /// The second end of the key opened it.
    pub const SECOND_OPENED: u32 = 2;
}

/// Prefix lengths, in bits, of `POLICY` and `BLOCKS`.
pub mod rule_bits {
    /// Every port of every protocol.
    pub const PEER: u32 = 64;
    /// Every port of one protocol.
    pub const PROTOCOL: u32 = 80;
    /// One port.
    pub const PORT: u32 = 96;
    /// Bits before the address in a `BLOCKS` key.
    pub const RULESET: u32 = 32;
    /// One address.
    pub const BLOCK: u32 = 160;
}

/// What [`PeerRow::kind`] says.
pub mod peer_kind {
    /// The socket is connected to the backend.
    pub const CONNECTED: u8 = 1;
    /// It has sent datagrams there.
    pub const DATAGRAMS: u8 = 2;
}
