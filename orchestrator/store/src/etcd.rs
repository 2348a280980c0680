//! The store over etcd, for several servers: the same contract as the embedded one, over any member that answers. A
//! commit is one etcd transaction; on an elected leader it also demands that the election still holds, so that nothing
//! of a leader that was deposed without knowing goes in. Revisions are etcd's.

mod election;
mod members;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, Error as Fault, GetOptions, GetResponse, KeyValue, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};

use crate::{Entry, Error, Expect, Page, Revision, Store, Watch, Write};
use members::{Members, OutOfRange};

pub use election::{Bid, Term};

/// Every key of ours starts with this, so that an etcd may be shared.
const ROOT: &str = "/waggle";
/// Written to have watches see a newer revision.
const SYNC: &str = "/waggle-sync";
/// Keys of a range that are fetched at once.
const CHUNK: usize = 250;
/// Operations that etcd takes in a transaction by default, less the election's.
const LARGEST_TRANSACTION: usize = 127;

/// Where an etcd is.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// `https://10.0.0.1:2379`, one for each member.
    pub endpoints: Vec<String>,
    /// For `https` members.
    pub tls: Option<EtcdTls>,
}

/// How members are known, and what they know us by.
#[derive(Clone)]
pub struct EtcdTls {
    /// Authority of the members' certificates, PEM.
    pub ca_pem: String,
    /// Our certificate and its key, PEM.
    pub identity_pem: Option<(String, String)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

/// Whether this process may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// There is no election.
    Alone,
    /// Somebody else leads.
    Follower,
    /// The election's key was made at this revision, by us.
    Leader(i64),
}

