//! Work inside another network namespace, on a thread of its own that ends there.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use crate::error::DatapathError;

/// Runs `work` on a new thread inside the namespace at `path`.
pub(crate) async fn inside<T, F>(path: &Path, work: F) -> Result<T, DatapathError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, DatapathError> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let path = path.to_owned();
    let name = path.clone();
    let thread = std::thread::Builder::new()
        .name("pod-netns".into())
        .spawn(move || {
            let result = enter(&path).and_then(|()| work());
            // The caller may have given up; nothing to tell then.
            let _ = sender.send(result);
        });
    thread.map_err(|source| DatapathError::Namespace {
        path: name.clone(),
        source,
    })?;
    let gone = || DatapathError::Namespace {
        path: name,
        source: io::Error::other("its thread ended early"),
    };
    receiver.await.map_err(|_| gone())?
}

fn enter(path: &Path) -> Result<(), DatapathError> {
    let fault = |source| DatapathError::Namespace {
        path: PathBuf::from(path),
        source,
    };
    let file = File::open(path).map_err(fault)?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| fault(errno.into()))
}
