//! Words that many objects have in common (namespaces, kinds, owners), each kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// So many words are looked through for unused ones at the least.
const FEW: usize = 1024;

/// The words in use, and some that were.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    words: HashSet<Arc<str>>,
    /// At so many the unused ones are forgotten.
    full: usize,
}

impl Words {
    /// Exchanges `word` for the one that is kept.
    pub(super) fn share(&mut self, word: &mut Arc<str>) {
        if let Some(kept) = self.words.get(word) {
            *word = Arc::clone(kept);
            return;
        }
        if self.words.len() >= self.full {
            self.words.retain(|word| Arc::strong_count(word) > 1);
            self.full = FEW.max(2 * self.words.len());
        }
        self.words.insert(Arc::clone(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_once_and_forgotten_when_nobody_has_it() {
        let mut words = Words::default();
        let (mut one, mut other): (Arc<str>, Arc<str>) = ("shop".into(), "shop".into());
        words.share(&mut one);
        words.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..10 * FEW {
            words.share(&mut number.to_string().into());
        }
        assert!(words.words.len() <= FEW + 1);
        let mut again: Arc<str> = "shop".into();
        words.share(&mut again);
        assert!(Arc::ptr_eq(&one, &again));
    }
}
