//! tcx egress on the tunnel: names the node that a packet of the host's stack goes to, and whose packet it is. What programs
//! send themselves is addressed already. Whatever is for no node, the interface drops.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use waggle_abi::{TENANT_SYSTEM, endpoint_kind, hook};
use waggle_ebpf::packet::{Packet, parse};
use waggle_ebpf::peer::endpoint;
use waggle_ebpf::tunnel::{address, end_for};
use waggle_ebpf::uplink::{config, is_marked};
use waggle_ebpf::{DROP, NEXT};

/// Entry.
#[classifier]
pub fn to_tunnel(ctx: TcContext) -> i32 {
    let Some(packet) = Packet::at(hook::TO_TUNNEL) else {
        return DROP;
    };
    if is_marked(&ctx) || parse(&ctx, packet).is_err() {
        return NEXT;
    }
    if let (Some(end), Ok(config)) = (end_for(&packet.tuple.dst), config()) {
        let tenant = match endpoint(&packet.tuple.src) {
            Some(row) if row.kind == endpoint_kind::POD => row.tenant,
            _ => TENANT_SYSTEM,
        };
        // What could not be addressed goes nowhere.
        let _ = address(&ctx, config, &end, tenant);
    }
    NEXT
}

waggle_ebpf::program!();
