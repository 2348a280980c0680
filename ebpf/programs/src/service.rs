//! From a virtual address to one of its backends.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use waggle_abi::{Addr, Reason, ServiceKey, ServiceRow, Slot};

use crate::maps::{SERVICES, SLOTS};

/// How often a lookup starts again when the row was flipped under it.
const ATTEMPTS: usize = 2;

/// A service and the backend chosen for one call.
pub struct Choice {
    /// The row, as of the choice.
    pub row: ServiceRow,
    /// The backend.
    pub slot: Slot,
}

/// Chooses a backend at random.
///
/// # Errors
/// [`Reason::NoBackend`] for a port that the address does not serve or that has no ready backend;
/// [`Reason::Inconsistent`] when slots don't belong to the row that points at them.
#[inline(always)]
pub fn choose(vip: Addr, port: u16, protocol: u8) -> Result<Choice, Reason> {
    let key = ServiceKey {
        vip,
        port,
        protocol,
        pad: 0,
    };
    for _ in 0..ATTEMPTS {
        // SAFETY: rows are replaced as a whole; this copy is of one of them.
        let row = *unsafe { SERVICES.get(key) }.ok_or(Reason::NoBackend)?;
        if row.count == 0 {
            return Err(Reason::NoBackend);
        }
        // SAFETY: the helper has no preconditions.
        let index = row
            .base
            .wrapping_add(unsafe { bpf_get_prandom_u32() } % row.count);
        if let Some(slot) = SLOTS.get(index)
            && slot.service == row.service
            && slot.port != 0
        {
            return Ok(Choice { row, slot: *slot });
        }
    }
    Err(Reason::Inconsistent)
}
