//! Between nodes that share no link: a pod's packet travels inside one of the nodes (VXLAN, RFC 7348), so that the network in
//! between need not know pods. Its network identifier is the tenant of who sent it, which the receiver holds against what it
//! knows about the source address. The tenant and not the identity, because it stays while labels change.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key as TunnelKey};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key, bpf_skb_store_bytes,
};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, Config, TUNNEL_MAC, TUNNEL_PEER_MAC, TUNNEL_TENANT, range_flag};

use crate::NEXT;
use crate::forward::fits;
use crate::maps::RANGES;
use crate::uplink::{config, mark, node_address};

const KEY_SIZE: u32 = size_of::<TunnelKey>() as u32;
const HOPS: u8 = 64;
/// Both hardware addresses of a frame inside a tunnel, in their order. Not on a stack, which is short.
static MACS: [u8; 12] = {
    let [a, b, c, d, e, f] = TUNNEL_MAC;
    let [g, h, i, j, k, l] = TUNNEL_PEER_MAC;
    [a, b, c, d, e, f, g, h, i, j, k, l]
};

/// The other end of the tunnel that `addr` is behind; `None` for an address that is reached without one.
#[inline(always)]
pub fn end_for(addr: &Addr) -> Option<Addr> {
    let row = RANGES.get(Key::new(128, *addr))?;
    (row.flags & range_flag::TUNNEL != 0).then_some(row.node)
}

/// Sends a pod's packet, which is of `tenant`, to the node at `end`. One that is too big is left to the host's stack, which has
/// a route to the same tunnel and cuts it, or says so to its sender.
#[inline(always)]
pub fn send(ctx: &TcContext, end: &Addr, tenant: u32) -> i32 {
    match config() {
        Ok(config) if fits(ctx, config.tunnel) => send_whole(ctx, config, end, tenant),
        _ => NEXT,
    }
}

/// Sends a packet to the node at `end` whatever its size: what is around it is cut where that is too big.
#[inline(never)]
pub fn send_whole(ctx: &TcContext, config: &Config, end: &Addr, tenant: u32) -> i32 {
    if !address(ctx, config, end, tenant) {
        return NEXT;
    }
    // SAFETY: the helper takes numbers.
    unsafe { bpf_redirect(config.tunnel, 0) as i32 }
}

/// Says to the tunnel's interface where the packet goes and whose it is; false when the kernel refuses.
#[inline(never)]
pub fn address(ctx: &TcContext, config: &Config, end: &Addr, tenant: u32) -> bool {
    let own = node_address(config, end);
    let mut key = MaybeUninit::uninit();
    let key = zeroed(&mut key);
    key.tunnel_id = tenant & TUNNEL_TENANT;
    key.tunnel_ttl = HOPS;
    let flags = if end.is_v4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(end.words[3]);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(own.words[3]);
        // What is inside has checksums of its own.
        BPF_F_ZERO_CSUM_TX
    } else {
        key.__bindgen_anon_1.remote_ipv6 = end.words;
        key.__bindgen_anon_3.local_ipv6 = own.words;
        BPF_F_TUNINFO_IPV6
    };
    let skb = ctx.skb.skb;
    // SAFETY: the context is the kernel's; the key is of this stack and the addresses are a constant, with their sizes.
    let refused = unsafe {
        bpf_skb_set_tunnel_key(skb, key, KEY_SIZE, u64::from(flags)) != 0
            || bpf_skb_store_bytes(skb.cast(), 0, MACS.as_ptr().cast(), 12, 0) != 0
    };
    if !refused {
        mark(ctx);
    }
    !refused
}

/// Which node sent what came out of the tunnel, and the tenant that it names.
#[inline(never)]
pub fn sender(ctx: &TcContext, node: &mut Addr) -> Option<u32> {
    let mut key = MaybeUninit::uninit();
    let key = zeroed(&mut key);
    let skb = ctx.skb.skb;
    let v6 = u64::from(BPF_F_TUNINFO_IPV6);
    // SAFETY: the context is the kernel's, the key is of this stack, with its size; both ways to read it are words.
    unsafe {
        if bpf_skb_get_tunnel_key(skb, key, KEY_SIZE, 0) == 0 {
            *node = Addr::v4(key.__bindgen_anon_1.remote_ipv4.to_be());
        } else if bpf_skb_get_tunnel_key(skb, key, KEY_SIZE, v6) == 0 {
            node.words = key.__bindgen_anon_1.remote_ipv6;
        } else {
            return None;
        }
    }
    Some(key.tunnel_id)
}

/// Makes a key of zeros, word by word: a call of `memset` would be one more frame on the stack.
#[inline(always)]
fn zeroed(key: &mut MaybeUninit<TunnelKey>) -> &mut TunnelKey {
    let words = key.as_mut_ptr().cast::<u32>();
    // SAFETY: the key is whole words, and zeros are a key.
    unsafe {
        for word in 0..size_of::<TunnelKey>() / 4 {
            words.add(word).write_volatile(0);
        }
        key.assume_init_mut()
    }
}
