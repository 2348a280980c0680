//! The cluster's keys, kept in its store beside the objects: every server of a cluster has the same, and a backup carries
//! them, so that nodes and clients go on knowing the cluster wherever it is restored.

use std::path::Path;

use bytes::Bytes;
use jiff::Timestamp;
use waggle_store::{Entry, Error, Expect, Store, Write};

use crate::pki::{self, Pki, SHARED};
use crate::run::ServerError;

/// Where they are in the store.
const ROOT: &str = "/keys/";

/// Opens the keys in `folder`, which are the store's; makes them when neither has any.
///
/// # Errors
/// [`ServerError::OtherCluster`] when the folder holds another cluster's.
pub(crate) async fn open(
    store: &dyn Store,
    folder: &Path,
    names: &[String],
    now: Timestamp,
) -> Result<Pki, ServerError> {
    loop {
        let page = store.range(ROOT, None, 0, None).await?;
        if !page.entries.is_empty() {
            page.entries
                .iter()
                .try_for_each(|entry| take(folder, entry))?;
            return Ok(Pki::open(folder, names, now)?);
        }
        let fresh = !folder.join(SHARED[0]).exists();
        let pki = Pki::open(folder, names, now)?;
        let mut writes = Vec::with_capacity(SHARED.len());
        for name in SHARED {
            let text = pki::read(&folder.join(name))?.unwrap_or_default();
            writes.push(Write {
                key: format!("{ROOT}{name}"),
                expect: Expect::Absent,
                value: Some(Bytes::from(text)),
            });
        }
        match store.commit(writes).await {
            Ok(_) => return Ok(pki),
            // Another server was first; what was made just now is no cluster's.
            Err(Error::Conflict { .. }) if fresh => {
                for name in SHARED {
                    pki::remove(&folder.join(name))?;
                }
            }
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn take(folder: &Path, entry: &Entry) -> Result<(), ServerError> {
    let Some(name) = entry.key.strip_prefix(ROOT) else {
        return Ok(());
    };
    let Some(name) = SHARED.into_iter().find(|known| *known == name) else {
        return Ok(());
    };
    let path = folder.join(name);
    match pki::read(&path)? {
        Some(there) if there.as_bytes() == &entry.value[..] => Ok(()),
        Some(_) => Err(ServerError::OtherCluster { path }),
        None => {
            pki::make_folder(folder)?;
            let mode = if name.ends_with(".crt") { 0o644 } else { 0o600 };
            Ok(pki::write(&path, &entry.value, mode)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_store::EmbeddedStore;

    #[tokio::test]
    async fn servers_of_one_store_share_their_keys_and_strangers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
        let names = ["localhost".to_owned()];
        let (one, two, three) = (
            folder.path().join("one"),
            folder.path().join("two"),
            folder.path().join("three"),
        );
        let now = Timestamp::now();
        let first = open(&store, &one, &names, now).await.unwrap();
        let second = open(&store, &two, &names, now).await.unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        assert_eq!(first.join_token(), second.join_token());
        open(&store, &one, &names, now).await.unwrap();
        Pki::open(&three, &names, now).unwrap();
        let error = open(&store, &three, &names, now).await.unwrap_err();
        assert!(error.to_string().contains("three"), "{error}");
    }
}
