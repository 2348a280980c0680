//! The process above the supervisor proper: it starts it again when it dies, keeps the descriptors of its containers'
//! streams meanwhile, collects the exit codes of containers whose parent is gone, and brings back the agent (`revival`).
//! It knows nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::handover::{self, Luggage, Packed, PackedPeer};
use super::peer::Peer;
use super::revival::PackedRevival;
use super::revival::Revival;
use super::{ROLE, SupervisorOptions, Wait, lock};
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
    /// Become this program, as the supervisor did.
    Become,
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
    /// Only one keeper works in a folder.
    lock: File,
    kept: BTreeMap<String, OwnedFd>,
    exits: VecDeque<Exit>,
    agent: Option<Revival>,
}

pub(super) fn run(options: &SupervisorOptions) -> Result<()> {
    let failed =
        |what: &'static str| move |e: io::Error| RuntimeError::io(what, options.data.display(), e);
    std::fs::create_dir_all(&options.data).map_err(failed("create"))?;
    let handed: Option<State> = handover::received().map_err(failed("take over"))?;
    let (mut keeper, core) = match handed {
        Some(state) => state.unpack(options).map_err(failed("take over"))?,
        None => match lock(&options.data.join("supervisor.lock"), Wait::Not) {
            Ok(lock) => (Keeper::new(options, lock), None),
            Err(_) => {
                tracing::info!(data = %options.data.display(), "another supervisor is at work here");
                return Ok(());
            }
        },
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
    let result = keeper.run(core, &signals);
    result.map_err(failed("keep the supervisor of"))
}

/// What a keeper hands to the program that it becomes.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    lock: Packed,
    kept: BTreeMap<String, Packed>,
    exits: VecDeque<Exit>,
    agent: Option<PackedRevival>,
    core: Option<(i32, PackedPeer)>,
}

impl State {
    /// Of a keeper whose supervisor is still to be started.
    pub(super) fn new(lock: Packed, kept: BTreeMap<String, Packed>) -> Self {
        State {
            lock,
            kept,
            exits: VecDeque::new(),
            agent: None,
            core: None,
        }
    }

    fn unpack(self, options: &SupervisorOptions) -> io::Result<(Keeper<'_>, Option<Core>)> {
        let mut keeper = Keeper::new(options, self.lock.unpack()?.into());
        for (name, fd) in self.kept {
            keeper.kept.insert(name, fd.unpack()?);
        }
        keeper.exits = self.exits;
        keeper.agent = self.agent.map(PackedRevival::unpack).transpose()?;
        let core = match self.core {
            Some((pid, peer)) => Some(Core {
                pid: Pid::from_raw(pid),
                peer: peer.unpack()?,
                since: Instant::now(),
            }),
            None => None,
        };
        Ok((keeper, core))
    }
}

impl<'o> Keeper<'o> {
    fn new(options: &'o SupervisorOptions, lock: File) -> Self {
        Keeper {
            options,
            lock,
            kept: BTreeMap::new(),
            exits: VecDeque::new(),
            agent: None,
        }
    }

    /// Becomes another program; comes back if it can't.
    fn become_program(&self, program: &OwnedFd, core: &Core) -> io::Error {
        let mut luggage = Luggage::default();
        let mut pack = || -> io::Result<State> {
            let mut kept = BTreeMap::new();
            for (name, fd) in &self.kept {
                kept.insert(name.clone(), luggage.pack(fd)?);
            }
            let agent = self.agent.as_ref();
            Ok(State {
                lock: luggage.pack(&self.lock)?,
                kept,
                exits: self.exits.clone(),
                agent: agent.map(|agent| agent.pack(&mut luggage)).transpose()?,
                core: Some((core.pid.as_raw(), luggage.pack_peer(&core.peer)?)),
            })
        };
        match pack() {
            Ok(state) => handover::become_program(program.as_fd(), "keeper", self.options, state),
            Err(error) => error,
        }
    }

    fn run(&mut self, mut core: Option<Core>, signals: &SignalFd) -> io::Result<()> {
        let mut pause = Duration::ZERO;
        loop {
            let mut core = match core.take() {
                Some(core) => core,
                None => self.start()?,
            };
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
                let program;
                (open, program) = self.listen(&mut core.peer);
                if let Some(program) = program {
                    let error = self.become_program(&program, core);
                    tracing::error!(%error, "the keeper can't become the new program");
                }
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

    /// Takes what the supervisor said; `false` when it won't say anything more. With the program to become, if it said so.
    fn listen(&mut self, peer: &mut Peer) -> (bool, Option<OwnedFd>) {
        let more = peer.fill().unwrap_or(false);
        let mut program = None;
        loop {
            match peer.next::<CoreWord>() {
                Ok(Some((CoreWord::Keep { name }, fds))) => {
                    self.kept
                        .extend(fds.into_iter().next().map(|fd| (name, fd)));
                }
                Ok(Some((CoreWord::Revive(command), fds))) => {
                    self.agent = Revival::new(command, fds, self.agent.take());
                }
                Ok(Some((CoreWord::Become, fds))) => program = fds.into_iter().next(),
                Ok(Some((CoreWord::TakeLeave, _))) => self.agent = None,
                Ok(Some((CoreWord::Forget { name }, _))) => drop(self.kept.remove(&name)),
                Ok(Some((CoreWord::Noted { pid, ticks }, _))) => {
                    self.exits.retain(|e| (e.pid, e.ticks) != (pid, ticks));
                }
                Ok(None) => return (more, program),
                Err(error) => {
                    tracing::error!(%error, "the supervisor says what can't be understood");
                    return (false, program);
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
