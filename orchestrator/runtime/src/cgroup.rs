//! Where this host keeps its cgroups, who is in them and what they count. On version 2 libcontainer makes those of
//! containers; on version 1 they are made here, because a process that joins them by itself needs not wait for the kernel.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::limits::Setting;
use crate::spec::Usage;

/// Where every hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// v1 controllers whose folders carry processes of a node outside its containers.
const NODE_CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// v1 controllers that limit or count what a container does.
const CONTAINER_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "devices"];

/// How a host arranges its cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// Everything in one hierarchy.
    V2,
    /// A hierarchy for each controller, and maybe a unified one beside them that has no controllers.
    V1 {
        /// Mount points by controller.
        controllers: Vec<(String, PathBuf)>,
        /// Mount point of the unified one.
        unified: Option<PathBuf>,
    },
}

/// A container's cgroup below each hierarchy's root.
#[must_use]
pub fn container_path(cgroup: &str, pod: &str, name: &str) -> String {
    format!("{}/{name}", pod_path(cgroup, pod))
}

/// A pod's cgroup below each hierarchy's root.
#[must_use]
pub fn pod_path(cgroup: &str, pod: &str) -> String {
    format!("{cgroup}/pods/{pod}")
}

impl Cgroups {
    /// Looks at the mounts of this host.
    pub fn detect() -> io::Result<Cgroups> {
        if statfs(ROOT)?.filesystem_type() == CGROUP2_SUPER_MAGIC {
            return Ok(Cgroups::V2);
        }
        Ok(parse_mounts(&fs::read_to_string("/proc/self/mounts")?))
    }

