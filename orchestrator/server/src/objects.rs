//! The one way to the cluster's objects inside the server: reads from the watch cache, writes through defaulting,
//! validation and the store. The HTTP API, the controllers and the node sessions all use it, and nothing else does
//! the store's work.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde_json::Value;
use waggle_api::{Resource, Status};

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
    pub value: Value,
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
