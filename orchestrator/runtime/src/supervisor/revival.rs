//! The agent's return from death: the keeper starts it again as it was started, more and more slowly while it keeps dying.
//! Who asks for it and with what: `client::revival`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::handover::{Luggage, Packed};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::protocol::AgentCommand;
use crate::sys;

/// An agent that lived so long is started again at once.
const HEALTHY: Duration = Duration::from_secs(10);
/// The pause before that; a last word of it may still be on its way.
const MOMENT: Duration = Duration::from_millis(50);
/// First and longest pause before one that did not live so long.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// The agent that is to be brought back.
pub(super) struct Revival {
    command: AgentCommand,
    program: OwnedFd,
    output: [OwnedFd; 2],
    state: State,
    pause: Duration,
    /// The process that we started.
    child: Option<i32>,
}

enum State {
    Alive { pidfd: OwnedFd, since: Instant },
    Due(Instant),
}

/// An agent on its way to the next program.
#[derive(Serialize, Deserialize)]
pub(super) struct PackedRevival {
    command: AgentCommand,
    program: Packed,
    output: [Packed; 2],
    /// Of one that lives.
    pidfd: Option<Packed>,
    pause: Duration,
    child: Option<i32>,
}

impl PackedRevival {
    pub(super) fn unpack(self) -> io::Result<Revival> {
        let [stdout, stderr] = self.output;
        let state = match self.pidfd {
            Some(pidfd) => State::Alive {
                pidfd: pidfd.unpack()?,
                since: Instant::now(),
            },
            None => State::Due(Instant::now() + self.pause),
        };
        Ok(Revival {
            command: self.command,
            program: self.program.unpack()?,
            output: [stdout.unpack()?, stderr.unpack()?],
            state,
            pause: self.pause,
            child: self.child,
        })
    }
}

impl Revival {
    pub(super) fn pack<'a>(&'a self, luggage: &mut Luggage<'a>) -> io::Result<PackedRevival> {
        let [stdout, stderr] = &self.output;
        Ok(PackedRevival {
            command: self.command.clone(),
            program: luggage.pack(&self.program)?,
            output: [luggage.pack(stdout)?, luggage.pack(stderr)?],
            pidfd: match &self.state {
                State::Alive { pidfd, .. } => Some(luggage.pack(pidfd)?),
                State::Due(_) => None,
            },
            pause: self.pause,
            child: self.child,
        })
    }

    /// Takes over from `before`. Descriptors: the program, a pidfd of the agent, its stdout and stderr.
    pub(super) fn new(
        command: AgentCommand,
        fds: Vec<OwnedFd>,
        before: Option<Revival>,
    ) -> Option<Self> {
        let [program, pidfd, stdout, stderr] = fds.try_into().ok()?;
        let since = match &before {
            Some(Revival {
                state: State::Alive { since, .. },
                ..
            }) => *since,
            _ => Instant::now(),
        };
        Some(Self {
            command,
            program,
            output: [stdout, stderr],
            state: State::Alive { pidfd, since },
            pause: before.as_ref().map_or(MOMENT, |b| b.pause),
            child: before.and_then(|b| b.child),
        })
    }

    /// How long the keeper may sleep, and what wakes it.
    pub(super) fn interest(&self) -> (PollTimeout, Option<PollFd<'_>>) {
        match &self.state {
            State::Alive { pidfd, .. } => (
                PollTimeout::NONE,
                Some(PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)),
            ),
            State::Due(at) => {
                let left = at.saturating_duration_since(Instant::now());
                let millis = left.as_millis() + 1;
                (
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX),
                    None,
                )
            }
        }
    }

    /// Whether this pid is the agent that we started.
    pub(super) fn is_child(&self, pid: i32) -> bool {
        self.child == Some(pid)
    }

    /// Notices its death, and starts it when its time has come.
    pub(super) fn tend(&mut self) {
        if let State::Alive { pidfd, since } = &self.state
            && has_ended(pidfd)
        {
            self.pause = if since.elapsed() > HEALTHY {
                MOMENT
            } else {
                (self.pause * 2).clamp(PAUSES.0, PAUSES.1)
            };
            tracing::error!(pause = ?self.pause, "the agent died; starting it again");
            self.state = State::Due(Instant::now() + self.pause);
        }
        if let State::Due(at) = self.state
            && at <= Instant::now()
            && let Err(error) = self.start()
        {
            self.pause = (self.pause * 2).clamp(PAUSES.0, PAUSES.1);
            tracing::error!(%error, pause = ?self.pause, "the agent can't be started");
            self.state = State::Due(Instant::now() + self.pause);
        }
    }

    fn start(&mut self) -> io::Result<()> {
        let [stdout, stderr] = &self.output;
        let child = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()))
            .arg0(&self.command.name)
            .args(&self.command.arguments)
            .env_clear()
            .envs(self.command.environment.iter().cloned())
            .current_dir(&self.command.folder)
            .stdin(Stdio::null())
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.child = Some(pid);
        self.state = State::Alive {
            pidfd: sys::pidfd_open(pid)?,
            since: Instant::now(),
        };
        Ok(())
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
