//! Which nodes have a session, and how far each of them is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use waggle_model::Generation;
use waggle_wire::v1;

use super::assignments::Told;
use super::node::STATUS_SECONDS;
use super::stirred::Nodes;

/// Stream requests that may wait for a session to send them.
const QUEUE: usize = 64;

/// What a node said of itself in its session, and which version of its Node came of that.
#[derive(Debug)]
struct Said {
    status: Bytes,
    revision: u64,
    at: Instant,
}

/// One session, as the rest of the server sees it.
#[derive(Debug)]
pub(crate) struct Link {
    /// Node.
    pub(crate) node: String,
    /// Network generation that the node has in its kernel.
    acknowledged: AtomicU64,
    /// Requests for streams, to be sent down.
    requests: mpsc::Sender<Box<v1::OpenStream>>,
    /// There may be something to tell the node.
    news: Notify,
    /// Something of its pods may be among it.
    pods: AtomicBool,
    /// One of its pods could not be told yet, for want of something that is still on its way.
    waits: AtomicBool,
    /// What it said of itself last.
    said: Mutex<Option<Said>>,
    /// How many times it was looked whether the node had said anything, since it did.
    looks: AtomicU32,
    /// Ends the session.
    pub(crate) ended: CancellationToken,
}

impl Link {
    /// Network generation that the node has in its kernel.
    pub(crate) fn acknowledged(&self) -> Generation {
        Generation(self.acknowledged.load(Ordering::Acquire))
    }

    /// Takes in that the node said something.
    pub(crate) fn hears(&self) {
        self.looks.store(0, Ordering::Relaxed);
    }

    /// Takes in an acknowledgement; true when it is news.
    pub(crate) fn acknowledge(&self, generation: Generation) -> bool {
        self.acknowledged.fetch_max(generation.0, Ordering::AcqRel) < generation.0
    }

    /// Whether this is what it said last of itself, not too long ago, and its Node is still what came of that.
    pub(crate) fn has_said(&self, status: &Bytes, revision: u64) -> bool {
        let young = Duration::from_secs(STATUS_SECONDS.unsigned_abs());
        lock(&self.said).as_ref().is_some_and(|said| {
            said.revision == revision && said.at.elapsed() < young && said.status == *status
        })
    }

    /// Notes what it said of itself, and which version of its Node says it.
    pub(crate) fn says(&self, status: Bytes, revision: u64) {
        let at = Instant::now();
        *lock(&self.said) = Some(Said {
            status,
            revision,
            at,
        });
    }

    /// Has the session look for what to tell the node: the network, and its `pods` too.
    pub(crate) fn wake(&self, pods: bool) {
        if pods {
            self.pods.store(true, Ordering::Release);
        }
        self.news.notify_one();
    }

    /// Waits until it was woken since this was asked last.
    pub(crate) async fn woken(&self) {
        self.news.notified().await;
    }

    /// Whether its pods are to be looked at, which is then up to whoever asked.
    pub(crate) fn take_pods(&self) -> bool {
        self.pods.swap(false, Ordering::AcqRel)
    }

    /// Leaves it to whoever asks next.
    pub(crate) fn put_pods(&self, pods: bool) {
        self.pods.fetch_or(pods, Ordering::AcqRel);
    }

    /// Whether something that a pod needs is still on its way.
    pub(crate) fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Release);
    }

    /// Has the session send a request; false when it is gone or too busy.
    pub(crate) fn request(&self, request: v1::OpenStream) -> bool {
        self.requests.try_send(Box::new(request)).is_ok()
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
    pub(crate) fn open(&self, node: &str) -> (Arc<Link>, mpsc::Receiver<Box<v1::OpenStream>>) {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let link = Arc::new(Link {
            node: node.to_owned(),
            acknowledged: AtomicU64::new(0),
            requests,
            news: Notify::new(),
            pods: AtomicBool::new(true),
            waits: AtomicBool::new(false),
            said: Mutex::default(),
            looks: AtomicU32::new(0),
            ended: CancellationToken::new(),
        });
        if let Some(before) = lock(&self.open).insert(node.to_owned(), Arc::clone(&link)) {
            before.ended.cancel();
        }
        (link, receiver)
    }

    /// Ends a session; true when no other has taken its place, which stays.
    pub(crate) fn close(&self, link: &Arc<Link>) -> bool {
        link.ended.cancel();
        let mut open = lock(&self.open);
        let current = open.get(&link.node);
        let last = current.is_some_and(|current| Arc::ptr_eq(current, link));
        if last {
            open.remove(&link.node);
        }
        last
    }

    /// Looks whether nodes have said anything since this was asked last, and ends the sessions of those that did not for more
    /// than `looks` times: the machine is gone, or the agent stands still. Counted, not timed: a server that stood still
    /// itself heard nobody.
    pub(crate) fn end_silent(&self, looks: u64) {
        for link in lock(&self.open).values() {
            if u64::from(link.looks.fetch_add(1, Ordering::Relaxed)) >= looks {
                link.ended.cancel();
            }
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

    /// How many nodes have a session.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(lock(&self.open).len()).unwrap_or(u32::MAX)
    }

    /// Wakes the sessions of nodes whose pods may be news, and all of them for the `network`.
    pub(crate) fn wake(&self, pods: &Nodes, network: bool) {
        let open = lock(&self.open);
        match pods {
            Nodes::Some(nodes) if !network => {
                for link in nodes.iter().filter_map(|node| open.get(node)) {
                    link.wake(true);
                }
                let waiting = open
                    .values()
                    .filter(|link| link.waits.load(Ordering::Acquire));
                waiting.for_each(|link| link.wake(true));
            }
            _ => {
                for (node, link) in open.iter() {
                    let named = match pods {
                        Nodes::All => true,
                        Nodes::Some(nodes) => nodes.contains(node),
                    };
                    link.wake(named || link.waits.load(Ordering::Acquire));
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_of_a_node_that_says_nothing_ends_and_no_other() {
        let links = Links::default();
        let (talks, _requests) = links.open("talks");
        let (silent, _requests) = links.open("silent");
        for _ in 0..3 {
            links.end_silent(3);
            talks.hears();
        }
        assert!(
            !silent.ended.is_cancelled(),
            "three times is no more than three"
        );
        links.end_silent(3);
        assert!(silent.ended.is_cancelled());
        assert!(!talks.ended.is_cancelled());
    }
}
