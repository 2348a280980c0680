//! A command that runs in a container, with its streams: pipes, or one terminal. The bytes don't pass the supervisor.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use super::{Answers, Client, disconnected, unexpected};
use crate::error::{Result, RuntimeError};
use crate::protocol::{Body, Request};
use crate::spec::ExecSpec;

/// A running command. The streams can be taken out and used by different tasks; dropping `stdin` closes it.
pub struct ExecSession {
    /// The command's stdin; `None` unless asked for.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its stdout, or with a terminal all that it writes.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Its stderr; `None` with a terminal.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// The terminal, for its size; `None` without one.
    pub terminal: Option<Terminal>,
    spec: ExecSpec,
    answers: Answers,
    client: Client,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

impl ExecSession {
    /// Sets the size of the terminal; nothing without one.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        self.terminal
            .as_ref()
            .map_or(Ok(()), |terminal| terminal.resize(columns, rows))
    }

    /// Waits for the end of the command: its exit code, 128 + signal when killed. Safe to call again when cancelled.
    pub async fn wait(&mut self) -> Result<i32> {
        let object = format!("{}/{}", self.spec.pod, self.spec.container);
        match self.answers.recv().await {
            Some((Body::ExecExited { code }, _)) => Ok(code),
            Some((Body::Failed(fault), _)) => Err(fault.into_error("exec in", &object)),
            Some((other, _)) => Err(unexpected(&other)),
            None => Err(disconnected(&Request::Exec(self.spec.clone()))),
        }
    }

    /// Sends a signal to the command, to end one that takes too long.
    pub async fn signal(&mut self, signal: i32) -> Result<()> {
        self.client
            .done(Request::SignalExec {
                exec: self.answers.id,
                signal,
            })
            .await
    }
}

/// What stays with us and what goes to the new process.
struct Pipes {
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    theirs: Vec<OwnedFd>,
}

fn pipes(stdin: bool) -> io::Result<Pipes> {
    let (stdout, stdout_theirs) = io::pipe()?;
    let (stderr, stderr_theirs) = io::pipe()?;
    let (ours, theirs) = if stdin {
        let (theirs, ours) = io::pipe()?;
        (
            Some(pipe::Sender::from_owned_fd(ours.into())?),
            OwnedFd::from(theirs),
        )
    } else {
        (None, OwnedFd::from(std::fs::File::open("/dev/null")?))
    };
    Ok(Pipes {
        stdin: ours,
        stdout: pipe::Receiver::from_owned_fd(stdout.into())?,
        stderr: pipe::Receiver::from_owned_fd(stderr.into())?,
        theirs: vec![theirs, stdout_theirs.into(), stderr_theirs.into()],
    })
}

pub(super) async fn start(client: &Client, spec: ExecSpec) -> Result<ExecSession> {
    let object = format!("{}/{}", spec.pod, spec.container);
    let failed = |e: io::Error| RuntimeError::io("connect the streams of an exec in", &object, e);
    let mut pipes = if spec.tty {
        None
    } else {
        Some(pipes(spec.stdin).map_err(failed)?)
    };
    let theirs = pipes
        .as_mut()
        .map(|p| std::mem::take(&mut p.theirs))
        .unwrap_or_default();
    let mut answers = client.call(Request::Exec(spec.clone()), theirs).await?;
    let fds = match answers.recv().await {
        Some((Body::ExecStarted, fds)) => fds,
        Some((Body::Failed(fault), _)) => return Err(fault.into_error("exec in", &object)),
        Some((other, _)) => return Err(unexpected(&other)),
        None => return Err(disconnected(&Request::Exec(spec))),
    };
    let mut session = ExecSession {
        stdin: None,
        stdout: None,
        stderr: None,
        terminal: None,
        answers,
        client: client.clone(),
        spec,
    };
    if let Some(pipes) = pipes {
        session.stdin = pipes
            .stdin
            .map(|s| Box::new(s) as Box<dyn AsyncWrite + Send + Unpin>);
        session.stdout = Some(Box::new(pipes.stdout));
        session.stderr = Some(Box::new(pipes.stderr));
        return Ok(session);
    }
    let master = fds
        .into_iter()
        .next()
        .ok_or_else(|| RuntimeError::Protocol("no terminal came".into()))?;
    let terminal = Terminal::new(master).map_err(failed)?;
    if let Some((columns, rows)) = session.spec.terminal_size {
        terminal.resize(columns, rows)?;
    }
    session.stdin = session
        .spec
        .stdin
        .then(|| Box::new(terminal.clone()) as Box<dyn AsyncWrite + Send + Unpin>);
    session.stdout = Some(Box::new(terminal.clone()));
    session.terminal = Some(terminal);
    Ok(session)
}

/// The master of a terminal. It hangs up when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Terminal {
    master: Arc<AsyncFd<OwnedFd>>,
}

impl Terminal {
    pub(super) fn new(master: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: an OwnedFd keeps its descriptor open, and always gives the same one.
        let master = unsafe { AsyncFd::register(master) }?;
        Ok(Terminal {
            master: Arc::new(master),
        })
    }

    /// Sets its size in characters.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads one winsize, which lives on our stack for the length of the call.
        let rc = unsafe {
            libc::ioctl(
                self.master.get_ref().as_raw_fd(),
                libc::TIOCSWINSZ,
                &raw const size,
            )
        };
        nix::errno::Errno::result(rc)
            .map(drop)
            .map_err(|e| RuntimeError::io("resize", "a terminal", e))
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.master.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|master| Ok(nix::unistd::read(master.get_ref(), room)?)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // The kernel's way to say that nobody holds the other end any more.
                Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(e)) => return Poll::Ready(Err(e)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.master.poll_write_ready(context))?;
            match guard.try_io(|master| Ok(nix::unistd::write(master.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
