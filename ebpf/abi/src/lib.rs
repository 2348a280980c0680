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
pub use names::{Capacity, limit, map, program};
pub use reason::{Reason, TEXTS};
pub use row::{
    Config, Counter, EndpointRow, Flow, FlowKey, GrantKey, LinkRow, OwnerRow, ServiceKey,
    ServiceRow, Slot, SocketKey, VipRow, endpoint_kind, flow_state, service_flag,
};

/// Tenant of nodes and of the cluster's own services: reaches everything, reachable from everywhere.
pub const TENANT_SYSTEM: u32 = 1;
/// In a [`GrantKey`]: any tenant. Nobody is tenant 0.
pub const TENANT_ANY: u32 = 0;
/// Identity of nodes and whatever runs in their own network namespace.
pub const IDENTITY_HOST: u32 = 1;
/// IANA number of TCP.
pub const TCP: u8 = 6;
/// IANA number of UDP.
pub const UDP: u8 = 17;
