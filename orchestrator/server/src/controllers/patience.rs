//! When nodes may be judged by their heartbeats.

use std::time::{Duration, Instant};

/// A server that asks less often than this stood still.
pub(super) const LONGEST_REST: Duration = Duration::from_secs(2);

/// Nodes are not judged by heartbeats that nobody could take in: not right after the server's start, and not right
/// after it stood still (a suspended machine).
#[derive(Debug)]
pub(super) struct Patience {
    since: Instant,
    last: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            last: now,
        }
    }

    /// The server goes on: to be said at least once in [`LONGEST_REST`].
    pub(super) fn look(&mut self, now: Instant, grace: Duration) {
        if now.saturating_duration_since(self.last) > LONGEST_REST + grace / 2 {
            self.since = now;
        }
        self.last = now;
    }

    /// Whether every node has had `grace` to report since it stood still.
    pub(super) fn is_over(&self, now: Instant, grace: Duration) -> bool {
        now.saturating_duration_since(self.since) >= grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_judged_only_when_their_heartbeats_could_come_in() {
        let (start, grace) = (Instant::now(), Duration::from_secs(12));
        let mut patience = Patience::new(start);
        let mut is_over = |now| {
            patience.look(now, grace);
            patience.is_over(now, grace)
        };
        for second in 0..12 {
            assert!(
                !is_over(start + Duration::from_secs(second)),
                "second {second}"
            );
        }
        assert!(is_over(start + Duration::from_secs(12)));
        let woken = start + Duration::from_secs(3600);
        assert!(!is_over(woken), "the machine slept");
        for second in 1..12 {
            assert!(!is_over(woken + Duration::from_secs(second)));
        }
        assert!(is_over(woken + Duration::from_secs(12)));
    }
}
