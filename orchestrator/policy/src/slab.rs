//! Which runs of slots are in use, and where a fresh one goes. Next-fit: a freed run is reused as late as possible, so
//! that a program which still reads it is long done.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Runs of slots in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slabs {
    used: BTreeMap<u32, u32>,
    slots: usize,
    cursor: u32,
}

impl Slabs {
    /// Slots in use.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Notes that `count` slots from `base` on are in use. Empty runs take no room.
    pub fn take(&mut self, base: u32, count: u32) {
        if count > 0 && self.used.insert(base, count).is_none() {
            self.slots += count as usize;
            self.cursor = base.saturating_add(count);
        }
    }

    /// Notes that the run at `base` is free.
    pub fn free(&mut self, base: u32, count: u32) {
        if count > 0 && self.used.get(&base) == Some(&count) {
            self.used.remove(&base);
            self.slots -= count as usize;
        }
    }

    /// Takes `count` slots below `limit`, first behind the last run taken, then from the start; `None` when no gap is
    /// wide enough.
    pub fn allocate(&mut self, count: u32, limit: u32) -> Option<u32> {
        if count == 0 {
            return Some(0);
        }
        let base = self
            .gap(self.cursor, limit, count)
            .or_else(|| self.gap(0, limit, count))?;
        self.take(base, count);
        Some(base)
    }

    /// First place at or after `from` where `count` slots are free.
    fn gap(&self, from: u32, limit: u32, count: u32) -> Option<u32> {
        let mut start = from;
        if let Some((base, len)) = self.used.range(..from).next_back() {
            start = start.max(base.saturating_add(*len));
        }
        for (base, len) in self.used.range((Bound::Included(from), Bound::Unbounded)) {
            if base.saturating_sub(start) >= count {
                break;
            }
            start = start.max(base.saturating_add(*len));
        }
        (start.checked_add(count)? <= limit).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn freed_runs_are_reused_last() {
        let mut slabs = Slabs::default();
        assert_eq!(slabs.allocate(4, 10), Some(0));
        assert_eq!(slabs.allocate(4, 10), Some(4));
        slabs.free(0, 4);
        assert_eq!(slabs.allocate(2, 10), Some(8));
        assert_eq!(slabs.allocate(3, 10), Some(0));
        assert_eq!(slabs.allocate(2, 10), None);
        assert_eq!(slabs.allocate(1, 10), Some(3));
        assert_eq!(slabs.slots(), 10);
        assert_eq!(slabs.allocate(0, 10), Some(0));
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_stay_below_the_limit(
            operations in proptest::collection::vec((any::<bool>(), 1u32..9), 1..80),
        ) {
            let (mut slabs, mut live) = (Slabs::default(), Vec::new());
            for (add, size) in operations {
                if add {
                    if let Some(base) = slabs.allocate(size, 64) {
                        prop_assert!(base + size <= 64);
                        prop_assert!(live.iter().all(|(b, s)| base + size <= *b || b + s <= base));
                        live.push((base, size));
                    }
                } else if !live.is_empty() {
                    let (base, size) = live.swap_remove(size as usize % live.len());
                    slabs.free(base, size);
                }
                prop_assert_eq!(slabs.slots(), live.iter().map(|(_, s)| *s as usize).sum::<usize>());
            }
        }
    }
}
