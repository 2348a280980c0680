//! What a change of `spec.replicas` does: the only active set takes it all; in the middle of a rollout, or while
//! paused, every active set takes its share.

use std::cmp::Reverse;

use super::{Rollout, Set, revision};

impl Rollout<'_> {
    /// Whether `spec.replicas` changed since a set was last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        let active = self.sets().filter(|row| row.size() > 0);
        active
            .filter_map(|row| revision::scale_of(&row.set.metadata).0)
            .any(|wanted| wanted != self.replicas)
    }

    pub(super) fn scale(&mut self) {
        if self.sets().filter(|row| row.size() > 0).count() <= 1 {
            self.scale_only();
        } else if self.is_saturated() {
            (0..self.old.len()).for_each(|index| self.resize_old(index, 0));
        } else if !self.is_recreate() {
            self.scale_in_proportion();
        }
        self.note_scale_everywhere();
    }

    /// Scales the active set, or the latest when none is.
    fn scale_only(&mut self) {
        let active = self.old.iter().position(|row| row.size() > 0);
        match active {
            Some(index) => self.resize_old(index, self.replicas),
            None if self.new.is_some() => self.resize_new(self.replicas),
            None if !self.old.is_empty() => self.resize_old(self.old.len() - 1, self.replicas),
            None => {}
        }
    }

    /// The new set has everything that is wanted, available.
    fn is_saturated(&self) -> bool {
        self.new.as_ref().is_some_and(|row| {
            let wanted = revision::scale_of(&row.set.metadata).0;
            row.size() == self.replicas
                && wanted == Some(self.replicas)
                && row.available == self.replicas
        })
    }

    fn scale_in_proportion(&mut self) {
        let most = if self.replicas > 0 { self.most() } else { 0 };
        let change = most - self.total();
        let known = self
            .deployment
            .status
            .as_ref()
            .and_then(|status| status.replicas)
            .unwrap_or(0);
        let (wanted, surge) = (self.replicas, self.surge);
        let least = self.replicas - self.unavailable;
        let mut active: Vec<&mut Set<'_>> = self.sets_mut().filter(|row| row.size() > 0).collect();
        active.sort_by_cached_key(|row| {
            let created = row.set.metadata.creation_timestamp.clone();
            let (newest, oldest) = if change > 0 {
                (Some(Reverse(created)), None)
            } else {
                (None, Some(created))
            };
            (
                Reverse(row.size()),
                newest,
                oldest,
                row.set.metadata.name.clone(),
            )
        });
        let mut done = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for row in &active {
            let share = share(row, wanted, surge, known, change, done);
            done += share;
            sizes.push(row.size().saturating_add(share));
        }
        if let Some(first) = sizes.first_mut() {
            *first = first.saturating_add(change.saturating_sub(done)).max(0);
        }
        let lasting: Vec<i32> = active.iter().map(|row| row.lasting()).collect();
        spare(&mut sizes, &lasting, least);
        for (row, size) in active.into_iter().zip(sizes) {
            row.set.spec.replicas = Some(size);
        }
    }

    fn note_scale_everywhere(&mut self) {
        let mut rows = std::mem::take(&mut self.old);
        rows.iter_mut()
            .filter(|row| row.size() > 0)
            .for_each(|row| self.note_scale(row));
        self.old = rows;
        if let Some(mut row) = self.new.take() {
            if row.size() > 0 {
                self.note_scale(&mut row);
            }
            self.new = Some(row);
        }
    }
}

/// Moves places from sets with pods that serve nobody to sets that would lose available ones, while fewer than `least`
/// of those would be left.
fn spare(sizes: &mut [i32], lasting: &[i32], least: i32) {
    let kept = |sizes: &[i32]| -> i32 {
        let both = sizes.iter().zip(lasting);
        both.map(|(&size, &lasting)| size.min(lasting)).sum()
    };
    while kept(sizes) < least {
        let position = |wanted: fn(i32, i32) -> bool| {
            let mut both = sizes.iter().zip(lasting);
            both.position(|(&size, &lasting)| wanted(size, lasting))
        };
        let (short, idle) = (position(|a, b| a < b), position(|a, b| a > b));
        let (Some(short), Some(idle)) = (short, idle) else {
            return;
        };
        sizes[short] += 1;
        sizes[idle] -= 1;
    }
}

/// A set's part of `change`, of which `done` is already given away: as much as keeps its part of the whole.
fn share(row: &Set<'_>, wanted: i32, surge: i32, known: i32, change: i32, done: i32) -> i32 {
    if change == 0 || change == done {
        return 0;
    }
    let size = row.size();
    let part = if wanted == 0 {
        -size
    } else {
        let most_before = revision::scale_of(&row.set.metadata)
            .1
            .filter(|&most| most > 0)
            .unwrap_or(known)
            .max(1);
        rounded(
            i64::from(size) * (i64::from(wanted) + i64::from(surge)),
            i64::from(most_before),
        ) - size
    };
    if change > 0 {
        part.min(change - done)
    } else {
        part.max(change - done)
    }
}

/// `top / bottom`, halves upwards.
fn rounded(top: i64, bottom: i64) -> i32 {
    let (top, bottom) = (i128::from(top), i128::from(bottom));
    i32::try_from((2 * top + bottom) / (2 * bottom)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::spare;

    #[test]
    fn available_pods_are_spared_before_those_that_serve_nobody() {
        for (sizes, lasting, least, expected) in [
            // One of two available pods would go, while a set without any keeps its size.
            (vec![1, 2], vec![2, 0], 2, vec![2, 1]),
            // Enough is left: the proportion stays.
            (vec![1, 2], vec![2, 0], 1, vec![1, 2]),
            (vec![2, 1, 1], vec![0, 1, 3], 4, vec![0, 1, 3]),
            // There is nobody to take from.
            (vec![1, 1], vec![2, 2], 4, vec![1, 1]),
        ] {
            let mut spared = sizes.clone();
            spare(&mut spared, &lasting, least);
            assert_eq!(spared, expected, "{sizes:?} {lasting:?} {least}");
        }
    }
}
