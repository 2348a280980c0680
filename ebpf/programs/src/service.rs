//! From a virtual address to one of its backends.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_loop};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::maps::lpm_trie::Key;
use waggle_abi::{
    Addr, AffinityKey, AffinityRow, FlowKey, Reason, ServiceKey, ServiceRow, Slot, SourceKey,
    endpoint_kind, scope, service_flag,
};

use crate::maps::{AFFINITY, MAGLEV, SERVICES, SLOTS, SOURCES};
use crate::peer::endpoint;

/// How often a lookup starts again when the row was flipped under it.
const ATTEMPTS: usize = 2;
/// Steps of a binary search through the longest slab: two to this power, less one, slots.
const SEARCH_STEPS: u32 = 18;
/// Slots that are looked at for one of this node.
const STEPS: u32 = 4096;
/// No slot.
const NONE: u32 = u32::MAX;
const SECOND: u64 = 1_000_000_000;

/// An address and a port, network byte order.
pub type Place = (Addr, u16);

/// Whether somebody serves there.
#[inline(always)]
pub fn is_served(key: &ServiceKey) -> bool {
    // SAFETY: only whether there is one is looked at.
    unsafe { SERVICES.get(key) }.is_some()
}

/// Nowhere.
pub const NOWHERE: Place = (Addr::NONE, 0);

/// Chooses a backend: the one that `client` keeps where the service has affinity, else `kept` while it serves, else one
/// at random. [`NOWHERE`] is not kept. The row that it was chosen by is left in `row`.
///
/// # Errors
/// [`Reason::NoBackend`] for a port that the address does not serve or that has no ready backend;
/// [`Reason::Inconsistent`] when slots don't belong to the row that points at them.
#[inline(always)]
pub fn choose(
    key: &ServiceKey,
    client: Addr,
    kept: Place,
    row: &mut ServiceRow,
) -> Result<&'static Slot, Reason> {
    for _ in 0..ATTEMPTS {
        // SAFETY: rows are replaced as a whole; this copy is of one of them.
        let Some(found) = (unsafe { SERVICES.get(key) }) else {
            return Err(Reason::NoBackend);
        };
        *row = *found;
        if row.count == 0 {
            return Err(Reason::NoBackend);
        }
        let wished = if row.affinity == 0 {
            kept
        } else {
            affine(key, row, client)
        };
        let mut found = None;
        if wished.1 != 0 {
            found = find(row, wished);
        }
        if found.is_none() {
            found = any(row);
        }
        let Some(slot) = found else {
            continue;
        };
        if row.affinity != 0 {
            keep(key, row, client, slot);
        }
        return Ok(slot);
    }
    Err(Reason::Inconsistent)
}

/// A random slot; `None` when the row was flipped under it.
#[inline(always)]
fn any(row: &ServiceRow) -> Option<&'static Slot> {
    let mut offset = 0;
    if row.count > 1 {
        // SAFETY: the helper has no preconditions.
        let random = unsafe { bpf_get_prandom_u32() };
        offset = random % row.count;
    }
    let slot = SLOTS.get(row.base.wrapping_add(offset))?;
    (slot.service == row.service && slot.port != 0).then_some(slot)
}

/// A search through a slab, step by step.
struct Search {
    low: u32,
    high: u32,
    base: u32,
    service: u32,
    place: Place,
}

/// The slot of a backend that still serves. The kernel runs the steps: unrolled, they would be most of what the verifier
/// has to look at.
#[inline(always)]
fn find(row: &ServiceRow, place: Place) -> Option<&'static Slot> {
    let mut search = Search {
        low: 0,
        high: row.count,
        base: row.base,
        service: row.service,
        place,
    };
    let state = (&raw mut search).cast::<c_void>();
    // SAFETY: the callback takes what it is given here, and ends with this call.
    unsafe { bpf_loop(SEARCH_STEPS, halve as *mut c_void, state, 0) };
    let slot = SLOTS.get(row.base.wrapping_add(search.low))?;
    (slot.service == row.service && same(slot, &place)).then_some(slot)
}

/// Returns 0 to go on.
extern "C" fn halve(_step: u32, search: *mut Search) -> i64 {
    // SAFETY: `find` gives its own.
    let search = unsafe { &mut *search };
    if search.low >= search.high {
        return 1;
    }
    let middle = search.low + (search.high - search.low) / 2;
    let Some(slot) = SLOTS.get(search.base.wrapping_add(middle)) else {
        return 1;
    };
    if slot.service != search.service {
        return 1;
    }
    if is_before(slot, &search.place) {
        search.low = middle + 1;
    } else {
        search.high = middle;
    }
    0
}

