//! What changed in a snapshot that the network state is made from, so that whoever follows it need not look at the rest.

use std::collections::{BTreeSet, VecDeque};

/// Changes that are kept. Who is further behind looks at everything.
const KEPT: usize = 1 << 16;

/// Something that changed, came or went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// A namespace, policy or tenant: many things depend on each.
    Everything,
    /// A node, by name.
    Node(String),
    /// A pod, by namespace and name.
    Pod(String, String),
    /// A Service or one of its EndpointSlices, by namespace and the Service's name.
    Service(String, String),
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

    /// The changes from number `start` on; `None` when some of them are no longer kept.
    pub(super) fn since(&self, start: u64) -> Option<BTreeSet<&Touched>> {
        let skipped = usize::try_from(start.checked_sub(self.first)?).ok()?;
        (skipped <= self.rows.len()).then(|| self.rows.range(skipped..).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_too_far_behind_is_told_so() {
        let mut journal = Journal::default();
        let node = |number: usize| Touched::Node(format!("node{number}"));
        for number in 0..KEPT {
            journal.note(node(number));
        }
        assert_eq!(journal.since(0).map(|all| all.len()), Some(KEPT));
        let end = journal.end();
        assert_eq!(journal.since(end), Some(BTreeSet::new()));
        assert_eq!(journal.since(end + 1), None, "of another snapshot");
        journal.note(node(0));
        assert_eq!(journal.since(0), None);
        assert_eq!(journal.since(end), Some(BTreeSet::from([&node(0)])));
    }
}
