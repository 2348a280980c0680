//! The watch cache: every object of every kind in memory, and for each kind a ring of its last events (`ring`). One pump
//! follows the store; everybody else reads. What nobody looks at is kept as text alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use waggle_api::{Kinds, Resource, Status};
use waggle_store::{Batch, Change, Entry, Error, Revision, Store, Watch};

use super::own_write::{Expected, OnItsWay};
use super::ring::Ring;
use super::store_status::refused;
use super::waiting::Waiting;
use super::{EventKind, Listing, Object, ObjectEvent, registry};

/// Prefix of every object's key in the store.
const ROOT: &str = "/registry/";
/// How long a writer waits to see its own write here before it gives up.
const OWN_WRITE: Duration = Duration::from_secs(30);
/// Transactions that are taken in at once, at most.
const TOGETHER: usize = 256;
/// Rest before the store is followed again after a fault.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an object stays decoded, at least, after it was looked at.
const COOLS: Duration = Duration::from_secs(2);
/// The same of one that was written: who follows changes looks at it at once or not at all.
const WRITTEN_COOLS: Duration = Duration::from_millis(100);
/// Objects, or events, that are gone through in one hold of the lock.
const COOLED_AT_ONCE: usize = 256;

/// Objects by key below their kind: `name` or `namespace/name`, which sorts as the store's keys do.
type Shelf = BTreeMap<String, Arc<Object>>;

#[derive(Debug)]
pub(super) struct Cache {
    state: RwLock<HashMap<Slot, Kind>>,
    /// Which kinds there are, by the definitions that are in `state`.
    kinds: RwLock<Arc<Kinds>>,
    changed: watch::Sender<u64>,
    waiting: Waiting,
    on_its_way: OnItsWay,
}

#[derive(Debug)]
struct Kind {
    objects: Shelf,
    ring: Ring,
    /// Events of the objects that somebody watches by name, by their keys.
    named: HashMap<String, Ring>,
}

impl Kind {
    fn new(revision: u64) -> Self {
        Self {
            objects: Shelf::new(),
            ring: Ring::new(revision),
            named: HashMap::new(),
        }
    }

    fn push(&mut self, key: &str, event: ObjectEvent) {
        let oldest = self.ring.forgotten();
        if let Some(named) = self.named.get_mut(key) {
            // Never more than the kind's own ring has.
            named.forget(oldest);
            named.push(event.clone());
        }
        self.ring.push(event);
    }

    /// Wakes whoever watches the kind, or this object of it.
    fn tell(&self, key: &str) {
        self.ring.tell();
        if let Some(named) = self.named.get(key) {
            named.tell();
        }
    }

    /// Takes in what there is at `revision`, after a gap: every watcher is told 410.
    fn restart(&mut self, objects: Shelf, revision: u64) {
        self.objects = objects;
        self.ring.restart(revision);
        let named = self.named.values_mut();
        named.for_each(|ring| ring.restart(revision));
    }
}

/// What tells kinds apart; a kind has one version in the registry.
pub(super) fn slot(resource: &Resource) -> Slot {
    (resource.group, resource.plural)
}

