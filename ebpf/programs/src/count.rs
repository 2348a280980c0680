//! Counting verdicts, in sum and for the services and policies that they are about; telling user space about the bad
//! ones, and while somebody listens about what is new.

use core::arch::asm;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use waggle_abi::{Event, ObjectCount, ObjectKey, Reason, config_flag, limit, object_kind};

use crate::maps::{CONFIG, COUNTERS, EVENTS, OBJECT_COUNTS, SERVICE_COUNTS};

/// Adds one packet or call of `bytes` bytes to `reason`.
#[inline(always)]
pub fn count(reason: Reason, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.number()) {
        // SAFETY: the map keeps the row alive.
        unsafe {
            add(&raw mut (*counter).packets, 1);
            if bytes != 0 {
                add(&raw mut (*counter).bytes, u64::from(bytes));
            }
        }
    }
}

/// Adds in one step. Rows of one CPU need that too: a packet may interrupt a call.
///
/// # Safety
/// `place` is in a row of a map.
#[inline(always)]
unsafe fn add(place: *mut u64, amount: u64) {
    // SAFETY: the caller's; `core` has no such operation for this target.
    unsafe {
        asm!("lock *(u64 *)({place} + 0) += {amount}", place = in(reg) place, amount = in(reg) amount);
    }
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Let through.
    Passed,
    /// Not let through.
    Refused,
}

/// Adds one to a service's count. One look at an array where it can be: calls pay for this.
#[inline(always)]
pub fn count_service(number: u32, outcome: Outcome) {
    if let Some(row) = SERVICE_COUNTS.get_ptr_mut(number % limit::SERVICE_COUNTS) {
        // SAFETY: the map keeps the row alive; every CPU adds to it atomically.
        unsafe {
            if (*row).service == number && number != 0 {
                let field = match outcome {
                    Outcome::Passed => &raw mut (*row).passed,
                    Outcome::Refused => &raw mut (*row).refused,
                };
                add(field, 1);
                return;
            }
        }
    }
    count_object(object_kind::SERVICE, number, outcome);
}

/// Adds one to an object's count; `kind` is one of [`waggle_abi::object_kind`]. Number 0 is no object.
#[inline(never)]
pub fn count_object(kind: u32, number: u32, outcome: Outcome) {
    if number == 0 {
        return;
    }
    let key = ObjectKey { kind, number };
    if count_known(&key, outcome) {
        return;
    }
    let mut first = ObjectCount::default();
    match outcome {
        Outcome::Passed => first.passed = 1,
        Outcome::Refused => first.refused = 1,
    }
    // Another CPU may be first. A table that is full costs only this count: the sums have it.
    if OBJECT_COUNTS
        .insert(key, first, u64::from(BPF_NOEXIST))
        .is_err()
    {
        count_known(&key, outcome);
    }
}

/// Notes for whom policy refused, given the identities of who calls and of who is called; 0 for what is no pod.
#[inline(always)]
pub fn count_refusal(reason: Option<Reason>, opener: u32, answerer: u32) {
    match reason {
        Some(Reason::PolicyEgress) => {
            count_object(object_kind::EGRESS_OF, opener, Outcome::Refused)
        }
        Some(Reason::PolicyIngress) => {
            count_object(object_kind::INGRESS_OF, answerer, Outcome::Refused);
        }
        _ => {}
    }
}

#[inline(always)]
fn count_known(key: &ObjectKey, outcome: Outcome) -> bool {
    let Some(row) = OBJECT_COUNTS.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the map keeps the row alive; every CPU adds to it atomically.
    unsafe {
        let field = match outcome {
            Outcome::Passed => &raw mut (*row).passed,
            Outcome::Refused => &raw mut (*row).refused,
        };
        add(field, 1);
    }
    true
}

/// Whether somebody wants to hear of what is new.
#[inline(always)]
pub fn tells_new() -> bool {
    CONFIG
        .get(0)
        .is_some_and(|config| config.flags & config_flag::TELL_NEW != 0)
}

/// Counts a drop or denial and sends its event.
#[inline(always)]
pub fn report(reason: Reason, event: Event) {
    count(reason, event.length);
    tell(reason, event);
}

/// Sends an event; the time is filled in here. One that finds the ring full is counted as lost.
#[inline(always)]
pub fn tell(reason: Reason, mut event: Event) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Reason::EventLost, 0);
        return;
    };
    // SAFETY: the helper has no preconditions.
    event.time = unsafe { bpf_ktime_get_ns() };
    event.reason = reason.number();
    entry.write(event);
    entry.submit(0);
}
