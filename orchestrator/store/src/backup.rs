//! The content of a store at one revision as a file, and back: how a cluster is kept safe, and how it moves between the
//! embedded store and etcd.
//!
//! A file is `waggle-backup\n`, the version of this format (u32), the revision (u64), then each entry as the length of its
//! key (u32), the key, the length of its value (u32) and the value; then `u32::MAX`, the number of entries (u64) and the
//! SHA-256 of all before it. Numbers are little-endian.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::{Error, Expect, Revision, Store, Write};

const MAGIC: &[u8; 14] = b"waggle-backup\n";
const VERSION: u32 = 1;
/// In place of a key's length, after the last entry.
const END: u32 = u32::MAX;
/// Longest key and largest value that are believed, bytes.
const LONGEST_KEY: u32 = 1 << 16;
const LARGEST_VALUE: u32 = 1 << 30;
/// Entries read from a store at once.
const PAGE: usize = 500;
/// Entries and bytes that are restored in one transaction.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 512 << 10;
/// There while a restore is not finished.
const UNFINISHED: &str = "/unfinished-restore";

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The revision that it shows.
    pub revision: Revision,
    /// How many entries.
    pub entries: u64,
}

/// Why a backup can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
    /// The other end of a backup went away.
    #[error("the backup can't be written: {0}")]
    Output(#[source] std::io::Error),
    /// A file.
    #[error("can't read {path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Another kind of file.
    #[error("{path} is no backup of waggle")]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// Made by another version.
    #[error(
        "{path} is a backup of format {found}; this program reads format {VERSION}: use the version of waggle that made it"
    )]
    Version {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Not as it was written.
    #[error("{path} is damaged: {cause}; nothing was restored from it")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that was seen.
        cause: &'static str,
    },
    /// The target has something in it.
    #[error("the store to restore to is not empty (it has {key}): choose an empty folder or etcd")]
    NotEmpty {
        /// A key in it.
        key: String,
    },
    /// An earlier restore into the store did not come to its end.
    #[error("a restore into this store did not come to its end: empty the store and restore again")]
    Unfinished,
}

