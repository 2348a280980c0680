//! tcx ingress on the uplink: calls from outside to services (node ports, load balancers' and external addresses, host
//! ports), answers to what was translated on its way out, questions for addresses that this node announces. Whatever is
//! none of these is the host's own and passes untouched.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Reason, endpoint_kind, hook};
use waggle_ebpf::announce::{answer_arp, answer_solicitation};
use waggle_ebpf::count::count;
use waggle_ebpf::direct::is_handed;
use waggle_ebpf::drops::drop_packet;
use waggle_ebpf::forward::into_pod;
use waggle_ebpf::outside::arrive;
use waggle_ebpf::packet::{Packet, ifindex, parse};
use waggle_ebpf::peer::endpoint;
use waggle_ebpf::refuse::refuse;
use waggle_ebpf::tunnel::end_for;
use waggle_ebpf::uplink::config;
use waggle_ebpf::wall::{Side, decide};
use waggle_ebpf::{DROP, NEXT};

/// Entry.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let link = ifindex(&ctx);
    let Some(packet) = Packet::at(hook::FROM_UPLINK) else {
        return DROP;
    };
    if parse(&ctx, packet).is_err() {
        return if answer_arp(&ctx) { back(link) } else { NEXT };
    }
    if answer_solicitation(&ctx, packet) {
        return back(link);
    }
    let verdict = match between_pods(&ctx, packet) {
        Some(verdict) => verdict,
        None => config().and_then(|config| arrive(&ctx, config, packet, is_handed(&ctx))),
    };
    match verdict {
        Ok(verdict) => {
            count(Reason::Forwarded, ctx.len());
            verdict
        }
        Err(reason) => {
            let dropped = drop_packet(&ctx, packet, reason);
            // Who handed it over is not who called.
            if reason == Reason::NoBackend && !is_handed(&ctx) && refuse(&ctx, packet).is_ok() {
                back(link)
            } else {
                dropped
            }
        }
    }
}

/// Out by the link that it came by.
#[inline(always)]
fn back(link: u32) -> i32 {
    // SAFETY: the helper takes a number.
    unsafe { bpf_redirect(link, 0) as i32 }
}

/// What a pod of another node sends to one of this node is decided about here, as `to_pod` would, and delivered past the
/// host's stack.
#[inline(always)]
fn between_pods(ctx: &TcContext, packet: &Packet) -> Option<Result<i32, Reason>> {
    let pod = |addr| endpoint(addr).filter(|row| row.kind == endpoint_kind::POD);
    let dst = pod(&packet.tuple.dst).filter(|row| row.ifindex != 0)?;
    // One of this node's own does not come in by the uplink.
    let src = pod(&packet.tuple.src).filter(|row| row.ifindex == 0)?;
    // Whoever shares this link could say so; the tunnel is asked who sends.
    if end_for(&packet.tuple.src).is_some() {
        return Some(Err(Reason::TunnelSource));
    }
    let verdict = decide(
        ctx,
        packet,
        &Side::of_endpoint(src),
        &Side::of_endpoint(dst),
    );
    Some(verdict.map(|()| into_pod(ctx, dst)))
}

waggle_ebpf::program!();