pub(super) type Slot = (&'static str, &'static str);

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
            waiting: Waiting::default(),
            on_its_way: OnItsWay::default(),
        })
    }

    /// Tells that `value` is about to be committed as `text`.
    pub(super) fn expect(&self, text: &Bytes, value: Value) -> Expected<'_> {
        self.on_its_way.expect(text, value)
    }

    /// Reads the whole store again, after changes that can't be had one by one any more.
    pub(super) async fn reload(&self, store: &dyn Store) -> Result<(), Status> {
        let (shelves, kinds, revision) = read_all(store).await?;
        let mut state = self.write();
        self.publish(kinds);
        state.retain(|slot, _| shelves.contains_key(slot));
        for (slot, objects) in shelves {
            state
                .entry(slot)
                .or_insert_with(|| Kind::new(revision))
                .restart(objects, revision);
        }
        self.shows(revision);
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

    /// How many objects a list has; of a namespace no more than `most` are counted.
    pub(super) fn count(&self, resource: &Resource, namespace: Option<&str>, most: usize) -> usize {
        let state = self.read();
        let Some(kind) = state.get(&slot(resource)) else {
            return 0;
        };
        match namespace {
            None => kind.objects.len(),
            Some(namespace) => below(&kind.objects, namespace).take(most).count(),
        }
    }

    /// Whether no object of the kind changed after `revision`, so that the kind now is the kind then.
    pub(super) fn unchanged_since(&self, resource: &Resource, revision: u64) -> bool {
        let state = self.read();
        let Some(kind) = state.get(&slot(resource)) else {
            return true;
        };
        kind.ring.last() <= revision
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
        if self.comes_to(revision, OWN_WRITE).await {
            return Ok(());
        }
        Err(Status::timeout(
            "the write is durable, but the watch cache does not keep up",
        ))
    }

    /// Whether everything up to `revision` is here, by then.
    pub(super) async fn comes_to(&self, revision: u64, within: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let come = self.waiting.for_revision(revision);
        // It may have come before we waited.
        self.revision() >= revision
            || matches!(tokio::time::timeout(within, come).await, Ok(Ok(())))
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Slot, Kind>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the ring of a kind, or of one object in it, to somebody who may begin to watch it.
    pub(super) fn with_ring<T>(
        &self,
        resource: &Resource,
        only: Option<&(String, String)>,
        begin: impl FnOnce(&Ring) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let Some((namespace, name)) = only else {
            return self.look_at_ring(resource, None, begin);
        };
        let mut state = self.write();
        let kind = state
            .get_mut(&slot(resource))
            .ok_or_else(Status::unknown_path)?;
        let (key, oldest) = (key(namespace, name), kind.ring.forgotten());
        let ring = kind.named.entry(key.clone());
        let ring = ring.or_insert_with(|| kind.ring.of_one(namespace, name));
        ring.forget(oldest);
        let begun = begin(ring);
        if !ring.has_watchers() {
            kind.named.remove(&key);
        }
        begun
    }

    /// Shows the same to somebody who watches it.
    pub(super) fn look_at_ring<T>(
        &self,
        resource: &Resource,
        only: Option<&(String, String)>,
        look: impl FnOnce(&Ring) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let state = self.read();
        let kind = state
            .get(&slot(resource))
            .ok_or_else(Status::unknown_path)?;
        let named = only.map(|(namespace, name)| kind.named.get(&key(namespace, name)));
        look(match named {
            None => &kind.ring,
            Some(named) => named.ok_or_else(Status::unknown_path)?,
        })
    }

    /// How many objects of a kind are watched by their names.
    #[cfg(test)]
    pub(super) fn watched_by_name(&self, resource: &Resource) -> usize {
        self.read()
            .get(&slot(resource))
            .map_or(0, |kind| kind.named.len())
    }

    /// A watcher of one object has gone.
    pub(super) fn leave(&self, slot: Slot, key: &str) {
        let mut state = self.write();
        if let Some(kind) = state.get_mut(&slot)
            && kind.named.get(key).is_some_and(|ring| !ring.has_watchers())
        {
            kind.named.remove(key);
        }
    }

    /// Gives up the decoded form of every object that nobody has looked at since the last time. Others have their turn
    /// between any two `pause`s.
    pub(super) async fn cool(&self, pause: Duration) {
        let slots: Vec<Slot> = self.read().keys().copied().collect();
        for slot in slots {
            let mut after = Bound::Unbounded;
            while let Some(next) = self.cool_some(slot, &after) {
                after = Bound::Excluded(next);
                tokio::time::sleep(pause).await;
            }
            let length = self.read().get(&slot).map_or(0, |kind| kind.ring.len());
            for start in (0..length).step_by(COOLED_AT_ONCE) {
                let mut given_up = Vec::new();
                if let Some(kind) = self.write().get_mut(&slot) {
                    let objects = kind.ring.objects_mut(start, COOLED_AT_ONCE);
                    objects.for_each(|object| cool_one(object, &mut given_up));
                }
            }
        }
    }

    /// The same of what was written lately: of the events since the round before the last, which `rounds` remembers.
    pub(super) fn cool_written(&self, rounds: &mut HashMap<Slot, (u64, u64)>) {
        let slots: Vec<Slot> = self.read().keys().copied().collect();
        rounds.retain(|slot, _| slots.contains(slot));
        for slot in slots {
            let mut given_up = Vec::new();
            let mut state = self.write();
            let Some(kind) = state.get_mut(&slot) else {
                continue;
            };
            let total = kind.ring.total();
            let (before, last) = rounds.get(&slot).copied().unwrap_or_default();
            rounds.insert(slot, (last, total));
            let start = usize::try_from(total - before.min(total)).unwrap_or(usize::MAX);
            let length = kind.ring.len();
            for object in kind.ring.objects_mut(length - start.min(length), length) {
                let warm = Arc::clone(object);
                cool_one(object, &mut given_up);
                if Arc::ptr_eq(object, &warm) {
                    continue;
                }
                // Whoever else holds it.
                let key = key(&warm.namespace, &warm.name);
                let shelved = kind.objects.get_mut(&key);
                let named = kind.named.get_mut(&key).into_iter();
                let named = named.flat_map(|ring| ring.objects_mut(0, ring.len()));
                for other in shelved.into_iter().chain(named) {
                    if Arc::ptr_eq(other, &warm) {
                        *other = Arc::clone(object);
                    }
                }
            }
            drop(state);
        }
    }

    /// Some of a kind's objects; the key of the last, when there may be more.
    fn cool_some(&self, slot: Slot, after: &Bound<String>) -> Option<String> {
        // Dropped when the lock is free again.
        let mut given_up = Vec::new();
        let mut state = self.write();
        let range = (after.clone(), Bound::Unbounded);
        let mut last = None;
        let objects = state.get_mut(&slot)?.objects.range_mut(range);
        for (count, (key, object)) in (1..=COOLED_AT_ONCE).zip(objects) {
            cool_one(object, &mut given_up);
            last = (count == COOLED_AT_ONCE).then(|| key.clone());
        }
        drop(state);
        last
    }

    fn decode_change<'a>(
        &self,
        kinds: &Kinds,
        change: &'a Change,
    ) -> Option<Result<Decoded<'a>, Status>> {
        let (resource, key) = registry::of_key(kinds, &change.key)?;
        let read = |entry: &Entry| match self.on_its_way.take(&entry.value) {
            Some(value) => Ok(settled(resource, value, entry)),
            None => decode(resource, entry),
        };
        let object = change.entry.as_ref().map(read).transpose();
        Some(object.map(|object| (resource, key, object)))
    }

    /// Takes in transactions, in their order.
    fn take_in(&self, batches: &[Batch]) -> Result<(), Status> {
        let kinds = self.kinds();
        let defines = |change: &Change| {
            registry::of_key(&kinds, &change.key)
                .is_some_and(|(resource, _)| registry::defines_kinds(resource))
        };
        if batches
            .iter()
            .any(|batch| batch.changes.iter().any(defines))
        {
            // What comes after a definition is read by it.
            return batches
                .iter()
                .try_for_each(|batch| self.apply(std::slice::from_ref(batch)));
        }
        self.apply(batches)
    }

    fn apply(&self, batches: &[Batch]) -> Result<(), Status> {
        let Some(last) = batches.last() else {
            return Ok(());
        };
        let kinds = self.kinds();
        let mut redefined: Option<Kinds> = None;
        let mut decoded = Vec::new();
        for change in batches.iter().flat_map(|batch| &batch.changes) {
            let known = redefined.as_ref().unwrap_or(&kinds);
            let Some((resource, key, object)) = self.decode_change(known, change).transpose()?
            else {
                continue;
            };
            if registry::defines_kinds(resource) {
                let kinds = redefined.get_or_insert_with(|| Kinds::clone(&kinds));
                match &object {
                    Some(definition) => drop(kinds.define(&definition.value)),
                    None => kinds.forget(key),
                }
            }
            decoded.push((resource, key, object, change.revision.0));
        }
        let revision = last.revision.0;
        let mut state = self.write();
        if let Some(redefined) = redefined {
            reshelve(&mut state, &redefined, revision);
            self.publish(redefined);
        }
        let mut touched = Vec::with_capacity(decoded.len());
        for (resource, key, object, revision) in decoded {
            let kind = state
                .entry(slot(resource))
                .or_insert_with(|| Kind::new(revision));
            if let Some(event) = event(kind, key, object, revision) {
                kind.push(key, event);
            }
            touched.push((slot(resource), key));
        }
        // First each kind's count, then the revision: whoever hears of a revision finds its events.
        touched.sort_unstable();
        touched.dedup();
        for (slot, key) in touched {
            if let Some(kind) = state.get(&slot) {
                kind.tell(key);
            }
        }
        self.shows(revision);
        Ok(())
    }

    /// From now on it shows `revision`; told while the state is held.
    fn shows(&self, revision: u64) {
        let revision = revision.max(self.revision());
        self.changed.send_replace(revision);
        self.waiting.reached(revision);
    }
}