    /// Everything is in one hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        matches!(self, Cgroups::V2)
    }

    /// The folder of a cgroup in the unified hierarchy; `None` where there is none.
    #[must_use]
    pub fn unified(&self, cgroup: &str) -> Option<PathBuf> {
        match self {
            Cgroups::V2 => Some(Path::new(ROOT).join(cgroup)),
            Cgroups::V1 { unified, .. } => unified.as_ref().map(|root| root.join(cgroup)),
        }
    }

    /// The folder of a cgroup below one controller; for v2 the one folder.
    #[must_use]
    pub fn folder(&self, controller: &str, cgroup: &str) -> Option<PathBuf> {
        match self {
            Cgroups::V2 => Some(Path::new(ROOT).join(cgroup)),
            Cgroups::V1 { controllers, .. } => controllers
                .iter()
                .find(|(name, _)| name == controller)
                .map(|(_, root)| root.join(cgroup)),
        }
    }

    /// Every folder that a cgroup has on this host, existing or not.
    #[must_use]
    pub fn folders(&self, cgroup: &str) -> Vec<PathBuf> {
        match self {
            Cgroups::V2 => vec![Path::new(ROOT).join(cgroup)],
            Cgroups::V1 {
                controllers,
                unified,
            } => controllers
                .iter()
                .map(|(_, root)| root)
                .chain(unified)
                .map(|root| root.join(cgroup))
                .collect(),
        }
    }

    /// Puts a process (`0`: the caller) into a cgroup of processes that are not containers, which is made if needed.
    pub fn enter(&self, cgroup: &str, pid: i32) -> io::Result<()> {
        let folders: Vec<PathBuf> = match self {
            Cgroups::V2 => self.folders(cgroup),
            Cgroups::V1 { .. } => NODE_CONTROLLERS
                .iter()
                .filter_map(|c| self.folder(c, cgroup))
                .chain(self.unified(cgroup))
                .collect(),
        };
        for folder in folders {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// The same hierarchies by descriptors, which stay good when their mounts are gone from this mount namespace. The
    /// paths mean something in this process, and its children, only.
    pub(crate) fn pinned(&self) -> io::Result<(Cgroups, Vec<OwnedFd>)> {
        let Cgroups::V1 {
            controllers,
            unified,
        } = self
        else {
            return Ok((self.clone(), Vec::new()));
        };
        let mut held = Vec::new();
        let mut pin = |path: &Path| -> io::Result<PathBuf> {
            let fd: OwnedFd = fs::File::open(path)?.into();
            let pinned = format!("/proc/self/fd/{}", fd.as_raw_fd()).into();
            held.push(fd);
            Ok(pinned)
        };
        let mut by_mount: Vec<(&PathBuf, PathBuf)> = Vec::new();
        let mut pinned = Vec::new();
        for (name, root) in controllers {
            let known = by_mount.iter().find(|(r, _)| *r == root);
            let path = match known {
                Some((_, path)) => path.clone(),
                None => pin(root)?,
            };
            by_mount.push((root, path.clone()));
            pinned.push((name.clone(), path));
        }
        let unified = unified.as_deref().map(&mut pin).transpose()?;
        let controllers = pinned;
        Ok((
            Cgroups::V1 {
                controllers,
                unified,
            },
            held,
        ))
    }

    /// Makes a container's cgroup below every v1 controller that concerns it.
    pub(crate) fn make(&self, cgroup: &str) -> io::Result<()> {
        for folder in self.container_folders(cgroup) {
            fs::create_dir_all(&folder).map_err(|e| named(e, "create", &folder))?;
        }
        Ok(())
    }

    /// Writes settings where this host has their controller.
    pub(crate) fn apply(&self, cgroup: &str, settings: &[Setting]) -> io::Result<()> {
        for setting in settings {
            if let Some(folder) = self.folder(setting.controller, cgroup) {
                let file = folder.join(setting.file);
                fs::write(&file, &setting.value)
                    .map_err(|e| named(e, &format!("write {:?} to", setting.value), &file))?;
            }
        }
        Ok(())
    }

    /// Moves the calling thread, the only one of its process, into a container's v1 cgroups. A process that is moved
    /// through `cgroup.procs` waits for a grace period of the kernel, milliseconds; a thread that moves itself doesn't.
    ///
    /// The one that shares out the processor is left to the container's program, by a `0` written to the file that is
    /// given back: what comes before it would be held up by a share that may be very small.
    pub(crate) fn join(&self, cgroup: &str) -> io::Result<Option<fs::File>> {
        let shares = self.folder("cpu", cgroup);
        let mut last = None;
        for folder in self.container_folders(cgroup) {
            let path = folder.join("tasks");
            let join = |e| named(e, "join", &path);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .map_err(join)?;
            if Some(&folder) == shares.as_ref() {
                last = Some(file);
            } else {
                file.write_all(b"0").map_err(join)?;
            }
        }
        Ok(last)
    }

    /// Folders of a container below the v1 controllers that concern it; none on version 2.
    fn container_folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let Cgroups::V1 { .. } = self else {
            return Vec::new();
        };
        let mut folders: Vec<PathBuf> = Vec::new();
        for controller in CONTAINER_CONTROLLERS {
            if let Some(folder) = self.folder(controller, cgroup)
                && !folders.contains(&folder)
            {
                folders.push(folder);
            }
        }
        folders
    }

    /// What a cgroup and all below it have used.
    pub fn usage(&self, cgroup: &str) -> io::Result<Usage> {
        match self {
            Cgroups::V2 => {
                let folder = Path::new(ROOT).join(cgroup);
                let cpu_us =
                    keyed(&fs::read_to_string(folder.join("cpu.stat"))?, "usage_usec").unwrap_or(0);
                let current = number(&folder.join("memory.current"))?;
                let inactive = keyed(
                    &fs::read_to_string(folder.join("memory.stat"))?,
                    "inactive_file",
                )
                .unwrap_or(0);
                Ok(Usage {
                    cpu_ns: cpu_us * 1000,
                    memory_bytes: current.saturating_sub(inactive),
                })
            }
            Cgroups::V1 { .. } => {
                let missing =
                    || io::Error::new(io::ErrorKind::NotFound, "this host has no such controller");
                let cpu = self.folder("cpuacct", cgroup).ok_or_else(missing)?;
                let memory = self.folder("memory", cgroup).ok_or_else(missing)?;
                let used = number(&memory.join("memory.usage_in_bytes"))?;
                let stat = fs::read_to_string(memory.join("memory.stat"))?;
                let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
                Ok(Usage {
                    cpu_ns: number(&cpu.join("cpuacct.usage"))?,
                    memory_bytes: used.saturating_sub(inactive),
                })
            }
        }
    }

    /// How many processes and threads are in a cgroup and all below it.
    pub fn tasks(&self, cgroup: &str) -> io::Result<u64> {
        let missing =
            || io::Error::new(io::ErrorKind::NotFound, "this host has no such controller");
        number(
            &self
                .folder("pids", cgroup)
                .ok_or_else(missing)?
                .join("pids.current"),
        )
    }

    /// How many of a cgroup's processes the kernel has killed for memory; 0 when the cgroup is gone.
    #[must_use]
    pub fn oom_kills(&self, cgroup: &str) -> u64 {
        let (controller, file) = match self {
            Cgroups::V2 => ("", "memory.events"),
            Cgroups::V1 { .. } => ("memory", "memory.oom_control"),
        };
        self.folder(controller, cgroup)
            .and_then(|folder| fs::read_to_string(folder.join(file)).ok())
            .and_then(|text| keyed(&text, "oom_kill"))
            .unwrap_or(0)
    }

    /// Removes an empty cgroup in every hierarchy, with the empty ones below it. Every failure is told, none stops it.
    pub fn remove(&self, cgroup: &str) -> Vec<io::Error> {
        let mut errors = Vec::new();
        for folder in self.folders(cgroup) {
            remove_tree(&folder, &mut errors);
        }
        errors
    }
}

