//! XDP on the uplink, before the kernel makes a packet of a frame: calls with direct return go on to their backend's node, and
//! callers that a service does not want end here. Whatever is not plain, or needs more than other hardware addresses, passes
//! to `from_uplink`, which would decide the same.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_FIB_LKUP_RET_SUCCESS;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use waggle_abi::{
    Addr, Config, Event, FlowKey, HANDED_MAC, Reason, ServiceRow, TCP, UDP, endpoint_kind, hook,
    scope, service_flag,
};
use waggle_ebpf::count::{Outcome, count, count_service, report, tell, tells_new};
use waggle_ebpf::direct::{handed_sender, is_elsewhere, is_handed_over, remember};
use waggle_ebpf::forward::{empty_lookup, look_up};
use waggle_ebpf::nat::{find, work};
use waggle_ebpf::peer::endpoint;
use waggle_ebpf::service::{called, choose_for};
use waggle_ebpf::tunnel::end_for;
use waggle_ebpf::uplink::{config, node_address};

const ETHERNET: usize = 14;
const V4: u16 = 0x0800_u16.to_be();
const V6: u16 = 0x86dd_u16.to_be();
/// Version 4, a header without options.
const PLAIN_V4: u8 = 0x45;
/// "More fragments", or an offset.
const FRAGMENT: u16 = 0x3fff_u16.to_be();
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Entry.
#[xdp]
pub fn edge(ctx: XdpContext) -> u32 {
    let mut key = FlowKey::default();
    let Some(opening) = plain(&ctx, &mut key) else {
        return XDP_PASS;
    };
    match config() {
        Ok(config) => admit(&ctx, config, &key, opening).unwrap_or(XDP_PASS),
        Err(_) => XDP_PASS,
    }
}

/// Fills in the tuple of a plain packet that nobody handed over, and says whether it is a first TCP segment: no options or
/// extensions, no fragment, TCP or UDP. The others are `None`.
#[inline(always)]
fn plain(ctx: &XdpContext, key: &mut FlowKey) -> Option<bool> {
    let sender: [u8; 2] = *at(ctx, 6)?;
    if sender == HANDED_MAC {
        return None;
    }
    let transport = match *at::<u16>(ctx, 12)? {
        V4 => {
            if *at::<u8>(ctx, ETHERNET)? != PLAIN_V4
                || *at::<u16>(ctx, ETHERNET + 6)? & FRAGMENT != 0
            {
                return None;
            }
            key.protocol = *at(ctx, ETHERNET + 9)?;
            let ends: [u32; 2] = words(ctx, ETHERNET + 12)?;
            (key.src, key.dst) = (Addr::v4(ends[0]), Addr::v4(ends[1]));
            ETHERNET + 20
        }
        V6 => {
            key.protocol = *at(ctx, ETHERNET + 6)?;
            key.src.words = words(ctx, ETHERNET + 8)?;
            key.dst.words = words(ctx, ETHERNET + 24)?;
            if key.src.is_v4() || key.dst.is_v4() {
                return None;
            }
            ETHERNET + 40
        }
        _ => return None,
    };
    (key.src_port, key.dst_port) = (*at(ctx, transport)?, *at(ctx, transport + 2)?);
    match key.protocol {
        TCP => {
            let flags: u8 = *at(ctx, transport + 13)?;
            Some(flags & (TCP_SYN | TCP_ACK) == TCP_SYN)
        }
        UDP => Some(false),
        _ => None,
    }
}

/// What lies at an offset of the frame.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: it is within the frame; callers ask for what has no alignment, or for what lies even as frames do.
    Some(unsafe { &*(start as *const T) })
}

/// Words at an offset that is no multiple of their size.
#[inline(always)]
fn words<const N: usize>(ctx: &XdpContext, offset: usize) -> Option<[u32; N]> {
    let halves: &[[u16; 2]; N] = at(ctx, offset)?;
    let mut words = [0; N];
    for (word, [low, high]) in words.iter_mut().zip(halves) {
        *word = u32::from(*low) | u32::from(*high) << 16;
    }
    Some(words)
}

