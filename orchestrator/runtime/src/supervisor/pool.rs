//! The supervisor's workers and the jobs that wait for them. One job a pod at a time, so that what happens to a pod
//! happens in the order in which it was asked; a worker that failed, hung or died is replaced.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::peer::Peer;
use crate::error::FaultKind;
use crate::protocol::{Fault, Job, JobResult, WorkerSetup};
use crate::sys::{self, Ending};

/// Workers at most.
const WORKERS: usize = 2;
/// How long a job may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A job that waits, with what follows it.
#[derive(Debug)]
pub(super) struct Task<T> {
    pub(super) pod: String,
    pub(super) job: Job,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) then: T,
}

/// A job that ended, one way or the other.
#[derive(Debug)]
pub(super) struct Finished<T> {
    pub(super) then: T,
    pub(super) result: JobResult,
    pub(super) fds: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Running<T> {
    pod: String,
    then: T,
    deadline: Instant,
    /// A failure of it may leave the worker in a bad state.
    delicate: bool,
}

/// A worker process.
#[derive(Debug)]
pub(super) struct Worker<T> {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// Gone once it is retired; it then ends.
    peer: Option<Peer>,
    running: Option<Running<T>>,
    /// What the event loop knows its socket and its process by.
    pub(super) tokens: (u64, u64),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Pool<T> {
    setup: WorkerSetup,
    workers: Vec<Worker<T>>,
    queue: VecDeque<Task<T>>,
    busy: HashSet<String>,
}

impl<T> Pool<T> {
    pub(super) fn new(setup: WorkerSetup) -> Self {
        Pool {
            setup,
            workers: Vec::new(),
            queue: VecDeque::new(),
            busy: HashSet::new(),
        }
    }

    pub(super) fn push(&mut self, task: Task<T>) {
        self.queue.push_back(task);
    }

    /// No job waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.busy.is_empty()
    }

    /// The pids of all workers.
    pub(super) fn has(&self, pid: i32) -> bool {
        self.workers.iter().any(|w| w.pid == pid)
    }

    /// Gives waiting jobs to workers. `register` tells the event loop about a new one: its socket and its process.
    /// Jobs that can't be given to anybody come back as failed.
    pub(super) fn dispatch(
        &mut self,
        mut register: impl FnMut(&Peer, &OwnedFd) -> io::Result<(u64, u64)>,
    ) -> Vec<Finished<T>> {
        let mut failed = Vec::new();
        while let Some(next) = self
            .queue
            .iter()
            .position(|task| !self.busy.contains(&task.pod))
        {
            let idle = self
                .workers
                .iter()
                .position(|w| w.peer.is_some() && w.running.is_none());
            let index = match idle {
                Some(index) => index,
                None if self.workers.iter().filter(|w| w.peer.is_some()).count() >= WORKERS => {
                    break;
                }
                None => match spawn(&self.setup, &mut register) {
                    Ok(worker) => {
                        self.workers.push(worker);
                        self.workers.len() - 1
                    }
                    Err(error) => {
                        if let Some(task) = self.queue.remove(next) {
                            let result = JobResult::Failed(Fault::internal(format!(
                                "start a worker: {error}"
                            )));
                            failed.push(Finished {
                                then: task.then,
                                result,
                                fds: Vec::new(),
                            });
                        }
                        continue;
                    }
                },
            };
            if let Some(task) = self.queue.remove(next) {
                failed.extend(self.give(index, task));
            }
        }
        failed
    }

    fn give(&mut self, index: usize, task: Task<T>) -> Option<Finished<T>> {
        let worker = &mut self.workers[index];
        let sent = worker
            .peer
            .as_mut()
            .map(|peer| peer.send(&task.job, task.fds));
        if let Some(Ok(())) = sent {
            let delicate = matches!(
                task.job,
                Job::CreateContainer(_) | Job::Exec { .. } | Job::CreateSandbox { .. }
            );
            self.busy.insert(task.pod.clone());
            let deadline = Instant::now() + PATIENCE;
            worker.running = Some(Running {
                pod: task.pod,
                then: task.then,
                deadline,
                delicate,
            });
            return None;
        }
        let result = JobResult::Failed(Fault::internal("a job is too large for its worker"));
        Some(Finished {
            then: task.then,
            result,
            fds: Vec::new(),
        })
    }

