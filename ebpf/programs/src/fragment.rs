//! Fragments behind the first carry no ports: those of the first are remembered, so that what is decided about it, and how it
//! is translated, holds for the rest. One that comes before its first is not known.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use waggle_abi::{FragmentKey, FragmentRow};

use crate::maps::FRAGMENTS;
use crate::packet::Packet;

/// How long a packet may take to be whole, as kernels give it (RFC 8200, 4.5): then its number may be another's.
const LIFETIME: u64 = 60_000_000_000;

/// Remembers what a first fragment says.
#[inline(always)]
pub fn remember(key: &FragmentKey, packet: &Packet) {
    let flow = &packet.tuple;
    let row = FragmentRow {
        // SAFETY: the helper has no preconditions.
        seen: unsafe { bpf_ktime_get_ns() },
        src_port: flow.src_port,
        dst_port: flow.dst_port,
        protocol: flow.protocol,
        pad: [0; 3],
    };
    // Without a row the rest is dropped, and the packet is sent anew or lost: as on any network.
    let _ = FRAGMENTS.insert(key, &row, u64::from(BPF_ANY));
}

/// What the first fragment of the same packet said.
#[inline(always)]
pub fn find(key: &FragmentKey) -> Option<FragmentRow> {
    // SAFETY: rows are replaced as a whole; this copy is of one of them.
    let row = *unsafe { FRAGMENTS.get(key) }?;
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    (now.saturating_sub(row.seen) <= LIFETIME).then_some(row)
}