/// Writes what `store` holds now to `out`, in the form in which it holds it: what is encrypted stays so.
///
/// # Errors
/// [`BackupError`]; what was written by then has no end and is refused when read.
pub async fn write(
    store: &dyn Store,
    out: &mut (impl AsyncWrite + Unpin + Send),
) -> Result<Summary, BackupError> {
    let store = store.beneath().unwrap_or(store);
    let mut page = store.range("/", None, PAGE, None).await?;
    let revision = page.revision;
    let mut digest = Sha256::new();
    let mut head = MAGIC.to_vec();
    head.extend(VERSION.to_le_bytes());
    head.extend(revision.0.to_le_bytes());
    let mut put = async |bytes: &[u8]| {
        digest.update(bytes);
        out.write_all(bytes).await.map_err(BackupError::Output)
    };
    put(&head).await?;
    let mut entries = 0u64;
    loop {
        for entry in &page.entries {
            let length = |length: usize| u32::try_from(length).unwrap_or(END).to_le_bytes();
            put(&length(entry.key.len())).await?;
            put(entry.key.as_bytes()).await?;
            put(&length(entry.value.len())).await?;
            put(&entry.value).await?;
            entries += 1;
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else {
            break;
        };
        page = store
            .range("/", Some(&last.key), PAGE, Some(revision))
            .await?;
    }
    put(&END.to_le_bytes()).await?;
    put(&entries.to_le_bytes()).await?;
    let digest = digest.finalize();
    out.write_all(&digest).await.map_err(BackupError::Output)?;
    out.flush().await.map_err(BackupError::Output)?;
    Ok(Summary { revision, entries })
}

/// Reads a whole backup and checks it.
///
/// # Errors
/// [`BackupError`] that names the file.
pub fn verify(path: &Path) -> Result<Summary, BackupError> {
    let mut file = BackupFile::open(path)?;
    while file.next()?.is_some() {}
    file.finish()
}

/// Puts what a backup holds into an empty store. The backup is checked whole before anything is written.
///
/// # Errors
/// [`BackupError`]. After one in the middle of writing, the store refuses to be used until it is emptied.
pub async fn restore(path: &Path, store: &dyn Store) -> Result<Summary, BackupError> {
    let summary = verify(path)?;
    if let Some(entry) = store.range("/", None, 1, None).await?.entries.pop() {
        return Err(BackupError::NotEmpty { key: entry.key });
    }
    let mark = |expect, value| Write {
        key: UNFINISHED.to_owned(),
        expect,
        value,
    };
    store
        .commit(vec![mark(Expect::Absent, Some(Bytes::new()))])
        .await?;
    let most = BATCH.min(store.largest_transaction());
    let mut file = BackupFile::open(path)?;
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some((key, value)) = file.next()? {
        if !batch.is_empty() && (batch.len() >= most || bytes + value.len() > BATCH_BYTES) {
            store.commit(std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        bytes += value.len();
        batch.push(Write {
            key,
            expect: Expect::Absent,
            value: Some(value),
        });
    }
    if file.finish()? != summary {
        return Err(file.damaged("it changed while it was restored"));
    }
    batch.push(mark(Expect::Present, None));
    store.commit(batch).await?;
    Ok(summary)
}

/// Refuses a store into which a restore did not come to its end.
///
/// # Errors
/// [`BackupError::Unfinished`].
pub async fn check_finished(store: &dyn Store) -> Result<(), BackupError> {
    match store.get(UNFINISHED).await? {
        Some(_) => Err(BackupError::Unfinished),
        None => Ok(()),
    }
}

struct BackupFile {
    path: PathBuf,
    input: BufReader<std::fs::File>,
    digest: Sha256,
    revision: Revision,
    entries: u64,
}

impl BackupFile {
    fn open(path: &Path) -> Result<Self, BackupError> {
        let file = std::fs::File::open(path).map_err(|cause| BackupError::File {
            path: path.to_owned(),
            cause,
        })?;
        let mut file = Self {
            path: path.to_owned(),
            input: BufReader::with_capacity(1 << 20, file),
            digest: Sha256::new(),
            revision: Revision(0),
            entries: 0,
        };
        let magic: Result<[u8; 14], _> = file.array();
        if !matches!(&magic, Ok(magic) if magic == MAGIC) {
            return match magic {
                Err(error @ BackupError::File { .. }) => Err(error),
                _ => Err(BackupError::Foreign { path: file.path }),
            };
        }
        let found = u32::from_le_bytes(file.array()?);
        if found != VERSION {
            let path = file.path;
            return Err(BackupError::Version { path, found });
        }
        file.revision = Revision(u64::from_le_bytes(file.array()?));
        Ok(file)
    }

    fn next(&mut self) -> Result<Option<(String, Bytes)>, BackupError> {
        let length = u32::from_le_bytes(self.array()?);
        if length == END {
            return Ok(None);
        }
        if length > LONGEST_KEY {
            return Err(self.damaged("a key has an impossible length"));
        }
        let key = self.bytes(length)?;
        let key = String::from_utf8(key).map_err(|_| self.damaged("a key is no text"))?;
        let length = u32::from_le_bytes(self.array()?);
        if length > LARGEST_VALUE {
            return Err(self.damaged("a value has an impossible length"));
        }
        let value = self.bytes(length)?.into();
        self.entries += 1;
        Ok(Some((key, value)))
    }

    /// After the last entry.
    fn finish(&mut self) -> Result<Summary, BackupError> {
        if u64::from_le_bytes(self.array()?) != self.entries {
            return Err(self.damaged("it does not have as many entries as it says"));
        }
        let expected = self.digest.clone().finalize();
        let found: [u8; 32] = self.array()?;
        if found[..] != expected[..] {
            return Err(self.damaged("its checksum is wrong"));
        }
        let mut more = [0];
        if self.input.read(&mut more).is_ok_and(|count| count > 0) {
            return Err(self.damaged("something follows its end"));
        }
        Ok(Summary {
            revision: self.revision,
            entries: self.entries,
        })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut array = [0; N];
        let read = self.input.read_exact(&mut array);
        read.map_err(|cause| self.fault(cause))?;
        self.digest.update(array);
        Ok(array)
    }

    /// Grows with what is there, so that a wrong length asks for no memory.
    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, BackupError> {
        let mut bytes = Vec::new();
        let mut part = self.input.by_ref().take(length.into());
        let read = part.read_to_end(&mut bytes);
        let count = read.map_err(|cause| self.fault(cause))?;
        if count != length as usize {
            return Err(self.damaged("it ends too early"));
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn fault(&self, cause: std::io::Error) -> BackupError {
        if cause.kind() == std::io::ErrorKind::UnexpectedEof {
            return self.damaged("it ends too early");
        }
        let path = self.path.clone();
        BackupError::File { path, cause }
    }

    fn damaged(&self, cause: &'static str) -> BackupError {
        let path = self.path.clone();
        BackupError::Damaged { path, cause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EmbeddedStore;

    struct Room {
        folder: tempfile::TempDir,
    }

    impl Room {
        fn store(&self, name: &str) -> EmbeddedStore {
            EmbeddedStore::open(&self.folder.path().join(name)).unwrap()
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("backup")
        }

        /// A store with 1,234 entries and its backup.
        async fn filled() -> (Self, EmbeddedStore, Summary) {
            let folder = tempfile::tempdir().unwrap();
            let room = Self { folder };
            let store = room.store("a");
            for number in 0..1234 {
                let value = vec![u8::try_from(number % 251).unwrap(); number];
                let write = Write {
                    key: format!("/registry/x/{number:05}"),
                    expect: Expect::Absent,
                    value: Some(value.into()),
                };
                store.commit(vec![write]).await.unwrap();
            }
            let mut out = Vec::new();
            let summary = write(&store, &mut out).await.unwrap();
            std::fs::write(room.path(), out).unwrap();
            (room, store, summary)
        }
    }

    #[tokio::test]
    async fn what_is_restored_is_what_was_there() {
        let (room, store, summary) = Room::filled().await;
        assert_eq!(summary.entries, 1234);
        assert_eq!(verify(&room.path()).unwrap(), summary);
        let other = room.store("b");
        assert_eq!(restore(&room.path(), &other).await.unwrap(), summary);
        check_finished(&other).await.unwrap();
        let (one, two) = (
            store.range("/", None, 0, None).await.unwrap().entries,
            other.range("/", None, 0, None).await.unwrap().entries,
        );
        assert_eq!(one.len(), two.len());
        for (one, two) in one.iter().zip(&two) {
            assert_eq!((&one.key, &one.value), (&two.key, &two.value));
        }
        let error = restore(&room.path(), &other).await.unwrap_err();
        assert!(matches!(error, BackupError::NotEmpty { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_backup_shows_one_revision_whatever_is_written_meanwhile() {
        let (room, store, _) = Room::filled().await;
        let (mut near, mut far) = tokio::io::duplex(1024);
        let store = std::sync::Arc::new(store);
        let writing = {
            let store = std::sync::Arc::clone(&store);
            tokio::spawn(async move { write(store.as_ref(), &mut near).await.unwrap() })
        };
        // The backup waits for its reader in the middle of its first page.
        let last = Write {
            key: "/registry/x/01233".into(),
            expect: Expect::Present,
            value: None,
        };
        let mut first = [0; 14];
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut first)
            .await
            .unwrap();
        store.commit(vec![last]).await.unwrap();
        let mut rest = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut far, &mut rest)
            .await
            .unwrap();
        assert_eq!(writing.await.unwrap().entries, 1234);
        std::fs::write(room.path(), [&first[..], &rest].concat()).unwrap();
        assert_eq!(verify(&room.path()).unwrap().entries, 1234);
    }

    #[tokio::test]
    async fn damage_is_seen_before_anything_is_written() {
        let (room, _, _) = Room::filled().await;
        let whole = std::fs::read(room.path()).unwrap();
        let other = room.store("b");
        let check = async |bytes: &[u8], expect: &str| {
            std::fs::write(room.path(), bytes).unwrap();
            let error = restore(&room.path(), &other).await.unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
            assert_eq!(other.revision().await.unwrap(), Revision(0));
        };
        for place in [26, 100, whole.len() / 2, whole.len() - 33, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            check(&bytes, "is damaged").await;
            check(&whole[..place], "ends too early").await;
        }
        check(&[&whole[..], b"x"].concat(), "follows its end").await;
        check(b"", "is no backup").await;
        check(b"apiVersion: v1\nkind: Pod\n", "is no backup").await;
        let mut bytes = whole.clone();
        bytes[14] = 2;
        check(&bytes, "format 2").await;
    }

    #[tokio::test]
    async fn a_half_restored_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store")).unwrap();
        check_finished(&store).await.unwrap();
        let write = Write {
            key: UNFINISHED.into(),
            expect: Expect::Absent,
            value: Some(Bytes::new()),
        };
        store.commit(vec![write]).await.unwrap();
        let error = check_finished(&store).await.unwrap_err();
        assert!(matches!(error, BackupError::Unfinished), "{error}");
    }
}
