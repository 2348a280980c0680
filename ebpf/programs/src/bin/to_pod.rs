//! tcx egress on the host end of a pod's veth: what the host's stack delivers to the pod. Packets of pods on the same
//! node don't come through here; `from_pod` has decided about them.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Reason, hook};
use waggle_ebpf::count::count;
use waggle_ebpf::drops::drop_packet;
use waggle_ebpf::packet::{Packet, ifindex, parse};
use waggle_ebpf::peer::{Peer, link, peer};
use waggle_ebpf::wall::{Side, decide};
use waggle_ebpf::{DROP, NEXT, Verdict};

/// Entry.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::at(hook::TO_POD) else {
        return DROP;
    };
    let verdict = match parse(&ctx, packet) {
        Ok(()) => admit(&ctx, packet),
        // The host's own neighbour discovery.
        Err(Reason::NotIp) => Ok(()),
        Err(reason) => Err(reason),
    };
    match verdict {
        Ok(()) => {
            count(Reason::Forwarded, ctx.len());
            NEXT
        }
        Err(reason) => drop_packet(&ctx, packet, reason),
    }
}

/// The pod's own node passes; the outside and other nodes are asked for by policy; pods of other nodes stand before the wall
/// once more, here with the rows of the receiving node. Who sends is told by the source address: every node drops what its
/// pods do not own.
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

waggle_ebpf::program!();
