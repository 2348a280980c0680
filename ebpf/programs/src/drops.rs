//! Telling user space which packets were dropped, and why.

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, Event, Reason, endpoint_kind, hook};

use crate::count::report;
use crate::packet::{Packet, ifindex};
use crate::peer::{endpoint, link};

/// Drops a packet at `hook`: counted, reported, and the hook's answer returned. `packet` is empty for a frame that could not
/// be parsed. Not inlined: the event would take up a fifth of the caller's stack.
#[inline(never)]
pub fn drop_packet(ctx: &TcContext, packet: &Packet, hook: u32, reason: Reason) -> i32 {
    let mut event = Event {
        hook,
        length: ctx.len(),
        ifindex: ifindex(ctx),
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        src_port: packet.tuple.src_port,
        dst_port: packet.tuple.dst_port,
        protocol: packet.tuple.protocol,
        src_tenant: tenant(&packet.tuple.src),
        dst_tenant: tenant(&packet.tuple.dst),
        ..Event::default()
    };
    // What a pod's link says counts more than what its packets say.
    let own = link(event.ifindex).map_or(0, |link| link.tenant);
    match hook {
        hook::FROM_POD => event.src_tenant = own,
        hook::TO_POD => event.dst_tenant = own,
        _ => {}
    }
    report(reason, event);
    TC_ACT_SHOT as i32
}

/// Tenant of a pod or a service; 0 for what is neither.
#[inline(always)]
fn tenant(addr: &Addr) -> u32 {
    match endpoint(addr) {
        Some(row) if matches!(row.kind, endpoint_kind::POD | endpoint_kind::VIP) => row.tenant,
        _ => 0,
    }
}