/// `None` passes it on.
#[inline(always)]
fn admit(ctx: &XdpContext, config: &Config, key: &FlowKey, opening: bool) -> Option<u32> {
    let at_node = match endpoint(&key.dst)?.kind {
        endpoint_kind::VIP => false,
        endpoint_kind::HOST if key.dst == node_address(config, &key.dst) => true,
        _ => return None,
    };
    // A flow that is known stays where it is.
    if !opening && let Some(row) = find(key) {
        if !is_handed_over(key, row) {
            return None;
        }
        return hand_over(ctx, config, &row.dst);
    }
    let row = called(key, scope::OUTSIDE, at_node)?;
    if row.flags & (service_flag::DIRECT_RETURN | service_flag::SOURCES) == 0 {
        return None;
    }
    call(ctx, config, key, &row)
}

/// A flow's first packet.
#[inline(always)]
fn call(ctx: &XdpContext, config: &Config, key: &FlowKey, row: &ServiceRow) -> Option<u32> {
    let slot = match choose_for(key, row) {
        Ok(slot) => slot,
        Err(Reason::SourceRange) => {
            count_service(row.service, Outcome::Refused);
            report(Reason::SourceRange, event(ctx, key));
            return Some(XDP_DROP);
        }
        Err(_) => return None,
    };
    // In a pod's name nobody calls from outside.
    if row.flags & service_flag::DIRECT_RETURN == 0
        || !is_elsewhere(&slot.addr)
        || endpoint(&key.src).is_some_and(|row| row.kind == endpoint_kind::POD)
    {
        return None;
    }
    let work = work().ok()?;
    let verdict = hand_over(ctx, config, &slot.addr)?;
    work.key = *key;
    if let Err(reason) = remember(work, slot) {
        // The frame says already that it was handed over.
        report(reason, event(ctx, key));
        return Some(XDP_DROP);
    }
    if tells_new() {
        tell(Reason::Translated, event(ctx, key));
    }
    count(Reason::Translated, 0);
    count_service(row.service, Outcome::Passed);
    Some(verdict)
}

/// Back out of the interface, to the node that has `backend`; `None` where that is not the way, or the node's hardware address
/// is not known.
#[inline(always)]
fn hand_over(ctx: &XdpContext, config: &Config, backend: &Addr) -> Option<u32> {
    if end_for(backend).is_some() {
        return None;
    }
    let own = node_address(config, backend);
    // SAFETY: the kernel hands every program a valid context.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let mut lookup = empty_lookup();
    let found = look_up(ctx.as_ptr(), ifindex, &mut lookup, (&own, backend));
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || lookup.ifindex != ifindex {
        return None;
    }
    let start = ctx.data();
    if start + 12 > ctx.data_end() {
        return None;
    }
    // SAFETY: within the frame, whose first bytes are its hardware addresses.
    let macs = unsafe { &mut *(start as *mut [u8; 12]) };
    macs[..6].copy_from_slice(&lookup.dmac);
    macs[6..].copy_from_slice(&handed_sender(&own));
    count(Reason::Forwarded, length(ctx));
    Some(XDP_TX)
}

#[inline(always)]
fn length(ctx: &XdpContext) -> u32 {
    (ctx.data_end() - ctx.data()) as u32
}

#[inline(always)]
fn event(ctx: &XdpContext, key: &FlowKey) -> Event {
    Event {
        hook: hook::EDGE,
        length: length(ctx),
        // SAFETY: as above.
        ifindex: unsafe { (*ctx.ctx).ingress_ifindex },
        src: key.src,
        dst: key.dst,
        src_port: key.src_port,
        dst_port: key.dst_port,
        protocol: key.protocol,
        dst_tenant: endpoint(&key.dst).map_or(0, |row| row.tenant),
        ..Event::default()
    }
}

waggle_ebpf::program!();
