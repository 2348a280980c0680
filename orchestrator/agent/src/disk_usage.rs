//! What files take of the node's disk, a pod's all together or those below one folder. What follows from it is decided
//! elsewhere: in `eviction` for the node, in `pods::meter` for a pod's own limits.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use waggle_runtime::supervisor::writable_layers;

/// What files take on a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// What a pod takes of the node's disk: logs, volumes that are its own, and what its containers wrote elsewhere.
pub(crate) fn local_storage(pod: &Path, runtime: &Path, uid: &str) -> Held {
    let mut all = held(pod);
    for (_, layer) in writable_layers(runtime, uid) {
        all += held(&layer);
    }
    all
}

/// What is on the disk below a folder, which may change meanwhile. Neither links are followed nor mounts entered.
pub(crate) fn held(folder: &Path) -> Held {
    match std::fs::symlink_metadata(folder) {
        Ok(metadata) => held_on(folder, metadata.dev()),
        Err(_) => Held::default(),
    }
}

fn held_on(folder: &Path, device: u64) -> Held {
    let mut all = Held::default();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return all;
    };
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.dev() != device {
            continue;
        }
        all += Held {
            bytes: metadata.blocks().saturating_mul(512),
            inodes: 1,
        };
        if metadata.is_dir() {
            all += held_on(&entry.path(), device);
        }
    }
    all
}
