//! What the file holds: four tables, and the reads and writes on them inside one redb transaction. Nothing about
//! threads, batches or watchers.
//!
//! - `meta`: the last revision and the oldest one that can still be asked for.
//! - `current`: key -> (created, modified) of what exists now.
//! - `versions`: (key, revision) -> (created, value), no value for a deletion.
//! - `log`: (revision, index in the transaction) -> key.
//!
//! Compaction to revision C keeps, for every key, the newest version at or before C unless that is a deletion; so a
//! range at C and the previous value of any change after C are always there.

use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::{Change, Entry, Error, Expect, Page, Revision, Write};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const CURRENT: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("current");
const VERSIONS: TableDefinition<'_, VersionKey, Version> = TableDefinition::new("versions");
const LOG: TableDefinition<'_, (u64, u32), &str> = TableDefinition::new("log");

/// Key and revision.
type VersionKey = (&'static str, u64);
/// Revision of the key's creation, and the value unless this version is a deletion.
type Version = (u64, Option<&'static [u8]>);

const REVISION: &str = "revision";
const OLDEST: &str = "oldest";

/// What a read or a write inside a transaction can come to.
#[derive(Debug)]
pub(super) enum Failure {
    /// An answer for the caller.
    Refused(Error),
    /// The file, or redb.
    Medium(redb::Error),
}

macro_rules! medium {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Medium(error.into())
            }
        }
    )*};
}
medium!(
    redb::Error,
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

/// Makes the tables in a new file; returns the last revision.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    transaction.open_table(CURRENT)?;
    transaction.open_table(VERSIONS)?;
    transaction.open_table(LOG)?;
    let mut meta = transaction.open_table(META)?;
    let revision = meta.get(REVISION)?.map(|guard| guard.value());
    if revision.is_none() {
        meta.insert(REVISION, 0)?;
        meta.insert(OLDEST, 0)?;
    }
    Ok(revision.unwrap_or(0))
}

/// The tables of one redb transaction that takes many of the store's: opening them costs as much as a write.
pub(super) struct Open<'t> {
    current: Table<'t, &'static str, (u64, u64)>,
    versions: Table<'t, VersionKey, Version>,
    log: Table<'t, (u64, u32), &'static str>,
}

impl<'t> Open<'t> {
    pub(super) fn of(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            current: transaction.open_table(CURRENT)?,
            versions: transaction.open_table(VERSIONS)?,
            log: transaction.open_table(LOG)?,
        })
    }
}

/// Commits `writes` as `revision` into the tables, all or none, and tells what changed.
pub(super) fn write(
    tables: &mut Open<'_>,
    revision: u64,
    writes: &[Write],
) -> Result<Vec<Change>, Failure> {
    let Open {
        current,
        versions,
        log,
    } = tables;
    let mut before = Vec::with_capacity(writes.len());
    for (index, write) in writes.iter().enumerate() {
        if writes[..index]
            .iter()
            .any(|earlier| earlier.key == write.key)
        {
            return Err(Failure::Refused(Error::Twice {
                key: write.key.clone(),
            }));
        }
        let found = current.get(write.key.as_str())?.map(|guard| guard.value());
        check(write, found.map(|(_, modified)| Revision(modified)))?;
        before.push(found);
    }
    let mut changes = Vec::with_capacity(writes.len());
    for ((index, write), found) in (0u32..).zip(writes).zip(before) {
        let key = write.key.as_str();
        let previous = match found {
            Some((_, modified)) => value_at(versions, key, modified)?,
            None => None,
        };
        let created = found.map_or(revision, |(created, _)| created);
        match &write.value {
            Some(_) => drop(current.insert(key, (created, revision))?),
            None => drop(current.remove(key)?),
        }
        versions.insert((key, revision), (created, write.value.as_deref()))?;
        log.insert((revision, index), key)?;
        let entry = write.value.clone().map(|value| Entry {
            key: write.key.clone(),
            value,
            created: Revision(created),
            modified: Revision(revision),
        });
        changes.push(Change {
            key: write.key.clone(),
            revision: Revision(revision),
            entry,
            previous,
        });
    }
    Ok(changes)
}

/// Writes the number of the last commit.
pub(super) fn set_revision(
    transaction: &WriteTransaction,
    revision: u64,
) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(REVISION, revision)?;
    Ok(())
}

