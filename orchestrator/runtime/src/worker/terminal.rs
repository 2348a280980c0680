//! Receives the master of a terminal that libcontainer makes inside a container.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use crate::frame::receive_fd;
use crate::protocol::Fault;

/// How long a terminal may take to arrive after the process was created.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that libcontainer sends one terminal to.
pub(super) struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    /// Listens in a folder.
    pub(super) fn listen(dir: &Path) -> Result<Self, Fault> {
        let failed =
            |e: std::io::Error| Fault::internal(format!("make the socket for a terminal: {e}"));
        let name = format!("console-{}", uuid::Uuid::new_v4().simple());
        // A socket's path is short by law; the folder's may not be.
        std::env::set_current_dir(dir).map_err(failed)?;
        let listener = UnixListener::bind(&name);
        std::env::set_current_dir("/").map_err(failed)?;
        Ok(Console {
            path: dir.join(name),
            listener: listener.map_err(failed)?,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what was sent.
    pub(super) fn accept(self) -> Result<OwnedFd, Fault> {
        let failed = |e: std::io::Error| Fault::internal(format!("receive a terminal: {e}"));
        let deadline = Instant::now() + PATIENCE;
        wait(self.listener.as_fd(), deadline).map_err(failed)?;
        let (stream, _) = self.listener.accept().map_err(failed)?;
        wait(stream.as_fd(), deadline).map_err(failed)?;
        receive_fd(stream.as_fd()).map_err(failed)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // The folder goes with the container anyway.
        let _ = fs::remove_file(&self.path);
    }
}

fn wait(fd: std::os::fd::BorrowedFd<'_>, deadline: Instant) -> std::io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    match poll(
        &mut polled,
        u16::try_from(left.as_millis()).unwrap_or(u16::MAX),
    )? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
