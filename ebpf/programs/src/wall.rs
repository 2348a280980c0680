//! Who may reach whom. The order of precedence, here and in the documents:
//!
//! 1. host and node health
//! 2. replies to an allowed flow
//! 3. tenant wall
//! 4. NetworkPolicy
//! 5. allow
//!
//! A packet belongs to a flow that one end opened, and the verdict is that of the flow: replies pass because their flow
//! does, and both stop when a new policy forbids it. Where neither end is governed by a policy and both are of one
//! tenant, every flow is allowed and none is looked up.

use aya_ebpf::programs::TcContext;
use waggle_abi::{
    Addr, EndpointRow, FlowKey, GrantKey, LinkRow, Reason, TCP, TENANT_ANY, TENANT_SYSTEM,
    object_kind,
};

use crate::Verdict;
use crate::count::{Outcome, count_object, count_refusal};
use crate::drops::tell_first;
use crate::flow::{Row, Stamp, remember, row_key};
use crate::maps::GRANTS;
use crate::packet::{Packet, Quote, quote};
use crate::policy::{Other, allows};

/// First port of Linux's default range for callers (net.ipv4.ip_local_port_range).
const CALLERS: u16 = 32_768;

/// One end of a packet.
#[derive(Clone, Copy)]
pub struct Side {
    /// What policy knows it by; 0 for what is no pod.
    pub identity: u32,
    /// Its tenant.
    pub tenant: u32,
    /// Ruleset of what it may receive; 0 when it isn't on this node or not governed.
    pub ingress: u32,
    /// Ruleset of what it may send; 0 when it isn't on this node or not governed.
    pub egress: u32,
}

impl Side {
    /// What is no pod: the outside, and other nodes. No tenant's wall is around it.
    pub const WORLD: Self = Self {
        identity: 0,
        tenant: TENANT_SYSTEM,
        ingress: 0,
        egress: 0,
    };

    /// A pod; its rulesets are only in rows of its own node.
    #[inline(always)]
    pub fn of_endpoint(row: &EndpointRow) -> Self {
        Self {
            identity: row.identity,
            tenant: row.tenant,
            ingress: row.ingress,
            egress: row.egress,
        }
    }

    /// A pod of this node.
    #[inline(always)]
    pub fn of_link(row: &LinkRow) -> Self {
        Self {
            identity: row.identity,
            tenant: row.tenant,
            ingress: row.ingress,
            egress: row.egress,
        }
    }

    #[inline(always)]
    fn is_governed(&self) -> bool {
        self.ingress | self.egress != 0
    }
}

/// Whether two tenants talk without any grant.
#[inline(always)]
pub fn open_between(src_tenant: u32, dst_tenant: u32) -> bool {
    src_tenant == dst_tenant || src_tenant == TENANT_SYSTEM || dst_tenant == TENANT_SYSTEM
}

/// The service whose export lets `tenant` reach this port.
#[inline(always)]
pub fn grant(addr: Addr, port: u16, protocol: u8, tenant: u32) -> Option<u32> {
    let mut key = GrantKey {
        addr,
        port,
        protocol,
        pad: 0,
        tenant,
    };
    // SAFETY: rows are replaced, never written in place by programs.
    if let Some(service) = unsafe { GRANTS.get(key) } {
        return Some(*service);
    }
    key.tenant = TENANT_ANY;
    // SAFETY: as above.
    unsafe { GRANTS.get(key) }.copied()
}

/// Decides about a packet, of which at least one end is a pod of this node.
#[inline(always)]
pub fn decide(ctx: &TcContext, packet: &Packet, src: &Side, dst: &Side) -> Verdict {
    // 1 is the caller's: it knows nodes by their rows. 3, the part that is the same for every packet:
    if open_between(src.tenant, dst.tenant) && !src.is_governed() && !dst.is_governed() {
        return Ok(()); // 5
    }
    if packet.unknown_ports {
        return fragment(packet, src, dst);
    }
    // 2, an error about a flow that was let through.
    if packet.icmp_error && about_a_flow(ctx, packet, src, dst)? {
        return Ok(());
    }
    if by_flow(packet, src, dst)? {
        tell_first(ctx, packet, Reason::Forwarded);
    }
    Ok(())
}

/// The verdict of the packet's flow; whether it is one that was not known.
#[inline(never)]
fn by_flow(packet: &Packet, src: &Side, dst: &Side) -> Result<bool, Reason> {
    let flow = &packet.tuple;
    let (key, backwards) = row_key(flow);
    let mut row = Row::find(&key);
    let sender_opened = match &row {
        Some(row) => row.opened_by_second() == backwards,
        // Between tenants only who is in a row may answer.
        None => sender_seems_opener(packet) || !open_between(src.tenant, dst.tenant),
    };
    if !sender_opened && !packet.opening {
        // 2
        let verdict = settle(
            packet,
            &Asked::of(flow, true, src, dst),
            &key,
            !backwards,
            row,
        );
        // Whose flow it was is only half known where nothing is a first packet: it may stand in its own right.
        if verdict.is_ok() || flow.protocol == TCP {
            count_refusal(verdict.err(), dst.identity, src.identity);
            return verdict;
        }
        row = None;
    } else if !sender_opened {
        // A first segment against the flow that was: a new one between the same ports.
        row = None;
    }
    let verdict = settle(
        packet,
        &Asked::of(flow, false, src, dst),
        &key,
        backwards,
        row,
    );
    count_refusal(verdict.err(), src.identity, dst.identity);
    verdict
}