fn check(write: &Write, found: Option<Revision>) -> Result<(), Failure> {
    let holds = match write.expect {
        Expect::Absent => found.is_none(),
        Expect::Present => found.is_some(),
        Expect::Modified(revision) => found == Some(revision),
    };
    if holds {
        return Ok(());
    }
    let key = write.key.clone();
    Err(Failure::Refused(Error::Conflict {
        key,
        expected: write.expect,
        found,
    }))
}

fn value_at(
    versions: &impl ReadableTable<VersionKey, Version>,
    key: &str,
    revision: u64,
) -> Result<Option<Bytes>, redb::Error> {
    let guard = versions.get((key, revision))?;
    Ok(guard.and_then(|guard| guard.value().1.map(Bytes::copy_from_slice)))
}

/// The last revision and the oldest that can be asked for.
pub(super) fn bounds(transaction: &ReadTransaction) -> Result<(u64, u64), Failure> {
    let meta = transaction.open_table(META)?;
    let read = |name: &str| Ok::<_, Failure>(meta.get(name)?.map_or(0, |guard| guard.value()));
    Ok((read(REVISION)?, read(OLDEST)?))
}

fn check_bounds(transaction: &ReadTransaction, asked: u64) -> Result<u64, Failure> {
    let (revision, oldest) = bounds(transaction)?;
    if asked < oldest {
        return Err(Failure::Refused(Error::Compacted {
            asked: Revision(asked),
            oldest: Revision(oldest),
        }));
    }
    if asked > revision {
        return Err(Failure::Refused(Error::Future {
            asked: Revision(asked),
            current: Revision(revision),
        }));
    }
    Ok(revision)
}

/// The entry at `key` now.
pub(super) fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<Entry>, Failure> {
    let Some((created, modified)) = transaction
        .open_table(CURRENT)?
        .get(key)?
        .map(|guard| guard.value())
    else {
        return Ok(None);
    };
    let value = value_at(&transaction.open_table(VERSIONS)?, key, modified)?;
    Ok(value.map(|value| entry(key, value, created, modified)))
}

fn entry(key: &str, value: Bytes, created: u64, modified: u64) -> Entry {
    Entry {
        key: key.to_owned(),
        value,
        created: Revision(created),
        modified: Revision(modified),
    }
}

/// What to read: keys under a prefix, after a key, at most so many (0 for all).
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) prefix: String,
    pub(super) after: Option<String>,
    pub(super) limit: usize,
}

impl Slice {
    fn start(&self) -> &str {
        self.after
            .as_deref()
            .filter(|after| *after > self.prefix.as_str())
            .unwrap_or(&self.prefix)
    }
    fn wants(&self, key: &str) -> bool {
        self.after.as_deref().is_none_or(|after| key > after)
    }
    fn full(&self, entries: &[Entry]) -> bool {
        self.limit != 0 && entries.len() == self.limit
    }
}

/// A page at revision `at`, or now.
pub(super) fn range(
    transaction: &ReadTransaction,
    slice: &Slice,
    at: Option<u64>,
) -> Result<Page, Failure> {
    let revision = match at {
        None => bounds(transaction)?.0,
        Some(at) => check_bounds(transaction, at)?,
    };
    match at {
        Some(at) if at < revision => range_of_history(transaction, slice, at),
        _ => range_of_now(transaction, slice, revision),
    }
}

fn range_of_now(
    transaction: &ReadTransaction,
    slice: &Slice,
    revision: u64,
) -> Result<Page, Failure> {
    let (current, versions) = (
        transaction.open_table(CURRENT)?,
        transaction.open_table(VERSIONS)?,
    );
    let mut page = Page {
        entries: Vec::new(),
        revision: Revision(revision),
        more: false,
    };
    for row in current.range(slice.start()..)? {
        let (key, times) = row?;
        let (key, (created, modified)) = (key.value(), times.value());
        if !key.starts_with(&slice.prefix) {
            break;
        }
        if !slice.wants(key) {
            continue;
        }
        if slice.full(&page.entries) {
            page.more = true;
            break;
        }
        if let Some(value) = value_at(&versions, key, modified)? {
            page.entries.push(entry(key, value, created, modified));
        }
    }
    Ok(page)
}

