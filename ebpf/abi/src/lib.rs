//! Every key, value, event and drop reason that crosses the kernel boundary. no_std, repr(C), explicit padding; no
//! bool, Option or Rust enum in a row. What the rows mean to a decision is in the programs and in `waggle-policy`.
#![cfg_attr(not(test), no_std)]

mod addr;
mod event;
mod layout;
mod names;
mod reason;
mod row;

pub use addr::{Addr, V4_MAPPED_BITS};
pub use event::{Event, hook};
pub use layout::ABI_HASH;
pub use names::{Capacity, STATE, limit, map, program};
pub use reason::{Reason, TEXTS};
pub use row::{
    AffinityKey, AffinityRow, BlockKey, Config, Counter, EndpointRow, Flow, FlowKey, FragmentKey,
    FragmentRow, GrantKey, LinkRow, MaglevRow, NatRow, ObjectCount, ObjectKey, OwnerRow, PeerRow,
    RangeRow, RuleKey, ServiceCount, ServiceKey, ServiceRow, Slot, SocketKey, SourceKey, VipRow,
    config_flag, endpoint_flag, endpoint_kind, flow_state, object_kind, peer_kind, range_flag,
    rule_bits, scope, service_flag,
};

/// Tenant of nodes and of the cluster's own services: reaches everything, reachable from everywhere.
pub const TENANT_SYSTEM: u32 = 1;
/// In a [`GrantKey`]: any tenant. Nobody is tenant 0.
pub const TENANT_ANY: u32 = 0;
/// Identity of nodes and whatever runs in their own network namespace.
pub const IDENTITY_HOST: u32 = 1;
/// In a [`RuleKey`]: whoever it is. Also the identity of what is no pod.
pub const PEER_ANY: u32 = 0;
/// Lowest number of a class of addresses in a [`RuleKey`]; identities are below.
pub const CLASS_FIRST: u32 = 1 << 31;
/// Number of no ruleset: the direction is not governed.
pub const RULESET_NONE: u32 = 0;
/// Number of the ruleset that never has rows: nothing is allowed.
pub const RULESET_LOCKED: u32 = u32::MAX;
/// IANA number of TCP.
pub const TCP: u8 = 6;
/// IANA number of UDP.
pub const UDP: u8 = 17;
/// IANA number of SCTP.
pub const SCTP: u8 = 132;
/// UDP port of tunnels between nodes: VXLAN's (RFC 7348).
pub const TUNNEL_PORT: u16 = 4789;
/// Bits of a tenant's number that travel with a packet: those of a VNI.
pub const TUNNEL_TENANT: u32 = 0x00ff_ffff;
/// Hardware address of every node's end of a tunnel.
pub const TUNNEL_MAC: [u8; 6] = [0x0e, 0x77, 0x67, 0, 0, 1];
/// Hardware address that packets in a tunnel come from: an interface takes none from its own.
pub const TUNNEL_PEER_MAC: [u8; 6] = [0x0e, 0x77, 0x67, 0, 0, 2];
/// How the hardware address begins that calls come from which another node hands over (direct server return); that node's own
/// address is the rest. So whoever gets one knows that the choice between nodes is made.
pub const HANDED_MAC: [u8; 2] = [0x0e, 0x78];
/// First port that translated flows get at the node's address; above the node ports. The host's own sockets keep theirs.
pub const NAT_PORT_FIRST: u32 = 32_768;
