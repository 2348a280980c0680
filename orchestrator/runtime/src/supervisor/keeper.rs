//! The process above the supervisor proper: it starts it again when it dies, keeps the descriptors of its containers'
//! streams meanwhile, collects the exit codes of containers whose parent is gone, and brings back the agent (`revival`).
//! It knows nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::FlockArg;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::revival::Revival;
use super::{ROLE, SupervisorOptions, lock};
use crate::cgroup::Cgroups;
use crate::error::{Result, RuntimeError};
use crate::protocol::AgentCommand;
use crate::sys::{self, Children, Ending};

/// Exits that nobody has asked for; more than any node has containers.
const MAX_EXITS: usize = 20_000;
/// A supervisor that lived so long is started again at once.
const HEALTHY: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What the keeper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum KeeperWord {
    /// A descriptor that was kept.
    Kept { name: String },
    /// A process without a parent has ended.
    Exit(Exit),
    /// That is all from before.
    Ready,
}

/// What the supervisor says to its keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum CoreWord {
    /// Keep this descriptor.
    Keep { name: String },
    /// Close it.
    Forget { name: String },
    /// Start this agent again when it dies.
    Revive(AgentCommand),
    /// Don't: it ends because it was asked to.
    TakeLeave,
    /// This exit was taken note of.
    Noted { pid: i32, ticks: u64 },
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) pid: i32,
    pub(super) ticks: u64,
    pub(super) ending: Ending,
    pub(super) at_ns: i64,
}

struct Core {
    pid: Pid,
    peer: Peer,
    since: Instant,
}

struct Keeper<'a> {
    options: &'a SupervisorOptions,
    kept: BTreeMap<String, OwnedFd>,
    exits: VecDeque<Exit>,
    agent: Option<Revival>,
}

pub(super) fn run(options: &SupervisorOptions) -> Result<()> {
    let failed =
        |what: &'static str| move |e: io::Error| RuntimeError::io(what, options.data.display(), e);
    std::fs::create_dir_all(&options.data).map_err(failed("create"))?;
    let Ok(_lock) = lock(
        &options.data.join("supervisor.lock"),
        FlockArg::LockExclusiveNonblock,
    ) else {
        tracing::info!(data = %options.data.display(), "another supervisor is at work here");
        return Ok(());
    };
    // Fails when we lead a session already, which is as good.
    let _ = nix::unistd::setsid();
    set_child_subreaper(true).map_err(|e| failed("become the reaper of")(e.into()))?;
    let own = format!("{}/supervisor", options.cgroup);
    Cgroups::detect()
        .and_then(|c| c.enter(&own, 0))
        .map_err(failed("enter the cgroup of"))?;
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|e| failed("block signals of")(e.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| failed("watch signals of")(e.into()))?;
    Keeper {
        options,
        kept: BTreeMap::new(),
        exits: VecDeque::new(),
        agent: None,
    }
    .run(&signals)
    .map_err(failed("keep the supervisor of"))
}

