//! Calls from outside to services (node ports, load balancers' and external addresses, host ports), and what belongs to flows
//! that they began.

use aya_ebpf::programs::TcContext;
use waggle_abi::{
    Config, FlowKey, Reason, ServiceRow, Slot, TCP, endpoint_kind, scope, service_flag,
};

use crate::count::{Outcome, count, count_service};
use crate::direct::{self, hand_over, is_elsewhere};
use crate::drops::tell_first;
use crate::nat::{Work, find, remember, work};
use crate::packet::Packet;
use crate::peer::{endpoint, peer};
use crate::service::{called, choose_for, choose_here, is_here};
use crate::uplink::{node_address, open, send_error, send_known, send_on};
use crate::{NEXT, Verdict};

/// Decides about a packet that came in from outside; with `handed`, by way of another node, which chose this one.
#[inline(always)]
pub fn arrive(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    handed: bool,
) -> Result<i32, Reason> {
    // Not below the frame that a call takes: a quoted packet's takes much as well.
    if packet.icmp_error {
        send_error(ctx, config, packet, work()?)
    } else {
        arrive_whole(ctx, config, packet, handed)
    }
}

/// The same for what is no error about another packet.
#[inline(never)]
fn arrive_whole(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    handed: bool,
) -> Result<i32, Reason> {
    let work = work()?;
    work.key = packet.tuple;
    // A flow that is known stays where it is; a call that begins anew may choose anew.
    if !packet.opening
        && let Some(row) = find(&work.key)
        && (peer(&row.dst).is_ok()
            || !matches!(service(config, &work.key, handed), Some((Some(_), _))))
    {
        return send_known(ctx, config, packet, &work.key, row);
    }
    let Some((row, at_node)) = service(config, &work.key, handed) else {
        note_direct(packet, work)?;
        return Ok(NEXT);
    };
    let Some(row) = row else {
        // The node's address has other uses; a service's has none.
        return if at_node && !handed {
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
    let slot = match choose(config, &work.key, &row, handed) {
        Ok(slot) => slot,
        Err(reason) => {
            count_service(row.service, Outcome::Refused);
            return Err(reason);
        }
    };
    call(ctx, config, packet, work, &row, slot)
}

/// The service that is called: `None` for an address that is neither this node's nor a service's, `Some(None)` for a
/// port of one that is not served. What is handed over may call another node.
#[inline(always)]
fn service(config: &Config, key: &FlowKey, handed: bool) -> Option<(Option<ServiceRow>, bool)> {
    let at_node = match endpoint(&key.dst)?.kind {
        endpoint_kind::HOST if key.dst == node_address(config, &key.dst) => true,
        endpoint_kind::NODE if handed => true,
        endpoint_kind::VIP => false,
        _ => return None,
    };
    Some((called(key, scope::OUTSIDE, at_node), at_node))
}

#[inline(always)]
fn choose(
    config: &Config,
    key: &FlowKey,
    row: &ServiceRow,
    handed: bool,
) -> Result<&'static Slot, Reason> {
    if handed {
        choose_here(key, row, &node_address(config, &key.dst))
    } else {
        choose_for(key, row)
    }
}

/// A datagram to a pod's own address from outside is remembered, so that its answer is not taken for something new that
/// needs the node's address. TCP tells by its flags.
#[inline(always)]
fn note_direct(packet: &Packet, work: &mut Work) -> Verdict {
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

/// Sends a call to the backend that was chosen.
#[inline(always)]
fn call(
    ctx: &TcContext,
    config: &Config,
    packet: &Packet,
    work: &mut Work,
    row: &ServiceRow,
    slot: &Slot,
) -> Result<i32, Reason> {
    // The same call, sent again.
    if let Some(row) = find(&work.key)
        && (row.dst, row.dst_port) == (slot.addr, slot.port)
    {
        return send_known(ctx, config, packet, &work.key, row);
    }
    let node = node_address(config, &slot.addr);
    // What is here answers through here; the rest must be made to.
    let here = is_here(slot, &node);
    // A pod's own calls are translated at its socket. From here on, this node would speak for it, and the wall of the backend
    // would not know whose call it is.
    if !here && endpoint(&work.key.src).is_some_and(|row| row.kind == endpoint_kind::POD) {
        return Err(Reason::Untranslated);
    }
    tell_first(ctx, packet, Reason::Translated);
    count(Reason::Translated, 0);
    count_service(row.service, Outcome::Passed);
    if row.flags & service_flag::DIRECT_RETURN != 0
        && is_elsewhere(&slot.addr)
        && let Some(verdict) = hand_over(ctx, config, &slot.addr, false)
    {
        direct::remember(work, slot)?;
        return Ok(verdict);
    }
    open(ctx, packet, work, slot, (!here).then_some(&node))?;
    Ok(send_on(ctx, config, &work.row.src, &work.row.dst))
}
