//! tcx ingress on the host end of a pod's veth: everything that the pod sends.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, EndpointRow, LinkRow, Reason, hook};
use waggle_ebpf::count::count;
use waggle_ebpf::drops::drop_packet;
use waggle_ebpf::forward::{into_pod, to_node};
use waggle_ebpf::packet::{Packet, ifindex, parse};
use waggle_ebpf::peer::{Peer, link, peer};
use waggle_ebpf::tunnel::{end_for, send};
use waggle_ebpf::wall::{Side, decide};
use waggle_ebpf::{DROP, NEXT};

/// Where an allowed packet goes.
enum Route {
    /// The host's stack routes it: the host itself, another node's own address, outside.
    Stack,
    /// A pod of another node.
    Node,
    /// A node behind a tunnel, or one of its pods, from a pod of this tenant.
    Tunnel(Addr, u32),
    /// Straight into a pod of this node.
    Local(&'static EndpointRow),
}

/// Entry.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::at(hook::FROM_POD) else {
        return DROP;
    };
    match parse(&ctx, packet).and_then(|()| route(&ctx, packet)) {
        Ok(Route::Stack) => {
            count(Reason::Forwarded, ctx.len());
            NEXT
        }
        Ok(Route::Node) => {
            count(Reason::Forwarded, ctx.len());
            to_node(&ctx, &packet.tuple.src, &packet.tuple.dst)
        }
        Ok(Route::Tunnel(end, tenant)) => {
            count(Reason::Forwarded, ctx.len());
            send(&ctx, &end, tenant)
        }
        Ok(Route::Local(row)) => {
            count(Reason::Forwarded, ctx.len());
            into_pod(&ctx, row)
        }
        Err(reason) => drop_packet(&ctx, packet, reason),
    }
}

/// Where it may come from and go to. What goes out of the cluster or to a node is the host stack's; a virtual
/// address never leaves a pod, because a packet to one passed no socket hook and nobody would answer it.
#[inline(always)]
fn route(ctx: &TcContext, packet: &Packet) -> Result<Route, Reason> {
    let link = link(ifindex(ctx))?;
    // Before the source check: what the pod's kernel says to its link by itself has no source yet.
    if packet.tuple.dst.is_link_scope() {
        return Err(Reason::LinkScope);
    }
    let src = packet.tuple.src;
    if src != link.addr && src != link.addr_other || src.words == [0; 4] {
        return Err(Reason::InvalidSource);
    }
    match peer(&packet.tuple.dst)? {
        // 1: what a pod's own node serves (DNS, its kubelet) it always reaches, as NetworkPolicy says.
        Peer::Host => Ok(Route::Stack),
        Peer::World => {
            decide(ctx, packet, &Side::of_link(link), &Side::WORLD)?;
            Ok(Route::Stack)
        }
        Peer::Node => {
            decide(ctx, packet, &Side::of_link(link), &Side::WORLD)?;
            Ok(tunnel_or(Route::Stack, packet, link))
        }
        Peer::Vip(_) => Err(Reason::Untranslated),
        Peer::Pod(row) => {
            // Here, the policy of both ends: what is delivered by redirect passes no other hook.
            decide(ctx, packet, &Side::of_link(link), &Side::of_endpoint(row))?;
            Ok(if row.ifindex == 0 {
                tunnel_or(Route::Node, packet, link)
            } else {
                Route::Local(row)
            })
        }
    }
}

/// Through the tunnel to what is behind one.
#[inline(always)]
fn tunnel_or(other: Route, packet: &Packet, link: &LinkRow) -> Route {
    match end_for(&packet.tuple.dst) {
        Some(end) => Route::Tunnel(end, link.tenant),
        None => other,
    }
}

waggle_ebpf::program!();
