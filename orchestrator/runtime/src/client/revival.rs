//! Asking the supervisor to bring a process back when it dies. What it does: `supervisor::revival`.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::{Client, unexpected};
use crate::error::{Result, RuntimeError};
use crate::protocol::{AgentCommand, Body, Request};
use crate::sys;

/// A process that is to be started again when it dies without having taken leave.
#[derive(Debug)]
pub struct Revival {
    command: AgentCommand,
    /// Program, pidfd, stdout, stderr.
    fds: [OwnedFd; 4],
}

impl Revival {
    /// This process, as it was started. What it writes to a terminal will go to `log` instead: the terminal is given back
    /// to its user when this process dies.
    ///
    /// # Errors
    /// Its program or descriptors can't be opened.
    pub fn of_this_process(log: &Path) -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let command = AgentCommand {
            name: arguments.next().unwrap_or_else(|| "waggle".into()),
            arguments: arguments.collect(),
            environment: std::env::vars_os().collect(),
            folder: std::env::current_dir()?,
        };
        let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let output = |terminal: bool, fd: &dyn AsFd| -> io::Result<OwnedFd> {
            if terminal {
                let file = OpenOptions::new().create(true).append(true).open(log)?;
                return Ok(file.into());
            }
            fd.as_fd().try_clone_to_owned()
        };
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Ok(Self {
            command,
            fds: [
                File::open("/proc/self/exe")?.into(),
                sys::pidfd_open(pid)?,
                output(stdout.is_terminal(), &stdout)?,
                output(stderr.is_terminal(), &stderr)?,
            ],
        })
    }

    /// Another process, for tests: `program` is started with `arguments` when `pid` has ended.
    ///
    /// # Errors
    /// The program or the process can't be opened.
    pub fn of_process(pid: i32, program: &Path, arguments: &[&str]) -> io::Result<Self> {
        let nothing = || {
            OpenOptions::new()
                .write(true)
                .open("/dev/null")
                .map(Into::into)
        };
        Ok(Self {
            command: AgentCommand {
                name: program.into(),
                arguments: arguments.iter().map(Into::into).collect(),
                environment: Vec::new(),
                folder: "/".into(),
            },
            fds: [
                File::open(program)?.into(),
                sys::pidfd_open(pid)?,
                nothing()?,
                nothing()?,
            ],
        })
    }
}

impl Client {
    /// From now on the supervisor starts this process again when it dies, until [`take_leave`](Self::take_leave). The
    /// one asked for last counts. On a connection of its own: a supervisor from before this call hangs up on it.
    pub async fn revive(&self, revival: Revival) -> Result<()> {
        let client = Client::connect(&self.inner.path).await?;
        let fds = Vec::from(revival.fds);
        let mut answers = client.call(Request::Revive(revival.command), fds).await?;
        match answers.recv().await {
            Some((Body::Done, _)) => Ok(()),
            Some((other, _)) => Err(unexpected(&other)),
            None => Err(RuntimeError::Disconnected {
                operation: "revive".to_owned(),
                object: "agent".to_owned(),
            }),
        }
    }

    /// The supervisor becomes another program, with every container, command and client that it has; it answers once it
    /// is that program. On a connection of its own: a supervisor from before this call hangs up on it.
    pub async fn upgrade(&self, program: &Path) -> Result<()> {
        let client = Client::connect(&self.inner.path).await?;
        let program = File::open(program)
            .map_err(|error| RuntimeError::io("open", program.display(), error))?;
        let fds = vec![program.into()];
        let mut answers = client.call(Request::Upgrade, fds).await?;
        match answers.recv().await {
            Some((Body::Done, _)) => Ok(()),
            Some((Body::Failed(fault), _)) => Err(fault.into_error("upgrade", "supervisor")),
            Some((other, _)) => Err(unexpected(&other)),
            None => Err(RuntimeError::Disconnected {
                operation: "upgrade".to_owned(),
                object: "supervisor".to_owned(),
            }),
        }
    }

    /// The process ends because it was asked to: nobody is to start it again.
    pub async fn take_leave(&self) -> Result<()> {
        let client = Client::connect(&self.inner.path).await?;
        client.done(Request::TakeLeave).await
    }
}
