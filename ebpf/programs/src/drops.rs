//! Telling user space which packets were dropped and why, and which are the first of their flow.

use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, Event, Reason, endpoint_kind, hook};

use crate::DROP;
use crate::count::{report, tell, tells_new};
use crate::packet::{Packet, has_ports, ifindex};
use crate::peer::{endpoint, link};

/// Drops a packet: counted, reported, and the hook's answer returned. `packet` is empty for a frame that could not be
/// parsed. Not inlined: the event would take up a fifth of the caller's stack.
#[inline(never)]
pub fn drop_packet(ctx: &TcContext, packet: &Packet, reason: Reason) -> i32 {
    report(reason, event(ctx, packet));
    DROP
}

/// Tells of a flow's first packet, to whoever listens.
#[inline(always)]
pub fn tell_first(ctx: &TcContext, packet: &Packet, reason: Reason) {
    if tells_new() {
        tell_packet(ctx, packet, reason);
    }
}

#[inline(never)]
fn tell_packet(ctx: &TcContext, packet: &Packet, reason: Reason) {
    tell(reason, event(ctx, packet));
}

#[inline(always)]
fn event(ctx: &TcContext, packet: &Packet) -> Event {
    let mut event = Event {
        hook: packet.hook,
        length: ctx.len(),
        ifindex: ifindex(ctx),
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        protocol: packet.tuple.protocol,
        src_tenant: tenant(&packet.tuple.src),
        dst_tenant: tenant(&packet.tuple.dst),
        ..Event::default()
    };
    if has_ports(event.protocol) {
        event.src_port = packet.tuple.src_port;
        event.dst_port = packet.tuple.dst_port;
    }
    // What a pod's link says counts more than what its packets say.
    let own = link(event.ifindex).map_or(0, |link| link.tenant);
    match packet.hook {
        hook::FROM_POD => event.src_tenant = own,
        hook::TO_POD => event.dst_tenant = own,
        _ => {}
    }
    event
}

/// Tenant of a pod or a service; 0 for what is neither.
#[inline(always)]
fn tenant(addr: &Addr) -> u32 {
    match endpoint(addr) {
        Some(row) if matches!(row.kind, endpoint_kind::POD | endpoint_kind::VIP) => row.tenant,
        _ => 0,
    }
}