impl Cgroups {
    /// Like [`remove`](Self::remove), for a cgroup whose processes have ended but may not have left yet: a zombie keeps
    /// its place until it is reaped. Waits up to 2 seconds.
    pub fn remove_settled(&self, cgroup: &str) -> Vec<io::Error> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        loop {
            let errors = self.remove(cgroup);
            if errors.is_empty() || std::time::Instant::now() > deadline {
                return errors;
            }
            // The kernel has no event for an empty v1 cgroup.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn named(error: io::Error, step: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{step} {}: {error}", path.display()))
}

/// Removes a cgroup folder from the leaves up; files in it vanish with it.
fn remove_tree(folder: &Path, errors: &mut Vec<io::Error>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path(), errors);
        }
    }
    if let Err(e) = fs::remove_dir(folder)
        && e.kind() != io::ErrorKind::NotFound
    {
        errors.push(io::Error::new(
            e.kind(),
            format!("remove {}: {e}", folder.display()),
        ));
    }
}

fn parse_mounts(mounts: &str) -> Cgroups {
    let mut controllers: Vec<(String, PathBuf)> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(target), Some(kind), Some(options)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !target.starts_with(ROOT) {
            continue;
        }
        match kind {
            "cgroup" => {
                for option in options
                    .split(',')
                    .filter(|o| !matches!(*o, "rw" | "ro" | "relatime"))
                {
                    let name = option.strip_prefix("name=").unwrap_or(option);
                    let path = PathBuf::from(target);
                    // A mount lists its controllers beside flags such as nosuid; the folder's name tells which is which.
                    let named = path
                        .file_name()
                        .and_then(|f| f.to_str())
                        .is_some_and(|f| f.split(',').any(|p| p == name));
                    if named && !controllers.iter().any(|(c, _)| c == name) {
                        controllers.push((name.to_owned(), path));
                    }
                }
            }
            "cgroup2" => unified = Some(PathBuf::from(target)),
            _ => {}
        }
    }
    Cgroups::V1 {
        controllers,
        unified,
    }
}

fn number(path: &Path) -> io::Result<u64> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("no number in {}", path.display()),
        )
    })
}

/// The value after a key in `key value` lines.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_mounts_are_understood() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let cgroups = parse_mounts(mounts);
        assert_eq!(
            cgroups.folder("cpuacct", "a/b"),
            Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into())
        );
        assert_eq!(
            cgroups.folder("memory", "a"),
            Some("/sys/fs/cgroup/memory/a".into())
        );
        assert_eq!(cgroups.folder("nosuid", "a"), None);
        assert_eq!(
            cgroups.unified("x"),
            Some("/sys/fs/cgroup/unified/x".into())
        );
    }

    #[test]
    fn keyed_files_are_read_by_whole_keys() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), None);
    }
}
