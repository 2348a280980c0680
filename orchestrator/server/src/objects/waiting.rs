//! Who waits until the cache shows a revision. Each is woken once, when it does, not at every revision before.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{Receiver, Sender, channel};

/// Those who wait, by revision.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    senders: Mutex<BTreeMap<u64, Vec<Sender<()>>>>,
}

impl Waiting {
    fn senders(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Sender<()>>>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told at `revision`, unless that was before.
    pub(super) fn for_revision(&self, revision: u64) -> Receiver<()> {
        let (sender, receiver) = channel();
        let mut senders = self.senders();
        let waiting = senders.entry(revision).or_default();
        // Whoever gave up waiting for what may never come.
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    /// Tells those who wait for it, or for less.
    pub(super) fn reached(&self, revision: u64) {
        let mut senders = self.senders();
        let later = senders.split_off(&(revision + 1));
        let told = std::mem::replace(&mut *senders, later);
        drop(senders);
        for sender in told.into_values().flatten() {
            // It may have given up.
            let _gone = sender.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_once_its_revision_is_there() {
        let waiting = Waiting::default();
        let mut receivers: Vec<_> = [5, 7, 7, 9]
            .map(|revision| waiting.for_revision(revision))
            .into();
        let mut told = |waiting: &Waiting, revision| {
            waiting.reached(revision);
            receivers
                .iter_mut()
                .map(|one| one.try_recv().is_ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&waiting, 4), [false, false, false, false]);
        assert_eq!(told(&waiting, 7), [true, true, true, false]);
        assert_eq!(told(&waiting, 12), [false, false, false, true]);
    }

    #[test]
    fn nothing_is_kept_of_those_who_gave_up() {
        let waiting = Waiting::default();
        for _ in 0..10 {
            drop(waiting.for_revision(1000));
        }
        assert_eq!(waiting.senders()[&1000].len(), 1);
    }
}
