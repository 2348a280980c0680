//! The watch cache: every object of every kind in memory, and for each kind a ring of its last events. One pump follows
//! the store; everybody else reads. A watcher is a position in a ring, so a slow one costs nothing and is told 410 when
//! the ring has moved past it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use waggle_api::{Kinds, Resource, Status};
use waggle_store::{Batch, Change, Entry, Error, Revision, Store};

use super::store_status::refused;
use super::{EventKind, Events, Listing, Object, ObjectEvent, registry};

/// Prefix of every object's key in the store.
const ROOT: &str = "/registry/";
/// Events kept of each kind.
pub(super) const RING: usize = 8192;
/// Events that a watcher takes from the ring at once.
const TAKE: usize = 128;
/// How long a writer waits to see its own write here before it gives up.
const OWN_WRITE: Duration = Duration::from_secs(30);
/// Rest before the store is followed again after a fault.
const PAUSE: Duration = Duration::from_secs(1);

/// Objects by key below their kind: `name` or `namespace/name`, which sorts as the store's keys do.
type Shelf = BTreeMap<String, Arc<Object>>;

#[derive(Debug)]
pub(super) struct Cache {
    state: RwLock<HashMap<Slot, Kind>>,
    /// Which kinds there are, by the definitions that are in `state`.
    kinds: RwLock<Arc<Kinds>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kind {
    objects: Shelf,
    ring: VecDeque<ObjectEvent>,
    /// How many events have left the ring.
    dropped: u64,
    /// Revision of the last event that left it, or of the load: watches from before can't be served.
    forgotten: u64,
    /// How many events there were in all.
    count: watch::Sender<u64>,
}

impl Kind {
    fn new(revision: u64) -> Self {
        let count = watch::Sender::new(0);
        Self {
            objects: Shelf::new(),
            ring: VecDeque::new(),
            dropped: 0,
            forgotten: revision,
            count,
        }
    }

    fn push(&mut self, event: ObjectEvent) {
        if self.ring.len() == RING
            && let Some(old) = self.ring.pop_front()
        {
            self.dropped += 1;
            self.forgotten = old.object.revision;
        }
        self.ring.push_back(event);
    }

    fn total(&self) -> u64 {
        self.dropped + self.ring.len() as u64
    }

    /// Takes in what there is at `revision`, after a gap: every watcher is told 410.
    fn restart(&mut self, objects: Shelf, revision: u64) {
        self.objects = objects;
        self.dropped = self.total() + 1;
        self.ring.clear();
        self.forgotten = revision;
        self.count.send_replace(self.total());
    }
}

/// What tells kinds apart; a kind has one version in the registry.
fn slot(resource: &Resource) -> Slot {
    (resource.group, resource.plural)
}

type Slot = (&'static str, &'static str);

impl Cache {
    /// Reads the whole store.
    pub(super) async fn load(store: &dyn Store) -> Result<Self, Status> {
        let (shelves, kinds, revision) = read_all(store).await?;
        let kind = |(slot, objects)| {
            let mut kind = Kind::new(revision);
            kind.objects = objects;
            (slot, kind)
        };
        Ok(Self {
            state: RwLock::new(shelves.into_iter().map(kind).collect()),
            kinds: RwLock::new(Arc::new(kinds)),
            changed: watch::Sender::new(revision),
        })
    }

    /// Reads the whole store again, after changes that can't be had one by one any more.
    pub(super) async fn reload(&self, store: &dyn Store) -> Result<(), Status> {
        let (shelves, kinds, revision) = read_all(store).await?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.publish(kinds);
        for (slot, objects) in shelves {
            state
                .entry(slot)
                .or_insert_with(|| Kind::new(revision))
                .restart(objects, revision);
        }
        self.changed.send_replace(revision.max(self.revision()));
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Slot, Kind>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kinds that there are now.
    pub(super) fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.kinds.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, kinds: Kinds) {
        *self.kinds.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(kinds);
    }

    pub(super) fn revision(&self) -> u64 {
        *self.changed.borrow()
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        self.read()
            .get(&slot(resource))?
            .objects
            .get(&key(namespace, name))
            .cloned()
    }

    pub(super) fn list(&self, resource: &Resource, namespace: Option<&str>) -> Listing {
        let state = self.read();
        // Under the lock: the pump moves the revision while it holds it.
        let revision = self.revision();
        let Some(kind) = state.get(&slot(resource)) else {
            return Listing {
                revision,
                objects: Vec::new(),
            };
        };
        let objects = match namespace {
            None => kind.objects.values().cloned().collect(),
            Some(namespace) => below(&kind.objects, namespace).cloned().collect(),
        };
        Listing { revision, objects }
    }

