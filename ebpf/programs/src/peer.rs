//! What the cluster's tables know about an address.

use waggle_abi::{Addr, EndpointRow, LinkRow, OwnerRow, Reason, endpoint_kind, range_flag};

use aya_ebpf::maps::lpm_trie::Key;

use crate::maps::{CONFIG, ENDPOINTS, LINKS, RANGES, SOCKET_OWNERS};

/// What an address is.
pub enum Peer {
    /// Outside the cluster.
    World,
    /// This node.
    Host,
    /// Another node.
    Node,
    /// A virtual address, of this tenant; 0 for one that no service has.
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
            Some(row) if row.flags & range_flag::SERVICES != 0 => Ok(Peer::Vip(0)),
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

/// Whether it is in the services' range, be it of one or of none: nobody else has such an address. Cheaper than to look it up.
#[inline(always)]
pub fn is_virtual(addr: &Addr) -> bool {
    let Some(config) = CONFIG.get(0) else {
        return false;
    };
    let (first, mask) = if addr.is_v4() {
        (&config.services_v4, &config.services_v4_mask)
    } else {
        (&config.services_v6, &config.services_v6_mask)
    };
    *first != Addr::NONE && addr.is_in(first, mask)
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
