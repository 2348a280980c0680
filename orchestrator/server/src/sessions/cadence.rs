//! How often nodes speak: seldom enough that listening to all of them stays cheap, and so that silence is still noticed
//! soon in a small cluster.

use std::time::Duration;

use tokio::sync::watch;

/// Nodes that may speak in one second.
const WORDS: u64 = 500;
/// Seconds between two words of a node. Few steps, because at each one every node is told.
const STEPS: [u64; 5] = [3, 5, 10, 20, 30];
/// Words that may be missed until a node counts as silent.
const MISSED: u32 = 4;

/// How often the nodes of this server are to speak.
#[derive(Debug)]
pub(crate) struct Cadence {
    least: Duration,
    now: watch::Sender<Duration>,
}

impl Cadence {
    /// Never more often than each `least`.
    pub(crate) fn new(least: Duration) -> Self {
        let now = watch::Sender::new(least);
        Self { least, now }
    }

    /// The time between two words of a node, and its changes.
    pub(crate) fn follow(&self) -> watch::Receiver<Duration> {
        self.now.subscribe()
    }

    /// The time between two words of a node.
    pub(crate) fn heartbeat(&self) -> Duration {
        *self.now.borrow()
    }

    /// How long a node may be silent, at least.
    pub(crate) fn grace(&self) -> Duration {
        self.heartbeat() * MISSED
    }

    /// There are so many nodes now.
    pub(crate) fn count(&self, nodes: u32) {
        self.now.send_if_modified(|now| {
            let next = after(*now, self.least, nodes.into());
            std::mem::replace(now, next) != next
        });
    }
}

/// The next time between words: longer as soon as there are too many nodes, shorter when half as many more would still fit.
fn after(now: Duration, least: Duration, nodes: u64) -> Duration {
    let fits = |nodes: u64| {
        let enough = STEPS.into_iter().find(|step| nodes <= step * WORDS);
        let seconds = enough.unwrap_or(STEPS[STEPS.len() - 1]);
        if seconds == STEPS[0] {
            least
        } else {
            least.max(Duration::from_secs(seconds))
        }
    };
    now.max(fits(nodes)).min(fits(nodes + nodes / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_nodes_speak_less_often_and_a_few_that_come_and_go_change_nothing() {
        let least = Duration::from_secs(3);
        let after = |now: u64, nodes| after(Duration::from_secs(now), least, nodes).as_secs();
        assert_eq!(after(3, 0), 3);
        assert_eq!(after(3, 1500), 3);
        assert_eq!(after(3, 1501), 5);
        assert_eq!(after(5, 1499), 5, "not back at once");
        assert_eq!(after(5, 1001), 5);
        assert_eq!(after(5, 1000), 3);
        assert_eq!(after(3, 5000), 10);
        assert_eq!(after(3, 1_000_000), 30);
        assert_eq!(after(30, 10), 3);
    }

    #[test]
    fn who_asks_for_less_often_gets_it() {
        let least = Duration::from_secs(8);
        assert_eq!(after(least, least, 10), least);
        assert_eq!(after(least, least, 2000), least);
        assert_eq!(after(least, least, 4000), Duration::from_secs(10));
    }

    #[test]
    fn all_are_told_when_it_changes_and_only_then() {
        let cadence = Cadence::new(Duration::from_secs(1));
        let mut told = cadence.follow();
        cadence.count(1000);
        assert!(!told.has_changed().unwrap());
        cadence.count(5000);
        assert!(told.has_changed().unwrap());
        assert_eq!(told.borrow_and_update().as_secs(), 10);
        assert_eq!(cadence.heartbeat().as_secs(), 10);
    }
}
