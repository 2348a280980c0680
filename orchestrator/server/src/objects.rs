//! The one way to the cluster's objects inside the server: reads from the watch cache, writes through defaulting,
//! validation and the store. The HTTP API, the controllers and the node sessions all use it, and nothing else does
//! the store's work.

mod account;
mod admit;
mod bootstrap;
mod cache;
mod caller;
mod commit;
mod convert;
mod decoded;
mod delete;
mod hooks;
mod node_port;
mod own_write;
mod passage;
mod plan;
mod priority;
mod registry;
mod ring;
mod service_address;
mod store_status;
#[cfg(test)]
mod tests;
mod waiting;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, watch};
use waggle_api::selector::FieldSelector;
use waggle_api::{Cause, Details, Kinds, Resource, Status};
use waggle_model::network::{Cidr, PerFamily, PortRange};
use waggle_store::backup::{self, BackupError, Summary};
use waggle_store::{Revision, Store};

use cache::Cache;
use node_port::NodePortAllocator;
use service_address::ServiceAllocator;
use store_status::refused;

pub use caller::Caller;
pub use decoded::Decoded;
pub(crate) use hooks::Errand;
pub use hooks::WebhookCall;
pub use waggle_api::{DeleteOptions, Part};

/// One object as committed. Encoded once: lists and watches send `bytes`.
#[derive(Debug)]
pub struct Object {
    /// Its registry row.
    pub resource: &'static Resource,
    /// `metadata.namespace`, empty for a cluster-scoped kind.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Store revision of its last change; its `metadata.resourceVersion`.
    pub revision: u64,
    /// JSON, apiVersion, kind and resourceVersion included.
    pub bytes: Bytes,
    /// The same, decoded.
    pub value: Decoded,
    /// `metadata.labels`, for selectors.
    labels: Box<[(Box<str>, Box<str>)]>,
    /// What field selectors may ask for, as `resource` lists it.
    fields: Box<[Box<str>]>,
}

/// One change as watchers see it.
#[derive(Debug, Clone)]
pub struct ObjectEvent {
    /// ADDED, MODIFIED or DELETED.
    pub kind: EventKind,
    /// The object after the change, or its last state when deleted (with the deletion's revision).
    pub object: Arc<Object>,
    /// The object before the change; selectors need it.
    pub previous: Option<Arc<Object>>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is new.
    Added,
    /// It was there before.
    Modified,
    /// It is gone.
    Deleted,
}

/// Objects of one kind at one revision.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The store's revision that this listing shows.
    pub revision: u64,
    /// In key order (namespace, name).
    pub objects: Vec<Arc<Object>>,
}

/// Events after a given revision, in order, none lost, none twice; ends with a 410 Gone [`Status`] when the reader
/// fell behind what is kept.
pub type Events = BoxStream<'static, Result<ObjectEvent, Status>>;

/// The next of them if it is there already, `Some(None)` at their end. Never a cooperative yield, which would look as if
/// there were nothing up to the revision that was reached.
pub(crate) fn ready_now(events: &mut Events) -> Option<Option<Result<ObjectEvent, Status>>> {
    tokio::task::unconstrained(events.next()).now_or_never()
}

/// Seconds and nanoseconds come from here; tests turn their own.
pub type Clock = Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>;

/// When the store was at a revision, the cache is there within this time, unless the revision is of no object.
const SOON: Duration = Duration::from_millis(200);
/// How long a client waits for a revision that is not here yet.
const CLIENT_WAITS: Duration = Duration::from_secs(3);

/// How a write is made.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Everything but the commit; the answer is what would have been committed.
    pub dry_run: bool,
    /// Who owns the fields that it writes.
    pub ownership: Ownership,
    /// On whose behalf; the server's own when absent.
    pub caller: Option<Arc<Caller>>,
}

