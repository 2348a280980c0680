//! cgroup hooks: a call to a virtual address becomes a call to a backend, once, at connect() or sendmsg(); what the
//! caller sees (recvmsg, getpeername) stays the virtual address. The tenant wall answers here with an errno, before
//! the first packet.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the hook macros drop the documentation of entries"
)]

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_log_ebpf::error;
use waggle_abi::{
    Addr, Event, FlowKey, OwnerRow, PeerRow, Reason, ServiceKey, ServiceRow, Slot, SocketKey,
    TENANT_SYSTEM, UDP, VipRow, hook, peer_kind, scope, service_flag,
};
use waggle_ebpf::count::{Outcome, count, count_refusal, count_service, report, tell, tells_new};
use waggle_ebpf::flow::{Row, row_key};
use waggle_ebpf::maps::{CONFIG, SOCK_PEER, SOCK_VIP};
use waggle_ebpf::peer::{Peer, is_virtual, owner, peer};
use waggle_ebpf::policy::{Other, allows};
use waggle_ebpf::service::{NOWHERE, Place, choose, is_served};
use waggle_ebpf::wall::{grant, open_between};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const EACCES: i32 = 13;
const ECONNREFUSED: i32 = 111;

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// Entry: connect() of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, hook::CONNECT)
}

/// Entry: connect() of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, hook::CONNECT)
}

/// Entry: a datagram with a destination, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V4, hook::SENDMSG)
}

/// Entry: a datagram with a destination, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    call(&ctx, Family::V6, hook::SENDMSG)
}

/// Entry: the sender of a received datagram, IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    show_vip(&ctx, Family::V4)
}

/// Entry: the sender of a received datagram, IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    show_vip(&ctx, Family::V6)
}

/// Entry: getpeername() of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    show_vip(&ctx, Family::V4)
}

/// Entry: getpeername() of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    show_vip(&ctx, Family::V6)
}

/// Entry: a socket goes away.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let _ = SOCK_PEER.remove(cookie(ctx.as_ptr()));
    ALLOW
}

/// Whose socket it is, and in which network namespace.
#[derive(Clone, Copy)]
struct Caller {
    netns: u64,
    who: Who,
}

#[derive(Clone, Copy)]
enum Who {
    /// The node's own.
    Host,
    /// A pod's.
    Pod(&'static OwnerRow),
}

impl Caller {
    /// Whether a policy says what it may call.
    #[inline(always)]
    fn is_governed(&self) -> bool {
        matches!(self.who, Who::Pod(row) if row.egress != 0)
    }
}

/// Where a call goes: to a backend, or as it was called. (No enum: the compiler leaves payloads of other variants
/// undefined, and the verifier minds.)
type Target = Option<&'static Slot>;

#[inline(always)]
fn call(ctx: &SockAddrContext, family: Family, hook: u32) -> i32 {
    let called = called(ctx, family);
    let Some(caller) = caller(ctx) else {
        return ALLOW;
    };
    match target(ctx, hook, caller, called) {
        Ok(None) => {
            if hook == hook::CONNECT {
                // It may have been connected to a service before.
                let _ = SOCK_PEER.remove(cookie(ctx.as_ptr()));
                tell_new(ctx, hook, caller, called, Reason::Forwarded);
            }
            ALLOW
        }
        Ok(Some(slot)) => {
            count(Reason::Translated, 0);
            if remember(ctx, hook, caller, called, slot) {
                tell_new(ctx, hook, caller, called, Reason::Translated);
            }
            rewrite(ctx, family, (slot.addr, slot.port));
            ALLOW
        }
        Err(reason) => {
            deny(ctx, hook, caller, called, reason);
            DENY
        }
    }
}

/// A socket in a namespace that belongs neither to the node nor to a pod is left alone: it reaches only what its
/// namespace is connected to, and there the packet hooks stand.
#[inline(always)]
fn caller(ctx: &SockAddrContext) -> Option<Caller> {
    // SAFETY: the context is the kernel's.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let who = match owner(netns) {
        Some(row) => Who::Pod(row),
        None if CONFIG.get(0)?.host_netns == netns => Who::Host,
        None => return None,
    };
    Some(Caller { netns, who })
}

