//! tcx ingress on the host end of a pod's veth: everything that the pod sends.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::{bpf_redirect_peer, bpf_skb_store_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{EndpointRow, Reason, hook};
use waggle_ebpf::count::{count, report};
use waggle_ebpf::packet::{Packet, event, ifindex, parse};
use waggle_ebpf::peer::{Peer, link, peer};
use waggle_ebpf::wall::{Side, decide};

/// On to the next program and then to the host's stack.
const NEXT: i32 = -1;

/// Where an allowed packet goes.
enum Route {
    /// The host's stack routes it: the host itself, another node, outside.
    Stack,
    /// Straight into a pod of this node.
    Local(&'static EndpointRow),
}

/// Entry.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let parsed = parse(&ctx);
    let verdict = match &parsed {
        Ok(packet) => route(&ctx, packet),
        Err(reason) => Err(*reason),
    };
    match verdict {
        Ok(Route::Stack) => {
            count(Reason::Forwarded, ctx.len());
            NEXT
        }
        Ok(Route::Local(row)) => {
            count(Reason::Forwarded, ctx.len());
            deliver(&ctx, row)
        }
        Err(reason) => {
            let mut event = event(&ctx, hook::FROM_POD, parsed.as_ref().ok());
            (event.src_tenant, event.dst_tenant) = tenants(&ctx, parsed.as_ref().ok());
            report(reason, event);
            TC_ACT_SHOT as i32
        }
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
        Peer::World | Peer::Node => {
            decide(ctx, packet, &Side::of_link(link), &Side::WORLD)?;
            Ok(Route::Stack)
        }
        Peer::Vip(_) => Err(Reason::Untranslated),
        Peer::Pod(row) => {
            // Here, the policy of both ends: what is delivered by redirect passes no other hook.
            decide(ctx, packet, &Side::of_link(link), &Side::of_endpoint(row))?;
            Ok(if row.ifindex == 0 {
                Route::Stack
            } else {
                Route::Local(row)
            })
        }
    }
}

/// Puts the packet into the receiving pod's namespace with the link addresses that it would have after routing.
#[inline(always)]
fn deliver(ctx: &TcContext, row: &EndpointRow) -> i32 {
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&row.mac);
    macs[6..].copy_from_slice(&row.gateway_mac);
    // SAFETY: the context is the kernel's, the buffer is 12 bytes of this stack; the frame was parsed beyond them.
    unsafe {
        if bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, macs.as_ptr().cast(), 12, 0) != 0 {
            return NEXT;
        }
        bpf_redirect_peer(row.ifindex, 0) as i32
    }
}

/// Tenants of both ends, as far as the tables know them; only for reports.
#[inline(always)]
fn tenants(ctx: &TcContext, packet: Option<&Packet>) -> (u32, u32) {
    let src = link(ifindex(ctx)).map_or(0, |link| link.tenant);
    let dst = match packet.map(|packet| peer(&packet.tuple.dst)) {
        Some(Ok(Peer::Pod(row))) => row.tenant,
        Some(Ok(Peer::Vip(tenant))) => tenant,
        _ => 0,
    };
    (src, dst)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
