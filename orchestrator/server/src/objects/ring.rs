//! The last events of a kind, and those of each object that somebody watches by its name: so a change wakes whom it
//! concerns, not every watcher of its kind. A watcher is a position in a ring; a slow one costs nothing and is told 410
//! when the ring has moved past it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::sync::watch;
use waggle_api::{Resource, Status};

use super::cache::{Cache, slot};
use super::{Events, Object, ObjectEvent};

/// Events kept of each kind.
pub(super) const RING: usize = 8192;
/// Events that a watcher takes from the ring at once.
const TAKE: usize = 128;

/// The last events.
#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<ObjectEvent>,
    /// How many events have left the ring.
    dropped: u64,
    /// Revision of the last event that left it, or of its beginning: watches from before can't be served.
    forgotten: u64,
    /// How many events there were in all.
    count: watch::Sender<u64>,
}

impl Ring {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            events: VecDeque::new(),
            dropped: 0,
            forgotten: revision,
            count: watch::Sender::new(0),
        }
    }

    /// A ring of one object: what this one has of it.
    pub(super) fn of_one(&self, namespace: &str, name: &str) -> Self {
        let mut one = Self::new(self.forgotten);
        let mine =
            |event: &&ObjectEvent| event.object.name == name && event.object.namespace == namespace;
        one.events.extend(self.events.iter().filter(mine).cloned());
        one
    }

    pub(super) fn push(&mut self, event: ObjectEvent) {
        if self.events.len() == RING {
            self.drop_first();
        }
        self.events.push_back(event);
    }

    fn drop_first(&mut self) {
        if let Some(old) = self.events.pop_front() {
            self.dropped += 1;
            self.forgotten = old.object.revision;
        }
    }

    /// Forgets what is not newer than `revision`.
    pub(super) fn forget(&mut self, revision: u64) {
        while (self.events.front()).is_some_and(|event| event.object.revision <= revision) {
            self.drop_first();
        }
        self.forgotten = self.forgotten.max(revision);
    }

    /// How many events there were in all.
    pub(super) fn total(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// After a gap: every watcher is told 410.
    pub(super) fn restart(&mut self, revision: u64) {
        self.dropped = self.total() + 1;
        self.events.clear();
        self.forgotten = revision;
        self.tell();
    }

    /// Wakes the watchers.
    pub(super) fn tell(&self) {
        self.count.send_replace(self.total());
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub(super) fn has_watchers(&self) -> bool {
        self.count.receiver_count() > 0
    }

    /// Revision of the last event, or of the beginning.
    pub(super) fn last(&self) -> u64 {
        let last = self.events.back();
        last.map_or(self.forgotten, |event| event.object.revision)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &ObjectEvent> {
        self.events.iter()
    }

    /// Objects in some of its events, to be exchanged for equal ones.
    pub(super) fn objects_mut(
        &mut self,
        start: usize,
        count: usize,
    ) -> impl Iterator<Item = &mut Arc<Object>> {
        let end = self.events.len().min(start.saturating_add(count));
        let some = self.events.range_mut(start.min(end)..end);
        some.flat_map(|event| std::iter::once(&mut event.object).chain(event.previous.as_mut()))
    }

    /// How many events were up to `after`.
    fn position(&self, after: u64) -> u64 {
        let seen = self
            .events
            .partition_point(|event| event.object.revision <= after);
        self.dropped + seen as u64
    }
}

/// Events of a kind after `after`, or only those of one object, by its namespace and name.
pub(super) fn watch(
    cache: &Arc<Cache>,
    resource: &'static Resource,
    only: Option<(&str, &str)>,
    after: u64,
) -> Result<Events, Status> {
    let only = only.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let (position, count) = cache.with_ring(resource, only.as_ref(), |ring| {
        if after < ring.forgotten {
            return Err(Status::too_old(after, ring.forgotten));
        }
        Ok((ring.position(after), ring.count.subscribe()))
    })?;
    let reader = Reader {
        cache: Arc::clone(cache),
        resource,
        only,
        position,
        after,
        count: Some(count),
        ready: VecDeque::new(),
        ended: false,
    };
    let stream = futures::stream::unfold(reader, |mut reader| async {
        let item = reader.next().await?;
        Some((item, reader))
    });
    Ok(stream.boxed())
}

struct Reader {
    cache: Arc<Cache>,
    resource: &'static Resource,
    only: Option<(String, String)>,
    /// How many events of the ring were before the next one.
    position: u64,
    /// Events up to here are not wanted.
    after: u64,
    /// Always there until it is dropped.
    count: Option<watch::Receiver<u64>>,
    ready: VecDeque<ObjectEvent>,
    ended: bool,
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.count.take());
        if let Some((namespace, name)) = &self.only {
            let resource = slot(self.resource);
            self.cache
                .leave(resource, &super::cache::key(namespace, name));
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Result<ObjectEvent, Status>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            // The definition of its kind is gone, or was and came again.
            if self.count.as_ref()?.has_changed().is_err() {
                return None;
            }
            self.count.as_mut()?.borrow_and_update();
            match self.take() {
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
                Ok(true) => {}
                Ok(false) => self.count.as_mut()?.changed().await.ok()?,
            }
        }
    }

    /// Moves what the ring has into `ready`; false when there is nothing.
    fn take(&mut self) -> Result<bool, Status> {
        let only = self.only.as_ref();
        let (mut position, after) = (self.position, self.after);
        let (cache, resource, ready) = (&self.cache, self.resource, &mut self.ready);
        let fresh = cache.look_at_ring(resource, only, |ring| {
            if position < ring.dropped {
                return Err(Status::too_old(after, ring.forgotten));
            }
            let start = usize::try_from(position - ring.dropped).unwrap_or(usize::MAX);
            let end = ring.events.len().min(start.saturating_add(TAKE));
            let fresh = ring.events.range(start.min(end)..end);
            ready.extend(fresh.filter(|event| event.object.revision > after).cloned());
            position += (end - start.min(end)) as u64;
            Ok(end > start)
        })?;
        self.position = position;
        Ok(fresh)
    }
}
