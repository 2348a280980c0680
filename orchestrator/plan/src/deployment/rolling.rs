//! One step of a rolling update or of a Recreate. Bounds: never more than replicas + surge pods are asked for, never
//! fewer than replicas - unavailable are left available.

use super::{Rollout, Set};
use crate::pod;

impl Rollout<'_> {
    /// Pods that may exist at once.
    pub(super) fn most(&self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// How large the new set may be now, given its size.
    pub(super) fn room_for_new(&self, size: i32) -> i32 {
        if self.is_recreate() {
            return self.replicas;
        }
        let room = self.most().saturating_sub(self.total());
        if room <= 0 {
            size
        } else {
            size + room.min(self.replicas - size)
        }
    }

    pub(super) fn roll(&mut self) {
        let Some(size) = self.new.as_ref().map(Set::size) else {
            return;
        };
        let target = if size >= self.replicas {
            self.replicas
        } else {
            self.room_for_new(size)
        };
        self.resize_new(target);
        self.shrink_old();
    }

    pub(super) fn recreate(&mut self) {
        self.revise(false);
        for index in 0..self.old.len() {
            self.resize_old(index, 0);
        }
        if self.old_pods_left() {
            return;
        }
        self.revise(true);
        self.resize_new(self.replicas);
    }

    /// Whether a pod of an old template still runs or is about to end.
    fn old_pods_left(&self) -> bool {
        let uids = self
            .old
            .iter()
            .filter_map(|row| row.set.metadata.uid.as_deref());
        uids.flat_map(|uid| self.snapshot.pods_of(uid))
            .any(|pod| !pod::is_terminated(pod))
    }

    pub(super) fn resize_new(&mut self, size: i32) {
        let Some(mut row) = self.new.take() else {
            return;
        };
        self.resize(&mut row, size);
        self.new = Some(row);
    }

    pub(super) fn resize_old(&mut self, index: usize, size: i32) {
        if self.old[index].size() != size {
            let mut row = self.old.remove(index);
            self.resize(&mut row, size);
            self.old.insert(index, row);
        }
    }

    fn resize(&self, row: &mut Set<'_>, size: i32) {
        if row.size() != size {
            row.set.spec.replicas = Some(size);
            self.note_scale(row);
        }
    }

    fn shrink_old(&mut self) {
        if self.old.iter().all(|row| row.size() == 0) {
            return;
        }
        let minimum = self.replicas - self.unavailable;
        let new_missing = self
            .new
            .as_ref()
            .map_or(0, |row| row.size() - row.lasting());
        let removable = self.total() - minimum - new_missing;
        if removable > 0 {
            self.drop_unavailable(removable);
            self.drop_available(minimum);
        }
    }

    /// Old pods that serve nobody go first; they cost no availability.
    fn drop_unavailable(&mut self, mut removable: i32) {
        for index in 0..self.old.len() {
            let row = &self.old[index];
            let idle = (row.size() - row.lasting()).min(removable);
            if idle > 0 {
                removable -= idle;
                self.resize_old(index, self.old[index].size() - idle);
            }
        }
    }

    fn drop_available(&mut self, minimum: i32) {
        let mut removable = self.sum(|set| set.lasting()).saturating_sub(minimum);
        for index in 0..self.old.len() {
            if removable <= 0 {
                return;
            }
            let step = self.old[index].size().min(removable);
            removable -= step;
            self.resize_old(index, self.old[index].size() - step);
        }
    }
}