/// Who owns the fields that a write sets (`metadata.managedFields`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ownership {
    /// The server itself. It is noted only where somebody else's fields are noted already.
    #[default]
    Server,
    /// A client, by its manager's name, through a subresource or not.
    Client {
        /// Query parameter `fieldManager`, or the first word of the User-Agent.
        manager: String,
        /// `status`, `scale`, or empty.
        subresource: String,
    },
    /// As the written object says: server-side apply has settled it.
    Settled,
}

impl WriteOptions {
    /// A write of the server's own.
    pub const STORED: Self = Self {
        dry_run: false,
        ownership: Ownership::Server,
        caller: None,
    };
}

/// What a deletion came to.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// It is gone; its last state.
    Gone(Arc<Object>),
    /// It has a deletionTimestamp and goes when its node, its finalizers or what it owns let it.
    Marked(Arc<Object>),
}

impl Deleted {
    /// The object, gone or going.
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Gone(object) | Self::Marked(object) => object,
        }
    }
}

/// Addresses and node ports that Services get.
#[derive(Debug, Clone)]
pub struct ServiceNetwork {
    /// The ranges, the one that Services get unless they ask for another family first.
    pub ranges: PerFamily<Cidr>,
    /// Addresses in them that no Service gets unless it asks for them, such as the cluster DNS's.
    pub kept: Vec<IpAddr>,
    /// Ports of the nodes.
    pub node_ports: PortRange,
}

impl Default for ServiceNetwork {
    /// 10.96.0.0/16, with 10.96.0.1 kept for the API and 10.96.0.10 for DNS; node ports 30000-32767.
    fn default() -> Self {
        let ranges = "10.96.0.0/16".parse().expect("a literal range");
        Self {
            ranges,
            kept: vec![[10, 96, 0, 1].into(), [10, 96, 0, 10].into()],
            node_ports: PortRange::NODE_PORTS,
        }
    }
}

/// The cluster's objects. Shared by everything in the server.
pub struct Objects {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    clock: Clock,
    addresses: ServiceAllocator,
    node_ports: NodePortAllocator,
    reserved: admit::Reserved,
    /// To whoever calls webhooks.
    calls: OnceLock<mpsc::Sender<WebhookCall>>,
    /// Admission webhooks are asked.
    asks: AtomicBool,
    pump: tokio::task::JoinHandle<()>,
    cooler: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects")
            .field("revision", &self.cache.revision())
            .finish_non_exhaustive()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.pump.abort();
        self.cooler.abort();
    }
}

impl Objects {
    /// [`Objects::open_with`] the default [`ServiceNetwork`].
    ///
    /// # Errors
    /// As there.
    pub async fn open(store: Arc<dyn Store>, clock: Clock) -> Result<Arc<Self>, Status> {
        Self::open_with(store, clock, ServiceNetwork::default()).await
    }

    /// Reads everything from the store and follows it.
    ///
    /// # Errors
    /// A [`Status`] when the store can't be read or holds something that is no object.
    pub async fn open_with(
        store: Arc<dyn Store>,
        clock: Clock,
        network: ServiceNetwork,
    ) -> Result<Arc<Self>, Status> {
        let cache = Arc::new(Cache::load(store.as_ref()).await?);
        let node_ports = NodePortAllocator::new(network.node_ports, &cache);
        let addresses = ServiceAllocator::new(network, &cache);
        let pump = tokio::spawn(cache::follow(Arc::clone(&store), Arc::clone(&cache)));
        let cooler = tokio::spawn(cache::keep_cool(Arc::clone(&cache)));
        Ok(Arc::new(Self {
            store,
            cache,
            clock,
            addresses,
            node_ports,
            reserved: admit::Reserved::default(),
            calls: OnceLock::new(),
            asks: AtomicBool::new(false),
            pump,
            cooler,
        }))
    }

    /// The kinds that there are now.
    pub fn kinds(&self) -> Arc<Kinds> {
        self.cache.kinds()
    }