/// A flow as the rules see it, from its opener on.
struct Asked<'a> {
    opener: Other<'a>,
    answerer: Other<'a>,
    /// Tenant of the opener.
    tenant: u32,
    /// No wall is between the two.
    open: bool,
    protocol: u8,
    /// Port of the answerer.
    port: u16,
    egress: u32,
    ingress: u32,
}

impl<'a> Asked<'a> {
    /// The flow that the sender of a packet with the tuple `flow` opened, or with `back`, the one that it answers.
    #[inline(always)]
    fn of(flow: &'a FlowKey, back: bool, src: &Side, dst: &Side) -> Self {
        let (opener, answerer) = if back { (dst, src) } else { (src, dst) };
        let (from, to, port) = if back {
            (&flow.dst, &flow.src, flow.src_port)
        } else {
            (&flow.src, &flow.dst, flow.dst_port)
        };
        Self {
            opener: Other {
                identity: opener.identity,
                addr: from,
            },
            answerer: Other {
                identity: answerer.identity,
                addr: to,
            },
            tenant: opener.tenant,
            open: open_between(opener.tenant, answerer.tenant),
            protocol: flow.protocol,
            port,
            egress: opener.egress,
            ingress: answerer.ingress,
        }
    }
}

/// The verdict of a flow, remembered when it is let through; whether it is one that was not known. Not inlined: it has two callers and needs much of the stack.
#[inline(never)]
fn settle(
    packet: &Packet,
    asked: &Asked<'_>,
    key: &FlowKey,
    opened_by_second: bool,
    row: Option<Row>,
) -> Result<bool, Reason> {
    // 3
    let (protocol, port) = (asked.protocol, asked.port);
    if !asked.open && grant(*asked.answerer.addr, port, protocol, asked.tenant).is_none() {
        return Err(Reason::TenantWall);
    }
    let stamp = Stamp {
        egress: asked.egress,
        ingress: asked.ingress,
        opener: asked.opener.identity,
        answerer: asked.answerer.identity,
    };
    // 4
    let settled = row.as_ref().is_some_and(|row| row.is_stamped(&stamp));
    if !settled {
        let egress = allows(stamp.egress, &asked.answerer, protocol, port);
        let egress = egress.ok_or(Reason::PolicyEgress)?;
        let ingress = allows(stamp.ingress, &asked.opener, protocol, port);
        let ingress = ingress.ok_or(Reason::PolicyIngress)?;
        count_object(object_kind::POLICY, egress, Outcome::Passed);
        count_object(object_kind::POLICY, ingress, Outcome::Passed);
    }
    // 5
    let Some(row) = row else {
        remember(key, opened_by_second, &stamp, packet.closing)?;
        return Ok(true);
    };
    if !settled {
        row.stamp(&stamp);
    }
    row.touch(packet.closing, packet.opening);
    Ok(false)
}

/// Who opened a flow that is in no row. A first TCP segment says it; of others the end whose port is in the callers'
/// range is taken to be the caller, so that a flow which a policy came over keeps its direction. Anything but TCP is
/// opened by its first packet.
#[inline(always)]
fn sender_seems_opener(packet: &Packet) -> bool {
    if packet.tuple.protocol != TCP || packet.opening {
        return true;
    }
    if packet.opening_reply {
        return false;
    }
    let calls = |port: u16| u16::from_be(port) >= CALLERS;
    calls(packet.tuple.src_port) || !calls(packet.tuple.dst_port)
}

/// Whether an ICMP error is about a flow that passes now.
#[inline(never)]
fn about_a_flow(ctx: &TcContext, packet: &Packet, src: &Side, dst: &Side) -> Result<bool, Reason> {
    let mut quoted = Quote::EMPTY;
    quote(ctx, packet, &mut quoted)?;
    let quoted = quoted.flow;
    // It is told to who sent the packet that it is about.
    if quoted.src != packet.tuple.dst {
        return Ok(false);
    }
    let (key, backwards) = row_key(&quoted);
    let Some(row) = Row::find(&key) else {
        return Ok(false);
    };
    // Who tells it may be a router on the way; the flow's own ends are known by the row alone.
    let teller_is_end = quoted.dst == packet.tuple.src;
    Ok(if row.opened_by_second() == backwards {
        row.stood_under(dst.egress, teller_is_end.then_some(src.ingress))
    } else {
        row.answered_under(dst.ingress, teller_is_end.then_some(src.egress))
    })
}

/// A fragment that came before the first carries no ports: it passes where every port would.
#[inline(never)]
fn fragment(packet: &Packet, src: &Side, dst: &Side) -> Verdict {
    let tuple = &packet.tuple;
    if !open_between(src.tenant, dst.tenant) {
        return Err(Reason::Fragment);
    }
    let to = Other {
        identity: dst.identity,
        addr: &tuple.dst,
    };
    let from = Other {
        identity: src.identity,
        addr: &tuple.src,
    };
    if allows(src.egress, &to, tuple.protocol, 0).is_some()
        && allows(dst.ingress, &from, tuple.protocol, 0).is_some()
    {
        Ok(())
    } else {
        Err(Reason::Fragment)
    }
}
