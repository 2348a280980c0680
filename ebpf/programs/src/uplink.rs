//! What is translated on the way between the cluster and the outside, and where it goes then. The hooks differ in what
//! they may meet; the translations are the same.

use aya_ebpf::helpers::generated::bpf_redirect_neigh;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, Config, FlowKey, NatRow, Reason, Slot, TENANT_SYSTEM, endpoint_kind};

use crate::direct::{hand_over, is_handed_over};
use crate::flow::reversed;
use crate::forward::into_pod;
use crate::maps::CONFIG;
use crate::nat::{Work, find, remember, remember_with_port};
use crate::packet::{Packet, quote};
use crate::peer::endpoint;
use crate::rewrite::{translate, translate_error};
use crate::tunnel::{end_for, send_whole};
use crate::{NEXT, Verdict};

/// Mark of a packet that leaves as it is, translated or inside a tunnel; taken off where it leaves.
const TRANSLATED: u32 = 0x5747_0001;

/// What programs must know about their node.
#[inline(always)]
pub fn config() -> Result<&'static Config, Reason> {
    CONFIG.get(0).ok_or(Reason::Inconsistent)
}

/// The node's address of the family of `like`.
#[inline(always)]
pub fn node_address(config: &Config, like: &Addr) -> Addr {
    if like.is_v4() {
        config.node_v4
    } else {
        config.node_v6
    }
}

/// What an ICMP error is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// No translated flow.
    Other,
    /// One of this node's. The error is translated; `work.row` has where it comes from and goes to.
    Ours,
    /// One that another node answers for; `work.row.dst` is there.
    Handed,
}

/// Translates an ICMP error about a translated flow.
#[inline(never)]
pub fn error(ctx: &TcContext, packet: &Packet, work: &mut Work) -> Result<About, Reason> {
    if quote(ctx, packet, &mut work.quote).is_err() {
        return Ok(About::Other);
    }
    work.key = reversed(&work.quote.flow);
    let Some(row) = find(&work.key) else {
        return Ok(About::Other);
    };
    work.row.dst = row.dst;
    if is_handed_over(&work.key, row) {
        return Ok(About::Handed);
    }
    work.row.src = packet.tuple.src;
    if packet.tuple.src == work.key.src {
        work.row.src = row.src;
    }
    translate_error(ctx, packet, &work.quote, row)?;
    Ok(About::Ours)
}

/// Sends an ICMP error on to whom it is for; one that is about no translated flow is the host's.
#[inline(always)]
pub fn send_error(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    work: &mut Work,
) -> Result<i32, Reason> {
    match error(ctx, packet, work)? {
        About::Other => Ok(NEXT),
        About::Ours => Ok(send_on(ctx, config, &work.row.src, &work.row.dst)),
        About::Handed => hand_over(ctx, config, &work.row.dst, true).ok_or(Reason::NotHere),
    }
}

/// Sends the packet `key` on as the row of its flow says.
#[inline(always)]
pub fn send_known(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    key: &FlowKey,
    row: &NatRow,
) -> Result<i32, Reason> {
    if is_handed_over(key, row) {
        return hand_over(ctx, config, &row.dst, true).ok_or(Reason::NotHere);
    }
    translate(ctx, packet, key, row)?;
    Ok(send_on(ctx, config, &row.src, &row.dst))
}

/// Sends a flow's first packet to a backend: as it is when the answer passes here by itself, else from an address of
/// this node (`from`).
#[inline(always)]
pub fn open(
    ctx: &TcContext,
    packet: &Packet,
    work: &mut Work,
    backend: &Slot,
    from: Option<&Addr>,
) -> Verdict {
    work.send_to(&backend.addr, backend.port, backend.service);
    match from {
        None => remember(work)?,
        Some(addr) => {
            work.row.src = *addr;
            remember_with_port(ctx, work)?;
        }
    }
    translate(ctx, packet, &work.key, &work.row)
}

/// Gives a packet that leaves the cluster the node's address.
#[inline(always)]
pub fn masquerade(ctx: &TcContext, packet: &Packet, work: &mut Work) -> Verdict {
    let (dst, port) = (work.key.dst, work.key.dst_port);
    work.send_to(&dst, port, 0);
    work.row.src = node_address(config()?, &dst);
    remember_with_port(ctx, work)?;
    translate(ctx, packet, &work.key, &work.row)
}

/// Where a translated packet goes on from a hook where packets come in. The host's stack delivers to the host and, past
/// policy, to pods; what has an address of this host as its source would be refused there and goes by itself.
#[inline(always)]
pub fn send_on(ctx: &TcContext, config: &Config, src: &Addr, dst: &Addr) -> i32 {
    if let Some(row) = endpoint(dst) {
        match row.kind {
            endpoint_kind::POD if row.ifindex != 0 => {
                let ours = endpoint(src).is_some_and(|row| row.kind != endpoint_kind::POD);
                return if ours { into_pod(ctx, row) } else { NEXT };
            }
            endpoint_kind::HOST if *dst == node_address(config, dst) => return NEXT,
            _ => {}
        }
    }
    match end_for(dst) {
        Some(end) => send_whole(ctx, config, &end, TENANT_SYSTEM),
        None => out(ctx, config.uplink),
    }
}

/// Out by the uplink, to whom the routes say.
#[inline(never)]
pub fn out(ctx: &TcContext, uplink: u32) -> i32 {
    mark(ctx);
    // SAFETY: the neighbour is the kernel's to find.
    unsafe { bpf_redirect_neigh(uplink, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Marks the packet as one that leaves as it is.
#[inline(always)]
pub fn mark(ctx: &TcContext) {
    // SAFETY: the context is the kernel's; the mark is writable, by whole words at a fixed offset only.
    unsafe { (&raw mut (*ctx.skb.skb).mark).write_volatile(TRANSLATED) }
}

/// Whether [`mark`] was put on it.
#[inline(never)]
pub fn is_marked(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (&raw const (*ctx.skb.skb).mark).read_volatile() == TRANSLATED }
}

/// Whether the packet was sent out by [`out`] or inside a tunnel; takes the mark off.
#[inline(never)]
pub fn is_translated(ctx: &TcContext) -> bool {
    // SAFETY: as in `mark`.
    unsafe {
        let mark = &raw mut (*ctx.skb.skb).mark;
        let marked = mark.read_volatile() == TRANSLATED;
        if marked {
            mark.write_volatile(0);
        }
        marked
    }
}
