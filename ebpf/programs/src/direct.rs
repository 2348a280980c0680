//! Direct server return: a call for a backend of another node goes there as it came, in a frame whose sender says that the
//! choice is made; the answer goes from there straight to the caller. The node in between keeps one row, so that its flows stay.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_redir_neigh as NextHop,
    bpf_redir_neigh__bindgen_ty_1 as Hop,
};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;
use waggle_abi::{
    Addr, Config, FlowKey, HANDED_MAC, NatRow, Reason, Slot, TENANT_SYSTEM, endpoint_kind,
};

use crate::Verdict;
use crate::forward::{Lookup, empty_lookup, look_up};
use crate::maps::NAT;
use crate::nat::Work;
use crate::packet::ifindex;
use crate::peer::endpoint;
use crate::tunnel::{address, end_for};
use crate::uplink::{mark, node_address};

/// Offset of a frame's sender.
const SENDER: usize = 6;

/// Whether another node handed the frame over.
#[inline(always)]
pub fn is_handed(ctx: &TcContext) -> bool {
    let start: Result<[u8; 2], _> = ctx.load(SENDER);
    start.is_ok_and(|start| start == HANDED_MAC)
}

/// Whether a backend is on another node of the cluster.
#[inline(always)]
pub fn is_elsewhere(backend: &Addr) -> bool {
    endpoint(backend).is_some_and(|row| match row.kind {
        endpoint_kind::POD => row.ifindex == 0,
        endpoint_kind::NODE => true,
        _ => false,
    })
}

/// Whether the packets of a flow are handed over: they go elsewhere in their caller's name, and no answer to that would come
/// by here.
#[inline(always)]
pub fn is_handed_over(key: &FlowKey, row: &NatRow) -> bool {
    row.src == key.src && is_elsewhere(&row.dst)
}

/// Remembers where a flow goes. Its answers don't come by here.
///
/// # Errors
/// [`Reason::Inconsistent`] when the table does not take it.
#[inline(always)]
pub fn remember(work: &mut Work, backend: &Slot) -> Verdict {
    work.send_to(&backend.addr, backend.port, backend.service);
    NAT.insert(&work.key, &work.row, u64::from(BPF_ANY))
        .map_err(|_| Reason::Inconsistent)
}

/// Hands the packet to the node that has `backend`; `None` when that can't be reached. One whose hardware address is to be asked
/// for first is reached only with `known`, by a packet of a flow that is known there: the kernel asks, and sends it in its own
/// name.
#[inline(never)]
pub fn hand_over(ctx: &TcContext, config: &Config, backend: &Addr, known: bool) -> Option<i32> {
    let own = node_address(config, backend);
    if let Some(end) = end_for(backend) {
        if !address(ctx, config, &end, TENANT_SYSTEM) {
            return None;
        }
        sign(ctx, &own)?;
        // SAFETY: the helper takes numbers.
        return Some(unsafe { bpf_redirect(config.tunnel, 0) as i32 });
    }
    let mut lookup = empty_lookup();
    match look_up(ctx.as_ptr(), ifindex(ctx), &mut lookup, (&own, backend)) as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {}
        BPF_FIB_LKUP_RET_NO_NEIGH if known => return Some(through_neighbour(ctx, &lookup)),
        _ => return None,
    }
    ctx.store(0, &lookup.dmac, 0).ok()?;
    sign(ctx, &own)?;
    mark(ctx);
    // SAFETY: as above.
    Some(unsafe { bpf_redirect(lookup.ifindex, 0) as i32 })
}

/// To the next hop that a lookup left.
#[inline(never)]
fn through_neighbour(ctx: &TcContext, lookup: &Lookup) -> i32 {
    // SAFETY: every value is an address.
    let hop = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    let mut hop = NextHop {
        nh_family: u32::from(lookup.family),
        __bindgen_anon_1: Hop { ipv6_nh: hop },
    };
    mark(ctx);
    let size = size_of::<NextHop>() as i32;
    // SAFETY: the parameters are of this stack, with their size.
    unsafe { bpf_redirect_neigh(lookup.ifindex, &raw mut hop, size, 0) as i32 }
}

/// Says in the frame that it is handed over, and by whom.
#[inline(always)]
fn sign(ctx: &TcContext, own: &Addr) -> Option<()> {
    ctx.store(SENDER, &handed_sender(own), 0).ok()
}

/// Hardware address that the node with the address `own` hands over from.
#[inline(always)]
pub fn handed_sender(own: &Addr) -> [u8; 6] {
    let mut sender = [0u8; 6];
    sender[..2].copy_from_slice(&HANDED_MAC);
    sender[2..].copy_from_slice(&own.words[3].to_ne_bytes());
    sender
}