    /// The object, now, in the version that is stored (as everything that is read here, whatever version of its kind
    /// `resource` is). `namespace` is empty for a cluster-scoped kind.
    pub fn get(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Object>> {
        self.cache.get(resource.stored(), namespace, name)
    }

    /// All objects of a kind, or those of one namespace.
    pub fn list(&self, resource: &'static Resource, namespace: Option<&str>) -> Listing {
        self.cache.list(resource.stored(), namespace)
    }

    /// Every event of a kind after `after_revision`.
    ///
    /// # Errors
    /// 410 Gone when that is no longer kept: list again, and watch from there.
    pub fn watch(
        &self,
        resource: &'static Resource,
        after_revision: u64,
    ) -> Result<Events, Status> {
        ring::watch(&self.cache, resource.stored(), None, after_revision)
    }

    /// The same of one object only, without a look at the others' events. `namespace` is empty for a cluster-scoped kind.
    ///
    /// # Errors
    /// As [`Objects::watch`].
    pub fn watch_one(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        after_revision: u64,
    ) -> Result<Events, Status> {
        let only = Some((namespace, name));
        ring::watch(&self.cache, resource.stored(), only, after_revision)
    }

    /// Latest revision in the cache; changes with every write.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.cache.changed()
    }

    /// Returns once the cache shows everything up to `revision`.
    ///
    /// # Errors
    /// 504 when that takes longer than half a minute.
    pub async fn reached(&self, revision: u64) -> Result<(), Status> {
        if self.cache.comes_to(revision, SOON).await {
            return Ok(());
        }
        // That revision may be of something that is no object: nothing tells the cache of it by itself.
        self.store.advance().await.map_err(refused)?;
        self.cache.reached(revision).await
    }

    /// Returns once the cache shows everything that was committed, by any server, before this was called.
    ///
    /// # Errors
    /// What the store says; 504 when the cache does not keep up.
    pub async fn catch_up(&self) -> Result<(), Status> {
        let now = self.store.revision().await.map_err(refused)?;
        self.reached(now.0).await
    }

    /// Returns once the cache is at `revision`, which a client has seen.
    ///
    /// # Errors
    /// 504 for a revision that does not come within three seconds.
    pub async fn seen(&self, revision: u64) -> Result<(), Status> {
        if self.cache.comes_to(revision, SOON).await {
            return Ok(());
        }
        if self.store.revision().await.map_err(refused)?.0 >= revision {
            self.store.advance().await.map_err(refused)?;
        }
        if self.cache.comes_to(revision, CLIENT_WAITS - SOON).await {
            return Ok(());
        }
        let current = self.cache.revision();
        let mut status = Status::timeout(format!(
            "Too large resource version: {revision}, current: {current}"
        ));
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Cause::default()
        };
        let details = Details {
            causes: vec![cause],
            retry_after_seconds: Some(1),
            ..Details::default()
        };
        status.details = Some(Box::new(details));
        Err(status)
    }

    /// Whether an object of the kind changed after `revision`.
    pub(crate) fn changed_since(&self, resource: &'static Resource, revision: u64) -> bool {
        !self.cache.unchanged_since(resource.stored(), revision)
    }

    /// How many objects of a kind there are, or of one namespace, of which no more than `most` are counted.
    pub(crate) fn count(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        most: usize,
    ) -> usize {
        self.cache.count(resource.stored(), namespace, most)
    }

    /// All objects of a kind, or those of one namespace, as they were at `revision`.
    ///
    /// # Errors
    /// 410 when that is no longer kept.
    pub async fn list_at(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<Listing, Status> {
        let resource = resource.stored();
        // Asked after listing: what has not changed by then was listed as it was.
        let listing = self.list(resource, namespace);
        if self.cache.unchanged_since(resource, revision) {
            return Ok(Listing {
                revision,
                ..listing
            });
        }
        let prefix = namespace.map_or_else(
            || resource.prefix(),
            |namespace| resource.prefix_in(namespace),
        );
        let page = self
            .store
            .range(&prefix, None, 0, Some(Revision(revision)))
            .await
            .map_err(refused)?;
        let objects = page
            .entries
            .iter()
            .map(|entry| cache::decode(resource, entry))
            .collect::<Result<_, _>>()?;
        Ok(Listing { revision, objects })
    }

    /// Whether the store can be read and the cache follows it.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check(&self) -> Result<(), Status> {
        let revision = self.store.revision().await.map_err(refused)?;
        self.store.get("/registry").await.map_err(refused)?;
        self.seen(revision.0).await
    }

    /// Forgets the store's history before `revision`.
    ///
    /// # Errors
    /// What the store says.
    pub async fn compact(&self, revision: u64) -> Result<(), Status> {
        self.store
            .compact(Revision(revision))
            .await
            .map_err(refused)
    }

    /// Writes everything that the store holds now to `out`.
    ///
    /// # Errors
    /// What the store says, or `out`.
    pub async fn backup(
        &self,
        out: &mut (impl AsyncWrite + Unpin + Send),
    ) -> Result<Summary, BackupError> {
        backup::write(self.store.as_ref(), out).await
    }

    /// From now on this server writes. What it keeps in memory of the objects is read anew: others have written until now.
    ///
    /// # Errors
    /// As [`Objects::catch_up`].
    pub async fn begin_to_write(&self) -> Result<(), Status> {
        self.catch_up().await?;
        self.addresses.read_anew(&self.cache);
        self.node_ports.read_anew(&self.cache);
        Ok(())
    }

    /// Now, by the clock this was opened with.
    pub fn now(&self) -> jiff::Timestamp {
        (self.clock)()
    }
}

