//! What the cluster's tables know about an address.

use waggle_abi::{Addr, EndpointRow, LinkRow, OwnerRow, Reason, endpoint_kind};

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{ENDPOINTS, LINKS, RANGES, SOCKET_OWNERS};

/// What an address is.
pub enum Peer {
    /// Outside the cluster.
    World,
    /// This node.
    Host,
    /// Another node.
    Node,
    /// A virtual address, of this tenant.
    Vip(u32),
    /// A pod.
    Pod(&'static EndpointRow),
}

/// What the tables know about an address.
#[inline(always)]
pub fn endpoint(addr: &Addr) -> Option<&'static EndpointRow> {
    // SAFETY: rows are replaced, never written in place by programs; the map outlives the program.
    unsafe { ENDPOINTS.get(addr) }
}

/// Looks `addr` up. An address in the pods' ranges that nobody has is an error: what can't be known can't be allowed.
#[inline(always)]
pub fn peer(addr: &Addr) -> Result<Peer, Reason> {
    let Some(row) = endpoint(addr) else {
        return match RANGES.get(Key::new(128, *addr)) {
            Some(_) => Err(Reason::UnknownEndpoint),
            None => Ok(Peer::World),
        };
    };
    Ok(match row.kind {
        endpoint_kind::HOST => Peer::Host,
        endpoint_kind::NODE => Peer::Node,
        endpoint_kind::VIP => Peer::Vip(row.tenant),
        _ => Peer::Pod(row),
    })
}

/// Who is behind the host end of a veth.
#[inline(always)]
pub fn link(ifindex: u32) -> Result<&'static LinkRow, Reason> {
    // SAFETY: as above.
    unsafe { LINKS.get(ifindex) }.ok_or(Reason::UnknownLink)
}

/// Whose sockets are in a network namespace; `None` for one that belongs to no pod.
#[inline(always)]
pub fn owner(netns: u64) -> Option<&'static OwnerRow> {
    // SAFETY: as above.
    unsafe { SOCKET_OWNERS.get(netns) }
}
