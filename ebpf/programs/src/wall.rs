//! Who may reach whom. The order of precedence, here and in the documents:
//!
//! 1. host and node health
//! 2. replies to an allowed flow
//! 3. tenant wall
//! 4. NetworkPolicy (none yet)
//! 5. allow
//!
//! While 4 is empty, 2 can't change a verdict inside one tenant, so flows are only looked up across tenants.

use aya_ebpf::programs::TcContext;
use waggle_abi::{Addr, GrantKey, Reason, TENANT_ANY, TENANT_SYSTEM};

use crate::Verdict;
use crate::flow::{alive, remember, reversed};
use crate::maps::GRANTS;
use crate::packet::{Packet, quoted};

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

/// Decides about a packet between two pods.
#[inline(always)]
pub fn decide(ctx: &TcContext, packet: &Packet, src_tenant: u32, dst_tenant: u32) -> Verdict {
    // 1 is the caller's: it knows nodes by their rows. 3, the part that is the same for every packet:
    if open_between(src_tenant, dst_tenant) {
        return Ok(()); // 5
    }
    between_tenants(ctx, packet, src_tenant)
}

#[inline(always)]
fn between_tenants(ctx: &TcContext, packet: &Packet, src_tenant: u32) -> Verdict {
    if packet.later_fragment {
        return Err(Reason::Fragment);
    }
    // 2, an error about a flow that was let through, in either direction.
    if packet.icmp_error {
        let key = quoted(ctx, packet)?;
        return if alive(&key, false) || alive(&reversed(&key), false) {
            Ok(())
        } else {
            Err(Reason::TenantWall)
        };
    }
    // 2
    if alive(&reversed(&packet.tuple), packet.closing) {
        return Ok(());
    }
    // 3
    let key = &packet.tuple;
    match grant(key.dst, key.dst_port, key.protocol, src_tenant) {
        Some(service) => remember(key, service, packet.closing), // 5
        None => Err(Reason::TenantWall),
    }
}
