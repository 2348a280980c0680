//! How much of the node's disk a pod takes, against what it may: its emptyDir volumes (`sizeLimit`), what its containers
//! write and log (limits of `ephemeral-storage`), and all of that together. Volumes in memory are limited by the kernel.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use waggle_runtime::supervisor::writable_layers;

use super::desired::Desired;
use super::worker::Mail;
use crate::disk_usage::{held, local_storage};

/// Between two looks, as kubelet has it.
const PERIOD: Duration = Duration::from_secs(10);
/// Seconds that a pod has to end that takes more than it may.
const GRACE: i64 = 1;

/// Something that may hold so much.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limited {
    name: String,
    /// As its author wrote it.
    written: String,
    bytes: u64,
}

/// All limits of a pod, and where to look.
#[derive(Debug, Clone)]
struct Limits {
    uid: String,
    /// Its folder: volumes, logs.
    folder: PathBuf,
    /// The supervisor's folder.
    runtime: PathBuf,
    volumes: Vec<Limited>,
    containers: Vec<Limited>,
}

/// Looks at what the pod takes, its folder and the supervisor's being these, until the returned handle is aborted; nothing
/// when nothing of it is limited.
pub(super) fn watch(
    pod: &Desired,
    folder: &Path,
    runtime: &Path,
    post: mpsc::UnboundedSender<Mail>,
) -> Option<AbortHandle> {
    let limits = Limits {
        uid: pod.key.uid.clone(),
        folder: folder.to_owned(),
        runtime: runtime.to_owned(),
        volumes: volumes(pod),
        containers: pod.own_containers().filter_map(storage_limit).collect(),
    };
    if limits.volumes.is_empty() && limits.containers.is_empty() {
        return None;
    }
    let looking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(PERIOD).await;
            let limits = limits.clone();
            let look = tokio::task::spawn_blocking(move || limits.exceeded());
            let Ok(found) = look.await else { return };
            let Some(message) = found else { continue };
            let grace = GRACE;
            if post.send(Mail::Evict { message, grace }).is_err() {
                return;
            }
        }
    });
    Some(looking.abort_handle())
}

fn limited(name: &str, written: &str) -> Option<Limited> {
    let bytes = written.parse::<waggle_model::Bytes>().ok()?;
    Some(Limited {
        name: name.to_owned(),
        written: written.to_owned(),
        bytes: bytes.0.unsigned_abs(),
    })
}

fn storage_limit(container: &Container) -> Option<Limited> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limited(&container.name, &limits.get("ephemeral-storage")?.0)
}

fn volumes(pod: &Desired) -> Vec<Limited> {
    let spec = pod.pod.spec.as_ref();
    let volumes = spec.and_then(|spec| spec.volumes.as_deref());
    let volumes = volumes.unwrap_or_default().iter();
    volumes
        .filter_map(|volume| {
            let empty = volume.empty_dir.as_ref()?;
            let on_disk = empty.medium.as_deref() != Some("Memory");
            let limit = empty.size_limit.as_ref().filter(|_| on_disk)?;
            limited(&volume.name, &limit.0)
        })
        .collect()
}

impl Limits {
    /// The first thing that is above its limit, as the reason to evict the pod.
    fn exceeded(&self) -> Option<String> {
        let holds = |volume: &&Limited| {
            held(&self.folder.join("volumes").join(&volume.name)).bytes > volume.bytes
        };
        if let Some(over) = self.volumes.iter().find(holds) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                over.name, over.written
            ));
        }
        let most = self.containers.iter().map(|limited| limited.bytes);
        let most = most.reduce(u64::saturating_add)?;
        if local_storage(&self.folder, &self.runtime, &self.uid).bytes > most {
            let written = match self.containers.as_slice() {
                [one] => one.written.clone(),
                _ => most.to_string(),
            };
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {written}. "
            ));
        }
        let layers = writable_layers(&self.runtime, &self.uid);
        let takes = |container: &&Limited| {
            let own = layers.iter().filter(|(name, _)| *name == container.name);
            let written: u64 = own.map(|(_, layer)| held(layer).bytes).sum();
            let logs = held(&self.folder.join("logs").join(&container.name)).bytes;
            written.saturating_add(logs) > container.bytes
        };
        let over = self.containers.iter().find(takes)?;
        Some(format!(
            "Container {} exceeded its local ephemeral storage limit {:?}. ",
            over.name, over.written
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::pod;

    fn limits(folder: &Path, spec: &str) -> Limits {
        let pod = pod(spec);
        Limits {
            uid: pod.key.uid.clone(),
            folder: folder.join("pod"),
            runtime: folder.join("runtime"),
            volumes: volumes(&pod),
            containers: pod.own_containers().filter_map(storage_limit).collect(),
        }
    }

    fn write(folder: &Path, name: &str, kib: usize) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(name), vec![1; kib << 10]).unwrap();
    }

    #[test]
    fn a_volume_that_holds_too_much_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let all = limits(
            folder.path(),
            r#"{"volumes":[{"name":"big","emptyDir":{"sizeLimit":"64Ki"}},{"name":"free","emptyDir":{}},
                {"name":"memory","emptyDir":{"medium":"Memory","sizeLimit":"1"}}]}"#,
        );
        assert_eq!(all.volumes.len(), 1);
        let inner = all.folder.join("volumes/big/a");
        write(&inner, "x", 32);
        assert_eq!(all.exceeded(), None);
        write(&inner, "y", 40);
        let message = all.exceeded().unwrap();
        assert!(
            message.contains(r#""big" exceeds the limit "64Ki""#),
            "{message}"
        );
    }

    #[test]
    fn containers_are_held_to_their_limits_alone_and_together() {
        let folder = tempfile::tempdir().unwrap();
        let all = limits(
            folder.path(),
            r#"{"volumes":[{"name":"free","emptyDir":{}}],"containers":[
                {"name":"a","image":"x","resources":{"limits":{"ephemeral-storage":"64Ki"}}},
                {"name":"b","image":"x","resources":{"limits":{"ephemeral-storage":"512Ki"}}}]}"#,
        );
        let layer = |name: &str| all.runtime.join(format!("containers/u1_{name}_0/upper"));
        write(&layer("a"), "x", 32);
        write(&layer("b"), "x", 100);
        write(&all.runtime.join("containers/u2_a_0/upper"), "x", 2000);
        assert_eq!(all.exceeded(), None);
        write(&all.folder.join("logs/a"), "0.log", 40);
        assert_eq!(
            all.exceeded().as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"64Ki\". ")
        );
        write(&all.folder.join("volumes/free"), "x", 600);
        assert_eq!(
            all.exceeded().as_deref(),
            Some(
                "Pod ephemeral local storage usage exceeds the total limit of containers 589824. "
            )
        );
    }
}
