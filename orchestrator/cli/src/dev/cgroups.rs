//! The cluster's folders in the cgroup hierarchies: joined by its processes, emptied and removed at the end. Only folders
//! below `waggle/<cluster>` are ever made, written to or removed. Works on hybrid hosts (v1 controllers beside
//! `unified`) and on hosts with cgroup v2 alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::CGROUP_ROOT;

/// v1 controllers that our own processes are counted in.
const COUNTED: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Roots of all hierarchies of this host: the unified one first.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUP_ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(root)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| is_hierarchy(path))
                .collect()
        })
        .unwrap_or_default();
    found.sort_by_key(|path| (path.file_name() != Some("unified".as_ref()), path.clone()));
    found
}

/// A folder with the files of a cgroup; symbolic links (cpu -> cpu,cpuacct) are left out.
fn is_hierarchy(path: &Path) -> bool {
    !path.is_symlink() && path.join("cgroup.procs").exists()
}

fn is_unified(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.controllers").exists()
}

/// Puts the calling process into `cgroup` in the unified hierarchy and in the counted v1 ones. Made when missing.
pub(crate) fn join(cgroup: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let name = hierarchy
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let counted = name
            .split(',')
            .any(|controller| COUNTED.contains(&controller));
        if !is_unified(&hierarchy) && !counted {
            continue;
        }
        let folder = hierarchy.join(cgroup);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        // In v1, a thread that moves itself through `tasks` does not wait for a grace period of the kernel.
        let file = folder.join(if is_unified(&hierarchy) {
            "cgroup.procs"
        } else {
            "tasks"
        });
        std::fs::write(&file, "0")
            .with_context(|| format!("cannot join the cgroup {}", folder.display()))?;
    }
    Ok(())
}

/// All processes in a cgroup and below it, in any hierarchy. This process is left out.
pub(crate) fn processes(cgroup: &str) -> BTreeSet<i32> {
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut pids = BTreeSet::new();
    for hierarchy in hierarchies() {
        for folder in folders(&hierarchy.join(cgroup)) {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            // 0 stands for a process in another PID namespace: not ours to kill.
            pids.extend(
                text.lines()
                    .filter_map(|line| line.parse::<i32>().ok())
                    .filter(|&pid| pid > 0 && pid != me),
            );
        }
    }
    pids
}

/// Kills everything in a cgroup and below it, and waits until it is empty.
pub(crate) fn kill_all(cgroup: &str, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        for hierarchy in hierarchies()
            .into_iter()
            .filter(|hierarchy| is_unified(hierarchy))
        {
            // The whole subtree at once, forks included; older kernels lack the file and get the loop below.
            let _unsupported = std::fs::write(hierarchy.join(cgroup).join("cgroup.kill"), "1");
        }
        let left = processes(cgroup);
        if left.is_empty() {
            return Ok(());
        }
        for &pid in &left {
            let _already_gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            bail!("these processes in the cgroup {cgroup} do not end: {left:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A folder and all folders below it, deepest first.
fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(root) else {
        return found;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(folders(&entry.path()));
        }
    }
    found.push(root.to_owned());
    found
}

/// Removes a cgroup from every hierarchy, deepest first, and the parents that are empty after it. Every error is given.
pub(crate) fn remove(cgroup: &str) -> Vec<anyhow::Error> {
    let mut errors = Vec::new();
    for hierarchy in hierarchies() {
        for folder in folders(&hierarchy.join(cgroup)) {
            if let Err(error) = remove_folder(&folder) {
                errors
                    .push(error.context(format!("cannot remove the cgroup {}", folder.display())));
            }
        }
        let mut parent = Path::new(cgroup).parent();
        while let Some(path) = parent.filter(|path| !path.as_os_str().is_empty()) {
            // Not empty: another cluster's.
            if std::fs::remove_dir(hierarchy.join(path)).is_err() {
                break;
            }
            parent = path.parent();
        }
    }
    errors
}

/// The kernel lets go of a cgroup a little after its last process.
fn remove_folder(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match std::fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == std::io::ErrorKind::ResourceBusy
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
