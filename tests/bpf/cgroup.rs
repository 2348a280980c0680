//! One cgroup folder for this process, so that socket programs have something to stand on that is ours.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fs, io};

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// The folder of this process in the unified hierarchy.
pub(crate) fn folder() -> &'static Path {
    FOLDER.get().expect("the process has entered its cgroup")
}

/// Removes the folder when dropped, after going back to where the process came from.
pub(crate) struct Folder {
    home: PathBuf,
}

impl Folder {
    /// Makes the folder and moves this process into it.
    pub(crate) fn enter() -> io::Result<Self> {
        let root = unified()?;
        let text = fs::read_to_string("/proc/self/cgroup")?;
        let home = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let folder = root.join(format!("wgt-bpf-{}", std::process::id()));
        fs::create_dir(&folder)?;
        fs::write(folder.join("cgroup.procs"), "0")?;
        FOLDER
            .set(folder)
            .map_err(|_| io::Error::other("entered twice"))?;
        Ok(Self {
            home: root.join(home),
        })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let moved = fs::write(self.home.join("cgroup.procs"), "0");
        if let Err(error) = moved.and_then(|()| fs::remove_dir(folder())) {
            eprintln!("{} stays behind: {error}", folder().display());
        }
    }
}

fn unified() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    found.ok_or_else(|| io::Error::other("no cgroup v2 hierarchy is mounted"))
}