    /// Whether no object of the kind changed after `revision`, so that the kind now is the kind then.
    pub(super) fn unchanged_since(&self, resource: &Resource, revision: u64) -> bool {
        let state = self.read();
        let Some(kind) = state.get(&slot(resource)) else {
            return true;
        };
        let last = kind
            .ring
            .back()
            .map_or(kind.forgotten, |event| event.object.revision);
        last <= revision
    }

    /// The state of `object`'s key right after `revision`, if that is still known.
    pub(super) fn at(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
    ) -> Option<Arc<Object>> {
        let state = self.read();
        let kind = state.get(&slot(resource))?;
        let now = kind
            .objects
            .get(&key(namespace, name))
            .filter(|object| object.revision == revision);
        let past = || {
            let mine = |event: &&ObjectEvent| {
                event.object.revision == revision && event.object.name == name
            };
            kind.ring
                .iter()
                .rev()
                .filter(mine)
                .find(|event| event.object.namespace == namespace)
        };
        now.cloned()
            .or_else(|| past().map(|event| Arc::clone(&event.object)))
    }

    /// Returns once everything up to `revision` is here.
    pub(super) async fn reached(&self, revision: u64) -> Result<(), Status> {
        let mut changed = self.changed();
        let waited =
            tokio::time::timeout(OWN_WRITE, changed.wait_for(|&now| now >= revision)).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Status::timeout(
                "the write is durable, but the watch cache does not keep up",
            )),
        }
    }

    fn apply(&self, batch: &Batch) -> Result<(), Status> {
        let changes = &batch.changes;
        let mut kinds = self.kinds();
        let mut redefined: Option<Kinds> = None;
        let mut decoded = Vec::new();
        for change in changes {
            let known = redefined.as_ref().unwrap_or(&kinds);
            let Some((resource, key, object)) = decode_change(known, change).transpose()? else {
                continue;
            };
            if registry::defines_kinds(resource) {
                let kinds = redefined.get_or_insert_with(|| Kinds::clone(&kinds));
                match &object {
                    Some(definition) => drop(kinds.define(&definition.value)),
                    None => kinds.forget(&key),
                }
            }
            decoded.push((resource, key, object));
        }
        let revision = batch.revision.0;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(redefined) = redefined {
            reshelve(&mut state, &redefined, revision);
            self.publish(redefined);
            kinds = self.kinds();
        }
        for (resource, key, object) in decoded {
            let kind = state
                .entry(slot(resource))
                .or_insert_with(|| Kind::new(revision));
            if let Some(event) = event(kind, key, object, revision) {
                kind.push(event);
            }
        }
        // First each kind's count, then the revision: whoever hears of a revision finds its events.
        for change in changes {
            if let Some(kind) = registry::of_key(&kinds, &change.key)
                .and_then(|(resource, _)| state.get(&slot(resource)))
            {
                kind.count.send_replace(kind.total());
            }
        }
        self.changed.send_replace(revision.max(self.revision()));
        Ok(())
    }
}

/// Makes room for kinds that are new, and gives objects of those that are defined anew the form that they have now.
fn reshelve(state: &mut HashMap<Slot, Kind>, kinds: &Kinds, revision: u64) {
    for resource in kinds.stored().filter(|resource| resource.is_custom()) {
        let kind = state
            .entry(slot(resource))
            .or_insert_with(|| Kind::new(revision));
        for object in kind.objects.values_mut() {
            if !std::ptr::eq(object.resource, resource) {
                let mut value = object.value.clone();
                resource.settle(&mut value);
                *object = Arc::new(Object::new(resource, value, object.revision));
            }
        }
    }
}

fn event(
    kind: &mut Kind,
    key: String,
    object: Option<Arc<Object>>,
    revision: u64,
) -> Option<ObjectEvent> {
    match object {
        Some(object) => {
            let previous = kind.objects.insert(key, Arc::clone(&object));
            let kind = if previous.is_some() {
                EventKind::Modified
            } else {
                EventKind::Added
            };
            Some(ObjectEvent {
                kind,
                object,
                previous,
            })
        }
        None => {
            let last = kind.objects.remove(&key)?;
            let object = Arc::new(last.at_revision(revision));
            Some(ObjectEvent {
                kind: EventKind::Deleted,
                object,
                previous: Some(last),
            })
        }
    }
}

/// Key below the kind.
pub(super) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

fn below<'a>(shelf: &'a Shelf, namespace: &str) -> impl Iterator<Item = &'a Arc<Object>> {
    let prefix = format!("{namespace}/");
    let range = (Bound::Included(prefix.clone()), Bound::Unbounded);
    shelf
        .range(range)
        .take_while(move |(key, _)| key.starts_with(&prefix))
        .map(|(_, object)| object)
}