/// The wall is the same as for packets, in the same order; nodes' own sockets stand on rule 1.
#[inline(always)]
fn target(
    ctx: &SockAddrContext,
    hook: u32,
    caller: Caller,
    called: Place,
) -> Result<Target, Reason> {
    let (addr, port) = called;
    let protocol = protocol(ctx);
    // What stays inside the pod is nobody's to forbid.
    if addr.is_loopback() || addr.is_link_scope() || is_own(caller, &addr) {
        return Ok(None);
    }
    let mut key = service_key(addr, port, protocol);
    let found = if is_virtual(&addr) {
        Peer::Vip(0)
    } else {
        peer(&addr)?
    };
    let serves = match found {
        Peer::Vip(_) => true,
        Peer::Host | Peer::Node => is_node_port(&mut key),
        _ => false,
    };
    if serves {
        return translate(ctx, hook, caller, called, &key);
    }
    if matches!(found, Peer::Host) {
        return Ok(None);
    }
    let called = Called {
        addr,
        port,
        protocol,
    };
    match admit(caller, &found, &called) {
        Ok(()) => Ok(None),
        // Rule 2 before the others: who was let in may be answered.
        Err(_) if answers(ctx, caller, &called) => Ok(None),
        Err(reason) => {
            count_for(caller, &found, reason);
            Err(reason)
        }
    }
}

/// Whether something serves at this port of a node: of its address, or of every node's, which `key` then names.
#[inline(always)]
fn is_node_port(key: &mut ServiceKey) -> bool {
    if is_served(key) {
        return true;
    }
    key.vip = Addr::any(key.vip.is_v4());
    is_served(key)
}

#[inline(always)]
fn service_key(vip: Addr, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        vip,
        port,
        protocol,
        scope: scope::INSIDE,
    }
}

#[inline(always)]
fn translate(
    ctx: &SockAddrContext,
    hook: u32,
    caller: Caller,
    called: Place,
    key: &ServiceKey,
) -> Result<Target, Reason> {
    let client = match caller.who {
        Who::Pod(row) => *own(row, &called.0),
        Who::Host => Addr::any(called.0.is_v4()),
    };
    let kept = if hook == hook::SENDMSG {
        kept(ctx, called)
    } else {
        NOWHERE
    };
    let mut row = ServiceRow::default();
    let slot = match choose(key, client, kept, &mut row) {
        Ok(slot) => slot,
        Err(reason) => {
            if reason == Reason::Inconsistent {
                error!(
                    ctx,
                    "slots of the service at port {} belong to another service",
                    u16::from_be(key.port)
                );
            }
            count_service(row.service, Outcome::Refused);
            return Err(reason);
        }
    };
    let called = Called {
        addr: slot.addr,
        port: slot.port,
        protocol: key.protocol,
    };
    if row.flags & service_flag::EXPORTED_TO_ALL == 0 {
        pass_wall(caller, row.tenant, &called)?;
    }
    if row.flags & service_flag::OPEN_BACKENDS == 0 || caller.is_governed() {
        // An EndpointSlice may name another tenant's pods: the backend's own wall counts too.
        let backend = peer(&slot.addr)?;
        if let Err(reason) = admit(caller, &backend, &called) {
            count_for(caller, &backend, reason);
            return Err(reason);
        }
    }
    count_service(row.service, Outcome::Passed);
    Ok(Some(slot))
}

/// The backend that this socket's last datagram to the same address went to: one conversation stays with one backend.
#[inline(always)]
fn kept(ctx: &SockAddrContext, called: Place) -> Place {
    // SAFETY: rows are replaced, never written in place.
    let Some(peer) = (unsafe { SOCK_PEER.get(cookie(ctx.as_ptr())) }) else {
        return NOWHERE;
    };
    if peer.kind == peer_kind::DATAGRAMS && (peer.vip, peer.vip_port) == called {
        (peer.backend, peer.backend_port)
    } else {
        NOWHERE
    }
}

#[inline(always)]
fn is_own(caller: Caller, addr: &Addr) -> bool {
    match caller.who {
        Who::Pod(owner) => owner.addr == *addr || owner.addr_other == *addr,
        Who::Host => false,
    }
}

