//! A worker: a small process without threads and without state that does with libcontainer what one job says. It lives
//! in a mount namespace of its own, so that what it mounts to create a container burdens nobody else; the containers
//! become children of the supervisor. It ends with its supervisor, and is replaced after each failure.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::cgroup::Cgroups;
use crate::error::{Result, RuntimeError};
use crate::frame::{Incoming, Outgoing};
use crate::mount_table::{self, Mounted};
use crate::protocol::{Fault, Job, JobResult, WorkerSetup};
use crate::sys;
use filter::Filters;

mod child;
mod confinement;
mod container;
mod delete;
mod exec;
mod filter;
pub(crate) mod pause;
mod program;
mod sandbox;
mod terminal;

/// What a job gives back.
type Outcome = std::result::Result<(JobResult, Vec<OwnedFd>), Fault>;

/// The `worker` subcommand of the binary: does jobs that arrive on stdin, a socket, until its end.
pub fn main() -> Result<()> {
    let failed = |what: &'static str| move |e: io::Error| RuntimeError::io(what, "worker", e);
    let socket = take_stdin().map_err(failed("take the socket of"))?;
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|e| RuntimeError::io("bind the life of", "worker", e))?;
    sys::set_slice(0, sys::Slice::Short);
    let mut incoming = Incoming::default();
    let Some((setup, _)) = next::<WorkerSetup>(&mut incoming, &socket).map_err(failed("set up"))?
    else {
        return Ok(());
    };
    let worker = match Worker::new(setup) {
        Ok(worker) => worker,
        // Whoever waits for the first job is to hear why there is no worker.
        Err(error) => {
            if next::<Job>(&mut incoming, &socket).is_ok_and(|job| job.is_some()) {
                let result = JobResult::Failed(Fault::internal(&error));
                let told = Outgoing::new(&result, Vec::new())
                    .and_then(|mut frame| frame.send(socket.as_fd()));
                told.map_err(failed("answer a job of"))?;
            }
            return Err(error);
        }
    };
    while let Some((job, fds)) =
        next::<Job>(&mut incoming, &socket).map_err(failed("read a job of"))?
    {
        let (result, fds) = worker
            .run(job, fds)
            .unwrap_or_else(|fault| (JobResult::Failed(fault), Vec::new()));
        let mut frame = Outgoing::new(&result, fds).map_err(failed("answer a job of"))?;
        frame
            .send(socket.as_fd())
            .map_err(failed("answer a job of"))?;
    }
    Ok(())
}

struct Worker {
    setup: WorkerSetup,
    /// By descriptors: their mounts are hidden.
    cgroups: Cgroups,
    _held: Vec<OwnedFd>,
    /// Our own, before any container's.
    oom_score_adj: i32,
    filters: Filters,
}

impl Worker {
    fn new(setup: WorkerSetup) -> Result<Self> {
        let failed = |what: &'static str| move |e: io::Error| RuntimeError::io(what, "a worker", e);
        let (cgroups, held) = Cgroups::detect()
            .and_then(|c| c.pinned())
            .map_err(failed("find the cgroups for"))?;
        separate(&setup.hide, !cgroups.is_v2()).map_err(failed("make a mount namespace for"))?;
        Ok(Self {
            setup,
            cgroups,
            _held: held,
            oom_score_adj: read_oom_score_adj(),
            filters: Filters::default(),
        })
    }

    fn run(&self, job: Job, fds: Vec<OwnedFd>) -> Outcome {
        match job {
            Job::CreateSandbox { spec, dir } => {
                sandbox::create(&spec, &dir, fds).map(|()| (JobResult::Done, Vec::new()))
            }
            Job::CreateContainer(job) => self.create(&job, fds),
            Job::StartContainer { id } => self.start(&id).map(|()| (JobResult::Done, Vec::new())),
            Job::Exec {
                id,
                dir,
                cgroup,
                container,
                spec,
            } => {
                let exec = exec::Exec {
                    id,
                    dir,
                    container: *container,
                    spec,
                };
                let confinement = self.confine_next(&exec.container, &exec.dir)?;
                self.in_child(&cgroup, |last| self.exec(&exec, fds, confinement, last))
            }
            Job::DeleteContainer { id, dir, cgroup } => {
                delete::delete(&self.cgroups, &self.setup.oci.join(id), &dir, &cgroup)
                    .map(|()| (JobResult::Done, Vec::new()))
            }
        }
    }

    /// Sets ours, which the next container inherits, and gives what could be set. Without CAP_SYS_RESOURCE nobody gets
    /// below what we were given.
    fn set_oom_score_adj(&self, wanted: i32) -> i32 {
        let write = |value: i32| std::fs::write("/proc/self/oom_score_adj", value.to_string());
        if write(wanted).is_ok() {
            return wanted;
        }
        let least = wanted.max(self.oom_score_adj);
        if write(least).is_ok() {
            least
        } else {
            self.oom_score_adj
        }
    }
}

fn read_oom_score_adj() -> i32 {
    std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|t| t.trim().parse().ok())
        .unwrap_or(0)
}

/// Moves stdin away from descriptor 0, which the containers must not see.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(socket)
}

fn next<T: serde::de::DeserializeOwned>(
    incoming: &mut Incoming,
    socket: &OwnedFd,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    loop {
        if let Some(found) = incoming.next()? {
            return Ok(Some(found));
        }
        if incoming.receive(socket.as_fd())? == 0 {
            return Ok(None);
        }
    }
}

/// A mount namespace of our own without what no container needs: the mounts that hold the namespaces of sandboxes, each
/// of which every container would copy, and version 1's cgroups, which libcontainer would write to at great cost.
fn separate(hide: &Path, hide_cgroups: bool) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    for Mounted { target, kind, .. } in mount_table::read()? {
        let hidden = target.starts_with(hide)
            || kind == "nsfs"
            || (hide_cgroups && matches!(kind.as_str(), "cgroup" | "cgroup2"));
        if hidden {
            // Gone with the one above it already, perhaps.
            let _ = umount2(&target, MntFlags::MNT_DETACH);
        }
    }
    // What is mounted for containers is mounted here: no file system has to write that down.
    mount(
        Some("stage"),
        hide,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=700,size=1m"),
    )?;
    Ok(())
}
