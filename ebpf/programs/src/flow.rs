//! Flows between tenants, remembered in the direction that a grant let through, so that their replies pass.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use waggle_abi::{Flow, FlowKey, Reason, TCP, flow_state};

use crate::maps::FLOWS;

const SECOND: u64 = 1_000_000_000;
/// Silence after which an open TCP flow is forgotten, as nf_conntrack does: five days.
const TCP_IDLE: u64 = 432_000 * SECOND;
/// Silence after which a flow that saw FIN or RST is forgotten.
const CLOSING_IDLE: u64 = 120 * SECOND;
/// Silence after which any other flow is forgotten.
const OTHER_IDLE: u64 = 180 * SECOND;
/// A flow's time is only written again after this long: a write a packet would bounce the row between CPUs.
const REFRESH: u64 = SECOND;

/// The same flow, seen from the other end.
#[inline(always)]
pub fn reversed(key: &FlowKey) -> FlowKey {
    FlowKey {
        src: key.dst,
        dst: key.src,
        src_port: key.dst_port,
        dst_port: key.src_port,
        ..*key
    }
}

/// Whether the flow `key` was let through and is alive; notes that it was seen.
#[inline(always)]
pub fn alive(key: &FlowKey, closing: bool) -> bool {
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the map keeps the row alive; fields are single words that CPUs may race to write, each value being right.
    unsafe {
        let now = bpf_ktime_get_ns();
        let idle = match (key.protocol, (*flow).state) {
            (_, flow_state::CLOSING) => CLOSING_IDLE,
            (TCP, _) => TCP_IDLE,
            _ => OTHER_IDLE,
        };
        let silent = now.saturating_sub((*flow).seen);
        if silent > idle {
            return false;
        }
        if silent > REFRESH {
            (*flow).seen = now;
        }
        if closing && (*flow).state == flow_state::OPEN {
            (*flow).state = flow_state::CLOSING;
            (*flow).seen = now;
        }
    }
    true
}

/// Remembers a flow that a grant lets through.
///
/// # Errors
/// [`Reason::Inconsistent`] when the table does not take it: the reply could not pass, so the packet does not either.
#[inline(always)]
pub fn remember(key: &FlowKey, service: u32, closing: bool) -> Result<(), Reason> {
    if alive(key, closing) {
        return Ok(());
    }
    let state = if closing {
        flow_state::CLOSING
    } else {
        flow_state::OPEN
    };
    // SAFETY: the helper has no preconditions.
    let flow = Flow {
        seen: unsafe { bpf_ktime_get_ns() },
        state,
        service,
    };
    FLOWS
        .insert(key, &flow, u64::from(BPF_ANY))
        .map_err(|_| Reason::Inconsistent)
}
