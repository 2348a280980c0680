//! A child for each creation: it joins the container's cgroups, so that what libcontainer forks is there from the start,
//! and takes with it whatever libcontainer changes in its caller. What it made becomes the supervisor's child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getppid};

use super::{Outcome, Worker, next};
use crate::frame::{Incoming, Outgoing};
use crate::protocol::{Fault, JobResult};
use crate::sys;

impl Worker {
    /// Does a job in a child that is in a container's cgroups.
    /// What libcontainer runs at last is to join the one of the processor by itself, through the descriptor that
    /// `job` gets.
    pub(super) fn in_child(
        &self,
        cgroup: &str,
        job: impl FnOnce(Option<RawFd>) -> Outcome,
    ) -> Outcome {
        let failed = |e: io::Error| Fault::internal(format!("start a child: {e}"));
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let unified = self.unified(cgroup)?;
        let parent = nix::unistd::getpid();
        // SAFETY: a worker has one thread.
        let child = unsafe { sys::fork_into(unified.as_ref().map(AsFd::as_fd)) }.map_err(failed)?;
        let Some(child) = child else {
            drop(ours);
            let code = self.live(cgroup, parent, &theirs, job);
            // SAFETY: ends this process without running what the parent has registered.
            unsafe { libc::_exit(code) }
        };
        drop(theirs);
        let answer = next::<JobResult>(&mut Incoming::default(), &ours.into());
        let status = waitpid(Pid::from_raw(child), None).map_err(Fault::internal)?;
        match answer {
            Ok(Some((JobResult::Failed(fault), _))) => Err(fault),
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(Fault::internal(format!(
                "the child said nothing: {status:?}"
            ))),
            Err(error) => Err(failed(error)),
        }
    }

    /// The child's whole life; gives its exit code.
    fn live(
        &self,
        cgroup: &str,
        parent: Pid,
        socket: &UnixStream,
        job: impl FnOnce(Option<RawFd>) -> Outcome,
    ) -> i32 {
        let bound = set_pdeathsig(Signal::SIGKILL);
        if bound.is_err() || getppid() != parent {
            return 1;
        }
        let outcome = self
            .cgroups
            .join(cgroup)
            .map_err(Fault::internal)
            .and_then(|last| job(last.as_ref().map(AsRawFd::as_raw_fd)));
        let (result, fds) = outcome.unwrap_or_else(|fault| (JobResult::Failed(fault), Vec::new()));
        let sent = Outgoing::new(&result, fds).and_then(|mut frame| frame.send(socket.as_fd()));
        i32::from(!matches!(sent, Ok(true)))
    }

    /// On a hybrid host, the pod's folder in the unified hierarchy, which libcontainer leaves alone; programs are
    /// attached there and above. On a pure version 2 host libcontainer puts processes where they belong.
    fn unified(&self, cgroup: &str) -> Result<Option<OwnedFd>, Fault> {
        let pod = Path::new(cgroup).parent().and_then(Path::to_str);
        let (Some(pod), false) = (pod, self.cgroups.is_v2()) else {
            return Ok(None);
        };
        let Some(folder) = self.cgroups.unified(pod) else {
            return Ok(None);
        };
        open(&folder, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map(Some)
            .map_err(|e| Fault::internal(format!("open cgroup {pod}: {e}")))
    }
}
