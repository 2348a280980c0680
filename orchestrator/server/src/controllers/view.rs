//! The planners' snapshot, kept level with the watch cache: every object is decoded once for each version of it, and
//! shared from then on. Nobody here decides anything.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use waggle_api::{Kinds, Resource, Status};
use waggle_plan::Snapshot;

use crate::objects::{EventKind, Events, ObjectEvent, Objects, ready_now};

/// Kinds whose changes are no reason to plan again: heartbeats and what is told to people. They are in the snapshot.
const QUIET: [&str; 2] = ["Lease", "Event"];

/// How long a reader waits before it is told that the view doesn't move.
const PATIENCE: Duration = Duration::from_secs(10);

/// The cluster as planners see it, always at one revision.
#[derive(Debug)]
pub struct View {
    seen: Arc<Seen>,
    follower: JoinHandle<()>,
}

#[derive(Debug)]
struct Seen {
    snapshot: RwLock<Snapshot>,
    /// Revision that the snapshot shows.
    revision: watch::Sender<u64>,
    /// Revision of the last change that may matter to a planner.
    relevant: watch::Sender<u64>,
    /// How many such changes there were.
    count: AtomicU64,
}

impl Drop for View {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl View {
    /// Reads everything and follows it until dropped. The snapshot is complete when this returns.
    ///
    /// # Errors
    /// The [`Status`] of a kind that can't be watched.
    pub async fn follow(objects: &Arc<Objects>) -> Result<Arc<Self>, Status> {
        let seen = Arc::new(Seen {
            snapshot: RwLock::default(),
            revision: watch::Sender::new(0),
            relevant: watch::Sender::new(0),
            count: AtomicU64::new(0),
        });
        let mut follower = Follower {
            objects: Arc::clone(objects),
            seen: Arc::clone(&seen),
            kinds: Vec::new(),
            generation: None,
        };
        let mut changed = objects.changed();
        let revision = *changed.borrow_and_update();
        follower.cover()?;
        follower.catch_up(revision);
        let follower = tokio::spawn(async move {
            while changed.changed().await.is_ok() {
                let revision = *changed.borrow_and_update();
                follower.catch_up(revision);
            }
        });
        Ok(Arc::new(Self { seen, follower }))
    }

    /// Looks at the snapshot. Keep it short: nothing new comes in meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(
            &self
                .seen
                .snapshot
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The revision that the snapshot shows.
    pub fn revision(&self) -> u64 {
        *self.seen.revision.borrow()
    }

    /// Tells of every change but heartbeats and events.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.seen.relevant.subscribe()
    }

    /// How many changes that may matter to a planner it has shown.
    pub(super) fn count(&self) -> u64 {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// Waits until the snapshot shows `revision`. False when it did not within ten seconds.
    pub async fn reach(&self, revision: u64) -> bool {
        let mut seen = self.seen.revision.subscribe();
        let reached = seen.wait_for(|now| *now >= revision);
        matches!(tokio::time::timeout(PATIENCE, reached).await, Ok(Ok(_)))
    }
}

struct Follower {
    objects: Arc<Objects>,
    seen: Arc<Seen>,
    kinds: Vec<Kind>,
    /// Of the kinds that are followed.
    generation: Option<u64>,
}

struct Kind {
    resource: &'static Resource,
    events: Events,
}

impl Follower {
    /// Follows the kinds that there are now, when they are others than before.
    fn cover(&mut self) -> Result<(), Status> {
        let kinds = self.objects.kinds();
        if self.generation == Some(kinds.generation()) {
            return Ok(());
        }
        let stored: Vec<&'static Resource> = kinds.stored().collect();
        let is_there = |one: &Kind| stored.iter().any(|row| std::ptr::eq(*row, one.resource));
        let (there, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.kinds)
            .into_iter()
            .partition(is_there);
        self.kinds = there;
        {
            let mut snapshot = self
                .seen
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            for kind in gone {
                snapshot.forget_kind(&kind.resource.api_version(), kind.resource.kind);
            }
            snapshot.set_covered(covered(&kinds));
        }
        for resource in stored {
            if !self
                .kinds
                .iter()
                .any(|one| std::ptr::eq(one.resource, resource))
            {
                let kind = self.start(resource)?;
                self.kinds.push(kind);
            }
        }
        self.generation = Some(kinds.generation());
        Ok(())
    }