/// The pod's address of the family that `other` is of: the one that others see it by.
#[inline(always)]
fn own(owner: &'static OwnerRow, other: &Addr) -> &'static Addr {
    if owner.addr.is_v4() == other.is_v4() {
        &owner.addr
    } else {
        &owner.addr_other
    }
}

/// Where a call goes to in the end.
struct Called {
    addr: Addr,
    port: u16,
    protocol: u8,
}

/// Rules 3 and 4, as far as this node knows them: the caller's egress, and the ingress of a pod that is here too. What
/// another node knows is said by its packet hooks.
#[inline(always)]
fn admit(caller: Caller, target: &Peer, called: &Called) -> Result<(), Reason> {
    let Who::Pod(owner) = caller.who else {
        return Ok(());
    };
    if is_own(caller, &called.addr) {
        return Ok(());
    }
    let (identity, ingress) = match target {
        Peer::Host => return Ok(()),
        Peer::Pod(row) => {
            pass_wall(caller, row.tenant, called)?;
            (row.identity, row.ingress)
        }
        _ => (0, 0),
    };
    let to = Other {
        identity,
        addr: &called.addr,
    };
    if allows(owner.egress, &to, called.protocol, called.port).is_none() {
        return Err(Reason::PolicyEgress);
    }
    let from = Other {
        identity: owner.identity,
        addr: own(owner, &called.addr),
    };
    if allows(ingress, &from, called.protocol, called.port).is_none() {
        return Err(Reason::PolicyIngress);
    }
    Ok(())
}

/// Notes for whom policy refused a call.
#[inline(always)]
fn count_for(caller: Caller, target: &Peer, reason: Reason) {
    let opener = match caller.who {
        Who::Pod(owner) => owner.identity,
        Who::Host => 0,
    };
    let answerer = match target {
        Peer::Pod(row) => row.identity,
        _ => 0,
    };
    count_refusal(Some(reason), opener, answerer);
}

#[inline(always)]
fn pass_wall(caller: Caller, tenant: u32, called: &Called) -> Result<(), Reason> {
    let Who::Pod(row) = caller.who else {
        return Ok(());
    };
    if open_between(row.tenant, tenant)
        || grant(called.addr, called.port, called.protocol, row.tenant).is_some()
    {
        Ok(())
    } else {
        Err(Reason::TenantWall)
    }
}

/// Whether this is a datagram back to a peer whose own datagram was let through. The packet hooks look closer.
#[inline(always)]
fn answers(ctx: &SockAddrContext, caller: Caller, called: &Called) -> bool {
    let Who::Pod(row) = caller.who else {
        return false;
    };
    let Some(own_port) = local_port(ctx) else {
        return false;
    };
    let asked = FlowKey {
        src: called.addr,
        dst: *own(row, &called.addr),
        src_port: called.port,
        dst_port: own_port,
        protocol: called.protocol,
        pad: [0; 3],
    };
    let (key, backwards) = row_key(&asked);
    called.protocol == UDP && Row::find(&key).is_some_and(|row| row.opened_by_second() == backwards)
}

#[inline(always)]
fn deny(ctx: &SockAddrContext, hook: u32, caller: Caller, called: Place, reason: Reason) {
    report(reason, event(ctx, hook, caller, called));
    let errno = if reason == Reason::NoBackend {
        ECONNREFUSED
    } else {
        EACCES
    };
    // SAFETY: the helper takes a number.
    unsafe { bpf_set_retval(-errno) };
}

/// Tells of a call that is let through, to whoever listens.
#[inline(always)]
fn tell_new(ctx: &SockAddrContext, hook: u32, caller: Caller, called: Place, reason: Reason) {
    if tells_new() {
        tell(reason, event(ctx, hook, caller, called));
    }
}

#[inline(always)]
fn event(ctx: &SockAddrContext, hook: u32, caller: Caller, called: Place) -> Event {
    let (dst, dst_port) = called;
    let mut event = Event {
        hook,
        dst,
        dst_port,
        protocol: protocol(ctx),
        ..Event::default()
    };
    match caller.who {
        Who::Host => event.src_tenant = TENANT_SYSTEM,
        Who::Pod(row) => (event.src, event.src_tenant) = (*own(row, &dst), row.tenant),
    }
    match peer(&dst) {
        Ok(Peer::Pod(row)) => event.dst_tenant = row.tenant,
        Ok(Peer::Vip(tenant)) => event.dst_tenant = tenant,
        _ => {}
    }
    event
}

/// Notes the virtual address for getpeername and recvmsg. A table that does not take it costs only that view.
/// Says whether this is not just another datagram of the same.
#[inline(always)]
fn remember(ctx: &SockAddrContext, hook: u32, caller: Caller, called: Place, slot: &Slot) -> bool {
    let backend = (slot.addr, slot.port);
    let kind = if hook == hook::CONNECT {
        peer_kind::CONNECTED
    } else {
        if is_remembered(ctx, called, backend) {
            return false;
        }
        let row = VipRow {
            addr: called.0,
            port: called.1,
            pad: 0,
        };
        let _ = SOCK_VIP.insert(socket_key(ctx, backend), row, u64::from(BPF_ANY));
        if is_connected(ctx) {
            return true;
        }
        peer_kind::DATAGRAMS
    };
    let row = PeerRow {
        vip: called.0,
        backend: backend.0,
        vip_port: called.1,
        backend_port: backend.1,
        service: slot.service,
        netns: caller.netns,
        protocol: protocol(ctx),
        kind,
        pad: [0; 6],
    };
    let _ = SOCK_PEER.insert(cookie(ctx.as_ptr()), row, u64::from(BPF_ANY));
    true
}

/// Whether the socket's last call was the same, with the same outcome.
#[inline(always)]
fn is_remembered(ctx: &SockAddrContext, called: Place, backend: Place) -> bool {
    // SAFETY: as above.
    unsafe { SOCK_PEER.get(cookie(ctx.as_ptr())) }.is_some_and(|peer| {
        (peer.vip, peer.vip_port) == called && (peer.backend, peer.backend_port) == backend
    })
}

#[inline(always)]
fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: as above.
    unsafe { SOCK_PEER.get(cookie(ctx.as_ptr())) }
        .is_some_and(|peer| peer.kind == peer_kind::CONNECTED)
}

