//! The supervisor of a node: who starts it, and its two processes. `keeper` is the one on top, tiny, which keeps the
//! other alive; `core` owns the containers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Result, RuntimeError};
use crate::frame::{Incoming, Outgoing};
use crate::protocol::{Answer, Body, Call, Request, SOCKET};

/// How long a supervisor may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a supervisor may take to answer a ping before it counts as absent.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// A log of the supervisor itself that is larger than this starts afresh, bytes.
const LOG_LIMIT: u64 = 8 << 20;

/// Where a supervisor keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorOptions {
    /// Its data folder: socket, sandboxes, containers.
    pub data: PathBuf,
    /// cgroup of the node below each hierarchy's root, without a leading slash: `waggle/local/node1`.
    pub cgroup: String,
    /// The program that has the `supervisor` and `worker` subcommands; `None` is the calling program itself.
    pub program: Option<PathBuf>,
}

impl SupervisorOptions {
    /// A supervisor that is started from the calling program.
    #[must_use]
    pub fn new(data: impl Into<PathBuf>, cgroup: impl Into<String>) -> Self {
        SupervisorOptions {
            data: data.into(),
            cgroup: cgroup.into(),
            program: None,
        }
    }

    /// The supervisor's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.data.join(SOCKET)
    }

    fn program(&self) -> &Path {
        self.program
            .as_deref()
            .unwrap_or(Path::new("/proc/self/exe"))
    }
}

/// Makes sure that a supervisor answers for this data folder: starts one, detached, when none does. The new process is
/// `<program> supervisor --data <data> --cgroup <cgroup>`, in a session and cgroup of its own; it outlives the caller.
/// Blocks until the socket answers, for at most 15 seconds.
pub fn ensure_running(options: &SupervisorOptions) -> Result<()> {
    std::fs::create_dir_all(&options.data)
        .map_err(|e| RuntimeError::io("create", options.data.display(), e))?;
    if ping(&options.socket()).is_ok() {
        return Ok(());
    }
    let not_started = |reason: String| RuntimeError::NotStarted {
        data: options.data.clone(),
        reason,
    };
    let _turn = lock(&options.data.join("start.lock"), FlockArg::LockExclusive)
        .map_err(|e| not_started(format!("lock: {e}")))?;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut child = None;
    loop {
        let answer = ping(&options.socket());
        let Err(error) = answer else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(not_started(format!(
                "it doesn't answer after {START_TIMEOUT:?}: {error}"
            )));
        }
        match child {
            None => child = Some(spawn(options).map_err(|e| not_started(e.to_string()))?),
            Some(ref receiver) => {
                // The child ends at once when another keeper is at work already; the socket will answer then.
                match std::sync::mpsc::Receiver::recv_timeout(receiver, Duration::from_millis(20)) {
                    Ok(Ok(status)) if !status.success() => {
                        let log = options.data.join("supervisor.log");
                        return Err(not_started(format!(
                            "it ended with {status}; see {}",
                            log.display()
                        )));
                    }
                    Ok(_) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                }
            }
        }
    }
}

type Ended = std::sync::mpsc::Receiver<io::Result<std::process::ExitStatus>>;

/// Starts a keeper; a thread reaps it, so that it leaves no zombie should it end before its parent does.
fn spawn(options: &SupervisorOptions) -> io::Result<Ended> {
    let path = options.data.join("supervisor.log");
    let fresh = path.metadata().is_ok_and(|m| m.len() > LOG_LIMIT);
    let log = OpenOptions::new()
        .create(true)
        .append(!fresh)
        .write(true)
        .truncate(fresh)
        .open(&path)?;
    let mut child = Command::new(options.program())
        .arg("supervisor")
        .arg("--data")
        .arg(&options.data)
        .arg("--cgroup")
        .arg(&options.cgroup)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("reap-supervisor".into())
        .spawn(move || {
            // Nobody may be listening any more, which is fine.
            let _ = sender.send(child.wait());
        })?;
    Ok(receiver)
}

/// Asks a supervisor whether it is there.
fn ping(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PING_TIMEOUT))?;
    stream.set_write_timeout(Some(PING_TIMEOUT))?;
    Outgoing::new(
        &Call {
            id: 0,
            request: Request::Ping,
        },
        Vec::new(),
    )?
    .send(stream.as_fd())?;
    let mut incoming = Incoming::default();
    loop {
        if incoming.receive(stream.as_fd())? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((answer, _)) = incoming.next::<Answer>()? {
            return match answer.body {
                Body::Pong { .. } => Ok(()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

/// Takes a lock file, which ends with the process that holds it.
fn lock(path: &Path, how: FlockArg) -> io::Result<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}
