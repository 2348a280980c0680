//! Where planners get randomness from: a generator that is handed in, so that a plan can be made again.

/// Letters and digits without those that form words or look alike, as in Kubernetes' generated names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Makes name suffixes. The same seed gives the same names.
#[derive(Debug, Clone)]
pub struct Ids {
    state: u64,
}

impl Ids {
    /// A generator; the server seeds it from the operating system's randomness.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, evenly spread (SplitMix64: Steele, Lea, Flood 2014).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Five characters for the end of a name, `x7k2p`.
    pub fn suffix(&mut self) -> String {
        let mut number = self.number();
        (0..5)
            .map(|_| char::from(ALPHABET[take(&mut number)]))
            .collect()
    }
}

/// The remainder by the alphabet's size, which is also taken from the number.
fn take(number: &mut u64) -> usize {
    let index = *number % ALPHABET.len() as u64;
    *number /= ALPHABET.len() as u64;
    usize::try_from(index).unwrap_or(0)
}

/// A number as text that may stand in a name: its decimal digits, each as a letter or digit of the alphabet.
pub(crate) fn safe_text(number: u32) -> String {
    number
        .to_string()
        .bytes()
        .map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]))
        .collect()
}

/// FNV-1a, 32 bits (Fowler, Noll, Vo).
pub(crate) fn fnv32(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn suffixes_are_five_safe_characters_and_differ() {
        let mut ids = Ids::new(7);
        let made: BTreeSet<String> = (0..1000).map(|_| ids.suffix()).collect();
        assert!(made.len() > 990);
        assert!(
            made.iter()
                .all(|s| s.len() == 5 && s.bytes().all(|b| ALPHABET.contains(&b)))
        );
        assert_eq!(Ids::new(7).suffix(), Ids::new(7).suffix());
    }

    #[test]
    fn the_hash_is_fnv() {
        assert_eq!(fnv32(&[b"foo", b"bar"]), 0xbf9c_f968);
    }
}