fn range_of_history(
    transaction: &ReadTransaction,
    slice: &Slice,
    at: u64,
) -> Result<Page, Failure> {
    let versions = transaction.open_table(VERSIONS)?;
    let mut page = Page {
        entries: Vec::new(),
        revision: Revision(at),
        more: false,
    };
    // The newest version of the key being walked, as far as seen.
    let mut newest: Option<Entry> = None;
    for row in versions.range((slice.start(), 0)..)? {
        let (key, version) = row?;
        let ((key, modified), (created, value)) = (key.value(), version.value());
        if !key.starts_with(&slice.prefix) {
            break;
        }
        if !slice.wants(key) || modified > at {
            continue;
        }
        if newest.as_ref().is_some_and(|newest| newest.key != key) {
            page.entries.extend(newest.take());
            if page.entries.len() > slice.limit && slice.limit != 0 {
                break;
            }
        }
        newest = value.map(|value| entry(key, Bytes::copy_from_slice(value), created, modified));
    }
    page.entries.extend(newest);
    if slice.limit != 0 && page.entries.len() > slice.limit {
        page.entries.truncate(slice.limit);
        page.more = true;
    }
    Ok(page)
}

/// Changes of up to `limit` transactions after revision `after`, in order, of all keys under `prefix`; and the
/// revision up to which they are complete.
pub(super) fn changes(
    transaction: &ReadTransaction,
    prefix: &str,
    after: u64,
    limit: u64,
) -> Result<(Vec<Vec<Change>>, u64), Failure> {
    let until = check_bounds(transaction, after)?.min(after.saturating_add(limit));
    let (log, versions) = (
        transaction.open_table(LOG)?,
        transaction.open_table(VERSIONS)?,
    );
    let mut groups: Vec<Vec<Change>> = Vec::new();
    for row in log.range((after + 1, 0)..(until + 1, 0))? {
        let (at, key) = row?;
        let ((revision, _), key) = (at.value(), key.value());
        if !key.starts_with(prefix) {
            continue;
        }
        let change = change_at(&versions, key, revision)?;
        match groups.last_mut() {
            Some(group) if group[0].revision.0 == revision => group.push(change),
            _ => groups.push(vec![change]),
        }
    }
    Ok((groups, until))
}

fn change_at(
    versions: &impl ReadableTable<VersionKey, Version>,
    key: &str,
    revision: u64,
) -> Result<Change, Failure> {
    let found = versions.get((key, revision))?;
    let (created, value) = match &found {
        Some(guard) => guard.value(),
        None => (revision, None),
    };
    let entry = value.map(|value| entry(key, Bytes::copy_from_slice(value), created, revision));
    let previous = match versions.range((key, 0)..(key, revision))?.next_back() {
        Some(row) => row?.1.value().1.map(Bytes::copy_from_slice),
        None => None,
    };
    Ok(Change {
        key: key.to_owned(),
        revision: Revision(revision),
        entry,
        previous,
    })
}

/// Forgets up to `limit` log rows of history before `revision`; true when nothing is left to forget.
pub(super) fn compact(
    transaction: &WriteTransaction,
    revision: u64,
    limit: usize,
) -> Result<bool, Failure> {
    let mut meta = transaction.open_table(META)?;
    let current = meta.get(REVISION)?.map_or(0, |guard| guard.value());
    if revision > current {
        return Err(Failure::Refused(Error::Future {
            asked: Revision(revision),
            current: Revision(current),
        }));
    }
    if revision > meta.get(OLDEST)?.map_or(0, |guard| guard.value()) {
        meta.insert(OLDEST, revision)?;
    }
    let mut log = transaction.open_table(LOG)?;
    let mut versions = transaction.open_table(VERSIONS)?;
    let mut rows = Vec::new();
    for row in log.range(..(revision + 1, 0))?.take(limit) {
        let (at, key) = row?;
        rows.push((at.value(), key.value().to_owned()));
    }
    for ((at, index), key) in &rows {
        versions.retain_in((key.as_str(), 0)..(key.as_str(), *at), |_, _| false)?;
        let deleted = versions
            .get((key.as_str(), *at))?
            .is_some_and(|guard| guard.value().1.is_none());
        if deleted {
            versions.remove((key.as_str(), *at))?;
        }
        log.remove((*at, *index))?;
    }
    Ok(rows.len() < limit)
}
