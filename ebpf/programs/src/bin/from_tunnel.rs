//! tcx ingress on the tunnel: what nodes that share no link with this one send to its pods, and to itself in their pods'
//! names. Who sends is told twice, by the source address and by the tunnel; where they differ, nobody is believed.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, Config, Reason, TENANT_SYSTEM, TUNNEL_TENANT, hook};
use waggle_ebpf::count::count;
use waggle_ebpf::direct::is_handed;
use waggle_ebpf::drops::drop_packet;
use waggle_ebpf::forward::into_pod;
use waggle_ebpf::nat::{find, work};
use waggle_ebpf::outside::arrive;
use waggle_ebpf::packet::{Packet, parse};
use waggle_ebpf::peer::{Peer, peer};
use waggle_ebpf::tunnel::{end_for, sender};
use waggle_ebpf::uplink::{config, node_address, send_error, send_known};
use waggle_ebpf::wall::{Side, decide};
use waggle_ebpf::{DROP, NEXT};

/// Entry.
#[classifier]
pub fn from_tunnel(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::at(hook::FROM_TUNNEL) else {
        return DROP;
    };
    match parse(&ctx, packet).and_then(|()| admit(&ctx, packet)) {
        Ok(verdict) => {
            count(Reason::Forwarded, ctx.len());
            verdict
        }
        Err(reason) => drop_packet(&ctx, packet, reason),
    }
}

#[inline(always)]
fn admit(ctx: &TcContext, packet: &Packet) -> Result<i32, Reason> {
    let src = match origin(ctx, &packet.tuple.src) {
        Ok(side) => side,
        Err(_) if is_from_outside(ctx, &packet.tuple.src) => {
            return arrive(ctx, config()?, packet, true);
        }
        Err(reason) => return Err(reason),
    };
    match peer(&packet.tuple.dst)? {
        Peer::Pod(row) if row.ifindex != 0 => {
            decide(ctx, packet, &src, &Side::of_endpoint(row))?;
            Ok(into_pod(ctx, row))
        }
        Peer::Host => to_host(ctx, config()?, packet),
        _ => Err(Reason::NotHere),
    }
}

/// Who sent it: a pod of the node that the tunnel names, in the tenant that it names, or that node itself.
#[inline(always)]
fn origin(ctx: &TcContext, src: &Addr) -> Result<Side, Reason> {
    let mut node = Addr::NONE;
    let tenant = sender(ctx, &mut node).ok_or(Reason::TunnelSource)?;
    if end_for(src) != Some(node) {
        return Err(Reason::TunnelSource);
    }
    let (side, known) = match peer(src)? {
        Peer::Pod(row) => (Side::of_endpoint(row), row.tenant),
        Peer::Node => (Side::WORLD, TENANT_SYSTEM),
        _ => return Err(Reason::TunnelSource),
    };
    if known & TUNNEL_TENANT == tenant {
        Ok(side)
    } else {
        Err(Reason::TunnelSource)
    }
}

/// Whether it is what came to another node from outside, handed over by that. None may speak for pods so.
#[inline(never)]
fn is_from_outside(ctx: &TcContext, src: &Addr) -> bool {
    let mut node = Addr::NONE;
    is_handed(ctx)
        && sender(ctx, &mut node) == Some(TENANT_SYSTEM & TUNNEL_TENANT)
        && matches!(peer(&node), Ok(Peer::Node))
        && matches!(peer(src), Ok(Peer::World))
}

/// Answers to flows that this node speaks for go on to whom they are for; the rest is for the host.
#[inline(never)]
fn to_host(ctx: &TcContext, config: &Config, packet: &Packet) -> Result<i32, Reason> {
    if packet.tuple.dst != node_address(config, &packet.tuple.dst) {
        return Ok(NEXT);
    }
    let work = work()?;
    if packet.icmp_error {
        return send_error(ctx, config, packet, work);
    }
    work.key = packet.tuple;
    match find(&work.key) {
        Some(row) => send_known(ctx, config, packet, &work.key, row),
        None => Ok(NEXT),
    }
}

waggle_ebpf::program!();