pub(super) fn decode(resource: &'static Resource, entry: &Entry) -> Result<Arc<Object>, Status> {
    let mut value: Value = serde_json::from_slice(&entry.value).map_err(|error| {
        Status::internal(format!("the store's {} is not JSON: {error}", entry.key))
    })?;
    resource.settle(&mut value);
    Ok(Arc::new(Object::new(resource, value, entry.modified.0)))
}

type Decoded = (&'static Resource, String, Option<Arc<Object>>);

fn decode_change(kinds: &Kinds, change: &Change) -> Option<Result<Decoded, Status>> {
    let (resource, key) = registry::of_key(kinds, &change.key)?;
    let object = change
        .entry
        .as_ref()
        .map(|entry| decode(resource, entry))
        .transpose();
    Some(object.map(|object| (resource, key.to_owned(), object)))
}

/// Follows the store for as long as it is polled. A fault of the store is waited out: nothing is skipped.
pub(super) async fn follow(store: Arc<dyn Store>, cache: Arc<Cache>) {
    loop {
        let after = Revision(cache.revision());
        match store.watch(ROOT, after).await {
            Ok(mut changes) => {
                while let Some(item) = changes.next().await {
                    let applied = match item {
                        Ok(batch) => cache.apply(&batch),
                        Err(Error::Compacted { .. }) => cache.reload(store.as_ref()).await,
                        Err(error) => Err(refused(error)),
                    };
                    if let Err(status) = applied {
                        tracing::error!(%status, "the watch cache can't follow the store");
                        break;
                    }
                }
            }
            Err(Error::Compacted { .. }) => match cache.reload(store.as_ref()).await {
                Ok(()) => continue,
                Err(status) => tracing::error!(%status, "the watch cache can't be read anew"),
            },
            Err(error) => tracing::error!(%error, "the watch cache can't follow the store"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Every object, by kind, the kinds, and the revision that this shows. Kinds without objects are there as well.
async fn read_all(store: &dyn Store) -> Result<(HashMap<Slot, Shelf>, Kinds, u64), Status> {
    let page = store.range(ROOT, None, 0, None).await.map_err(refused)?;
    let mut kinds = Kinds::default();
    for entry in &page.entries {
        if let Some((resource, _)) = registry::of_key(&kinds, &entry.key)
            && registry::defines_kinds(resource)
        {
            kinds.define(&decode(resource, entry)?.value);
        }
    }
    let mut shelves: HashMap<_, _> = kinds
        .stored()
        .map(|resource| (slot(resource), Shelf::new()))
        .collect();
    for entry in page.entries {
        let Some((resource, key)) = registry::of_key(&kinds, &entry.key) else {
            tracing::warn!(
                key = entry.key,
                "the store holds an object of a kind that this server doesn't know"
            );
            continue;
        };
        let object = decode(resource, &entry)?;
        shelves
            .entry(slot(resource))
            .or_default()
            .insert(key.to_owned(), object);
    }
    Ok((shelves, kinds, page.revision.0))
}

/// Events of a kind after `after`.
pub(super) fn watch(
    cache: &Arc<Cache>,
    resource: &'static Resource,
    after: u64,
) -> Result<Events, Status> {
    let state = cache.read();
    let kind = state
        .get(&slot(resource))
        .ok_or_else(Status::unknown_path)?;
    if after < kind.forgotten {
        return Err(Status::too_old(after, kind.forgotten));
    }
    let seen = kind
        .ring
        .partition_point(|event| event.object.revision <= after) as u64;
    let position = kind.dropped + seen;
    let count = kind.count.subscribe();
    let reader = Reader {
        cache: Arc::clone(cache),
        resource,
        position,
        after,
        count,
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
    /// How many events of the kind were before the next one.
    position: u64,
    /// Events up to here are not wanted.
    after: u64,
    count: watch::Receiver<u64>,
    ready: VecDeque<ObjectEvent>,
    ended: bool,
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
            self.count.borrow_and_update();
            match self.take() {
                Err(status) => {
                    self.ended = true;
                    return Some(Err(status));
                }
                Ok(true) => {}
                Ok(false) => self.count.changed().await.ok()?,
            }
        }
    }

    /// Moves what the ring has into `ready`; false when there is nothing.
    fn take(&mut self) -> Result<bool, Status> {
        let state = self.cache.read();
        let kind = state
            .get(&slot(self.resource))
            .ok_or_else(Status::unknown_path)?;
        if self.position < kind.dropped {
            return Err(Status::too_old(self.after, kind.forgotten));
        }
        let start = usize::try_from(self.position - kind.dropped).unwrap_or(usize::MAX);
        let end = kind.ring.len().min(start.saturating_add(TAKE));
        let fresh = kind
            .ring
            .range(start.min(end)..end)
            .filter(|event| event.object.revision > self.after);
        self.ready.extend(fresh.cloned());
        self.position += (end - start.min(end)) as u64;
        Ok(end > start)
    }
}
