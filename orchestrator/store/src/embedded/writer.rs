//! The one thread that writes: batches what waits into one durable redb transaction, publishes, answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::file::File;
use super::live::Live;
use super::tables::{self, Failure};
use crate::{Change, Error, Write};

/// Transactions in one redb commit, at most.
const BATCH: usize = 1024;
/// Bytes of values in one redb commit, about at most.
const BATCH_BYTES: u64 = 8 << 20;
/// Log rows that one redb commit forgets, at most, so that writes don't wait long for a compaction.
const COMPACTION_ROWS: usize = 4096;

/// Where the answer goes.
type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the thread is asked.
#[derive(Debug)]
pub(super) enum Request {
    Commit {
        writes: Vec<Write>,
        reply: Reply<u64>,
    },
    Compact {
        revision: u64,
        reply: Reply<()>,
    },
}

/// The thread's handle; ends it when dropped.
#[derive(Debug)]
pub(super) struct Writer {
    requests: Option<Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(file: Arc<File>, live: Arc<Live>, revision: u64) -> Result<Self, Error> {
        let (requests, inbox) = channel();
        let path = file.path().display().to_string();
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                Thread {
                    file,
                    live,
                    revision,
                    broken: false,
                }
                .run(&inbox)
            })
            .map_err(|error| Error::Medium {
                operation: "open",
                path,
                cause: error.to_string(),
            })?;
        Ok(Self {
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    /// Queues a request. When the thread has ended the request's reply is dropped, which its asker notices.
    pub(super) fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Thread {
    file: Arc<File>,
    live: Arc<Live>,
    /// Last durable revision.
    revision: u64,
    /// The medium failed; the file must be opened again before the next write.
    broken: bool,
}

struct Waiting {
    writes: Vec<Write>,
    reply: Reply<u64>,
}

impl Waiting {
    fn bytes(&self) -> u64 {
        let size =
            |write: &Write| write.key.len() + write.value.as_ref().map_or(0, bytes::Bytes::len);
        self.writes.iter().map(|write| size(write) as u64).sum()
    }
}

impl Thread {
    fn run(mut self, inbox: &Receiver<Request>) {
        let mut next = None;
        loop {
            let Some(request) = next.take().or_else(|| inbox.recv().ok()) else {
                return;
            };
            match request {
                Request::Compact { revision, reply } => {
                    let _ = reply.send(self.compact(revision));
                }
                Request::Commit { writes, reply } => {
                    let (batch, left) = gather(Waiting { writes, reply }, inbox);
                    next = left;
                    self.commit(batch);
                }
            }
        }
    }

    fn commit(&mut self, batch: Vec<Waiting>) {
        match self.try_commit(&batch) {
            Ok(outcomes) => self.publish(batch, outcomes),
            Err(error) => {
                tracing::warn!(%error, transactions = batch.len(), "commit failed");
                batch
                    .into_iter()
                    .for_each(|waiting| drop(waiting.reply.send(Err(error.clone()))));
            }
        }
    }

    fn try_commit(&mut self, batch: &[Waiting]) -> Result<Vec<Result<Vec<Change>, Error>>, Error> {
        self.file
            .check_room(batch.iter().map(Waiting::bytes).sum())?;
        self.mend()?;
        let first = self.revision;
        let result = self.file.write(|transaction| {
            let mut revision = first;
            let mut outcomes = Vec::with_capacity(batch.len());
            let mut open = tables::Open::of(transaction)?;
            for waiting in batch {
                match tables::write(&mut open, revision + 1, &waiting.writes) {
                    Ok(changes) => {
                        revision += 1;
                        outcomes.push(Ok(changes));
                    }
                    Err(Failure::Refused(error)) => outcomes.push(Err(error)),
                    Err(medium) => return Err(medium),
                }
            }
            drop(open);
            tables::set_revision(transaction, revision)?;
            Ok(outcomes)
        });
        result.map_err(|failure| self.broke("commit", failure))
    }

    /// Opens the file again after a fault of the medium.
    fn mend(&mut self) -> Result<(), Error> {
        if !self.broken {
            return Ok(());
        }
        let revision = self.file.reopen()?;
        if revision != self.revision {
            // The commit whose answer was an error turned out to be durable. Its changes are in the log: watchers get
            // them from there.
            tracing::warn!(
                expected = self.revision,
                found = revision,
                "a failed commit was durable after all"
            );
            self.revision = revision;
            self.live.skip_to(revision);
        }
        self.broken = false;
        Ok(())
    }

    fn broke(&mut self, operation: &'static str, failure: Failure) -> Error {
        self.broken = true;
        let error = self.file.failure(operation, failure);
        // At once, so that reads go on; when that fails too, the next write tries again.
        if let Err(again) = self.mend() {
            tracing::error!(error = %again, "the store could not be opened again");
        }
        error
    }

    fn publish(&mut self, batch: Vec<Waiting>, outcomes: Vec<Result<Vec<Change>, Error>>) {
        let mut answers = Vec::with_capacity(batch.len());
        let mut groups = Vec::new();
        for (waiting, outcome) in batch.into_iter().zip(outcomes) {
            let answer = outcome.map(|changes| {
                self.revision += 1;
                groups.push(Arc::new(changes));
                self.revision
            });
            answers.push((waiting.reply, answer));
        }
        self.live.publish(groups, self.revision);
        answers
            .into_iter()
            .for_each(|(reply, answer)| drop(reply.send(answer)));
    }

    fn compact(&mut self, revision: u64) -> Result<(), Error> {
        self.mend()?;
        loop {
            let step = self
                .file
                .write(|transaction| tables::compact(transaction, revision, COMPACTION_ROWS));
            match step {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Failure::Refused(error)) => return Err(error),
                Err(medium) => return Err(self.broke("compact", medium)),
            }
        }
    }
}

/// What waits right now and fits one commit; and a request that did not belong to it.
fn gather(first: Waiting, inbox: &Receiver<Request>) -> (Vec<Waiting>, Option<Request>) {
    let mut bytes = first.bytes();
    let mut batch = vec![first];
    while batch.len() < BATCH && bytes < BATCH_BYTES {
        match inbox.try_recv() {
            Ok(Request::Commit { writes, reply }) => {
                let waiting = Waiting { writes, reply };
                bytes += waiting.bytes();
                batch.push(waiting);
            }
            Ok(other) => return (batch, Some(other)),
            Err(_) => break,
        }
    }
    (batch, None)
}
