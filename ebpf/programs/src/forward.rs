//! Past the host's stack, into a pod of this node or out to another. There the route and the neighbour are the kernel's own,
//! looked up by the program; the packet goes straight to the interface. The hop is not counted (TTL).

pub use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_SUCCESS, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS,
    bpf_fib_lookup__bindgen_ty_1 as Length, bpf_fib_lookup__bindgen_ty_2 as Service,
    bpf_fib_lookup__bindgen_ty_3 as Source, bpf_fib_lookup__bindgen_ty_4 as Destination,
    bpf_fib_lookup__bindgen_ty_5 as Vlan,
};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_fib_lookup, bpf_redirect, bpf_redirect_peer, bpf_skb_store_bytes,
};
use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, EndpointRow};

use crate::NEXT;
use crate::packet::ifindex;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Sends a packet on to the node that its route names. Left to the host's stack when something has to be done first: a
/// neighbour to be asked for, a packet that is too big to be told so.
#[inline(never)]
pub fn to_node(ctx: &TcContext, src: &Addr, dst: &Addr) -> i32 {
    let mut lookup = empty_lookup();
    let found = look_up(ctx.as_ptr(), ifindex(ctx), &mut lookup, (src, dst));
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || !fits(ctx, lookup.ifindex) {
        return NEXT;
    }
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&lookup.dmac);
    macs[6..].copy_from_slice(&lookup.smac);
    // SAFETY: the context is the kernel's, the buffer is of this stack; the frame was parsed beyond its addresses.
    unsafe {
        if bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, macs.as_ptr().cast(), 12, 0) != 0 {
            return NEXT;
        }
        bpf_redirect(lookup.ifindex, 0) as i32
    }
}

/// What [`look_up`] fills in.
#[inline(always)]
pub fn empty_lookup() -> Lookup {
    Lookup {
        family: 0,
        l4_protocol: 0,
        sport: 0,
        dport: 0,
        // 0: by the packet's own length, segments that are still to be cut included.
        __bindgen_anon_1: Length { tot_len: 0 },
        ifindex: 0,
        __bindgen_anon_2: Service { flowinfo: 0 },
        __bindgen_anon_3: Source { ipv6_src: [0; 4] },
        __bindgen_anon_4: Destination { ipv6_dst: [0; 4] },
        __bindgen_anon_5: Vlan { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    }
}

/// Asks the kernel which way a packet from one address to another goes on that came in at `ifindex`; returns one of its
/// `BPF_FIB_LKUP_RET`s. `ctx` is the hook's.
#[inline(always)]
pub fn look_up(
    ctx: *mut c_void,
    ifindex: u32,
    lookup: &mut Lookup,
    (src, dst): (&Addr, &Addr),
) -> i64 {
    lookup.ifindex = ifindex;
    if dst.is_v4() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = src.words[3];
        lookup.__bindgen_anon_4.ipv4_dst = dst.words[3];
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = src.words;
        lookup.__bindgen_anon_4.ipv6_dst = dst.words;
    }
    let size = size_of::<Lookup>() as i32;
    // SAFETY: the context is the kernel's, the parameters are of the caller's stack.
    unsafe { bpf_fib_lookup(ctx, lookup, size, 0) }
}

/// Whether an interface takes the packet as it is, or each segment that it will be cut into.
#[inline(always)]
pub fn fits(ctx: &TcContext, ifindex: u32) -> bool {
    let mut mtu = 0;
    let segments = u64::from(BPF_MTU_CHK_SEGS);
    // SAFETY: the context is the kernel's, the length is of this stack.
    unsafe { bpf_check_mtu(ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, segments) == 0 }
}

/// Puts the packet into a pod's namespace with the link addresses that it would have after routing.
#[inline(always)]
pub fn into_pod(ctx: &TcContext, row: &EndpointRow) -> i32 {
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&row.mac);
    macs[6..].copy_from_slice(&row.gateway_mac);
    // SAFETY: the context is the kernel's, the buffer is 12 bytes of this stack; the frame was parsed beyond them.
    unsafe {
        if bpf_skb_store_bytes(ctx.skb.skb.cast(), 0, macs.as_ptr().cast(), 12, 0) != 0 {
            return NEXT;
        }
        bpf_redirect_peer(row.ifindex, 0) as i32
    }
}