    /// Lists a kind into the snapshot and watches it from there.
    fn start(&self, resource: &'static Resource) -> Result<Kind, Status> {
        let listing = self.objects.list(resource, None);
        let events = self.objects.watch(resource, listing.revision)?;
        let mut snapshot = self
            .seen
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for object in &listing.objects {
            if let Err(error) = object.value.glance(|value| snapshot.upsert(value)) {
                tracing::error!(%error, "an object is left out of planning");
            }
        }
        Ok(Kind { resource, events })
    }

    /// Takes in every event that the cache has, then says that the snapshot shows `revision`.
    fn catch_up(&mut self, revision: u64) {
        let mut relevant = false;
        if let Err(error) = self.cover() {
            tracing::error!(%error, "a new kind is left out of planning");
        }
        for index in 0..self.kinds.len() {
            let kind = &mut self.kinds[index];
            // The cache tells of a revision while it still writes it: reading anything waits until it is whole.
            drop(self.objects.get(kind.resource, "", ""));
            let (events, whole) = ready(&mut kind.events);
            if !events.is_empty() && !QUIET.contains(&kind.resource.kind) {
                relevant = true;
                let more = events.len() as u64;
                self.seen.count.fetch_add(more, Ordering::Relaxed);
            }
            if !events.is_empty() {
                let mut snapshot = self
                    .seen
                    .snapshot
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                events
                    .iter()
                    .for_each(|event| take_in(&mut snapshot, event));
            }
            if !whole {
                relevant = true;
                self.restart(index);
            }
        }
        self.seen.revision.send_replace(revision);
        if relevant || *self.seen.relevant.borrow() == 0 {
            self.seen.relevant.send_replace(revision);
        }
    }

    /// After a gap: what is in the snapshot but not in the cache is gone, the rest is taken in again.
    fn restart(&mut self, index: usize) {
        let resource = self.kinds[index].resource;
        let version = resource.api_version();
        let listed = self.objects.list(resource, None);
        let gone: Vec<(String, String)> = {
            let snapshot = self
                .seen
                .snapshot
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            let of_kind = snapshot.metas().map(|meta| &meta.key);
            let of_kind = of_kind.filter(|object| object.is(&version, resource.kind));
            let there: HashSet<(&str, &str)> = (listed.objects.iter())
                .map(|one| (&*one.namespace, one.name.as_str()))
                .collect();
            let missing =
                of_kind.filter(|object| !there.contains(&(&*object.namespace, &*object.name)));
            missing
                .map(|object| (object.namespace.to_string(), object.name.clone()))
                .collect()
        };
        let mut snapshot = self
            .seen
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (namespace, name) in gone {
            snapshot.remove(&version, resource.kind, &namespace, &name);
        }
        drop(snapshot);
        match self.start(resource) {
            Ok(kind) => self.kinds[index] = kind,
            Err(error) => tracing::error!(kind = resource.kind, %error, "watching again failed"),
        }
    }
}

/// Kinds, in every version, all of whose objects are in the snapshot.
fn covered(kinds: &Kinds) -> Vec<(String, &'static str)> {
    let rows = kinds.served().chain(kinds.stored());
    rows.map(|row| (row.api_version(), row.kind)).collect()
}

/// Events that are there without waiting, and whether the stream goes on.
fn ready(events: &mut Events) -> (Vec<ObjectEvent>, bool) {
    let mut found = Vec::new();
    // The cache's revision was seen before, so every event up to it is ready.
    while let Some(next) = ready_now(events) {
        match next {
            Some(Ok(event)) => found.push(event),
            Some(Err(_)) | None => return (found, false),
        }
    }
    (found, true)
}

fn take_in(snapshot: &mut Snapshot, event: &ObjectEvent) {
    let object = &event.object;
    match event.kind {
        EventKind::Added | EventKind::Modified => {
            if let Err(error) = snapshot.upsert(&object.value) {
                tracing::error!(%error, "an object's change is left out of planning");
            }
        }
        EventKind::Deleted => {
            let version = object.resource.api_version();
            snapshot.remove(
                &version,
                object.resource.kind,
                &object.namespace,
                &object.name,
            );
        }
    }
}
