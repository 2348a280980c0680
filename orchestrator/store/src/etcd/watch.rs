//! A watch over whichever member answers: it goes on after the last revision that it told, so that a member's death
//! makes neither gap nor duplicate. It watches everything of ours, and so can say how far it is when others change.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Event, EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt as _;

use super::members::{self, Members};
use super::{ROOT, after_prefix, entry, revision};
use crate::{Batch, Change, Error, Revision, Watch};

/// How long a member may take to begin a watch.
const BEGIN: Duration = Duration::from_secs(5);
/// Rest before another member is tried.
const REST: Duration = Duration::from_millis(50);

/// Changes of keys that start with `prefix` (a key in etcd), after revision `after`, until the store is closed.
pub(super) fn follow(
    members: Arc<Members>,
    closed: tokio::sync::watch::Receiver<bool>,
    prefix: Vec<u8>,
    after: Revision,
) -> Watch {
    let watcher = Watcher {
        members,
        closed,
        prefix,
        seen: after,
        open: None,
        ready: VecDeque::new(),
        ended: false,
    };
    futures::stream::unfold(watcher, |mut watcher| async {
        let item = watcher.next().await?;
        Some((item, watcher))
    })
    .boxed()
}

struct Watcher {
    members: Arc<Members>,
    closed: tokio::sync::watch::Receiver<bool>,
    prefix: Vec<u8>,
    /// Everything up to here was told or is in `ready`.
    seen: Revision,
    /// The member's stream, and the turn in which it was opened.
    open: Option<(WatchStream, usize)>,
    ready: VecDeque<Batch>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Batch, Error>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Some(Ok(batch));
            }
            if self.ended || *self.closed.borrow() {
                return None;
            }
            let mut closed = self.closed.clone();
            let more = tokio::select! {
                more = self.more() => more,
                _ = closed.wait_for(|closed| *closed) => return None,
            };
            if let Err(error) = more {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// Takes in what a member says next. A fault of the member is passed over; an error ends the watch.
    async fn more(&mut self) -> Result<(), Error> {
        let said = match &mut self.open {
            None => return self.begin().await,
            Some((stream, _)) => stream.message().await,
        };
        match said {
            Ok(Some(answer)) if answer.canceled() => {
                if let Ok(oldest @ 1..) = u64::try_from(answer.compact_revision()) {
                    return Err(Error::Compacted {
                        asked: self.seen,
                        oldest: Revision(oldest),
                    });
                }
                self.lost(answer.cancel_reason()).await;
            }
            Ok(Some(answer)) => self.take(&answer),
            Ok(None) => self.lost("the stream ended").await,
            Err(fault) => self.lost(&fault.to_string()).await,
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let (member, turn) = self.members.current();
        let options = WatchOptions::new()
            .with_range(after_prefix(ROOT.as_bytes()))
            .with_start_revision(i64::try_from(self.seen.0 + 1).unwrap_or(i64::MAX))
            .with_prev_key();
        let mut watches = members::watches(&member);
        let begun = tokio::time::timeout(BEGIN, watches.watch(ROOT, Some(options))).await;
        match begun {
            Ok(Ok(stream)) => self.open = Some((stream, turn)),
            Ok(Err(fault)) => self.pass(turn, &fault.to_string()).await,
            Err(_) => self.pass(turn, "no answer in time").await,
        }
        Ok(())
    }

    async fn lost(&mut self, why: &str) {
        if let Some((_, turn)) = self.open.take() {
            self.pass(turn, why).await;
        }
    }

    async fn pass(&self, turn: usize, why: &str) {
        tracing::info!(
            why,
            revision = self.seen.0,
            "a watch goes on at another etcd member"
        );
        self.members.pass(turn);
        tokio::time::sleep(REST).await;
    }

    fn take(&mut self, answer: &WatchResponse) {
        // etcd never splits what happened at one revision over two answers.
        let told = self.seen;
        for event in answer.events() {
            let Some(row) = event.kv() else { continue };
            let at = revision(row.mod_revision());
            if at <= told {
                continue;
            }
            if at > self.seen {
                self.seen = at;
                self.ready.push_back(Batch {
                    revision: at,
                    changes: Vec::new(),
                });
            }
            let mine = row.key().starts_with(&self.prefix);
            if let (true, Some(batch)) = (mine, self.ready.back_mut()) {
                batch.changes.extend(change(event));
            }
        }
    }
}

fn change(event: &Event) -> Option<Change> {
    let row = event.kv()?;
    let key = std::str::from_utf8(row.key()).ok()?.strip_prefix(ROOT)?;
    Some(Change {
        key: key.to_owned(),
        revision: revision(row.mod_revision()),
        entry: match event.event_type() {
            EventType::Put => entry(row),
            EventType::Delete => None,
        },
        previous: event
            .prev_kv()
            .map(|row| Bytes::copy_from_slice(row.value())),
    })
}