    /// A worker's socket has something to say.
    pub(super) fn readable(&mut self, token: u64) -> Vec<Finished<T>> {
        let mut finished = Vec::new();
        let Some(worker) = self.workers.iter_mut().find(|w| w.tokens.0 == token) else {
            return finished;
        };
        let Some(peer) = &mut worker.peer else {
            return finished;
        };
        let open = peer.fill().unwrap_or(false);
        let mut retire = !open;
        while let Ok(Some((result, fds))) = peer.next::<JobResult>() {
            let Some(running) = worker.running.take() else {
                break;
            };
            self.busy.remove(&running.pod);
            retire |= running.delicate && matches!(result, JobResult::Failed(_));
            finished.push(Finished {
                then: running.then,
                result,
                fds,
            });
        }
        if retire {
            worker.peer = None;
        }
        finished
    }

    /// A worker's process has ended.
    pub(super) fn died(&mut self, token: u64) -> Option<Finished<T>> {
        let index = self.workers.iter().position(|w| w.tokens.1 == token)?;
        let worker = self.workers.swap_remove(index);
        let ending = sys::wait(sys::Children::Pidfd(worker.pidfd.as_fd()));
        if let Err(error) = &ending {
            tracing::warn!(%error, "a worker can't be reaped");
        }
        let running = worker.running?;
        self.busy.remove(&running.pod);
        let fault = if running.deadline <= Instant::now() {
            Fault::new(
                FaultKind::TimedOut,
                format!("not done after {} seconds", PATIENCE.as_secs()),
            )
        } else {
            Fault::internal(match ending {
                Ok(Some((
                    _,
                    Ending {
                        signal: Some(signal),
                        ..
                    },
                ))) => {
                    format!("signal {signal} killed the worker at it")
                }
                Ok(Some((_, Ending { code, .. }))) => {
                    format!("the worker ended with {code} at it; the supervisor's log says why")
                }
                _ => "the worker died at it".to_owned(),
            })
        };
        Some(Finished {
            then: running.then,
            result: JobResult::Failed(fault),
            fds: Vec::new(),
        })
    }

    /// Kills workers whose job takes too long; their death is noticed as any other.
    pub(super) fn kill_late(&mut self) {
        for worker in &mut self.workers {
            if worker
                .running
                .as_ref()
                .is_some_and(|r| r.deadline <= Instant::now())
                && worker.peer.take().is_some()
            {
                tracing::error!(
                    pid = worker.pid,
                    "a job takes too long; its worker is killed"
                );
                if let Err(error) = sys::pidfd_signal(worker.pidfd.as_fd(), libc::SIGKILL) {
                    tracing::error!(%error, "a worker can't be killed");
                }
            }
        }
    }

    /// Sends what waits; `false` when some of it waits for room still.
    pub(super) fn flush(&mut self) -> bool {
        let mut all = true;
        for worker in &mut self.workers {
            match worker.peer.as_mut().map(Peer::flush) {
                None => {}
                Some(Ok(done)) => all &= done,
                Some(Err(_)) => worker.peer = None,
            }
        }
        all
    }
}

fn spawn<T>(
    setup: &WorkerSetup,
    register: &mut impl FnMut(&Peer, &OwnedFd) -> io::Result<(u64, u64)>,
) -> io::Result<Worker<T>> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("waggle")
        .arg("worker")
        .env_clear()
        .current_dir("/");
    for name in ["WAGGLE_LOG", "RUST_BACKTRACE"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let child = command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    let pid = child.id() as i32;
    let pidfd = sys::pidfd_open(pid)?;
    let mut peer = Peer::new(ours.into())?;
    peer.send(setup, Vec::new())?;
    let tokens = register(&peer, &pidfd)?;
    Ok(Worker {
        pid,
        pidfd,
        peer: Some(peer),
        running: None,
        tokens,
    })
}

/// Where libcontainer keeps its state, and what containers may open.
pub(super) fn setup(oci: PathBuf, hide: PathBuf, open_files: (u64, u64)) -> WorkerSetup {
    WorkerSetup {
        oci,
        hide,
        open_files,
    }
}
