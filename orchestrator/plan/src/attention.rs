//! When a planner is asked, and about what: what was touched since, and everything once one of its own times has come.

use std::time::Duration;

use jiff::Timestamp;

use crate::snapshot::Scope;
use crate::{Plan, Snapshot};

/// However quiet it is, everything is looked at once in this time.
const WHOLE: Duration = Duration::from_secs(300);

/// One planner's. Times are of a clock that doesn't jump, from wherever it began.
#[derive(Debug, Clone, Default)]
pub struct Attention {
    /// Where the snapshot stood when the planner was asked last.
    seen: Option<u64>,
    /// When it wants to be asked about everything.
    due: Option<Duration>,
    /// How far the clock that plans are made by was from the one that doesn't jump, seconds.
    offset: Option<i64>,
}

impl Attention {
    /// When the planner wants to be asked though nothing changed.
    pub fn due(&self) -> Option<Duration> {
        self.due
    }

    /// Whether it is to be asked though nothing changed.
    pub fn is_due(&self, now: Duration) -> bool {
        self.seen.is_none() || self.due.is_some_and(|due| due <= now)
    }

    /// What it is asked about now, `wall` being the time that it is told. The plan that it makes belongs to
    /// [`answered`](Self::answered).
    pub fn turn(&mut self, snapshot: &Snapshot, now: Duration, wall: Timestamp) -> Scope {
        let offset = wall.as_second() - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let before = self.offset.unwrap_or(offset);
        let jumped = before.abs_diff(offset) > 1;
        self.offset = Some(if jumped { offset } else { before });
        let whole = jumped || self.is_due(now);
        let seen = self.seen.replace(snapshot.position());
        if whole {
            self.due = Some(now + WHOLE);
        }
        match seen {
            Some(seen) if !whole => Scope::since(seen),
            _ => Scope::EVERYTHING,
        }
    }

    /// Notes when the planner wants to be asked again.
    pub fn answered(&mut self, plan: &Plan, now: Duration) {
        if let Some(seconds) = plan.again_after {
            self.insist(now + Duration::from_secs(seconds.max(1)));
        }
    }

    /// Has it asked about everything at `moment`, if not earlier: something that it decided did not come about.
    pub fn insist(&mut self, moment: Duration) {
        self.due = Some(self.due.map_or(moment, |due| due.min(moment)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_looked_at_first_when_a_time_has_come_and_once_in_a_while() {
        let (mut attention, snapshot) = (Attention::default(), Snapshot::default());
        let at = Duration::from_secs;
        let turn = |attention: &mut Attention, now: u64, wall: i64| {
            attention.turn(&snapshot, at(now), Timestamp::from_second(wall).unwrap())
        };
        assert_eq!(turn(&mut attention, 0, 1000), Scope::EVERYTHING);
        let plan = Plan {
            again_after: Some(10),
            ..Plan::default()
        };
        attention.answered(&plan, at(0));
        let part = Scope::since(snapshot.position());
        assert_eq!(turn(&mut attention, 5, 1005), part);
        attention.answered(&Plan::default(), at(5));
        assert_eq!(attention.due(), Some(at(10)), "others' times are kept");
        assert_eq!(turn(&mut attention, 10, 1011), Scope::EVERYTHING);
        assert_eq!(turn(&mut attention, 11, 1011), part);
        assert_eq!(turn(&mut attention, 310, 1310), Scope::EVERYTHING);
        attention.insist(at(312));
        attention.insist(at(400));
        assert!(attention.is_due(at(312)));
        assert_eq!(turn(&mut attention, 312, 1312), Scope::EVERYTHING);
        assert_eq!(
            turn(&mut attention, 313, 5313),
            Scope::EVERYTHING,
            "the clock was set"
        );
        assert_eq!(turn(&mut attention, 314, 5314), part);
    }
}