/// Puts the same object in its text alone where one is that nobody looks at; that one goes to `given_up`.
fn cool_one(object: &mut Arc<Object>, given_up: &mut Vec<Arc<Object>>) {
    if object.value.is_idle() {
        let cooled = Arc::new(object.cooled());
        given_up.push(std::mem::replace(object, cooled));
    }
}

/// Gives up what nobody looks at, for as long as it is polled.
pub(super) async fn keep_cool(cache: Arc<Cache>) {
    let all = async {
        loop {
            tokio::time::sleep(COOLS).await;
            cache.cool(Duration::from_millis(1)).await;
        }
    };
    let written = async {
        let (mut rounds, mut changed) = (HashMap::new(), cache.changed());
        // Two rounds after a change: the first only sees that it was looked at.
        while changed.changed().await.is_ok() {
            for _ in 0..2 {
                tokio::time::sleep(WRITTEN_COOLS).await;
                cache.cool_written(&mut rounds);
            }
        }
    };
    futures::future::join(all, written).await;
}

/// Makes room for kinds that are new, gives objects of those that are defined anew the form that they have now, and
/// forgets those that are gone: their watches end.
fn reshelve(state: &mut HashMap<Slot, Kind>, kinds: &Kinds, revision: u64) {
    let known: HashSet<Slot> = kinds.stored().map(slot).collect();
    state.retain(|slot, _| known.contains(slot));
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
    key: &str,
    object: Option<Arc<Object>>,
    revision: u64,
) -> Option<ObjectEvent> {
    match object {
        Some(object) => {
            let previous = kind.objects.insert(key.to_owned(), Arc::clone(&object));
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
            let last = kind.objects.remove(key)?;
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
    let value: Value = serde_json::from_slice(&entry.value).map_err(|error| {
        Status::internal(format!("the store's {} is not JSON: {error}", entry.key))
    })?;
    Ok(settled(resource, value, entry))
}

fn settled(resource: &'static Resource, mut value: Value, entry: &Entry) -> Arc<Object> {
    resource.settle(&mut value);
    Arc::new(Object::new(resource, value, entry.modified.0))
}

type Decoded<'a> = (&'static Resource, &'a str, Option<Arc<Object>>);

/// Follows the store for as long as it is polled. A fault of the store is waited out: nothing is skipped.
pub(super) async fn follow(store: Arc<dyn Store>, cache: Arc<Cache>) {
    loop {
        let after = Revision(cache.revision());
        match store.watch(ROOT, after).await {
            Ok(mut changes) => {
                if let Err(status) = keep_up(store.as_ref(), &cache, &mut changes).await {
                    tracing::error!(%status, "the watch cache can't follow the store");
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

/// Takes in changes until they end. What has come at once is taken in together: whoever follows wakes once for it.
async fn keep_up(store: &dyn Store, cache: &Cache, changes: &mut Watch) -> Result<(), Status> {
    let mut chunks = changes.ready_chunks(TOGETHER);
    while let Some(chunk) = chunks.next().await {
        let mut batches = Vec::with_capacity(chunk.len());
        let mut fault = None;
        for item in chunk {
            match item {
                Ok(batch) => batches.push(batch),
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            }
        }
        cache.take_in(&batches)?;
        match fault {
            None => {}
            Some(Error::Compacted { .. }) => cache.reload(store).await?,
            Some(error) => return Err(refused(error)),
        }
    }
    Ok(())
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
