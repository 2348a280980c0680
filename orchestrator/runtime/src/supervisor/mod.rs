//! The supervisor of a node: who starts it, and its two processes. `keeper` is the one on top, tiny, which keeps the
//! other alive; `core` owns the containers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cgroup::Cgroups;
use crate::error::{Result, RuntimeError};
use crate::frame::{Incoming, Outgoing};
use crate::protocol::{Answer, Body, Call, Request, SOCKET};
use crate::sys;

mod adopt;
mod attach;
mod clients;
mod containers;
mod core;
mod endings;
mod execs;
mod handover;
mod keeper;
mod logs;
mod peer;
mod pool;
mod record;
mod revival;
mod sandboxes;
mod upgrade;

/// Environment variable that tells the two processes apart.
const ROLE: &str = "WAGGLE_SUPERVISOR_ROLE";
/// How long a supervisor may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a supervisor may take to answer a ping before it counts as absent.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long ending all containers of a node may take.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(120);
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

    /// The program that has the subcommands.
    #[must_use]
    pub fn program(&self) -> &Path {
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
    let _turn = lock(&options.data.join("start.lock"), Wait::Long)
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
            Some(ref ended) => match ended.recv_timeout(Duration::from_millis(20)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ok(status)) if !status.success() => {
                    let log = options.data.join("supervisor.log");
                    return Err(not_started(format!(
                        "it ended with {status}; see {}",
                        log.display()
                    )));
                }
                // Another keeper was at work: it will answer soon, or it is dying and we try again.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(50));
                    child = None;
                }
            },
        }
    }
}

type Ended = Receiver<io::Result<std::process::ExitStatus>>;

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
        .arg0("waggle")
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
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name("reap-supervisor".into())
        .spawn(move || {
            // Nobody may be listening any more, which is fine.
            let _ = sender.send(child.wait());
        })?;
    Ok(receiver)
}

/// The `supervisor` subcommand of the binary. Returns when the supervisor was shut down, or another one is at work.
pub fn main(options: &SupervisorOptions) -> Result<()> {
    if std::env::var_os(ROLE).is_some_and(|role| role == "core") {
        core::run(options)
    } else {
        keeper::run(options)
    }
}

/// Takes a node's runtime away for good: ends every container, and removes sandboxes, mounts, state and cgroups. A
/// supervisor is started if none answers, because what a dead one left must go too. Logs and images stay. Blocks.
pub fn destroy(options: &SupervisorOptions) -> Result<()> {
    ensure_running(options)?;
    let failed =
        |e: io::Error| RuntimeError::io("shut down the supervisor of", options.data.display(), e);
    match ask(&options.socket(), Request::Shutdown, DESTROY_TIMEOUT).map_err(failed)? {
        Body::Done => {}
        Body::Failed(fault) => {
            return Err(fault.into_error("shut down the supervisor of", &options.cgroup));
        }
        other => {
            return Err(RuntimeError::Protocol(format!(
                "unexpected answer {other:?}"
            )));
        }
    }
    // Held for as long as it lives.
    drop(lock(&options.data.join("supervisor.lock"), Wait::Long).map_err(failed)?);
    let errors = Cgroups::detect()
        .map_err(failed)?
        .remove_settled(&format!("{}/supervisor", options.cgroup));
    if let Some(error) = errors.into_iter().next() {
        return Err(failed(error));
    }
    for folder in ["sandboxes", "containers", "oci"] {
        match std::fs::remove_dir_all(options.data.join(folder)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

impl SupervisorOptions {
    /// Whether a process runs the program that supervisors are started from now.
    ///
    /// # Errors
    /// The process is gone, or the program.
    pub fn is_program_of(&self, pid: u32) -> io::Result<bool> {
        upgrade::runs(pid, self.program())
    }
}

/// What containers of a pod have written to their root file systems: container name and folder, below a supervisor's data
/// folder.
#[must_use]
pub fn writable_layers(data: &Path, pod: &str) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(data.join("containers")) else {
        return Vec::new();
    };
    let one = |entry: std::fs::DirEntry| {
        let id = entry.file_name().into_string().ok()?;
        let (of, rest) = id.split_once('_')?;
        let (name, _attempt) = rest.split_once('_')?;
        (of == pod).then(|| (name.to_owned(), entry.path().join("upper")))
    };
    entries.flatten().filter_map(one).collect()
}

/// Asks a supervisor whether it is there.
fn ping(socket: &Path) -> io::Result<()> {
    match ask(socket, Request::Ping, PING_TIMEOUT)? {
        Body::Pong { .. } => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One question on a connection of its own.
fn ask(socket: &Path, request: Request, timeout: Duration) -> io::Result<Body> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Outgoing::new(&Call { id: 0, request }, Vec::new())?.send(stream.as_fd())?;
    let mut incoming = Incoming::default();
    loop {
        if incoming.receive(stream.as_fd())? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some((answer, _)) = incoming.next::<Answer>()? {
            return Ok(answer.body);
        }
    }
}

fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Whether to wait for who has a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Long,
    Not,
}

/// Takes a lock file, which is given back when it is closed.
fn lock(path: &Path, wait: Wait) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    sys::lock(file.as_fd(), wait == Wait::Long)?;
    Ok(file)
}
