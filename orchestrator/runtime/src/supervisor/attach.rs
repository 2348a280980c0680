//! Clients that are attached to containers: they get a copy of what a container writes, and write to its stdin.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::core::{Core, Reply};
use super::keeper::CoreWord;
use crate::cri::Stream;
use crate::error::FaultKind;
use crate::protocol::{Body, Fault};
use crate::spec::{ContainerKey, ContainerPhase};

impl Core {
    /// Copies what the container writes into `fds`, the pipes for stdout and stderr, until it ends or they are closed;
    /// answers with its stdin or its terminal.
    pub(super) fn attach_client(
        &mut self,
        key: &ContainerKey,
        fds: Vec<OwnedFd>,
        reply: Reply,
    ) -> Result<(), Fault> {
        let [stdout, stderr]: [OwnedFd; 2] = fds
            .try_into()
            .map_err(|_| Fault::new(FaultKind::Invalid, "two descriptors come with it"))?;
        for pipe in [&stdout, &stderr] {
            // The supervisor waits for nobody.
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(Fault::internal)?;
        }
        let folder = {
            let container = self.container(key)?;
            if container.record.phase != ContainerPhase::Running {
                let text = "the container isn't running";
                return Err(Fault::new(FaultKind::InvalidState, text));
            }
            self.folders.container(&container.record.id)
        };
        let Some(container) = self.containers.get_mut(key) else {
            return Ok(());
        };
        let (tty, stdin) = (container.record.spec.tty, container.record.spec.stdin);
        let mut answer = Vec::new();
        let mut pipes = [Some(stdout), Some(stderr)];
        for (output, stream, _) in &mut container.outputs {
            if tty {
                answer.push(output.duplicate().map_err(Fault::internal)?);
            }
            let number = usize::from(*stream == Stream::Stderr);
            if let Some(pipe) = pipes[number].take() {
                output.copy_to(pipe);
            }
        }
        if !tty && stdin {
            // Nobody reads it when it was closed for good.
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(folder.join("stdin"));
            answer.extend(opened.ok().map(OwnedFd::from));
        }
        self.answer_with(reply, Body::Attached { tty }, answer);
        Ok(())
    }

    /// Whoever wrote to the container's stdin has ended: the container sees its end, if it was asked for so.
    pub(super) fn close_stdin(&mut self, key: &ContainerKey) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        if container.record.spec.stdin_once && container.stdin.take().is_some() {
            let name = format!("{}/stdin", container.record.id);
            self.tell_keeper(&CoreWord::Forget { name });
        }
    }
}