impl Object {
    /// From a decoded object and the revision of its last change.
    pub(crate) fn new(resource: &'static Resource, mut value: Value, revision: u64) -> Self {
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        Self::of(resource, value, revision)
    }

    /// Of this text and no other.
    fn of(resource: &'static Resource, value: Value, revision: u64) -> Self {
        let text = |field: &str| {
            value["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let (namespace, name, uid) = (text("namespace"), text("name"), text("uid"));
        let labels = value["metadata"]["labels"]
            .as_object()
            .into_iter()
            .flatten();
        let labels = labels.map(|(key, value)| {
            let value = value.as_str().unwrap_or_default();
            (key.as_str().into(), value.into())
        });
        let (labels, fields) = (labels.collect(), FieldSelector::values(resource, &value));
        // A Value always serializes. What the encoder reserved and did not need is given back: the object stays.
        let bytes = serde_json::to_vec(&value).unwrap_or_default();
        let bytes = Bytes::from(bytes.into_boxed_slice());
        Self {
            resource,
            namespace,
            name,
            uid,
            revision,
            value: Decoded::new(value, bytes.clone()),
            bytes,
            labels,
            fields,
        }
    }

    /// The same object without its decoded form, until somebody looks at that again.
    fn cooled(&self) -> Self {
        Self {
            resource: self.resource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            revision: self.revision,
            bytes: self.bytes.clone(),
            value: Decoded::later(self.bytes.clone()),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// A label's value.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(name, _)| **name == *key);
        found.map(|(_, value)| &**value)
    }

    /// What [`FieldSelector::values`] of its kind are.
    pub(crate) fn fields(&self) -> &[Box<str>] {
        &self.fields
    }

    /// The object in the form of another version in which its kind is served.
    pub(crate) fn shown(self: &Arc<Self>, resource: &'static Resource) -> Arc<Self> {
        if std::ptr::eq(self.resource, resource) {
            // As it is stored: nobody has to look at it.
            return Arc::clone(self);
        }
        match resource.show(&self.value) {
            Cow::Borrowed(_) => Arc::clone(self),
            Cow::Owned(value) => Arc::new(Self::new(resource, value, self.revision)),
        }
    }

    /// Where it is in the order of lists: `namespace/name`, or `name`.
    pub fn key(&self) -> String {
        cache::key(&self.namespace, &self.name)
    }

    /// The same object as of another revision: its deletion.
    pub(crate) fn at_revision(&self, revision: u64) -> Self {
        Self::new(self.resource, self.value.clone(), revision)
    }
}
