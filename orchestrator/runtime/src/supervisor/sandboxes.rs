//! Sandboxes: their namespaces are made by a worker and held by mounts below the data folder.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

use super::core::{Core, Reply, Then};
use super::pool::Task;
use super::record::{self, is_plain_name};
use crate::cgroup::pod_path;
use crate::error::FaultKind;
use crate::protocol::{Body, Fault, Job, JobResult};
use crate::spec::{Sandbox, SandboxSpec};

/// What is mounted in a sandbox's folder.
const MOUNTS: [&str; 5] = ["net", "ipc", "uts", "pid", "shm"];

/// A sandbox, standing or being made.
#[derive(Debug)]
pub(super) struct SandboxEntry {
    sandbox: Sandbox,
    /// Who waits while it is being made; `None` when it stands.
    waiting: Option<Vec<Reply>>,
}

impl SandboxEntry {
    /// The sandbox when it stands.
    pub(super) fn ready(&self) -> Option<&Sandbox> {
        self.waiting.is_none().then_some(&self.sandbox)
    }
}

impl Core {
    /// Finds the sandboxes of our predecessor; those whose namespaces are gone (the host was restarted) are removed.
    pub(super) fn load_sandboxes(&mut self) -> io::Result<()> {
        for (dir, sandbox) in record::read_all::<Sandbox>(&self.folders.sandboxes())? {
            let held = statfs(&dir.join("uts")).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC);
            match sandbox {
                Some(sandbox) if held => {
                    let entry = SandboxEntry {
                        sandbox: sandbox.clone(),
                        waiting: None,
                    };
                    self.sandboxes.insert(sandbox.pod, entry);
                }
                _ => {
                    tracing::info!(dir = %dir.display(), "what is left of a sandbox is removed");
                    if let Err(error) = tear_down(&dir) {
                        tracing::warn!(dir = %dir.display(), %error, "a sandbox's folder stays");
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn create_sandbox(
        &mut self,
        spec: SandboxSpec,
        reply: Reply,
    ) -> Result<Option<Body>, Fault> {
        if !is_plain_name(&spec.pod) {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("pod UID {:?} can't name a sandbox", spec.pod),
            ));
        }
        if let Some(entry) = self.sandboxes.get_mut(&spec.pod) {
            return match &mut entry.waiting {
                Some(waiting) => {
                    waiting.push(reply);
                    Ok(None)
                }
                None => Ok(Some(Body::Sandbox(entry.sandbox.clone()))),
            };
        }
        let dir = self.folders.sandbox(&spec.pod);
        let cgroup = self.make_pod_cgroup(&spec.pod).map_err(Fault::internal)?;
        fs::create_dir_all(&dir).map_err(Fault::internal)?;
        let mounts: OwnedFd = fs::File::open("/proc/self/ns/mnt")
            .map_err(Fault::internal)?
            .into();
        let sandbox = Sandbox {
            pod: spec.pod.clone(),
            netns: (!spec.host_network).then(|| dir.join("net")),
            cgroup,
            spec: spec.clone(),
        };
        let pod = spec.pod.clone();
        self.sandboxes.insert(
            pod.clone(),
            SandboxEntry {
                sandbox,
                waiting: Some(vec![reply]),
            },
        );
        self.pool.push(Task {
            pod: pod.clone(),
            job: Job::CreateSandbox { spec, dir },
            fds: vec![mounts],
            then: Then::Sandbox { pod },
        });
        Ok(None)
    }

    pub(super) fn sandbox_created(&mut self, pod: &str, result: JobResult) {
        let Some(entry) = self.sandboxes.get_mut(pod) else {
            return;
        };
        let waiting = entry.waiting.take().unwrap_or_default();
        let sandbox = entry.sandbox.clone();
        let result = match result {
            JobResult::Failed(fault) => Err(fault),
            _ => record::write(&self.folders.sandbox(pod), &sandbox).map_err(Fault::internal),
        };
        let body = match result {
            Ok(()) => Body::Sandbox(sandbox),
            Err(mut fault) => {
                if let Err(left) = self.remove_sandbox(pod) {
                    fault.message = format!("{}; and to undo it: {}", fault.message, left.message);
                }
                Body::Failed(fault)
            }
        };
        for reply in waiting {
            self.answer(reply, body.clone());
        }
    }

    pub(super) fn remove_sandbox(&mut self, pod: &str) -> Result<(), Fault> {
        let Some(entry) = self.sandboxes.get(pod) else {
            return Ok(());
        };
        if entry.waiting.is_some() {
            return Err(Fault::new(FaultKind::InvalidState, "it is being made"));
        }
        let left: Vec<&str> = self
            .containers
            .keys()
            .filter(|k| k.pod == pod)
            .map(|k| k.name.as_str())
            .collect();
        if !left.is_empty() {
            return Err(Fault::new(
                FaultKind::InvalidState,
                format!("it has containers: {}", left.join(", ")),
            ));
        }
        tear_down(&self.folders.sandbox(pod)).map_err(Fault::internal)?;
        let errors = self
            .cgroups
            .remove_settled(&pod_path(&self.options.cgroup, pod));
        self.sandboxes.remove(pod);
        match errors.first() {
            Some(error) => Err(Fault::internal(error)),
            None => Ok(()),
        }
    }

    /// The folder that programs are attached to, and that workers enter on a hybrid host.
    fn make_pod_cgroup(&self, pod: &str) -> io::Result<PathBuf> {
        let path = pod_path(&self.options.cgroup, pod);
        let folder = self
            .cgroups
            .unified(&path)
            .or_else(|| self.cgroups.folder("memory", &path))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this host has no cgroups"))?;
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Lets go of the namespaces and removes the folder.
fn tear_down(dir: &Path) -> io::Result<()> {
    crate::worker::pause::end(dir)?;
    for name in MOUNTS {
        match umount2(&dir.join(name), MntFlags::MNT_DETACH) {
            // Not there, or nothing mounted on it.
            Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL) => {}
            Err(errno) => {
                return Err(io::Error::new(
                    io::Error::from(errno).kind(),
                    format!("unmount {}: {}", dir.join(name).display(), errno.desc()),
                ));
            }
        }
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
