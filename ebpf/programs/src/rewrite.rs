//! Changing a packet's addresses and ports with its checksums kept right, offloaded ones included: the checksum helpers
//! know what state a packet's checksum is in.

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_csum_update};
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, FlowKey, NatRow, Reason, SCTP, TCP, UDP};

use crate::Verdict;
use crate::packet::{ETHERNET, ICMP, ICMP_V6, Packet, Quote};

const PSEUDO_HEADER: u64 = 1 << 4;
/// A checksum of 0 means "none" (UDP over IPv4).
const MANGLED_0: u64 = 1 << 5;
/// Kernel 6.16 on; older ones refuse it and need none for the checksum states that they get right.
const OVER_V6: u64 = 1 << 7;

/// Offset of the checksum in an IPv4 header.
const V4_CHECKSUM: usize = 10;
/// Offset of the source address; the destination follows.
const V4_ADDRESSES: usize = 12;
const V6_ADDRESSES: usize = 8;
/// Offset of the checksum in an ICMP header of either family.
const ICMP_CHECKSUM: usize = 2;
/// Offset of the identifier in an ICMP echo.
const ICMP_ID: usize = 4;

/// Makes the packet `key` the packet that `row` says.
#[inline(never)]
pub fn translate(ctx: &TcContext, packet: &Packet, key: &FlowKey, row: &NatRow) -> Verdict {
    let diff = addresses(ctx, ETHERNET, [&key.src, &key.dst], [&row.src, &row.dst])?;
    if packet.later_fragment {
        // The transport's checksum is in the first. Of IPv6 nothing here makes up for what changed in the sum of it all.
        if !key.src.is_v4() {
            // SAFETY: the context is the kernel's. It refuses where the packet has no such sum.
            unsafe { bpf_csum_update(ctx.skb.skb, diff as u32) };
        }
        return Ok(());
    }
    let offset = match key.protocol {
        TCP => packet.transport + 16,
        UDP => packet.transport + 6,
        ICMP | ICMP_V6 => packet.transport + ICMP_CHECKSUM,
        _ => return Ok(()),
    };
    let zero = if key.protocol == UDP { MANGLED_0 } else { 0 };
    // ICMP's checksum does not cover addresses.
    if key.protocol != ICMP {
        pseudo(ctx, offset, diff, key.src.is_v4(), zero)?;
    }
    ports(
        ctx,
        packet.transport,
        (offset, zero),
        key.protocol,
        [key.src_port, key.dst_port],
        [row.src_port, row.dst_port],
    )
}

/// Makes an ICMP error, about a packet whose answers `row` translates, one about the packet that was translated.
#[inline(never)]
pub fn translate_error(ctx: &TcContext, packet: &Packet, quote: &Quote, row: &NatRow) -> Verdict {
    let key = &quote.flow;
    let checksum = packet.transport + ICMP_CHECKSUM;
    // The row is of the other direction.
    let inner = addresses(
        ctx,
        quote.network,
        [&key.src, &key.dst],
        [&row.dst, &row.src],
    )?;
    if !key.src.is_v4() {
        replace(ctx, checksum, 0, inner, 0)?;
    }
    if quote.has_ports != 0 {
        ports(
            ctx,
            quote.transport,
            (checksum, 0),
            key.protocol,
            [key.src_port, key.dst_port],
            [row.dst_port, row.src_port],
        )?;
    }
    let outer = &packet.tuple;
    // The other end itself complains; a router on the way keeps its address.
    let src = if outer.src == key.dst {
        &row.src
    } else {
        &outer.src
    };
    let diff = addresses(ctx, ETHERNET, [&outer.src, &outer.dst], [src, &row.dst])?;
    if key.src.is_v4() {
        return Ok(());
    }
    pseudo(ctx, checksum, diff, false, 0)
}

/// Writes both addresses of the header at `offset` and its own checksum; returns what changed, for others.
#[inline(always)]
fn addresses(
    ctx: &TcContext,
    offset: usize,
    old: [&Addr; 2],
    new: [&Addr; 2],
) -> Result<u64, Reason> {
    if old[0].is_v4() {
        let mut from = [old[0].words[3], old[1].words[3]];
        let mut to = [new[0].words[3], new[1].words[3]];
        // SAFETY: both buffers have 8 bytes of this stack.
        let diff = unsafe { bpf_csum_diff(from.as_mut_ptr(), 8, to.as_mut_ptr(), 8, 0) } as u64;
        ctx.store(offset + V4_ADDRESSES, &to, 0)
            .and_then(|()| ctx.l3_csum_replace(offset + V4_CHECKSUM, 0, diff, 0))
            .map_err(|_| Reason::NotRewritten)?;
        return Ok(diff);
    }
    let mut from = [*old[0], *old[1]];
    let mut to = [*new[0], *new[1]];
    // SAFETY: both buffers have 32 bytes of this stack.
    let diff = unsafe { bpf_csum_diff(from.as_mut_ptr().cast(), 32, to.as_mut_ptr().cast(), 32, 0) }
        as u64;
    ctx.store(offset + V6_ADDRESSES, &to, 0)
        .map_err(|_| Reason::NotRewritten)?;
    Ok(diff)
}

/// Follows a change of addresses in a checksum over the pseudo header.
#[inline(always)]
fn pseudo(ctx: &TcContext, offset: usize, diff: u64, v4: bool, zero: u64) -> Verdict {
    let flags = PSEUDO_HEADER | zero;
    if v4 {
        return replace(ctx, offset, 0, diff, flags);
    }
    replace(ctx, offset, 0, diff, flags | OVER_V6).or_else(|_| replace(ctx, offset, 0, diff, flags))
}

/// Writes ports, or the identifier of an echo, at `transport`, and follows that in a checksum: its offset and flags.
#[inline(always)]
fn ports(
    ctx: &TcContext,
    transport: usize,
    (checksum, flags): (usize, u64),
    protocol: u8,
    old: [u16; 2],
    new: [u16; 2],
) -> Verdict {
    if protocol == SCTP {
        // Its checksum covers the ports and can't be followed; whoever chose the new ones kept the old.
        return Ok(());
    }
    if matches!(protocol, ICMP | ICMP_V6) {
        // One of the two is the identifier; the other stands for the answering end and never changes.
        let asker = usize::from(old[0] == new[0]);
        let (from, to) = (old[asker], new[asker]);
        if from == to {
            return Ok(());
        }
        ctx.store(transport + ICMP_ID, &to, 0)
            .map_err(|_| Reason::NotRewritten)?;
        return replace(ctx, checksum, u64::from(from), u64::from(to), 2);
    }
    let from = word(old);
    let to = word(new);
    if from == to {
        return Ok(());
    }
    ctx.store(transport, &to, 0)
        .map_err(|_| Reason::NotRewritten)?;
    replace(ctx, checksum, u64::from(from), u64::from(to), 4 | flags)
}

#[inline(always)]
pub(crate) fn word(ports: [u16; 2]) -> u32 {
    let (first, second) = (ports[0].to_ne_bytes(), ports[1].to_ne_bytes());
    u32::from_ne_bytes([first[0], first[1], second[0], second[1]])
}

#[inline(always)]
fn replace(ctx: &TcContext, offset: usize, from: u64, to: u64, flags: u64) -> Verdict {
    ctx.l4_csum_replace(offset, from, to, flags)
        .map_err(|_| Reason::NotRewritten)
}
