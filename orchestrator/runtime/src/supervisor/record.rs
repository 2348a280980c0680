//! What the supervisor keeps about sandboxes and containers in its data folder, so that the next one finds them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::spec::{ContainerPhase, ContainerSpec, ContainerState};

const FILE: &str = "record.json";

/// Folders of a supervisor.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    data: PathBuf,
}

impl Folders {
    pub(super) fn new(data: &Path) -> io::Result<Self> {
        let folders = Folders {
            data: data.to_owned(),
        };
        for folder in [folders.sandboxes(), folders.containers(), folders.oci()] {
            fs::create_dir_all(folder)?;
        }
        Ok(folders)
    }

    pub(super) fn sandboxes(&self) -> PathBuf {
        self.data.join("sandboxes")
    }

    pub(super) fn sandbox(&self, pod: &str) -> PathBuf {
        self.sandboxes().join(pod)
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    pub(super) fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// libcontainer's own state.
    pub(super) fn oci(&self) -> PathBuf {
        self.data.join("oci")
    }
}

/// Where a container is on its way through our hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// A worker is at it; what a killed supervisor finds so is removed.
    Creating,
    /// There for its owner.
    Live,
    /// On its way out.
    Removing,
}

/// The file of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) stage: Stage,
    pub(super) spec: ContainerSpec,
    pub(super) pid: Option<i32>,
    /// Start time of the process, which tells it from a later one of the same number.
    pub(super) ticks: Option<u64>,
    pub(super) phase: ContainerPhase,
    pub(super) started_ns: i64,
    pub(super) notes: Vec<String>,
    /// Which boot of the host it was created in.
    pub(super) boot: String,
}

impl Record {
    pub(super) fn new(spec: ContainerSpec, boot: &str) -> Self {
        Record {
            id: format!("{}_{}_{}", spec.pod, spec.name, spec.attempt),
            stage: Stage::Creating,
            spec,
            pid: None,
            ticks: None,
            phase: ContainerPhase::Created,
            started_ns: 0,
            notes: Vec::new(),
            boot: boot.to_owned(),
        }
    }

    /// What clients see.
    pub(super) fn state(&self) -> ContainerState {
        ContainerState {
            spec: self.spec.clone(),
            pid: self.pid,
            phase: self.phase.clone(),
            started_ns: self.started_ns,
            notes: self.notes.clone(),
        }
    }

    pub(super) fn exited(&self) -> bool {
        matches!(self.phase, ContainerPhase::Exited { .. })
    }
}

/// Writes a record into a folder: the whole of it or none.
pub(super) fn write<T: Serialize>(folder: &Path, value: &T) -> io::Result<()> {
    let temporary = folder.join("record.new");
    fs::write(
        &temporary,
        serde_json::to_vec(value).map_err(io::Error::other)?,
    )?;
    fs::rename(&temporary, folder.join(FILE))
}

/// Every folder below one, with its record where there is one that can be read.
pub(super) fn read_all<T: DeserializeOwned>(
    folder: &Path,
) -> io::Result<Vec<(PathBuf, Option<T>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let record = fs::read(path.join(FILE))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        all.push((path, record));
    }
    Ok(all)
}

/// Names this boot of the host.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Whether a text can be a file name, a cgroup and a part of an id: letters, digits, `.`, `-`.
pub(super) fn is_plain_name(name: &str) -> bool {
    name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for good in ["a", "0b5e-11", "app.1"] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "-x",
            "a_b",
            "a b",
            "é",
            &"a".repeat(201),
        ] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_torn_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("x")).unwrap();
        write(&dir.path().join("x"), &7_u32).unwrap();
        assert_eq!(read_all::<u32>(dir.path()).unwrap()[0].1, Some(7));
        fs::write(dir.path().join("x").join(FILE), "{").unwrap();
        assert_eq!(read_all::<u32>(dir.path()).unwrap()[0].1, None);
    }
}
