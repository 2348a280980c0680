//! What changed in a snapshot, so that whoever follows it need not look at the rest.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Changes that are kept. Who is further behind looks at everything.
const KEPT: usize = 1 << 16;

/// Where an object is found: by namespace first, so that a namespace's objects stand together.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for a cluster-scoped one.
    pub namespace: Arc<str>,
    /// `v1`, `apps/v1`.
    pub api_version: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// Whether it is of this kind.
    pub fn is(&self, api_version: &str, kind: &str) -> bool {
        *self.kind == *kind && *self.api_version == *api_version
    }
}

/// Something that changed, came or went, or hangs on what did.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// Which kinds of objects are there.
    Kinds,
    /// Which nodes there are, or what they are to pods: labels, taints, resources, conditions.
    Placement,
    /// Which nodes there are in which zone.
    Zones,
    /// Something of this namespace that nobody controls, and whoever selects it may adopt.
    Orphan(String),
    /// The object itself, something that it owns or selects, the addresses of a node's pods, or its owner's coming and going.
    Object(Arc<ObjectKey>),
}

/// The newest changes, numbered from the first that there ever was.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal {
    first: u64,
    rows: VecDeque<Touched>,
}

impl Journal {
    pub(super) fn note(&mut self, touched: Touched) {
        if self.rows.len() == KEPT {
            self.rows.pop_front();
            self.first += 1;
        }
        self.rows.push_back(touched);
    }

    /// The number that the next change will have.
    pub(super) fn end(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// The changes from number `start` on, some of them more than once; `None` when not all of them are kept.
    pub(super) fn rows_since(&self, start: u64) -> Option<impl Iterator<Item = &Touched> + Clone> {
        let skipped = usize::try_from(start.checked_sub(self.first)?).ok()?;
        (skipped <= self.rows.len()).then(|| self.rows.range(skipped..))
    }

    /// The same, each once.
    pub(super) fn since(&self, start: u64) -> Option<BTreeSet<&Touched>> {
        self.rows_since(start).map(Iterator::collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_behind_is_told_so() {
        let mut journal = Journal::default();
        let orphan = |number: usize| Touched::Orphan(format!("namespace{number}"));
        for number in 0..KEPT {
            journal.note(orphan(number));
        }
        assert_eq!(journal.since(0).map(|all| all.len()), Some(KEPT));
        let end = journal.end();
        assert_eq!(journal.since(end), Some(BTreeSet::new()));
        assert_eq!(journal.since(end + 1), None, "of another snapshot");
        journal.note(orphan(0));
        assert_eq!(journal.since(0), None);
        assert_eq!(journal.since(end), Some(BTreeSet::from([&orphan(0)])));
    }
}
