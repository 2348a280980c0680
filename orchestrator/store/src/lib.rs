//! Revisioned key-value store with watch, behind one trait. The embedded store is redb in one file; etcd is the store of
//! several servers. Both pass one conformance suite. No Kubernetes here: keys are text, values are bytes.
//!
//! `lib.rs` holds the contract, `embedded/` the store in one file, `etcd/` the store over etcd with its elections,
//! `backup.rs` the file that moves a store's content, `conformance.rs` what every store must do.
#![forbid(unsafe_code)]

pub mod backup;
#[cfg(test)]
mod conformance;
mod embedded;
mod etcd;

pub use embedded::EmbeddedStore;
pub use etcd::{Bid, EtcdOptions, EtcdStore, EtcdTls, Term};

use async_trait::async_trait;
use bytes::Bytes;

/// Number of a commit; grows with each, over the whole store. 0 is "before the first". Numbers may be left out: an etcd
/// counts what others keep in it as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A key's value and when it changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: String,
    /// Value.
    pub value: Bytes,
    /// Revision of its creation.
    pub created: Revision,
    /// Revision of its last change.
    pub modified: Revision,
}

/// What must hold for a transaction to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Key does not exist.
    Absent,
    /// Key was last changed at this revision.
    Modified(Revision),
    /// Key exists, at whatever revision.
    Present,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Key; at most once in a transaction.
    pub key: String,
    /// Condition; all conditions of a transaction are checked before any write.
    pub expect: Expect,
    /// New value, or `None` to delete.
    pub value: Option<Bytes>,
}

/// Keys of one prefix in order, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Entries.
    pub entries: Vec<Entry>,
    /// The revision the page shows.
    pub revision: Revision,
    /// More keys follow the last.
    pub more: bool,
}

/// One change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Key.
    pub key: String,
    /// Its revision. Several changes share one when they were one transaction.
    pub revision: Revision,
    /// The entry after the change; `None` when it was deleted.
    pub entry: Option<Entry>,
    /// Value before the change, for deletions and selectors.
    pub previous: Option<Bytes>,
}

/// What a watch has to say: the changes of one transaction, or that there were none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The watch has told everything up to here.
    pub revision: Revision,
    /// The changes at this revision. None says that nothing under the prefix changed up to it.
    pub changes: Vec<Change>,
}

/// Why the store refused or failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A transaction's condition did not hold; nothing was written.
    #[error("conflict on {key}: expected {expected:?}, found {found:?}")]
    Conflict {
        /// First key whose condition failed.
        key: String,
        /// The condition.
        expected: Expect,
        /// Its last change, or `None` when absent.
        found: Option<Revision>,
    },
    /// The revision asked for is no longer kept.
    #[error("revision {asked:?} has been compacted; the oldest kept is {oldest:?}")]
    Compacted {
        /// Asked for.
        asked: Revision,
        /// Oldest available.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {asked:?} is in the future; the store is at {current:?}")]
    Future {
        /// Asked for.
        asked: Revision,
        /// Revision of the last commit.
        current: Revision,
    },
    /// A transaction names a key twice; nothing was written.
    #[error("a transaction writes {key} twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// Somebody else has the store open.
    #[error(
        "the store at {path} is in use by another process: stop that one, or choose another folder"
    )]
    InUse {
        /// File.
        path: String,
    },
    /// The disk is full. Nothing was written; earlier commits are whole.
    #[error("no space left for the store at {path}: free some, then try again")]
    Full {
        /// File.
        path: String,
    },
    /// A transaction is larger than the store takes; nothing was written.
    #[error("the store refuses a transaction of {writes} writes as too large: {cause}")]
    TooLarge {
        /// How many writes it had.
        writes: usize,
        /// The store's own words.
        cause: String,
    },
    /// Only the elected leader writes, and this is not it (any longer). Nothing was written.
    #[error("this server does not lead the cluster")]
    NotLeading,
    /// A value is kept in a form that can't be read.
    #[error("the value at {key} can't be read: {cause}")]
    Unreadable {
        /// Key.
        key: String,
        /// Why, and what would mend it.
        cause: String,
    },
    /// Anything else that the medium answered.
    #[error("store {operation} failed on {path}: {cause}")]
    Medium {
        /// What was tried.
        operation: &'static str,
        /// File or address.
        path: String,
        /// The medium's own words.
        cause: String,
    },
}

/// Changes in revision order, without gap or duplicate. Ends with [`Error::Compacted`] when its reader is so slow that
/// what it has not read yet was compacted.
pub type Watch = futures::stream::BoxStream<'static, Result<Batch, Error>>;

/// The store, as the server uses it.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry at `key`, now.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;
    /// Up to `limit` entries (0 for all) whose keys start with `prefix` and come after `after`, at revision `at` or
    /// now.
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error>;
    /// All writes or none. Durable when it returns.
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, Error>;
    /// Every change under `prefix` after revision `after`; each item holds the changes of one transaction, or says how
    /// far the watch is.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error>;
    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    /// Revision of the last commit.
    async fn revision(&self) -> Result<Revision, Error>;
    /// Has every watch say soon that it has come to the revision of now. Asked when a watch stays behind a revision
    /// that need not be one of this store's own commits.
    async fn advance(&self) -> Result<(), Error> {
        Ok(())
    }
    /// How many writes a transaction may have.
    fn largest_transaction(&self) -> usize {
        usize::MAX
    }
    /// The store that this one keeps its values in, when that holds them in another form: encrypted.
    fn beneath(&self) -> Option<&dyn Store> {
        None
    }
    /// Gives the medium back; everything asked afterwards is refused. For a store that others may want to open next.
    async fn close(&self);
}