#[inline(always)]
fn show_vip(ctx: &SockAddrContext, family: Family) -> i32 {
    let place = called(ctx, family);
    // SAFETY: rows are replaced, never written in place.
    let Some(peer) = (unsafe { SOCK_PEER.get(cookie(ctx.as_ptr())) }) else {
        return ALLOW;
    };
    if (peer.backend, peer.backend_port) == place {
        rewrite(ctx, family, (peer.vip, peer.vip_port));
    // SAFETY: as above.
    } else if let Some(row) = unsafe { SOCK_VIP.get(socket_key(ctx, place)) } {
        rewrite(ctx, family, (row.addr, row.port));
    }
    ALLOW
}

#[inline(always)]
fn socket_key(ctx: &SockAddrContext, place: Place) -> SocketKey {
    SocketKey {
        socket: cookie(ctx.as_ptr()),
        addr: place.0,
        port: place.1,
        pad: 0,
        pad_end: 0,
    }
}

#[inline(always)]
fn cookie(ctx: *mut core::ffi::c_void) -> u64 {
    // SAFETY: the context is the kernel's.
    unsafe { bpf_get_socket_cookie(ctx) }
}

#[inline(always)]
fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: the context is the kernel's.
    unsafe { (*ctx.sock_addr).protocol as u8 }
}

/// Port that the socket is bound to, network byte order.
#[inline(always)]
fn local_port(ctx: &SockAddrContext) -> Option<u16> {
    let call: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is the kernel's; a socket that is there has its fields. The port is in host byte order.
    unsafe {
        let sock = (&raw const (*call).__bindgen_anon_1.sk).read_volatile();
        if sock.is_null() {
            return None;
        }
        let port = (&raw const (*sock).src_port).read_volatile();
        Some((port as u16).to_be())
    }
}

/// Address and port in the call, network byte order.
#[inline(always)]
fn called(ctx: &SockAddrContext, family: Family) -> Place {
    let sock: *const bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is the kernel's; volatile, because it only permits accesses of whole words.
    unsafe {
        let port = (&raw const (*sock).user_port).read_volatile() as u16;
        let addr = match family {
            Family::V4 => Addr::v4((&raw const (*sock).user_ip4).read_volatile()),
            Family::V6 => {
                let words = (&raw const (*sock).user_ip6).cast::<u32>();
                Addr {
                    words: [
                        words.read_volatile(),
                        words.add(1).read_volatile(),
                        words.add(2).read_volatile(),
                        words.add(3).read_volatile(),
                    ],
                }
            }
        };
        (addr, port)
    }
}

#[inline(always)]
fn rewrite(ctx: &SockAddrContext, family: Family, (addr, port): Place) {
    let sock = ctx.sock_addr;
    // SAFETY: as above.
    unsafe {
        match family {
            Family::V4 => (&raw mut (*sock).user_ip4).write_volatile(addr.words[3]),
            Family::V6 => {
                let words = (&raw mut (*sock).user_ip6).cast::<u32>();
                words.write_volatile(addr.words[0]);
                words.add(1).write_volatile(addr.words[1]);
                words.add(2).write_volatile(addr.words[2]);
                words.add(3).write_volatile(addr.words[3]);
            }
        }
        (&raw mut (*sock).user_port).write_volatile(u32::from(port));
    }
}

waggle_ebpf::program!();
