//! Removes a container, complete or not: what is left in its cgroup, its cgroup, its state and its files.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroups;
use crate::protocol::Fault;

/// How long killed processes may take to leave their cgroup.
const PATIENCE: Duration = Duration::from_secs(10);

/// Collects every failure and tries the rest all the same. Everything may be gone already.
pub(super) fn delete(
    cgroups: &Cgroups,
    state: &Path,
    dir: &Path,
    cgroup: &str,
) -> Result<(), Fault> {
    let mut errors = Vec::new();
    remove_cgroup(cgroups, cgroup, &mut errors);
    for folder in [state, dir] {
        match fs::remove_dir_all(folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                errors.push(format!("{}: {e}", folder.display()))
            }
            _ => {}
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Fault::internal(errors.join("; ")))
    }
}

fn remove_cgroup(cgroups: &Cgroups, cgroup: &str, errors: &mut Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for folder in cgroups.folders(cgroup) {
            let Ok(procs) = fs::read_to_string(folder.join("cgroup.procs")) else {
                continue;
            };
            for pid in procs.lines().filter_map(|line| line.parse().ok()) {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let failed = cgroups.remove(cgroup);
        if failed.is_empty() {
            return;
        }
        if Instant::now() > deadline {
            errors.extend(failed.iter().map(io::Error::to_string));
            return;
        }
        // The kernel has no event for an empty v1 cgroup.
        std::thread::sleep(Duration::from_millis(5));
    }
}