/// A store over etcd. Cloning shares it.
#[derive(Clone)]
pub struct EtcdStore {
    options: Arc<EtcdOptions>,
    members: Arc<Members>,
    role: Arc<RwLock<Role>>,
    closed: Arc<tokio::sync::watch::Sender<bool>>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.members.urls)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Connects to the members that answer.
    ///
    /// # Errors
    /// [`Error::Medium`] when an option can't be used, or no member answers.
    pub async fn open(options: &EtcdOptions) -> Result<Self, Error> {
        let store = Self {
            options: Arc::new(options.clone()),
            members: Arc::new(Members::open(options).await?),
            role: Arc::new(RwLock::new(Role::Alone)),
            closed: Arc::new(tokio::sync::watch::Sender::new(false)),
        };
        store.revision().await?;
        Ok(store)
    }

    fn role(&self) -> Role {
        *self.role.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_role(&self, role: Role) {
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = role;
    }

    fn check_open(&self, operation: &'static str) -> Result<(), Error> {
        if *self.closed.borrow() {
            return Err(members::broken(
                operation,
                &self.members.urls,
                "the store was closed",
            ));
        }
        Ok(())
    }

    async fn fetch(
        &self,
        operation: &'static str,
        key: &[u8],
        options: GetOptions,
        at: u64,
    ) -> Result<GetResponse, Error> {
        self.check_open(operation)?;
        let ask = |member: Client| {
            let (key, options) = (key.to_vec(), options.clone());
            async move { members::kv(&member).get(key, Some(options)).await }
        };
        match self.members.read(operation, ask).await? {
            Ok(answer) => Ok(answer),
            Err(fault) => Err(self.out_of_range(operation, &fault, at).await),
        }
    }

    /// The error for a read at revision `at`.
    async fn out_of_range(&self, operation: &'static str, fault: &Fault, at: u64) -> Error {
        match members::out_of_range(fault) {
            // etcd does not say which revision is the oldest; the next is the oldest that can be hoped for.
            Some(OutOfRange::Compacted) => Error::Compacted {
                asked: Revision(at),
                oldest: Revision(at + 1),
            },
            Some(OutOfRange::Future) => Error::Future {
                asked: Revision(at),
                current: self.revision().await.unwrap_or_default(),
            },
            None => self.members.error(operation, fault),
        }
    }

    /// Whether `at` is still kept and not yet to come.
    async fn check_kept(&self, operation: &'static str, at: Revision) -> Result<(), Error> {
        let revision = i64::try_from(at.0.max(1)).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_revision(revision).with_count_only();
        self.fetch(operation, SYNC.as_bytes(), options, at.0)
            .await
            .map(drop)
    }

    fn transaction(writes: &[Write], role: Role) -> Txn {
        let mut compares: Vec<Compare> = writes.iter().map(compare).collect();
        let mut found: Vec<TxnOp> = Vec::with_capacity(writes.len() + 1);
        if let Role::Leader(created) = role {
            compares.push(Compare::create_revision(
                election::KEY,
                CompareOp::Equal,
                created,
            ));
        }
        let look = || Some(GetOptions::new());
        found.extend(
            writes
                .iter()
                .map(|write| TxnOp::get(full(&write.key), look())),
        );
        if let Role::Leader(_) = role {
            found.push(TxnOp::get(election::KEY, look()));
        }
        let operations: Vec<TxnOp> = writes
            .iter()
            .map(|write| match &write.value {
                Some(value) => TxnOp::put(full(&write.key), value.to_vec(), None),
                None => TxnOp::delete(full(&write.key), None),
            })
            .collect();
        Txn::new()
            .when(compares)
            .and_then(operations)
            .or_else(found)
    }

    /// Why a transaction did not go in; or that it did, in an attempt whose answer was lost.
    fn refused(
        &self,
        writes: &[Write],
        answer: &TxnResponse,
        role: Role,
        unsure: bool,
    ) -> Result<Revision, Error> {
        let rows: Vec<Option<KeyValue>> = answer
            .op_responses()
            .iter()
            .map(|one| match one {
                TxnOpResponse::Get(answer) => answer.kvs().first().cloned(),
                _ => None,
            })
            .collect();
        if unsure && let Some(revision) = done(writes, &rows, head(answer.header())) {
            return Ok(revision);
        }
        if let Role::Leader(created) = role
            && rows
                .get(writes.len())
                .and_then(Option::as_ref)
                .map(KeyValue::create_revision)
                != Some(created)
        {
            return Err(Error::NotLeading);
        }
        for (write, row) in writes.iter().zip(&rows) {
            let found = row.as_ref().map(|row| revision(row.mod_revision()));
            let holds = match write.expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Modified(revision) => found == Some(revision),
            };
            if !holds {
                return Err(Error::Conflict {
                    key: write.key.clone(),
                    expected: write.expect,
                    found,
                });
            }
        }
        Err(members::broken(
            "commit",
            &self.members.urls,
            "it refused a transaction whose conditions hold",
        ))
    }
}

/// When the keys are as the writes wanted them, all of one transaction, then an earlier attempt did it.
fn done(writes: &[Write], rows: &[Option<KeyValue>], now: Revision) -> Option<Revision> {
    let mut at = None;
    for (write, row) in writes.iter().zip(rows) {
        match (&write.value, row) {
            (None, None) => {}
            (Some(value), Some(row)) if row.value() == &value[..] => {
                let same = *at.get_or_insert(row.mod_revision()) == row.mod_revision();
                if !same {
                    return None;
                }
            }
            _ => return None,
        }
    }
    Some(at.map_or(now, revision))
}

fn compare(write: &Write) -> Compare {
    let key = full(&write.key);
    match write.expect {
        Expect::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
        Expect::Present => Compare::create_revision(key, CompareOp::Greater, 0),
        Expect::Modified(revision) => {
            let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
            Compare::mod_revision(key, CompareOp::Equal, revision)
        }
    }
}

/// Our key in etcd.
fn full(key: &str) -> Vec<u8> {
    [ROOT, key].concat().into_bytes()
}

fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// The key that comes after every key with this prefix.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's word for "to the end".
    vec![0]
}

fn entry(row: &KeyValue) -> Option<Entry> {
    let key = std::str::from_utf8(row.key()).ok()?.strip_prefix(ROOT)?;
    Some(Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(row.value()),
        created: revision(row.create_revision()),
        modified: revision(row.mod_revision()),
    })
}

