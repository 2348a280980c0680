//! Commands in running containers. Their streams go to the client directly; we know their end.

use std::os::fd::{AsFd, OwnedFd};

use super::core::{Core, Reply, Source, Then, process_of};
use super::pool::Task;
use crate::cgroup::container_path;
use crate::error::FaultKind;
use crate::protocol::{Body, Fault, Job, JobResult};
use crate::spec::{ContainerKey, ContainerPhase, ExecSpec};
use crate::sys::{self, Children, Ending};

/// A running command.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    pub(super) reply: Reply,
}

impl Core {
    pub(super) fn exec(
        &mut self,
        spec: ExecSpec,
        fds: Vec<OwnedFd>,
        reply: Reply,
    ) -> Result<(), Fault> {
        let key = ContainerKey {
            pod: spec.pod.clone(),
            name: spec.container.clone(),
        };
        let container = self.container(&key)?;
        if container.record.phase != ContainerPhase::Running {
            return Err(Fault::new(
                FaultKind::InvalidState,
                "the container isn't running",
            ));
        }
        if spec.args.is_empty() {
            return Err(Fault::new(FaultKind::Invalid, "no command is given"));
        }
        if fds.len() != if spec.tty { 0 } else { 3 } {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("{} descriptors came with it", fds.len()),
            ));
        }
        let job = Job::Exec {
            id: container.record.id.clone(),
            dir: self.folders.container(&container.record.id),
            cgroup: container_path(&self.options.cgroup, &key.pod, &key.name),
            container: Box::new(container.record.spec.clone()),
            spec,
        };
        self.pool.push(Task {
            pod: key.pod,
            job,
            fds,
            then: Then::Exec { reply },
        });
        Ok(())
    }

    pub(super) fn exec_started(&mut self, reply: Reply, result: JobResult, fds: Vec<OwnedFd>) {
        let pid = match process_of(result) {
            Ok((pid, _)) => pid,
            Err(fault) => return self.answer(reply, Body::Failed(fault)),
        };
        self.answer_with(reply, Body::ExecStarted, fds);
        if let Some(ending) = self.take_stray(pid) {
            return self.answer(reply, Body::ExecExited { code: ending.code });
        }
        self.watch_exec(pid, reply);
    }

    /// Its end is told to who asked for it.
    pub(super) fn watch_exec(&mut self, pid: i32, reply: Reply) {
        let watched =
            sys::pidfd_open(pid).and_then(|pidfd| Ok((self.watch(&pidfd, Source::Exec)?, pidfd)));
        match watched {
            Ok((token, pidfd)) => drop(self.execs.insert(token, Exec { pid, pidfd, reply })),
            Err(error) => {
                let fault = Fault::internal(format!("its process {pid} can't be watched: {error}"));
                self.answer(reply, Body::Failed(fault));
            }
        }
    }

    pub(super) fn exec_ended(&mut self, token: u64) {
        let Some(exec) = self.execs.get(&token) else {
            return;
        };
        let ending = match sys::wait(Children::Pidfd(exec.pidfd.as_fd())) {
            Ok(Some((_, ending))) => ending,
            Ok(None) if sys::start_ticks(exec.pid).is_some() => return,
            _ => Ending {
                code: 255,
                signal: None,
            },
        };
        if let Some(exec) = self.execs.remove(&token) {
            self.unwatch(&exec.pidfd, token);
            self.answer(exec.reply, Body::ExecExited { code: ending.code });
        }
    }

    pub(super) fn signal_exec(&mut self, client: u64, call: u64, signal: i32) -> Result<(), Fault> {
        let wanted = Reply { client, call };
        match self.execs.values().find(|e| e.reply == wanted) {
            Some(exec) => sys::pidfd_signal(exec.pidfd.as_fd(), signal).map_err(Fault::internal),
            // It has ended.
            None => Ok(()),
        }
    }
}
