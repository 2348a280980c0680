//! Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4):
//! which backend each of a prime number of entries belongs to, the same on every node, and hardly changed for those that
//! stay when one of them goes.

/// Sizes that tables may have: primes, each about twice the one before.
const SIZES: [u32; 12] = [
    7, 251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139,
];
/// Entries a backend, at least, while tables may grow: seen to keep what moves between those that stay below 1%.
const ENTRIES: u32 = 1_000;
/// Entries a backend where many share a table; each is then a small part of it anyway.
const ENTRIES_OF_MANY: u32 = 300;
/// Tables up to here have room for [`ENTRIES`].
const LARGE: u32 = 65_521;

/// One backend, for the making of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What it is known by, the same on every node and for as long as it lives.
    pub(crate) id: u64,
    /// Its share beside the others'; 0 gets nothing.
    pub(crate) weight: u32,
}

/// Entries of a table for backends of this weight in all.
pub(crate) fn size(total_weight: u32) -> u32 {
    if total_weight <= 1 {
        return SIZES[0];
    }
    let wanted = total_weight
        .saturating_mul(ENTRIES)
        .min(LARGE)
        .max(total_weight.saturating_mul(ENTRIES_OF_MANY));
    let found = SIZES.iter().find(|size| **size >= wanted);
    *found.unwrap_or(&SIZES[SIZES.len() - 1])
}

/// The index of the backend that each entry belongs to; empty when nobody has a weight.
pub(crate) fn table(candidates: &[Candidate]) -> Vec<u32> {
    let total = candidates
        .iter()
        .fold(0u32, |sum, one| sum.saturating_add(one.weight));
    if total == 0 {
        return Vec::new();
    }
    let size = size(total);
    let most = candidates.iter().map(|one| one.weight).max().unwrap_or(1);
    let mut walks: Vec<Walk> = (0u32..)
        .zip(candidates)
        .filter(|(_, one)| one.weight > 0)
        .map(|(index, one)| Walk::new(index, one, size))
        .collect();
    // Who takes first must not depend on the order in which they are given.
    walks.sort_by_key(|walk| walk.id);
    let mut entries = vec![u32::MAX; size as usize];
    let mut left = size;
    while left > 0 {
        for walk in &mut walks {
            // The heaviest takes a turn each round, the others in proportion.
            walk.credit += walk.weight;
            if walk.credit < most {
                continue;
            }
            walk.credit -= most;
            let entry = walk.next_free(&entries, size);
            entries[entry] = walk.index;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    entries
}

/// A backend's own order of all entries.
struct Walk {
    index: u32,
    id: u64,
    weight: u32,
    credit: u32,
    position: u64,
    skip: u64,
}

impl Walk {
    fn new(index: u32, candidate: &Candidate, size: u32) -> Self {
        Self {
            index,
            id: scramble(candidate.id),
            weight: candidate.weight,
            credit: 0,
            position: scramble(candidate.id ^ 0x6f66_6673_6574) % u64::from(size),
            skip: scramble(candidate.id ^ 0x736b_6970) % (u64::from(size) - 1) + 1,
        }
    }

    /// Its next entry that nobody has. There is one: the size is prime, so the walk meets every entry.
    fn next_free(&mut self, entries: &[u32], size: u32) -> usize {
        loop {
            let entry = usize::try_from(self.position).unwrap_or(0);
            self.position = (self.position + self.skip) % u64::from(size);
            if entries[entry] == u32::MAX {
                return entry;
            }
        }
    }
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
fn scramble(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equal(ids: &[u64]) -> Vec<Candidate> {
        ids.iter()
            .map(|id| Candidate { id: *id, weight: 1 })
            .collect()
    }

    /// Whose each entry is, by id.
    fn owners(candidates: &[Candidate]) -> Vec<u64> {
        table(candidates)
            .into_iter()
            .map(|index| candidates[index as usize].id)
            .collect()
    }

    #[test]
    fn sizes_are_primes() {
        for size in SIZES {
            let divides = |d: &u32| size % d == 0;
            assert!(
                !(2..=size.isqrt()).any(|d| divides(&d)),
                "{size} is no prime"
            );
        }
        assert_eq!(size(0), 7);
        assert_eq!((size(2), size(60), size(100)), (2_039, 65_521, 65_521));
        assert_eq!(size(u32::MAX), 262_139);
    }

    #[test]
    fn nobody_gets_nothing() {
        assert!(table(&[]).is_empty());
        assert!(table(&[Candidate { id: 1, weight: 0 }]).is_empty());
        assert_eq!(table(&equal(&[5])), vec![0; 7]);
    }

    /// Sets are made up, but always the same ones: how much moves is a matter of luck that a test must not depend on.
    #[test]
    fn when_one_goes_the_others_keep_theirs() {
        let mut worst = 0.0f64;
        for (round, count) in [2u64, 3, 4, 5, 8, 12, 20, 40, 90].into_iter().enumerate() {
            for seed in 0..4u64 {
                let id = |number: u64| scramble(seed << 32 | (round as u64) << 16 | number);
                let ids: Vec<u64> = (0..count).map(id).collect();
                let gone = ids[usize::try_from(seed % count).unwrap()];
                let stayed: Vec<u64> = ids.iter().copied().filter(|id| *id != gone).collect();
                let (before, after) = (equal(&ids), equal(&stayed));
                let length = size(u32::try_from(count).unwrap());
                if size(u32::try_from(count - 1).unwrap()) != length {
                    continue; // Spread anew over a smaller table; tracked flows stay all the same.
                }
                let (before, after) = (owners(&before), owners(&after));
                let pairs = before.iter().zip(&after);
                let moved = pairs.filter(|(b, a)| **b != gone && b != a).count();
                let share = f64::from(u32::try_from(moved).unwrap()) / f64::from(length);
                worst = worst.max(share);
            }
        }
        assert!(worst > 0.0 && worst <= 0.01, "{worst} of a table moved");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn shares_follow_weights(weights in proptest::collection::vec(0u32..5, 1..40), seed in any::<u64>()) {
            let candidates: Vec<Candidate> = (0u64..)
                .zip(&weights)
                .map(|(number, weight)| Candidate { id: scramble(seed ^ number), weight: *weight })
                .collect();
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let entries = table(&candidates);
            for (index, one) in (0u32..).zip(&candidates) {
                let has = f64::from(u32::try_from(entries.iter().filter(|entry| **entry == index).count()).unwrap());
                let fair = f64::from(size(total)) * f64::from(one.weight) / f64::from(total);
                prop_assert!((has - fair).abs() <= 1.0 + fair * 0.02, "{has} entries where {fair} are fair");
            }
        }

        #[test]
        fn order_does_not_matter(ids in proptest::collection::btree_set(any::<u64>(), 1..30)) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let back: Vec<u64> = ids.iter().rev().copied().collect();
            prop_assert_eq!(owners(&equal(&ids)), owners(&equal(&back)));
        }
    }
}
