//! The connection table: who opened a flow, and under which rulesets it was let through. One row for both directions.

use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use waggle_abi::{Addr, Flow, FlowKey, Reason, TCP, flow_state};

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

/// The row's key, which is the same for both directions, and whether the packet goes from its second end to its first.
#[inline(always)]
pub fn row_key(tuple: &FlowKey) -> (FlowKey, bool) {
    if is_ordered(&tuple.src, tuple.src_port, &tuple.dst, tuple.dst_port) {
        (*tuple, false)
    } else {
        (reversed(tuple), true)
    }
}

#[inline(always)]
fn is_ordered(a: &Addr, a_port: u16, b: &Addr, b_port: u16) -> bool {
    // The last word first: that is where addresses of one cluster differ.
    if a.words[3] != b.words[3] {
        return a.words[3] < b.words[3];
    }
    if a.words[2] != b.words[2] {
        return a.words[2] < b.words[2];
    }
    if a.words[1] != b.words[1] {
        return a.words[1] < b.words[1];
    }
    if a.words[0] != b.words[0] {
        return a.words[0] < b.words[0];
    }
    a_port <= b_port
}

/// A row that is alive.
pub struct Row(NonNull<Flow>);

impl Row {
    /// Looks up the row of `key`, a key made by [`row_key`].
    #[inline(always)]
    pub fn find(key: &FlowKey) -> Option<Self> {
        let flow = NonNull::new(FLOWS.get_ptr_mut(key)?)?;
        // SAFETY: the map keeps the row alive; fields are single words that CPUs may race to write, each value being
        // right.
        let (seen, state) = unsafe { ((*flow.as_ptr()).seen, (*flow.as_ptr()).state) };
        let idle = match (key.protocol, state & flow_state::CLOSING) {
            (_, flow_state::CLOSING) => CLOSING_IDLE,
            (TCP, _) => TCP_IDLE,
            _ => OTHER_IDLE,
        };
        (now().saturating_sub(seen) <= idle).then_some(Self(flow))
    }

    /// Whether the second end of the key opened it.
    #[inline(always)]
    pub fn opened_by_second(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0.as_ptr()).state & flow_state::SECOND_OPENED != 0 }
    }

    /// Whether it was let through under these rulesets, between these identities.
    #[inline(always)]
    pub fn is_stamped(&self, stamp: &Stamp) -> bool {
        // SAFETY: as above. Each pair was written by a packet that passed under it, so a mixture is right too.
        unsafe {
            (*self.0.as_ptr()).egress == stamp.egress
                && (*self.0.as_ptr()).ingress == stamp.ingress
                && (*self.0.as_ptr()).opener == stamp.opener
                && (*self.0.as_ptr()).answerer == stamp.answerer
        }
    }

    /// Whether its opener sends under `egress`, and its other end, where known, receives under `ingress`.
    #[inline(always)]
    pub fn stood_under(&self, egress: u32, ingress: Option<u32>) -> bool {
        // SAFETY: as above.
        unsafe {
            (*self.0.as_ptr()).egress == egress
                && ingress.is_none_or(|own| (*self.0.as_ptr()).ingress == own)
        }
    }

    /// Whether its other end receives under `ingress`, and its opener, where known, sends under `egress`.
    #[inline(always)]
    pub fn answered_under(&self, ingress: u32, egress: Option<u32>) -> bool {
        // SAFETY: as above.
        unsafe {
            (*self.0.as_ptr()).ingress == ingress
                && egress.is_none_or(|own| (*self.0.as_ptr()).egress == own)
        }
    }

    /// Notes that it passed under `stamp`.
    #[inline(always)]
    pub fn stamp(&self, stamp: &Stamp) {
        // SAFETY: as above.
        unsafe {
            (*self.0.as_ptr()).egress = stamp.egress;
            (*self.0.as_ptr()).ingress = stamp.ingress;
            (*self.0.as_ptr()).opener = stamp.opener;
            (*self.0.as_ptr()).answerer = stamp.answerer;
        }
    }

    /// Notes a packet that passed.
    #[inline(always)]
    pub fn touch(&self, closing: bool, opening: bool) {
        // SAFETY: as above.
        unsafe {
            let now = now();
            if now.saturating_sub((*self.0.as_ptr()).seen) > REFRESH {
                (*self.0.as_ptr()).seen = now;
            }
            let state = (*self.0.as_ptr()).state;
            if closing && state & flow_state::CLOSING == 0 {
                (*self.0.as_ptr()).state = state | flow_state::CLOSING;
                (*self.0.as_ptr()).seen = now;
            } else if opening && state & flow_state::CLOSING != 0 {
                (*self.0.as_ptr()).state = state & !flow_state::CLOSING;
                (*self.0.as_ptr()).seen = now;
            }
        }
    }
}

/// Under what a flow passed: what is asked again when it changes.
#[derive(Clone, Copy)]
pub struct Stamp {
    /// Ruleset of the opener's egress; 0 when it isn't here or not governed.
    pub egress: u32,
    /// Ruleset of the answerer's ingress; 0 when it isn't here or not governed.
    pub ingress: u32,
    /// Identity of who opened it.
    pub opener: u32,
    /// Identity of the other end.
    pub answerer: u32,
}

/// Remembers a flow that is let through.
///
/// # Errors
/// [`Reason::Inconsistent`] when the table does not take it: the reply could not pass, so the packet does not either.
#[inline(always)]
pub fn remember(
    key: &FlowKey,
    opened_by_second: bool,
    stamp: &Stamp,
    closing: bool,
) -> Result<(), Reason> {
    let mut state = flow_state::OPEN;
    if closing {
        state |= flow_state::CLOSING;
    }
    if opened_by_second {
        state |= flow_state::SECOND_OPENED;
    }
    let flow = Flow {
        seen: now(),
        state,
        egress: stamp.egress,
        ingress: stamp.ingress,
        opener: stamp.opener,
        answerer: stamp.answerer,
        pad: 0,
    };
    FLOWS
        .insert(key, &flow, u64::from(BPF_ANY))
        .map_err(|_| Reason::Inconsistent)
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
