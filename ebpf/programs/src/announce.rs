//! ARP (RFC 826) for addresses that this node announces and that no interface has.

use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, endpoint_flag};

use crate::packet::ETHERNET;
use crate::uplink::endpoint;

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
