//! Whether the planners go round in circles: passes that follow on each other, each for what the last one wrote.

/// Passes in a row after which they are slowed down.
const LONGEST_RUN: u32 = 100;

/// The run of passes that is under way.
#[derive(Debug, Default)]
pub(super) struct Run {
    passes: u32,
    /// Changes that the snapshot had shown before.
    shown: u64,
}

impl Run {
    /// After a pass that `wrote` so many objects, when the snapshot has shown so many changes: how long the run is, once that
    /// is too long. What others change, however fast, is no circle.
    pub(super) fn is_too_long(&mut self, wrote: u64, shown: u64) -> Option<u32> {
        let others = shown.saturating_sub(self.shown) > wrote;
        self.shown = shown;
        self.passes = if wrote == 0 || others {
            0
        } else {
            self.passes + 1
        };
        (self.passes > LONGEST_RUN).then_some(self.passes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planners_that_only_answer_themselves_are_slowed_down_and_busy_ones_are_not() {
        let (mut run, mut shown) = (Run::default(), 0);
        let mut pass = |wrote: u64, others: u64| {
            shown += wrote + others;
            run.is_too_long(wrote, shown)
        };
        assert!((0..1000).all(|_| pass(3, 1).is_none()), "clients are busy");
        assert!((0..100).all(|_| pass(3, 0).is_none()));
        assert_eq!(pass(3, 0), Some(101));
        assert_eq!(pass(3, 0), Some(102));
        assert_eq!(pass(0, 0), None);
        assert_eq!(pass(3, 0), None);
    }
}
