//! The embedded store: one redb file. One thread writes: it takes every transaction that waits, commits them as one
//! durable redb transaction, publishes what changed and only then answers. Reads run on snapshots and never wait.

mod file;
mod live;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::{Entry, Error, Page, Revision, Store, Watch, Write};
use file::File;
use live::Live;
use tables::Slice;
use writer::{Request, Writer};

/// A store in one file. Dropping it ends its writer thread and frees the file.
pub struct EmbeddedStore {
    file: Arc<File>,
    live: Arc<Live>,
    writer: Writer,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store at `path`, making it when it is not there, repairing it after a crash.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::Full`] and [`Error::Medium`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (file, revision) = File::open(path)?;
        let (file, live) = (Arc::new(file), Arc::new(Live::new(revision)));
        let writer = Writer::start(Arc::clone(&file), Arc::clone(&live), revision)?;
        Ok(Self { file, live, writer })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(request(reply));
        answer
            .await
            .unwrap_or_else(|_| Err(self.file.medium("commit", "the writer thread has ended")))
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let key = key.to_owned();
        self.file
            .read("get", move |transaction| tables::get(transaction, &key))
            .await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let slice = Slice {
            prefix: prefix.to_owned(),
            after: after.map(str::to_owned),
            limit,
        };
        let at = at.map(|at| at.0);
        self.file
            .read("range", move |transaction| {
                tables::range(transaction, &slice, at)
            })
            .await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, Error> {
        if writes.is_empty() {
            return self.revision().await;
        }
        self.ask(|reply| Request::Commit { writes, reply })
            .await
            .map(Revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        live::watch(
            Arc::clone(&self.file),
            Arc::clone(&self.live),
            prefix.to_owned(),
            after.0,
        )
        .await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Request::Compact {
            revision: revision.0,
            reply,
        })
        .await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        Ok(Revision(self.live.revision()))
    }

    async fn close(&self) {
        let file = Arc::clone(&self.file);
        // A commit that runs is let finish.
        let _ = tokio::task::spawn_blocking(move || file.close()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &tempfile::TempDir) -> EmbeddedStore {
        EmbeddedStore::open(&folder.path().join("store.redb")).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_does_what_every_store_must() {
        crate::conformance::run(async || {
            let folder = tempfile::tempdir().unwrap();
            let store: Arc<dyn Store> = Arc::new(open(&folder));
            (store, folder)
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_opening_again() {
        let folder = tempfile::tempdir().unwrap();
        let write = |key: &str| Write {
            key: key.to_owned(),
            expect: crate::Expect::Absent,
            value: Some(bytes::Bytes::from_static(b"v")),
        };
        let store = open(&folder);
        assert_eq!(store.commit(vec![write("/a")]).await.unwrap(), Revision(1));
        drop(store);
        let store = open(&folder);
        assert_eq!(store.revision().await.unwrap(), Revision(1));
        assert_eq!(store.get("/a").await.unwrap().unwrap().created, Revision(1));
        assert_eq!(store.commit(vec![write("/b")]).await.unwrap(), Revision(2));
    }

    #[tokio::test]
    async fn a_closed_store_refuses_and_frees_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        let watch = store.watch("/", Revision(0)).await.unwrap();
        store.close().await;
        let write = Write {
            key: "/a".into(),
            expect: crate::Expect::Absent,
            value: None,
        };
        assert!(matches!(
            store.commit(vec![write]).await,
            Err(Error::Medium { .. })
        ));
        assert!(store.get("/a").await.is_err());
        open(&folder);
        drop(watch);
    }

    #[tokio::test]
    async fn a_second_opener_is_told_which_file_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let _first = open(&folder);
        let path = folder.path().join("store.redb");
        let error = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}
