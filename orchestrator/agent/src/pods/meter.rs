//! How much the emptyDir volumes of a pod hold, against their `sizeLimit`. Those in memory are limited by the kernel.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::desired::Desired;
use super::worker::Mail;

/// Between two looks, as kubelet has it.
const PERIOD: Duration = Duration::from_secs(10);

/// A volume that may hold so much.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limited {
    name: String,
    place: PathBuf,
    /// As its author wrote it.
    written: String,
    bytes: u64,
}

/// Looks at the pod's volumes below `folder` until the returned handle is aborted; nothing when none is limited.
pub(super) fn watch(
    pod: &Desired,
    folder: &Path,
    post: mpsc::UnboundedSender<Mail>,
) -> Option<AbortHandle> {
    let all = limited(pod, folder);
    if all.is_empty() {
        return None;
    }
    let looking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(PERIOD).await;
            let volumes = all.clone();
            let look = tokio::task::spawn_blocking(move || exceeded(&volumes));
            let Ok(found) = look.await else { return };
            if let Some(message) = found
                && post.send(Mail::Exceeded { message }).is_err()
            {
                return;
            }
        }
    });
    Some(looking.abort_handle())
}

fn limited(pod: &Desired, folder: &Path) -> Vec<Limited> {
    let spec = pod.pod.spec.as_ref();
    let volumes = spec.and_then(|spec| spec.volumes.as_deref());
    let volumes = volumes.unwrap_or_default().iter();
    volumes
        .filter_map(|volume| {
            let empty = volume.empty_dir.as_ref()?;
            let limit = empty.size_limit.as_ref()?;
            let bytes = limit.0.parse::<waggle_model::Bytes>().ok()?;
            let on_disk = empty.medium.as_deref() != Some("Memory");
            on_disk.then(|| Limited {
                name: volume.name.clone(),
                place: folder.join(&volume.name),
                written: limit.0.clone(),
                bytes: bytes.0.unsigned_abs(),
            })
        })
        .collect()
}

/// The first volume that holds more than it may, as the reason to evict its pod.
fn exceeded(volumes: &[Limited]) -> Option<String> {
    let over = volumes
        .iter()
        .find(|volume| held(&volume.place) > volume.bytes)?;
    Some(format!(
        "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
        over.name, over.written
    ))
}

/// Bytes on the disk below a folder, which may change meanwhile. Links are not followed.
fn held(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let one = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => held(&entry.path()),
        Ok(metadata) => metadata.blocks().saturating_mul(512),
        Err(_) => 0,
    };
    entries.flatten().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::pod;

    #[test]
    fn a_volume_that_holds_too_much_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let pod = pod(
            r#"{"volumes":[{"name":"big","emptyDir":{"sizeLimit":"64Ki"}},{"name":"free","emptyDir":{}},
                {"name":"memory","emptyDir":{"medium":"Memory","sizeLimit":"1"}}]}"#,
        );
        let all = limited(&pod, folder.path());
        assert_eq!(all.len(), 1);
        let inner = folder.path().join("big/a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("x"), vec![1; 32 << 10]).unwrap();
        assert_eq!(exceeded(&all), None);
        std::fs::write(inner.join("y"), vec![1; 40 << 10]).unwrap();
        let message = exceeded(&all).unwrap();
        assert!(
            message.contains(r#""big" exceeds the limit "64Ki""#),
            "{message}"
        );
    }
}
