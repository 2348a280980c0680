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

    /// Whether every node has had `grace` to report since.
    pub(super) fn is_over(&mut self, now: Instant, grace: Duration) -> bool {
        if now.saturating_duration_since(self.last) > LONGEST_REST + grace / 2 {
            self.since = now;
        }
        self.last = now;
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
        for second in 0..12 {
            assert!(
                !patience.is_over(start + Duration::from_secs(second), grace),
                "second {second}"
            );
        }
        assert!(patience.is_over(start + Duration::from_secs(12), grace));
        let woken = start + Duration::from_secs(3600);
        assert!(!patience.is_over(woken, grace), "the machine slept");
        for second in 1..12 {
            assert!(!patience.is_over(woken + Duration::from_secs(second), grace));
        }
        assert!(patience.is_over(woken + Duration::from_secs(12), grace));
    }
}
