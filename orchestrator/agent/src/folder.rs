//! The agent's folder: where things are below it, and reading and writing them whole or not at all.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::AgentError;

/// Paths below the data folder of a node.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder and tries to write in it.
    pub(crate) fn open(root: &Path) -> Result<Self, AgentError> {
        make(root)?;
        let folder = Self {
            root: root.to_owned(),
        };
        for path in [folder.identity(), folder.state(), folder.root.join("pods")] {
            make(&path)?;
        }
        let probe = folder.state().join("probe");
        write(&probe, b"x", 0o600)?;
        std::fs::remove_file(&probe).map_err(|error| fault("write in", &folder.state(), &error))?;
        Ok(folder)
    }

    /// Key and certificates.
    pub(crate) fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The last plans.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Images and layers.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The supervisor's.
    pub(crate) fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// Manifests of static pods, unless they are elsewhere.
    pub(crate) fn static_pods(&self) -> PathBuf {
        self.root.join("static-pods")
    }

    /// Socket for the command line on this node.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.root.join("agent.sock")
    }

    /// Local volumes that claims are bound to, by name.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Everything of one pod but its containers: volumes, generated files, logs.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Seccomp profiles that pods may name (`Localhost`), put there by who runs the node.
    pub(crate) fn seccomp(&self) -> PathBuf {
        self.root.join("seccomp")
    }

    /// Log of one attempt of a container.
    pub(crate) fn log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid)
            .join("logs")
            .join(container)
            .join(format!("{attempt}.log"))
    }
}

fn fault(operation: &'static str, path: &Path, error: &dyn std::fmt::Display) -> AgentError {
    AgentError::Data {
        operation,
        path: path.to_owned(),
        cause: error.to_string(),
    }
}

/// Makes a folder that only its owner enters.
pub(crate) fn make(path: &Path) -> Result<(), AgentError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|error| fault("make", path, &error))
}

/// Content of a file, `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("read", path, &error)),
    }
}

/// Writes a file whole or not at all, also when the power fails.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), AgentError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(|error| fault("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_back_and_faults_name_the_path() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temporary.path().join("node1")).unwrap();
        let path = folder.state().join("x");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o600).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"two");
        std::fs::write(temporary.path().join("file"), "").unwrap();
        let error = Folder::open(&temporary.path().join("file").join("below"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot make ") && error.contains("file/below"),
            "{error}"
        );
    }
}
