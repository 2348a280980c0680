//! ARP (RFC 826) and neighbour discovery (RFC 4861) for addresses that this node announces and that no interface has.

use aya_ebpf::helpers::generated::bpf_skb_change_tail;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, endpoint_flag};

use crate::packet::{ETHERNET, ICMP_V6, Packet};
use crate::peer::endpoint;
use crate::refuse::icmp_v6_sum;

const ETHERTYPE_ARP: u16 = 0x0806_u16.to_be();

#[repr(C)]
#[derive(Clone, Copy)]
struct Arp {
    hardware: u16,
    protocol: u16,
    lengths: u16,
    operation: u16,
    sender_mac: [u8; 6],
    sender: [u16; 2],
    target_mac: [u8; 6],
    target: [u16; 2],
}

/// Makes a question for an announced address its answer; says whether it did.
#[inline(never)]
pub fn answer_arp(ctx: &TcContext) -> bool {
    answer(ctx).is_some()
}

#[inline(always)]
fn answer(ctx: &TcContext) -> Option<()> {
    let ethertype: u16 = ctx.load(12).ok()?;
    if ethertype != ETHERTYPE_ARP {
        return None;
    }
    let asked: Arp = ctx.load(ETHERNET).ok()?;
    let is_question = asked.hardware == 1_u16.to_be()
        && asked.protocol == 0x0800_u16.to_be()
        && asked.lengths == 0x0604_u16.to_be()
        && asked.operation == 1_u16.to_be();
    if !is_question {
        return None;
    }
    let (high, low) = (asked.target[0].to_ne_bytes(), asked.target[1].to_ne_bytes());
    let target = u32::from_ne_bytes([high[0], high[1], low[0], low[1]]);
    let row = endpoint(&Addr::v4(target))?;
    if row.flags & endpoint_flag::ANNOUNCED == 0 {
        return None;
    }
    let mac = row.gateway_mac;
    let reply = Arp {
        operation: 2_u16.to_be(),
        sender_mac: mac,
        sender: asked.target,
        target_mac: asked.sender_mac,
        target: asked.sender,
        ..asked
    };
    ctx.store(ETHERNET, &reply, 0).ok()?;
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&asked.sender_mac);
    macs[6..].copy_from_slice(&mac);
    ctx.store(0, &macs, 0).ok()
}

const SOLICITATION: u8 = 135;
/// Bytes of an advertisement with the option that has the hardware address.
const ADVERTISEMENT: u16 = 32;

/// A whole neighbour advertisement.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
struct Advertisement {
    macs: [u8; 12],
    ethertype: u16,
    head: [u8; 8],
    addresses: [Addr; 2],
    icmp: [u16; 4],
    target: Addr,
    option: [u8; 8],
}

/// Each CPU's own: too much for a program's stack.
#[map]
static ADVERTISEMENTS: PerCpuArray<Advertisement> = PerCpuArray::with_max_entries(1, 0);

/// Makes a solicitation of an announced address its advertisement; says whether it did.
#[inline(never)]
pub fn answer_solicitation(ctx: &TcContext, packet: &Packet) -> bool {
    advertise(ctx, packet).is_some()
}

#[inline(always)]
fn advertise(ctx: &TcContext, packet: &Packet) -> Option<()> {
    let asker = packet.tuple.src;
    // Without one it only asks whether the address is taken, which here is for the cluster to know.
    if packet.tuple.protocol != ICMP_V6 || asker == Addr::NONE {
        return None;
    }
    let kind: u8 = ctx.load(packet.transport).ok()?;
    if kind != SOLICITATION {
        return None;
    }
    let target: Addr = ctx.load(packet.transport + 8).ok()?;
    let row = endpoint(&target)?;
    if row.flags & endpoint_flag::ANNOUNCED == 0 {
        return None;
    }
    let macs: [u8; 12] = ctx.load(0).ok()?;
    let answer = ADVERTISEMENTS.get_ptr_mut(0)?;
    // SAFETY: the map keeps the row alive, and nothing else uses it while this program runs.
    let answer = unsafe { &mut *answer };
    let mac = row.gateway_mac;
    answer.macs[..6].copy_from_slice(&macs[6..]);
    answer.macs[6..].copy_from_slice(&mac);
    answer.ethertype = 0x86dd_u16.to_be();
    answer.head = [0x60, 0, 0, 0, 0, ADVERTISEMENT as u8, ICMP_V6, 255];
    answer.addresses = [target, asker];
    // Advertisement; solicited, and to be believed over what was known.
    answer.icmp = [0x8800_u16.to_be(), 0, 0x6000_u16.to_be(), 0];
    answer.target = target;
    answer.option = [2, 1, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]];
    let (addresses, message) = (&raw mut answer.addresses, &raw mut answer.icmp);
    answer.icmp[1] = icmp_v6_sum(addresses.cast(), message.cast(), u32::from(ADVERTISEMENT));
    let length = size_of::<Advertisement>() as u32;
    // SAFETY: the context is the kernel's.
    if unsafe { bpf_skb_change_tail(ctx.skb.skb.cast(), length, 0) } != 0 {
        return None;
    }
    ctx.store(0, answer, 0).ok()
}