fn head(answer: Option<&etcd_client::ResponseHeader>) -> Revision {
    answer.map_or(Revision(0), |header| revision(header.revision()))
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let answer = self.fetch("get", &full(key), GetOptions::new(), 0).await?;
        Ok(answer.kvs().first().and_then(entry))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let end = after_prefix(&full(prefix));
        let mut start = match after {
            Some(after) if after >= prefix => [full(after), vec![0]].concat(),
            _ => full(prefix),
        };
        if let Some(at) = at {
            self.check_kept("range", at).await?;
        }
        let mut page = Page {
            entries: Vec::new(),
            revision: at.unwrap_or_default(),
            more: false,
        };
        loop {
            let left = if limit == 0 {
                CHUNK
            } else {
                (limit - page.entries.len()).min(CHUNK)
            };
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(left).unwrap_or(i64::MAX));
            if page.revision.0 > 0 {
                options = options.with_revision(i64::try_from(page.revision.0).unwrap_or(i64::MAX));
            }
            let answer = self
                .fetch("range", &start, options, page.revision.0)
                .await?;
            if page.revision.0 == 0 {
                page.revision = head(answer.header());
            }
            if let Some(last) = answer.kvs().last() {
                start = [last.key(), &[0]].concat();
            }
            page.entries.extend(answer.kvs().iter().filter_map(entry));
            page.more = answer.more();
            if !page.more || (limit > 0 && page.entries.len() >= limit) {
                return Ok(page);
            }
        }
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, Error> {
        if writes.is_empty() {
            return self.revision().await;
        }
        self.check_open("commit")?;
        let mut keys = std::collections::HashSet::with_capacity(writes.len());
        if let Some(twice) = writes.iter().find(|write| !keys.insert(write.key.as_str())) {
            let key = twice.key.clone();
            return Err(Error::Twice { key });
        }
        let role = self.role();
        if role == Role::Follower {
            return Err(Error::NotLeading);
        }
        let transaction = Self::transaction(&writes, role);
        let ask = |member: Client| {
            let transaction = transaction.clone();
            async move { members::kv(&member).txn(transaction).await }
        };
        let mut unsure = false;
        let answer = self.members.ask("commit", ask, || unsure = true).await?;
        let answer = answer.map_err(|fault| match members::too_large(&fault) {
            Some(cause) => Error::TooLarge {
                writes: writes.len(),
                cause,
            },
            None => self.members.error("commit", &fault),
        })?;
        if answer.succeeded() {
            return Ok(head(answer.header()));
        }
        self.refused(&writes, &answer, role, unsure)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        self.check_kept("watch", after).await?;
        Ok(watch::follow(
            Arc::clone(&self.members),
            self.closed.subscribe(),
            full(prefix),
            after,
        ))
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.check_open("compact")?;
        if self.role() == Role::Follower {
            return Err(Error::NotLeading);
        }
        if revision.0 == 0 {
            return Ok(());
        }
        let at = i64::try_from(revision.0).unwrap_or(i64::MAX);
        let ask = |member: Client| async move { members::kv(&member).compact(at, None).await };
        match self.members.read("compact", ask).await? {
            Ok(_) => Ok(()),
            Err(fault) if members::out_of_range(&fault) == Some(OutOfRange::Compacted) => Ok(()),
            Err(fault) => Err(self.out_of_range("compact", &fault, revision.0).await),
        }
    }

    async fn revision(&self) -> Result<Revision, Error> {
        let options = GetOptions::new().with_count_only();
        let answer = self.fetch("get", SYNC.as_bytes(), options, 0).await?;
        Ok(head(answer.header()))
    }

    async fn advance(&self) -> Result<(), Error> {
        self.check_open("advance")?;
        let ask = |member: Client| async move { members::kv(&member).put(SYNC, "", None).await };
        let answer = self.members.read("advance", ask).await?;
        answer
            .map(drop)
            .map_err(|fault| self.members.error("advance", &fault))
    }

    fn largest_transaction(&self) -> usize {
        LARGEST_TRANSACTION
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}
