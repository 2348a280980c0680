//! A store whose values are encrypted below everybody who uses it, watchers included. A backup is made of what is
//! beneath, so that it holds what the store holds.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use waggle_store::{Batch, Entry, Error, Expect, Page, Revision, Store, Watch, Write};

use super::Encryption;

/// Entries looked at together when values are written anew.
const PAGE: usize = 500;

/// A store with encryption.
pub(crate) struct Sealed {
    beneath: Arc<dyn Store>,
    encryption: Arc<Encryption>,
}

impl Sealed {
    pub(crate) fn new(beneath: Arc<dyn Store>, encryption: Arc<Encryption>) -> Self {
        Self {
            beneath,
            encryption,
        }
    }
}

fn unreadable(key: &str, cause: String) -> Error {
    Error::Unreadable {
        key: key.to_owned(),
        cause,
    }
}

impl Encryption {
    fn open_at(&self, key: &str, value: &mut Bytes) -> Result<(), Error> {
        let stored = std::mem::take(value);
        *value = self
            .open(key, stored)
            .map_err(|cause| unreadable(key, cause))?;
        Ok(())
    }

    fn open_all(&self, entries: &mut [Entry]) -> Result<(), Error> {
        entries
            .iter_mut()
            .try_for_each(|entry| self.open_at(&entry.key, &mut entry.value))
    }

    fn open_batch(&self, mut batch: Batch) -> Result<Batch, Error> {
        for change in &mut batch.changes {
            let after = change.entry.as_mut().map(|entry| &mut entry.value);
            for value in after.into_iter().chain(&mut change.previous) {
                self.open_at(&change.key, value)?;
            }
        }
        Ok(batch)
    }
}

#[async_trait]
impl Store for Sealed {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mut entry = self.beneath.get(key).await?;
        self.encryption.open_all(entry.as_mut_slice())?;
        Ok(entry)
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, Error> {
        let mut page = self.beneath.range(prefix, after, limit, at).await?;
        self.encryption.open_all(&mut page.entries)?;
        Ok(page)
    }