impl Keeper<'_> {
    fn run(&mut self, signals: &SignalFd) -> io::Result<()> {
        let mut pause = Duration::ZERO;
        loop {
            let mut core = self.start()?;
            match self.attend(&mut core, signals)? {
                None | Some(Ending { code: 0, .. }) => return Ok(()),
                Some(ending) => tracing::error!(?ending, "the supervisor died; starting it again"),
            }
            pause = if core.since.elapsed() > HEALTHY {
                Duration::ZERO
            } else {
                (pause * 2).clamp(Duration::from_millis(50), MAX_PAUSE)
            };
            std::thread::sleep(pause);
        }
    }

    fn start(&mut self) -> io::Result<Core> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("waggle")
            .arg("supervisor")
            .arg("--data")
            .arg(&self.options.data);
        command
            .arg("--cgroup")
            .arg(&self.options.cgroup)
            .env_clear()
            .env(ROLE, "core")
            .stdin(OwnedFd::from(theirs));
        for name in ["WAGGLE_LOG", "RUST_BACKTRACE"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        let child = command.stdout(Stdio::null()).spawn()?;
        let mut peer = Peer::new(ours.into())?;
        for (name, fd) in &self.kept {
            peer.send(
                &KeeperWord::Kept { name: name.clone() },
                vec![fd.try_clone()?],
            )?;
        }
        for exit in &self.exits {
            peer.send(&KeeperWord::Exit(*exit), Vec::new())?;
        }
        peer.send(&KeeperWord::Ready, Vec::new())?;
        Ok(Core {
            pid: Pid::from_raw(child.id() as i32),
            peer,
            since: Instant::now(),
        })
    }

    /// Until the supervisor ends; `None` when we are asked to end, which leaves the containers alone.
    fn attend(&mut self, core: &mut Core, signals: &SignalFd) -> io::Result<Option<Ending>> {
        let mut open = true;
        loop {
            let flushed = !open || core.peer.flush().unwrap_or(true);
            let mut interest = PollFlags::POLLIN;
            interest.set(PollFlags::POLLOUT, !flushed);
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if open {
                fds.push(PollFd::new(core.peer.as_fd(), interest));
            }
            let mut timeout = PollTimeout::NONE;
            if let Some(agent) = &self.agent {
                let (until, ended) = agent.interest();
                timeout = until;
                fds.extend(ended);
            }
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            drop(fds);
            if open {
                open = self.listen(&mut core.peer);
            }
            // After listening: it may have taken leave.
            if let Some(agent) = &mut self.agent {
                agent.tend();
            }
            while let Some(signal) = signals.read_signal()? {
                if signal.ssi_signo != libc::SIGCHLD as u32 {
                    // The next keeper finds the containers.
                    nix::sys::signal::kill(core.pid, Signal::SIGKILL)?;
                    return Ok(None);
                }
            }
            if let Some(ending) = self.reap(core)? {
                // What it said last may be a descriptor to keep.
                if open {
                    self.listen(&mut core.peer);
                }
                return Ok(Some(ending));
            }
        }
    }

    /// Takes what the supervisor said; `false` when it won't say anything more.
    fn listen(&mut self, peer: &mut Peer) -> bool {
        let more = peer.fill().unwrap_or(false);
        loop {
            match peer.next::<CoreWord>() {
                Ok(Some((CoreWord::Keep { name }, fds))) => {
                    self.kept
                        .extend(fds.into_iter().next().map(|fd| (name, fd)));
                }
                Ok(Some((CoreWord::Revive(command), fds))) => {
                    self.agent = Revival::new(command, fds, self.agent.take());
                }
                Ok(Some((CoreWord::TakeLeave, _))) => self.agent = None,
                Ok(Some((CoreWord::Forget { name }, _))) => drop(self.kept.remove(&name)),
                Ok(Some((CoreWord::Noted { pid, ticks }, _))) => {
                    self.exits.retain(|e| (e.pid, e.ticks) != (pid, ticks));
                }
                Ok(None) => return more,
                Err(error) => {
                    tracing::error!(%error, "the supervisor says what can't be understood");
                    return false;
                }
            }
        }
    }

    /// Reaps all that has ended; gives the supervisor's own end.
    fn reap(&mut self, core: &mut Core) -> io::Result<Option<Ending>> {
        while let Some((pid, ending)) = sys::wait(Children::Peek)? {
            // While it is a zombie its start time can still be read.
            let ticks = sys::start_ticks(pid).unwrap_or(0);
            sys::wait(Children::Pid(pid))?;
            if pid == core.pid.as_raw() {
                return Ok(Some(ending));
            }
            if self.agent.as_ref().is_some_and(|agent| agent.is_child(pid)) {
                continue;
            }
            let exit = Exit {
                pid,
                ticks,
                ending,
                at_ns: super::now_ns(),
            };
            if self.exits.len() >= MAX_EXITS {
                self.exits.pop_front();
            }
            self.exits.push_back(exit);
            // When it can't be told now the next supervisor is told at its start.
            let _ = core.peer.send(&KeeperWord::Exit(exit), Vec::new());
        }
        Ok(None)
    }
}
