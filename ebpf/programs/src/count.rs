//! Counting verdicts and telling user space about the bad ones.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use waggle_abi::{Event, Reason};

use crate::maps::{COUNTERS, EVENTS};

/// Adds one packet or call of `bytes` bytes to `reason`.
#[inline(always)]
pub fn count(reason: Reason, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.number()) {
        // SAFETY: the map keeps the row alive, and it belongs to this CPU with migration disabled.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

/// Counts a drop or denial and sends its event; the time is filled in here. An event that finds the ring full is
/// counted as lost.
#[inline(always)]
pub fn report(reason: Reason, mut event: Event) {
    count(reason, event.length);
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
