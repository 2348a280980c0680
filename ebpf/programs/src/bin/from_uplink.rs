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
use waggle_abi::{
    Config, FlowKey, Reason, ServiceRow, TCP, endpoint_kind, hook, object_kind, scope,
};
use waggle_ebpf::announce::{answer_arp, answer_solicitation};
use waggle_ebpf::count::{Outcome, count, count_object};
use waggle_ebpf::drops::{drop_packet, tell_first};
use waggle_ebpf::forward::into_pod;
use waggle_ebpf::nat::{Work, find, remember, work};
use waggle_ebpf::packet::{Packet, ifindex, parse};
use waggle_ebpf::peer::{endpoint, peer};
use waggle_ebpf::refuse::refuse;
use waggle_ebpf::rewrite::translate;
use waggle_ebpf::service::{called, choose_for};
use waggle_ebpf::tunnel::end_for;
use waggle_ebpf::uplink::{config, error, node_address, open, send_on};
use waggle_ebpf::wall::{Side, decide};
use waggle_ebpf::{DROP, NEXT, Verdict};

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
        None => admit(&ctx, packet),
    };
    match verdict {
        Ok(verdict) => {
            count(Reason::Forwarded, ctx.len());
            verdict
        }
        Err(reason) => {
            let dropped = drop_packet(&ctx, packet, reason);
            if reason == Reason::NoBackend && refuse(&ctx, packet).is_ok() {
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

#[inline(never)]
fn admit(ctx: &TcContext, packet: &Packet) -> Result<i32, Reason> {
    let (config, work) = (config()?, work()?);
    if packet.icmp_error {
        return Ok(if error(ctx, packet, work)? {
            send_on(ctx, config, &work.row.src, &work.row.dst)
        } else {
            NEXT
        });
    }
    work.key = packet.tuple;
    // A flow that is known stays where it is; a call that begins anew may choose anew.
    if !packet.opening
        && let Some(row) = find(&work.key)
        && (peer(&row.dst).is_ok() || !is_call(config, &work.key))
    {
        translate(ctx, packet, &work.key, row)?;
        return Ok(send_on(ctx, config, &row.src, &row.dst));
    }
    let Some((row, at_node)) = service(config, &work.key) else {
        direct(packet, work)?;
        return Ok(NEXT);
    };
    let Some(row) = row else {
        // The node's address has other uses; a service's has none.
        return if at_node {
            Ok(NEXT)
        } else if packet.unknown_ports {
            Err(Reason::Fragment)
        } else {
            Err(Reason::NoBackend)
        };
    };
    // Its first has made a flow, or was not let through.
    if packet.later_fragment {
        return Err(Reason::Fragment);
    }
    call(ctx, config, packet, work, &row)
}

/// The service that is called: `None` for an address that is neither this node's nor a service's, `Some(None)` for a
/// port of one that is not served.
#[inline(always)]
fn service(config: &Config, key: &FlowKey) -> Option<(Option<ServiceRow>, bool)> {
    let at_node = match endpoint(&key.dst)?.kind {
        endpoint_kind::HOST if key.dst == node_address(config, &key.dst) => true,
        endpoint_kind::VIP => false,
        _ => return None,
    };
    Some((called(key, scope::OUTSIDE, at_node), at_node))
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

/// A datagram to a pod's own address from outside is remembered, so that its answer is not taken for something new that
/// needs the node's address. TCP tells by its flags.
#[inline(always)]
fn direct(packet: &Packet, work: &mut Work) -> Verdict {
    let to_pod = endpoint(&work.key.dst)
        .is_some_and(|row| row.kind == endpoint_kind::POD && row.ifindex != 0);
    let known = endpoint(&work.key.src).is_some();
    if work.key.protocol == TCP || packet.later_fragment || !to_pod || known {
        return Ok(());
    }
    let (dst, port) = (work.key.dst, work.key.dst_port);
    work.send_to(&dst, port, 0);
    remember(work)
}

/// Whether `key` is a packet to a service and not an answer.
#[inline(always)]
fn is_call(config: &Config, key: &FlowKey) -> bool {
    matches!(service(config, key), Some((Some(_), _)))
}

#[inline(always)]
fn call(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    work: &mut Work,
    row: &ServiceRow,
) -> Result<i32, Reason> {
    let slot = match choose_for(&work.key, row) {
        Ok(slot) => slot,
        Err(reason) => {
            count_object(object_kind::SERVICE, row.service, Outcome::Refused);
            return Err(reason);
        }
    };
    // The same call, sent again.
    if let Some(row) = find(&work.key)
        && (row.dst, row.dst_port) == (slot.addr, slot.port)
    {
        translate(ctx, packet, &work.key, row)?;
        return Ok(send_on(ctx, config, &row.src, &row.dst));
    }
    let node = node_address(config, &slot.addr);
    // What is here answers through here; the rest must be made to.
    let here = match endpoint(&slot.addr) {
        Some(row) if row.kind == endpoint_kind::POD => row.ifindex != 0,
        Some(_) => slot.addr == node,
        None => false,
    };
    // A pod's own calls are translated at its socket. From here on, this node would speak for it, and the wall of the backend
    // would not know whose call it is.
    if !here && endpoint(&work.key.src).is_some_and(|row| row.kind == endpoint_kind::POD) {
        return Err(Reason::Untranslated);
    }
    tell_first(ctx, packet, Reason::Translated);
    open(ctx, packet, work, slot, (!here).then_some(&node))?;
    count(Reason::Translated, 0);
    count_object(object_kind::SERVICE, row.service, Outcome::Passed);
    Ok(send_on(ctx, config, &work.row.src, &work.row.dst))
}

waggle_ebpf::program!();