#[inline(always)]
fn same(slot: &Slot, place: &Place) -> bool {
    slot.addr == place.0 && slot.port == place.1
}

#[inline(always)]
fn is_before(slot: &Slot, place: &Place) -> bool {
    let (own, other) = (&slot.addr.words, &place.0.words);
    if own[0] != other[0] {
        own[0] < other[0]
    } else if own[1] != other[1] {
        own[1] < other[1]
    } else if own[2] != other[2] {
        own[2] < other[2]
    } else if own[3] != other[3] {
        own[3] < other[3]
    } else {
        slot.port < place.1
    }
}

/// The backend that `client` keeps if it called within the service's time. One that is about to end has left the slab,
/// so it is not found there for new calls.
#[inline(always)]
fn affine(key: &ServiceKey, row: &ServiceRow, client: Addr) -> Place {
    // SAFETY: a caller whose row is replaced meanwhile keeps one backend or the other.
    let Some(kept) = (unsafe { AFFINITY.get(affinity_key(key, row, client)) }) else {
        return NOWHERE;
    };
    // SAFETY: the helper has no preconditions.
    let silent = unsafe { bpf_ktime_get_ns() }.saturating_sub(kept.seen);
    if silent < u64::from(row.affinity) * SECOND {
        (kept.backend, kept.port)
    } else {
        NOWHERE
    }
}

/// Notes that `client` was sent to `slot`. A table that does not take it costs only the affinity.
#[inline(never)]
fn keep(key: &ServiceKey, row: &ServiceRow, client: Addr, slot: &Slot) {
    let kept = AffinityRow {
        backend: slot.addr,
        // SAFETY: the helper has no preconditions.
        seen: unsafe { bpf_ktime_get_ns() },
        port: slot.port,
        pad: [0; 6],
    };
    let _ = AFFINITY.insert(affinity_key(key, row, client), kept, u64::from(BPF_ANY));
}

#[inline(always)]
fn affinity_key(key: &ServiceKey, row: &ServiceRow, client: Addr) -> AffinityKey {
    AffinityKey {
        client,
        service: row.service,
        port: key.port,
        protocol: key.protocol,
        pad: 0,
    }
}
/// The row of what a packet from outside calls, or a packet from a pod that passed no socket hook: the address itself,
/// and for a node's address also its node ports.
#[inline(always)]
pub fn called(key: &FlowKey, scope: u8, at_node: bool) -> Option<ServiceRow> {
    let mut service = ServiceKey {
        vip: key.dst,
        port: key.dst_port,
        protocol: key.protocol,
        scope,
    };
    // SAFETY: rows are replaced as a whole; this copy is of one of them.
    let mut found = unsafe { SERVICES.get(service) }.copied();
    if found.is_none() && at_node {
        service.vip = Addr::any(key.dst.is_v4());
        // SAFETY: as above.
        found = unsafe { SERVICES.get(service) }.copied();
    }
    found
}

/// The backend of a flow: the one that its caller keeps where the service has affinity, else by the service's Maglev table,
/// the same on every node.
///
/// # Errors
/// [`Reason::NoBackend`] when there is none; [`Reason::SourceRange`] when the caller may not come in;
/// [`Reason::Inconsistent`] when the table does not belong to the row that points at it.
#[inline(always)]
pub fn choose_for(key: &FlowKey, row: &ServiceRow) -> Result<&'static Slot, Reason> {
    if row.flags & service_flag::SOURCES != 0 {
        let source = SourceKey {
            service: row.service,
            addr: key.src,
        };
        if SOURCES.get(Key::new(160, source)).is_none() {
            return Err(Reason::SourceRange);
        }
    }
    if row.count == 0 || row.maglev_size == 0 {
        return Err(Reason::NoBackend);
    }
    if row.affinity == 0 {
        return by_table(key, row);
    }
    let place = ServiceKey {
        vip: key.dst,
        port: key.dst_port,
        protocol: key.protocol,
        scope: scope::OUTSIDE,
    };
    let wished = affine(&place, row, key.src);
    let mut kept = None;
    if wished.1 != 0 {
        kept = find(row, wished);
    }
    let slot = match kept {
        Some(slot) => slot,
        None => by_table(key, row)?,
    };
    keep(&place, row, key.src, slot);
    Ok(slot)
}

