//! Shuffle sharding: a flow's hand of queues, dealt by its hash as if from a shuffled deck. Two flows share all of
//! their queues only by rare chance, so that one of them can't keep the other out.

/// `hand` different numbers below `deck`, always the same for a hash.
pub(super) fn deal(mut hash: u64, deck: usize, hand: usize) -> Vec<usize> {
    let mut dealt: Vec<usize> = Vec::with_capacity(hand);
    for taken in 0..hand.min(deck) {
        let left = (deck - taken) as u64;
        // The card's place among those that are left; each dealt before it moves it one further.
        let mut card = usize::try_from(hash % left).unwrap_or(0);
        hash /= left;
        let mut below: Vec<usize> = dealt.clone();
        below.sort_unstable();
        for other in below {
            card += usize::from(other <= card);
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hand_has_no_card_twice(hash: u64, deck in 1usize..200, hand in 1usize..9) {
            let cards = deal(hash, deck, hand);
            prop_assert_eq!(cards.len(), hand.min(deck));
            let mut different = cards.clone();
            different.sort_unstable();
            different.dedup();
            prop_assert_eq!(different.len(), cards.len());
            prop_assert!(cards.iter().all(|card| *card < deck));
        }
    }

    #[test]
    fn every_card_is_dealt_about_as_often() {
        let mut seen = [0u32; 16];
        for hash in 0..16 * 15 * 14 * 13 {
            for card in deal(hash, 16, 4) {
                seen[card] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count == seen[0]), "{seen:?}");
    }
}
