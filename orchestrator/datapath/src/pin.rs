//! Where things are pinned: maps and programs below the ABI's hash; links and connection state beside it, because they
//! outlive the ABI that they were made with.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{FsType, statfs};
use waggle_abi::STATE;

use crate::error::{DatapathError, file_error};

/// `BPF_FS_MAGIC`.
const BPF_FS: FsType = FsType(0xcafe_4a11);

/// Folders of pins.
#[derive(Debug, Clone)]
pub(crate) struct Pins {
    root: PathBuf,
    abi: PathBuf,
}

impl Pins {
    /// Makes the folders, and mounts a bpffs at `root` unless there is one.
    pub(crate) fn open(root: &Path, abi: u64) -> Result<Self, DatapathError> {
        fs::create_dir_all(root).map_err(file_error("create", root))?;
        let kind = statfs(root)
            .map_err(|errno| file_error("examine", root)(errno.into()))?
            .filesystem_type();
        if kind != BPF_FS {
            mount(
                Some("waggle"),
                root,
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .map_err(|errno| file_error("mount a bpffs at", root)(errno.into()))?;
        }
        let pins = Self {
            root: root.to_owned(),
            abi: root.join(format!("{abi:016x}")),
        };
        for folder in [pins.maps(), pins.programs(), pins.links(), pins.states()] {
            fs::create_dir_all(&folder).map_err(file_error("create", &folder))?;
        }
        Ok(pins)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.abi.join("maps")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        match STATE.iter().find(|(state, _)| *state == name) {
            Some((_, layout)) => self.states().join(format!("{name}-{layout:016x}")),
            None => self.maps().join(name),
        }
    }

    fn states(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn programs(&self) -> PathBuf {
        self.abi.join("programs")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Whether programs run on these maps, which were filled before. A folder, because the kernel's file system takes no
    /// files.
    pub(crate) fn in_charge(&self) -> bool {
        self.mark().exists()
    }

    /// Notes it.
    pub(crate) fn set_in_charge(&self, yes: bool) -> Result<(), DatapathError> {
        let mark = self.mark();
        match if yes {
            fs::create_dir(&mark)
        } else {
            fs::remove_dir(&mark)
        } {
            Err(error) if mark.exists() != yes => Err(file_error("change", mark)(error)),
            _ => Ok(()),
        }
    }

    fn mark(&self) -> PathBuf {
        self.abi.join("in-charge")
    }

    /// Names of links that begin with `start`.
    pub(crate) fn links_like(&self, start: &str) -> Result<Vec<String>, DatapathError> {
        let folder = self.links();
        let entries = fs::read_dir(&folder).map_err(file_error("list", &folder))?;
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        Ok(names.filter(|name| name.starts_with(start)).collect())
    }

    /// Removes what other ABIs have pinned. What still runs with it keeps it alive until it is replaced.
    pub(crate) fn retire_others(&self) -> Result<(), DatapathError> {
        let entries = fs::read_dir(&self.root).map_err(file_error("list", &self.root))?;
        for entry in entries.flatten() {
            let path = entry.path();
            // The kernel keeps files of its own in there, and somebody may have put a folder.
            let name = entry.file_name();
            let of_abi = name.len() == 16
                && name
                    .to_string_lossy()
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit());
            if of_abi && path != self.abi {
                fs::remove_dir_all(&path).map_err(file_error("remove", &path))?;
            }
        }
        self.retire_other_states()
    }

    /// Connection state of other layouts, which these programs can't read.
    fn retire_other_states(&self) -> Result<(), DatapathError> {
        let folder = self.states();
        let ours: Vec<_> = STATE.iter().map(|(name, _)| self.map(name)).collect();
        let entries = fs::read_dir(&folder).map_err(file_error("list", &folder))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if !ours.contains(&path) {
                unpin(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a pin that may not be there.
pub(crate) fn unpin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(file_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}
