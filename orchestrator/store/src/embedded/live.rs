//! Watchers: first what the log holds, then what the writer publishes, without gap or duplicate. A watcher that falls
//! behind the queue reads the log again from where it is; only compaction can end it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use tokio::sync::broadcast::{Receiver, Sender, channel, error::RecvError};

use super::file::File;
use super::tables;
use crate::{Batch, Change, Error, Revision, Watch};

/// Transactions that a watcher may be behind before it reads the log again.
const QUEUE: usize = 1024;
/// Transactions read from the log at once.
const CHUNK: u64 = 256;

/// Where the writer publishes. The lock makes "the last revision" and "what comes next" one thing.
#[derive(Debug)]
pub(super) struct Live {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    sender: Sender<Arc<Vec<Change>>>,
}

impl Live {
    pub(super) fn new(revision: u64) -> Self {
        Self {
            state: Mutex::new(State {
                revision,
                sender: channel(QUEUE).0,
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Last published revision.
    pub(super) fn revision(&self) -> u64 {
        self.state().revision
    }

    /// Hands on the changes of durable transactions, the last of which is `revision`.
    pub(super) fn publish(&self, groups: Vec<Arc<Vec<Change>>>, revision: u64) {
        let mut state = self.state();
        state.revision = revision;
        groups
            .into_iter()
            .for_each(|group| drop(state.sender.send(group)));
    }

    /// Transactions up to `revision` became durable without being published: every watcher reads the log again.
    pub(super) fn skip_to(&self, revision: u64) {
        let mut state = self.state();
        state.revision = revision;
        state.sender = channel(QUEUE).0;
    }

    fn subscribe(&self) -> (Receiver<Arc<Vec<Change>>>, u64) {
        let state = self.state();
        (state.sender.subscribe(), state.revision)
    }
}

/// Changes under `prefix` after revision `after`.
pub(super) async fn watch(
    file: Arc<File>,
    live: Arc<Live>,
    prefix: String,
    after: u64,
) -> Result<Watch, Error> {
    let (receiver, until) = live.subscribe();
    let mut watcher = Watcher {
        file,
        live: Arc::downgrade(&live),
        prefix,
        seen: after,
        until,
        receiver,
        ready: VecDeque::new(),
        ended: false,
    };
    // Tells at once when `after` is gone or yet to come.
    watcher.read_log().await?;
    let stream = futures::stream::unfold(watcher, |mut watcher| async {
        let item = watcher.next().await?;
        Some((item, watcher))
    });
    Ok(stream.boxed())
}

struct Watcher {
    file: Arc<File>,
    live: std::sync::Weak<Live>,
    prefix: String,
    /// Everything up to here was handed on or is in `ready`.
    seen: u64,
    /// The log must be read up to here before `receiver` goes on.
    until: u64,
    receiver: Receiver<Arc<Vec<Change>>>,
    ready: VecDeque<Batch>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Batch, Error>> {
        if self.ended {
            return None;
        }
        loop {
            if let Some(group) = self.ready.pop_front() {
                return Some(Ok(group));
            }
            if self.seen < self.until {
                if let Err(error) = self.read_log().await {
                    self.ended = true;
                    return Some(Err(error));
                }
                continue;
            }
            match self.receiver.recv().await {
                Ok(group) => self.take(&group),
                Err(RecvError::Lagged(_) | RecvError::Closed) => {
                    let live = self.live.upgrade()?;
                    (self.receiver, self.until) = live.subscribe();
                }
            }
        }
    }

    fn take(&mut self, group: &[Change]) {
        let Some(first) = group.first() else { return };
        self.seen = first.revision.0;
        let mine: Vec<_> = group
            .iter()
            .filter(|change| change.key.starts_with(&self.prefix))
            .cloned()
            .collect();
        self.ready.push_back(Batch {
            revision: first.revision,
            changes: mine,
        });
    }

    async fn read_log(&mut self) -> Result<(), Error> {
        let (prefix, after) = (self.prefix.clone(), self.seen);
        let limit = CHUNK.min(self.until.saturating_sub(after));
        let read = move |snapshot: &redb::ReadTransaction| {
            tables::changes(snapshot, &prefix, after, limit)
        };
        let (groups, complete) = self.file.read("watch", read).await?;
        let batch = |changes: Vec<Change>| Batch {
            revision: changes[0].revision,
            changes,
        };
        let told = groups.last().map_or(self.seen, |last| last[0].revision.0);
        self.ready.extend(groups.into_iter().map(batch));
        if complete > told {
            self.ready.push_back(Batch {
                revision: Revision(complete),
                changes: Vec::new(),
            });
        }
        self.seen = complete;
        Ok(())
    }
}
