//! The streams of a running container, for a client that looks over its shoulder.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;

use super::{Client, Terminal, disconnected, key, unexpected};
use crate::error::{Result, RuntimeError};
use crate::protocol::{Body, Request};
use crate::spec::ContainerKey;

/// Bytes that a container may write ahead of a client; what is more is in its log only.
const AHEAD: libc::c_int = 1 << 20;

/// A container's streams. Those that it writes end with it.
pub struct Attachment {
    /// Its stdin, if it has one; dropping it ends a stdin that is to be used once.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// What it writes to stdout, or to its terminal, from now on.
    pub stdout: pipe::Receiver,
    /// What it writes to stderr; nothing with a terminal.
    pub stderr: pipe::Receiver,
    /// Its terminal, for the size; `None` without one.
    pub terminal: Option<Terminal>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment").finish_non_exhaustive()
    }
}

impl Client {
    /// Attaches to a running container.
    pub async fn attach(&self, pod: &str, name: &str) -> Result<Attachment> {
        let key = key(pod, name);
        let failed = |e: io::Error| RuntimeError::io("connect the streams of", &key, e);
        let (stdout, stdout_theirs) = io::pipe().map_err(failed)?;
        let (stderr, stderr_theirs) = io::pipe().map_err(failed)?;
        for pipe in [&stdout_theirs, &stderr_theirs] {
            // SAFETY: changes the size of a pipe that we own; memory of ours is not involved. A kernel that refuses
            // leaves it smaller.
            let _ = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, AHEAD) };
        }
        let theirs = vec![stdout_theirs.into(), stderr_theirs.into()];
        let request = Request::Attach(key.clone());
        let mut answers = self.call(request.clone(), theirs).await?;
        let (tty, fds) = match answers.recv().await {
            Some((Body::Attached { tty }, fds)) => (tty, fds),
            Some((Body::Failed(fault), _)) => {
                return Err(fault.into_error("attach to", &key.to_string()));
            }
            Some((other, _)) => return Err(unexpected(&other)),
            None => return Err(disconnected(&request)),
        };
        let fd = fds.into_iter().next();
        let (inner, terminal): (Option<Box<dyn AsyncWrite + Send + Unpin>>, _) = match (tty, fd) {
            (_, None) => (None, None),
            (true, Some(master)) => {
                let terminal = Terminal::new(master).map_err(failed)?;
                (Some(Box::new(terminal.clone())), Some(terminal))
            }
            (false, Some(fifo)) => {
                let sender = pipe::Sender::from_owned_fd(fifo).map_err(failed)?;
                (Some(Box::new(sender)), None)
            }
        };
        let client = self.clone();
        Ok(Attachment {
            stdin: inner.map(|inner| {
                Box::new(Stdin {
                    inner,
                    client,
                    key: key.clone(),
                }) as Box<_>
            }),
            stdout: pipe::Receiver::from_owned_fd(stdout.into()).map_err(failed)?,
            stderr: pipe::Receiver::from_owned_fd(stderr.into()).map_err(failed)?,
            terminal,
        })
    }
}

/// Tells the supervisor when nothing more will be written.
struct Stdin {
    inner: Box<dyn AsyncWrite + Send + Unpin>,
    client: Client,
    key: ContainerKey,
}

impl Drop for Stdin {
    fn drop(&mut self) {
        let (client, key) = (self.client.clone(), self.key.clone());
        // Outside of a runtime nobody is left who would care.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = client.done(Request::CloseStdin(key)).await {
                tracing::debug!(%error, "a container's stdin stays open");
            }
        });
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
