//! Which nodes have a session, and how far each of them is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use waggle_model::Generation;
use waggle_wire::v1;

use super::assignments::Told;

/// Stream requests that may wait for a session to send them.
const QUEUE: usize = 64;

/// One session, as the rest of the server sees it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Node.
    pub(crate) node: String,
    /// Network generation that the node has in its kernel.
    acknowledged: AtomicU64,
    /// Requests for streams, to be sent down.
    requests: mpsc::Sender<v1::OpenStream>,
    /// Ends the session.
    pub(crate) ended: CancellationToken,
}

impl Link {
    /// Network generation that the node has in its kernel.
    pub(crate) fn acknowledged(&self) -> Generation {
        Generation(self.acknowledged.load(Ordering::Acquire))
    }

    /// Takes in an acknowledgement; true when it is news.
    pub(crate) fn acknowledge(&self, generation: Generation) -> bool {
        self.acknowledged.fetch_max(generation.0, Ordering::AcqRel) < generation.0
    }

    /// Has the session send a request; false when it is gone or too busy.
    pub(crate) fn request(&self, request: v1::OpenStream) -> bool {
        self.requests.try_send(request).is_ok()
    }
}

/// Sessions by node, and what each node was last told, which outlives its session so that it can be resumed.
#[derive(Debug, Default)]
pub(crate) struct Links {
    open: Mutex<BTreeMap<String, Arc<Link>>>,
    told: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Told>>>>,
}

impl Links {
    /// Opens a session for `node`, which has acknowledged nothing yet: what it received in an earlier session need not
    /// be in its kernel. A session that is still open is ended. Requests come out of the receiver.
    pub(crate) fn open(&self, node: &str) -> (Arc<Link>, mpsc::Receiver<v1::OpenStream>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let link = Arc::new(Link {
            node: node.to_owned(),
            acknowledged: AtomicU64::new(0),
            requests,
            ended: CancellationToken::new(),
        });
        if let Some(before) = lock(&self.open).insert(node.to_owned(), Arc::clone(&link)) {
            before.ended.cancel();
        }
        (link, receiver)
    }

    /// Ends a session. One that has taken its place stays.
    pub(crate) fn close(&self, link: &Arc<Link>) {
        link.ended.cancel();
        let mut open = lock(&self.open);
        if open
            .get(&link.node)
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            open.remove(&link.node);
        }
    }

    /// Ends every session.
    pub(crate) fn close_all(&self) {
        for link in std::mem::take(&mut *lock(&self.open)).into_values() {
            link.ended.cancel();
        }
    }

    /// The session of `node`.
    pub(crate) fn get(&self, node: &str) -> Option<Arc<Link>> {
        lock(&self.open).get(node).cloned()
    }

    /// Nodes that have a session.
    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.open).keys().cloned().collect()
    }

    /// The lowest generation acknowledged among the connected nodes that `counts`; `None` without any.
    pub(crate) fn lowest_acknowledged(&self, counts: impl Fn(&str) -> bool) -> Option<Generation> {
        let open = lock(&self.open);
        open.values()
            .filter(|link| counts(&link.node))
            .map(|link| link.acknowledged())
            .min()
    }

    /// What each connected node has acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<Generation> {
        let open = lock(&self.open);
        open.values().map(|link| link.acknowledged()).collect()
    }

    /// What `node` was last told of its pods. `fresh` is the first generation for a node never seen.
    pub(crate) fn told(&self, node: &str, fresh: u64) -> Arc<tokio::sync::Mutex<Told>> {
        let mut told = lock(&self.told);
        let new = || Arc::new(tokio::sync::Mutex::new(Told::nothing(fresh)));
        Arc::clone(told.entry(node.to_owned()).or_insert_with(new))
    }

    /// Forgets what nodes were told that do not exist any more.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        lock(&self.told).retain(|node, _| exists(node));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
