//! tcx egress on the uplink: what pods send out of the cluster gets the node's address (masquerade), and answers of the
//! host's own backends get the address that was called. What is neither passes untouched.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Reason, TCP, endpoint_kind, hook};
use waggle_ebpf::count::count;
use waggle_ebpf::drops::drop_packet;
use waggle_ebpf::nat::{Work, collides, find, work};
use waggle_ebpf::packet::{Packet, parse};
use waggle_ebpf::peer::{Peer, endpoint, peer};
use waggle_ebpf::rewrite::translate;
use waggle_ebpf::uplink::{error, is_translated, masquerade};
use waggle_ebpf::{DROP, NEXT, Verdict};

/// Entry.
#[classifier]
pub fn to_uplink(ctx: TcContext) -> i32 {
    if is_translated(&ctx) {
        return NEXT;
    }
    let Some(packet) = Packet::at(hook::TO_UPLINK) else {
        return DROP;
    };
    if parse(&ctx, packet).is_err() {
        return NEXT;
    }
    match leave(&ctx, packet) {
        Ok(()) => {
            count(Reason::Forwarded, ctx.len());
            NEXT
        }
        Err(reason) => drop_packet(&ctx, packet, reason),
    }
}

#[inline(always)]
fn leave(ctx: &TcContext, packet: &Packet) -> Verdict {
    let work = work()?;
    if packet.icmp_error {
        return error(ctx, packet, work).map(|_| ());
    }
    let Some(sender) = endpoint(&packet.tuple.src) else {
        return Ok(());
    };
    work.key = packet.tuple;
    if let Some(row) = find(&work.key) {
        return translate(ctx, packet, &work.key, row);
    }
    let needed = if sender.kind == endpoint_kind::POD {
        sender.ifindex != 0 && pod_leaves(packet)?
    } else {
        sender.kind == endpoint_kind::HOST && host_collides(packet, work)
    };
    if needed {
        masquerade(ctx, packet, work)
    } else {
        Ok(())
    }
}

/// Pods of this node have addresses that mean nothing outside of the cluster; but who reached a pod from there by its own
/// address gets its answers from it.
#[inline(always)]
fn pod_leaves(packet: &Packet) -> Result<bool, Reason> {
    let Peer::World = peer(&packet.tuple.dst)? else {
        return Ok(false);
    };
    // Its first has made a flow, or was not let through.
    if packet.later_fragment {
        return Err(Reason::Fragment);
    }
    Ok(packet.tuple.protocol != TCP || packet.opening)
}

/// The host's own packets keep their port, unless a pod's flow to the same peer got it first.
#[inline(always)]
fn host_collides(packet: &Packet, work: &mut Work) -> bool {
    !packet.later_fragment && work.key.src_port != 0 && collides(work)
}

waggle_ebpf::program!();
