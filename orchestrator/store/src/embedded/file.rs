//! The redb file: opening it, reading snapshots of it, and opening it again after the medium failed (redb refuses
//! everything once an I/O error was seen). Also turns redb's errors into the store's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::tables::{self, Failure};
use crate::Error;

/// How much of the file redb may keep in memory. The server's watch cache answers reads, so little is enough.
const CACHE_BYTES: usize = 32 << 20;

/// Free bytes on the file system below which a commit is refused before it touches the file. Room for redb's own
/// pages, so that a full disk is met by an answer and not by an I/O error in the middle of a commit.
const HEADROOM: u64 = 1 << 20;

/// What is said of a file that was given back.
const CLOSED: &str = "the store was closed";

/// The file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    database: RwLock<Slot>,
}

#[derive(Debug)]
enum Slot {
    Open(Database),
    /// The medium failed; the next write tries to open it again.
    Broken,
    /// Given back for good.
    Closed,
}

impl Slot {
    fn database(&self) -> Result<&Database, &'static str> {
        match self {
            Self::Open(database) => Ok(database),
            Self::Broken => Err("the file is closed after a fault, until a write opens it again"),
            Self::Closed => Err(CLOSED),
        }
    }
}

impl File {
    /// Opens or makes it; also returns its last revision.
    pub(super) fn open(path: &Path) -> Result<(Self, u64), Error> {
        let file = Self {
            path: path.to_owned(),
            database: RwLock::new(Slot::Broken),
        };
        let revision = file.reopen()?;
        Ok((file, revision))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Closes it and opens it again, repairing it; returns its last revision.
    pub(super) fn reopen(&self) -> Result<u64, Error> {
        let mut slot = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, Slot::Closed) {
            return Err(self.medium("open", CLOSED));
        }
        *slot = Slot::Broken;
        if !self.path.exists() {
            self.make()?;
        }
        let opened = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(&self.path);
        let database = opened.map_err(|error| self.error("open", error.into()))?;
        let revision = prepare(&database).map_err(|error| self.error("open", error))?;
        *slot = Slot::Open(database);
        Ok(revision)
    }

    /// Makes an empty store under another name, and gives it its own when it is whole: one that was killed half-way would
    /// be no store, and could never be opened.
    fn make(&self) -> Result<(), Error> {
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(".unfinished");
        let unfinished = PathBuf::from(unfinished);
        let io = |error: std::io::Error| self.error("make", error.into());
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let made = Database::create(&unfinished);
        let database = made.map_err(|error| self.error("make", error.into()))?;
        prepare(&database).map_err(|error| self.error("make", error))?;
        drop(database);
        // Not over one that somebody else has made meanwhile.
        match std::fs::hard_link(&unfinished, &self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io(error));
            }
            _ => {}
        }
        std::fs::remove_file(&unfinished).map_err(io)?;
        // So that its name outlives a power cut as well.
        let folder = std::fs::File::open(self.folder()).map_err(io)?;
        folder.sync_all().map_err(io)
    }

    fn folder(&self) -> &Path {
        let folder = self.path.parent();
        folder
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Gives the file back, once nobody reads or writes.
    pub(super) fn close(&self) {
        *self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Slot::Closed;
    }

    /// Runs `read` on a snapshot, off the caller's thread.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let file = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let slot = file.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = slot.database().map_err(|why| file.medium(operation, why))?;
            let snapshot = database
                .begin_read()
                .map_err(|error| file.error(operation, error.into()))?;
            read(&snapshot).map_err(|failure| file.failure(operation, failure))
        });
        task.await
            .unwrap_or_else(|error| Err(self.medium(operation, &error.to_string())))
    }

    /// Runs `write` in a durable transaction.
    pub(super) fn write<T>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = slot
            .database()
            .map_err(|why| Failure::Refused(self.medium("commit", why)))?;
        let transaction = database.begin_write()?;
        let value = write(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Whether the file system has room for `bytes` more.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), Error> {
        match nix::sys::statvfs::statvfs(self.folder()) {
            Ok(stat) if stat.blocks_available() * stat.fragment_size() < bytes + HEADROOM => {
                Err(self.full())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn failure(&self, operation: &'static str, failure: Failure) -> Error {
        match failure {
            Failure::Refused(error) => error,
            Failure::Medium(error) => self.error(operation, error),
        }
    }

    pub(super) fn error(&self, operation: &'static str, error: redb::Error) -> Error {
        match error {
            redb::Error::DatabaseAlreadyOpen => Error::InUse {
                path: self.path.display().to_string(),
            },
            redb::Error::Io(io) if is_full(&io) => self.full(),
            other => self.medium(operation, &other.to_string()),
        }
    }

    pub(super) fn medium(&self, operation: &'static str, cause: &str) -> Error {
        Error::Medium {
            operation,
            path: self.path.display().to_string(),
            cause: cause.to_owned(),
        }
    }

    fn full(&self) -> Error {
        Error::Full {
            path: self.path.display().to_string(),
        }
    }
}

fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let revision = tables::prepare(&transaction)?;
    transaction.commit()?;
    Ok(revision)
}

/// No space, over quota, or over the process's limit for file sizes.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