/// The same among this node's backends, where another node chose this one: that which the table says, unless it is of another
/// state of things than the other node's was.
///
/// # Errors
/// As [`choose_for`]; [`Reason::NoBackend`] also when none is here.
#[inline(always)]
pub fn choose_here(key: &FlowKey, row: &ServiceRow, node: &Addr) -> Result<&'static Slot, Reason> {
    let slot = choose_for(key, row)?;
    if is_here(slot, node) {
        return Ok(slot);
    }
    let found = walk_from(row, node, hash(key, 0));
    if found == NONE {
        return Err(Reason::NoBackend);
    }
    match SLOTS.get(found) {
        Some(slot) if slot.service == row.service && slot.port != 0 => Ok(slot),
        _ => Err(Reason::Inconsistent),
    }
}

/// Index of the first slot with a backend of this node, from a place on that `start` says; [`NONE`] for none. Not inlined: it
/// is rare, and needs stack.
#[inline(never)]
fn walk_from(row: &ServiceRow, node: &Addr, start: u32) -> u32 {
    let Some(walk) = WALKS.get_ptr_mut(0) else {
        return NONE;
    };
    // SAFETY: the map keeps the row alive, and nothing else uses it while this program runs.
    let walk = unsafe { &mut *walk };
    if row.count == 0 {
        return NONE;
    }
    walk.base = row.base;
    walk.count = row.count;
    walk.service = row.service;
    walk.node = *node;
    walk.next = start % row.count;
    walk.found = NONE;
    let mut none = 0_u64;
    // SAFETY: the callback only takes its own CPU's walk.
    unsafe {
        bpf_loop(
            row.count.min(STEPS),
            step as *mut c_void,
            (&raw mut none).cast(),
            0,
        )
    };
    walk.found
}

/// A walk through a slab, to a backend of this node.
#[repr(C)]
#[derive(Clone, Copy)]
struct Walk {
    base: u32,
    count: u32,
    service: u32,
    node: Addr,
    next: u32,
    found: u32,
}

/// Each CPU's own: too much for a program's stack.
#[map]
static WALKS: PerCpuArray<Walk> = PerCpuArray::with_max_entries(1, 0);

/// Returns 0 to go on.
extern "C" fn step(_step: u32, _none: *mut u64) -> i64 {
    let Some(walk) = WALKS.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: as in `walk_from`.
    let walk = unsafe { &mut *walk };
    let at = walk.base.wrapping_add(walk.next);
    walk.next += 1;
    if walk.next >= walk.count {
        walk.next = 0;
    }
    let Some(slot) = SLOTS.get(at) else {
        return 1;
    };
    if slot.service == walk.service && is_here(slot, &walk.node) {
        walk.found = at;
        return 1;
    }
    0
}

/// Whether a backend is on this node, which has the address `node`.
#[inline(always)]
pub fn is_here(slot: &Slot, node: &Addr) -> bool {
    match endpoint(&slot.addr) {
        Some(row) if row.kind == endpoint_kind::POD => row.ifindex != 0,
        Some(_) => slot.addr == *node,
        None => false,
    }
}

/// Of all flows of a caller, when the service has affinity.
#[inline(always)]
fn by_table(key: &FlowKey, row: &ServiceRow) -> Result<&'static Slot, Reason> {
    let ports = if row.affinity == 0 {
        u32::from(key.src_port) << 16 | u32::from(key.dst_port)
    } else {
        0
    };
    let entry = hash(key, ports) % row.maglev_size;
    let entries = MAGLEV
        .get(row.maglev.wrapping_add(entry / 4))
        .ok_or(Reason::Inconsistent)?;
    let index = match entry % 4 {
        0 => entries.slots[0],
        1 => entries.slots[1],
        2 => entries.slots[2],
        _ => entries.slots[3],
    };
    let index = u32::from(index);
    if index >= row.count {
        return Err(Reason::Inconsistent);
    }
    match SLOTS.get(row.base.wrapping_add(index)) {
        Some(slot) if slot.service == row.service && slot.port != 0 => Ok(slot),
        _ => Err(Reason::Inconsistent),
    }
}

/// Where in a Maglev table a flow points; every node must come to the same.
#[inline(always)]
fn hash(key: &FlowKey, ports: u32) -> u32 {
    let mut state = 0x9e37_79b9 ^ u32::from(key.protocol);
    for word in key.src.words {
        state = mix(state, word);
    }
    let state = mix(state, ports);
    // So that neighbouring inputs spread over all bits (the finalizer of MurmurHash3, public domain).
    let state = (state ^ (state >> 16)).wrapping_mul(0x85eb_ca6b);
    let state = (state ^ (state >> 13)).wrapping_mul(0xc2b2_ae35);
    state ^ (state >> 16)
}

#[inline(always)]
fn mix(state: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15);
    (state ^ word.wrapping_mul(0x1b87_3593))
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}
