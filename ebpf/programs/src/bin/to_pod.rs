//! tcx egress on the host end of a pod's veth: what the host's stack delivers to the pod. Packets of pods on the same
//! node don't come through here; `from_pod` has decided about them.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Reason, hook};
use waggle_ebpf::Verdict;
use waggle_ebpf::count::{count, report};
use waggle_ebpf::packet::{Packet, event, ifindex, parse};
use waggle_ebpf::peer::{Peer, link, peer};
use waggle_ebpf::wall::{Side, decide};

/// On to the next program and then to the pod.
const NEXT: i32 = -1;

/// Entry.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let parsed = parse(&ctx);
    let verdict = match &parsed {
        Ok(packet) => admit(&ctx, packet),
        // The host's own neighbour discovery.
        Err(Reason::NotIp) => Ok(()),
        Err(reason) => Err(*reason),
    };
    match verdict {
        Ok(()) => {
            count(Reason::Forwarded, ctx.len());
            NEXT
        }
        Err(reason) => {
            let mut event = event(&ctx, hook::TO_POD, parsed.as_ref().ok());
            (event.src_tenant, event.dst_tenant) = tenants(&ctx, parsed.as_ref().ok());
            report(reason, event);
            TC_ACT_SHOT as i32
        }
    }
}

/// The pod's own node passes; the outside and other nodes are asked for by policy; pods of other nodes stand before the wall once more, here with the rows of the
/// receiving node. Who sends is told by the source address: every node drops what its pods do not own.
#[inline(always)]
fn admit(ctx: &TcContext, packet: &Packet) -> Verdict {
    let link = link(ifindex(ctx))?;
    match peer(&packet.tuple.src)? {
        // 1: probes, and whatever else its node wants of it.
        Peer::Host => Ok(()),
        Peer::World | Peer::Node => decide(ctx, packet, &Side::WORLD, &Side::of_link(link)),
        Peer::Vip(_) => Err(Reason::Untranslated),
        Peer::Pod(row) => decide(ctx, packet, &Side::of_endpoint(row), &Side::of_link(link)),
    }
}

/// Tenants of both ends, as far as the tables know them; only for reports.
#[inline(always)]
fn tenants(ctx: &TcContext, packet: Option<&Packet>) -> (u32, u32) {
    let dst = link(ifindex(ctx)).map_or(0, |link| link.tenant);
    let src = match packet.map(|packet| peer(&packet.tuple.src)) {
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