    async fn commit(&self, mut writes: Vec<Write>) -> Result<Revision, Error> {
        for write in &mut writes {
            if let Some(value) = write.value.take() {
                let sealed = self.encryption.seal(&write.key, value);
                write.value = Some(sealed.map_err(|cause| unreadable(&write.key, cause))?);
            }
        }
        self.beneath.commit(writes).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, Error> {
        let encryption = Arc::clone(&self.encryption);
        let watch = self.beneath.watch(prefix, after).await?;
        Ok(watch
            .map(move |batch| encryption.open_batch(batch?))
            .boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.beneath.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, Error> {
        self.beneath.revision().await
    }

    async fn advance(&self) -> Result<(), Error> {
        self.beneath.advance().await
    }

    fn largest_transaction(&self) -> usize {
        self.beneath.largest_transaction()
    }

    fn beneath(&self) -> Option<&dyn Store> {
        Some(self.beneath.as_ref())
    }

    async fn close(&self) {
        self.beneath.close().await;
    }
}

/// Writes anew what would be stored otherwise today: by another key, or by none. What somebody else writes meanwhile is
/// written as it should be. Says how many values it was.
///
/// # Errors
/// What the store says; [`Error::Unreadable`] for a value whose key is missing.
pub(crate) async fn rewrite(store: &dyn Store, encryption: &Encryption) -> Result<u64, Error> {
    // Whatever is sealed can't have been read without rules.
    let Some(beneath) = store.beneath().filter(|_| !encryption.rules.is_empty()) else {
        return Ok(0);
    };
    let (mut after, mut count) = (None, 0);
    loop {
        let page = beneath.range("/", after.as_deref(), PAGE, None).await?;
        let stale = page
            .entries
            .iter()
            .filter(|entry| encryption.is_stale(&entry.key, &entry.value));
        for entry in stale {
            let mut value = entry.value.clone();
            encryption.open_at(&entry.key, &mut value)?;
            let write = Write {
                key: entry.key.clone(),
                expect: Expect::Modified(entry.modified),
                value: Some(value),
            };
            match store.commit(vec![write]).await {
                Ok(_) => count += 1,
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match page.entries.last().filter(|_| page.more) {
            Some(last) => after = Some(last.key.clone()),
            None => return Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_store::EmbeddedStore;

    const PIN: &[u8] = b"this is the pin of the card";

    fn keys(names: &[&str]) -> Arc<Encryption> {
        let keys: Vec<String> = names
            .iter()
            .map(|name| {
                let secret = [name.as_bytes()[0]; 32];
                let secret =
                    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
                format!("{{name: {name}, secret: '{secret}'}}")
            })
            .collect();
        let text = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{{resources: [secrets], \
             providers: [{{aesgcm: {{keys: [{}]}}}}, {{identity: {{}}}}]}}]}}",
            keys.join(", ")
        );
        Arc::new(Encryption::parse(&text, "keys.yaml").unwrap())
    }

    fn sealed(beneath: &Arc<EmbeddedStore>, encryption: &Arc<Encryption>) -> Sealed {
        Sealed::new(Arc::clone(beneath) as _, Arc::clone(encryption))
    }

    fn key(number: usize) -> String {
        format!("/registry/core/secrets/shop/card{number}")
    }

    async fn put(store: &dyn Store, number: usize) {
        let write = Write {
            key: key(number),
            expect: Expect::Absent,
            value: Some(Bytes::from_static(PIN)),
        };
        store.commit(vec![write]).await.unwrap();
    }

    #[tokio::test]
    async fn neither_the_file_nor_a_backup_has_plain_text_and_readers_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let beneath = Arc::new(EmbeddedStore::open(&path).unwrap());
        let store = sealed(&beneath, &keys(&["one"]));
        let mut watch = store.watch("/registry/", Revision(0)).await.unwrap();
        put(&store, 0).await;
        let told = loop {
            let batch = watch.next().await.unwrap().unwrap();
            if let Some(change) = batch.changes.into_iter().next() {
                break change;
            }
        };
        assert_eq!(&told.entry.unwrap().value[..], PIN);
        assert_eq!(&store.get(&key(0)).await.unwrap().unwrap().value[..], PIN);
        let page = store.range("/", None, 0, None).await.unwrap();
        assert_eq!(&page.entries[0].value[..], PIN);
        let mut backup = Vec::new();
        waggle_store::backup::write(&store, &mut backup)
            .await
            .unwrap();
        store.close().await;
        let has = |bytes: &[u8]| bytes.windows(PIN.len()).any(|part| part == PIN);
        assert!(!has(&std::fs::read(&path).unwrap()) && !has(&backup));
    }

    #[tokio::test]
    async fn a_wrong_key_is_one_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let beneath = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
        put(&sealed(&beneath, &keys(&["one"])), 0).await;
        let other = sealed(&beneath, &keys(&["two"]));
        let error = other.range("/", None, 0, None).await.unwrap_err();
        assert!(matches!(error, Error::Unreadable { .. }));
        assert_eq!(
            error.to_string(),
            "the value at /registry/core/secrets/shop/card0 can't be read: it is encrypted by key \"one\" (aesgcm), and \
             keys.yaml has no such key: add it"
        );
    }

    #[tokio::test]
    async fn a_rotation_loses_nothing_and_leaves_the_old_key_unused() {
        let folder = tempfile::tempdir().unwrap();
        let beneath = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
        let plain = sealed(&beneath, &Arc::default());
        let count = PAGE + 7;
        for number in 0..count {
            put(&plain, number).await;
        }
        let rounds: [(&[&str], &[&str]); 4] = [
            (&["one"], &["one"]),
            (&["one", "two"], &["one"]),
            (&["two", "one"], &["two"]),
            (&["two"], &["two"]),
        ];
        let expect = [count as u64, 0, count as u64, 0];
        for ((given, needed), expect) in rounds.into_iter().zip(expect) {
            let encryption = keys(given);
            let store = sealed(&beneath, &encryption);
            assert_eq!(
                rewrite(&store, &encryption).await.unwrap(),
                expect,
                "{given:?}"
            );
            let store = sealed(&beneath, &keys(needed));
            let page = store.range("/", None, 0, None).await.unwrap();
            assert_eq!(page.entries.len(), count);
            assert!(page.entries.iter().all(|entry| &entry.value[..] == PIN));
        }
    }
}
