//! How fast an autoscaler may change a number: stabilization windows and scaling policies. What was proposed and done
//! lately is remembered here.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

use crate::pod;

/// Seconds over which the largest proposal holds before a number falls, unless the rules say otherwise.
const DOWN_WINDOW: i64 = 300;
/// Longest time that anything is remembered, seconds.
const LONGEST: i64 = 3600;

/// What an autoscaler proposed and did lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    proposals: Vec<(Timestamp, i32)>,
    changes: Vec<(Timestamp, i32)>,
    looked: Option<Timestamp>,
    /// `metadata.generation` of the autoscaler when it last looked.
    pub(super) generation: Option<i64>,
}

/// Between which numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) current: i32,
    pub(super) least: i32,
    pub(super) most: i32,
}

/// The number that is allowed, and what limited it.
pub(super) struct Limited {
    pub(super) desired: i32,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

impl Memory {
    /// Whether a period is over since the last look; the next one begins then.
    pub(super) fn is_due(&mut self, now: Timestamp, period: u64) -> bool {
        let period = i64::try_from(period).unwrap_or(i64::MAX);
        let due = self
            .looked
            .is_none_or(|last| pod::after(last, period) <= now || last > now);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Who remembers nothing takes the number that is there for what was proposed last: it may have been set for a load
    /// that was seen by another server, or before this one began.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.proposals.is_empty() {
            let before = now.checked_sub(SignedDuration::from_millis(1));
            self.proposals.push((before.unwrap_or(now), current));
        }
    }

    pub(super) fn note_change(&mut self, now: Timestamp, change: i32) {
        self.changes.push((now, change));
    }

    /// The number that may be set now, given what is proposed.
    pub(super) fn limit(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        bounds: Bounds,
        proposal: i32,
        now: Timestamp,
    ) -> Limited {
        let old = pod::after(now, -LONGEST);
        self.proposals.retain(|(when, _)| *when > old);
        self.changes.retain(|(when, _)| *when > old);
        self.proposals.push((now, proposal));
        let up = behavior.and_then(|one| one.scale_up.as_ref());
        let down = behavior.and_then(|one| one.scale_down.as_ref());
        let steady = self.steady(up, down, bounds.current, now);
        let (floor, ceiling) = (bounds.least, bounds.most);
        if steady > bounds.current {
            let fastest = self.fastest_up(up, bounds.current, now);
            let desired = steady.min(fastest).min(ceiling);
            let reason = if desired == ceiling {
                "TooManyReplicas"
            } else {
                "ScaleUpLimit"
            };
            let message = if desired == ceiling {
                "the desired replica count is more than the maximum replica count"
            } else {
                "the desired replica count is increasing faster than the maximum scale rate"
            };
            return Limited {
                desired: desired.max(bounds.current),
                reason,
                message,
            };
        }
        if steady < bounds.current {
            let slowest = self.fastest_down(down, bounds.current, now);
            let desired = steady.max(slowest).max(floor);
            let reason = if desired == floor {
                "TooFewReplicas"
            } else {
                "ScaleDownLimit"
            };
            let message = if desired == floor {
                "the desired replica count is less than the minimum replica count"
            } else {
                "the desired replica count is decreasing faster than the maximum scale rate"
            };
            return Limited {
                desired: desired.min(bounds.current),
                reason,
                message,
            };
        }
        Limited {
            desired: bounds.current,
            reason: "ScaleDownStabilized",
            message: "recent recommendations were higher than current one, applying the highest recent recommendation",
        }
    }

    /// Up by no more than the smallest proposal of its window, down by no more than the largest of its own.
    fn steady(
        &self,
        up: Option<&HPAScalingRules>,
        down: Option<&HPAScalingRules>,
        current: i32,
        now: Timestamp,
    ) -> i32 {
        let window = |rules: Option<&HPAScalingRules>, usual: i64| {
            let given = rules.and_then(|rules| rules.stabilization_window_seconds);
            pod::after(now, -given.map_or(usual, i64::from))
        };
        let (up, down) = (window(up, 0), window(down, DOWN_WINDOW));
        let within = |start: Timestamp| {
            let recent = self
                .proposals
                .iter()
                .filter(move |(when, _)| *when > start || *when == now);
            recent.map(|(_, number)| *number)
        };
        let least = within(up).min().unwrap_or(current);
        let most = within(down).max().unwrap_or(current);
        current.max(least).min(most)
    }

    /// Sum of the changes upwards (or downwards, as a positive number) in the last seconds.
    fn changed(&self, seconds: i32, upwards: bool, now: Timestamp) -> i32 {
        let start = pod::after(now, -i64::from(seconds));
        let recent = self.changes.iter().filter(|(when, _)| *when > start);
        let parts = recent.map(|(_, change)| {
            if upwards {
                (*change).max(0)
            } else {
                (-change).max(0)
            }
        });
        parts.sum()
    }

    fn fastest_up(&self, rules: Option<&HPAScalingRules>, current: i32, now: Timestamp) -> i32 {
        let Some(rules) = rules else {
            // 100 percent or 4 pods in 15 seconds, whichever is more.
            let start = current - self.changed(15, true, now);
            return start.saturating_mul(2).max(start.saturating_add(4));
        };
        let limits = rules.policies.iter().flatten().map(|policy| {
            let start = current - self.changed(policy.period_seconds, true, now);
            if policy.type_ == "Pods" {
                start.saturating_add(policy.value)
            } else {
                let grown = f64::from(start) * (1.0 + f64::from(policy.value) / 100.0);
                #[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
                let grown = grown.ceil() as i32;
                grown
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => limits.min().unwrap_or(i32::MAX),
            _ => limits.max().unwrap_or(i32::MAX),
        }
    }

    fn fastest_down(&self, rules: Option<&HPAScalingRules>, current: i32, now: Timestamp) -> i32 {
        let Some(rules) = rules else {
            return 0;
        };
        let limits = rules.policies.iter().flatten().map(|policy| {
            let start = current.saturating_add(self.changed(policy.period_seconds, false, now));
            if policy.type_ == "Pods" {
                start.saturating_sub(policy.value)
            } else {
                let left = f64::from(start) * (1.0 - f64::from(policy.value) / 100.0);
                #[expect(clippy::cast_possible_truncation, reason = "saturates, as wanted")]
                let left = left as i32;
                left
            }
        });
        match rules.select_policy.as_deref() {
            Some("Disabled") => current,
            Some("Min") => limits.max().unwrap_or(0),
            _ => limits.min().unwrap_or(0),
        }
    }
}
