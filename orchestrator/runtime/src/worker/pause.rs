//! The first process of a pod's own process namespace: reaps what the containers leave, and is the namespace's life.

use std::fs;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_name;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use crate::sys;

/// File of a sandbox with the process's pid and start time.
pub(crate) const FILE: &str = "pause";

/// Makes a process namespace with its first process, which the supervisor inherits from the caller.
pub(super) fn start(dir: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    match unsafe { fork() }? {
        ForkResult::Child => {
            live();
            // SAFETY: ends this process without running what the parent has registered.
            unsafe { libc::_exit(1) }
        }
        ForkResult::Parent { child } => {
            let ticks = sys::start_ticks(child.as_raw())
                .ok_or_else(|| io::Error::other("the namespace's first process is gone"))?;
            fs::write(dir.join(FILE), format!("{child} {ticks}"))
        }
    }
}

/// Kills the first process of a sandbox, and with it all that is left in the namespace.
pub(crate) fn end(dir: &Path) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(dir.join(FILE)) else {
        return Ok(());
    };
    let mut words = text.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let ticks = words.next().and_then(|word| word.parse().ok());
    let Some(pid) = pid else { return Ok(()) };
    let Ok(pidfd) = sys::pidfd_open(pid) else {
        return Ok(());
    };
    // After the descriptor is open, so that it is this process and no later one.
    if sys::start_ticks(pid) != ticks {
        return Ok(());
    }
    use std::os::fd::AsFd as _;
    sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL)
}

/// Reaps until it is killed; returns when even that fails.
fn live() {
    // SAFETY: closes what this process inherited and does not use; nothing here owns a descriptor.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    // SAFETY: sets the default action, no handler of ours.
    let ready = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
        .and_then(|_| set_name(c"pause"))
        .and_then(|()| mask.thread_set_mask());
    if ready.is_err() {
        return;
    }
    while mask.wait().is_ok() {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
