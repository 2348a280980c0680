//! Starts a command in a running container.

use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;

use super::confinement::Confinement;
use super::container::chain;
use super::program::Program;
use super::terminal::Console;
use super::{Outcome, Worker};
use crate::error::FaultKind;
use crate::oci;
use crate::protocol::{Fault, JobResult};
use crate::spec::{ContainerSpec, ExecSpec};
use crate::sys;

/// One exec.
pub(super) struct Exec {
    pub(super) id: String,
    pub(super) dir: PathBuf,
    pub(super) container: ContainerSpec,
    pub(super) spec: ExecSpec,
}

impl Worker {
    pub(super) fn exec(
        &self,
        exec: &Exec,
        fds: Vec<OwnedFd>,
        confinement: Confinement,
        last: Option<RawFd>,
    ) -> Outcome {
        let state = self.setup.oci.join(&exec.id);
        let process = exec
            .dir
            .join(format!("process-{}.json", uuid::Uuid::new_v4().simple()));
        let outcome = self.exec_with(exec, &process, fds, confinement, last);
        // Each exec leaves files behind that nobody needs.
        let _ = fs::remove_file(&process);
        remove_leftovers(&state);
        outcome
    }

    fn exec_with(
        &self,
        exec: &Exec,
        process: &Path,
        fds: Vec<OwnedFd>,
        confinement: Confinement,
        last: Option<RawFd>,
    ) -> Outcome {
        // What it runs starts at once, and is not to inherit ours.
        sys::set_slice(0, sys::Slice::ShortAlone);
        let saved = Spec::load(exec.dir.join("config.json")).map_err(Fault::internal)?;
        self.write_process(exec, &saved, &confinement, process)?;
        let program = Program::exec(last, confinement.filter, confinement.remaining);
        let mut builder = ContainerBuilder::new(exec.id.clone(), SyscallType::default())
            .with_root_path(&self.setup.oci)
            .map_err(Fault::internal)?
            .with_executor(program);
        let console = if exec.spec.tty {
            Some(Console::listen(&exec.dir)?)
        } else {
            None
        };
        if let Some(console) = &console {
            builder = builder.with_console_socket(Some(console.path()));
        } else {
            let mut fds = fds.into_iter();
            let mut stdio = || {
                fds.next()
                    .ok_or_else(|| Fault::internal("a stream of the exec is missing"))
            };
            builder = builder
                .with_stdin(stdio()?)
                .with_stdout(stdio()?)
                .with_stderr(stdio()?);
        }
        let pid = builder
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .build()
            .map_err(|e| Fault::new(FaultKind::Invalid, chain(&e)))?;
        let master = console.map(Console::accept).transpose()?;
        Ok((
            JobResult::Process {
                pid: pid.as_raw(),
                notes: Vec::new(),
            },
            master.into_iter().collect(),
        ))
    }

    /// Writes what libcontainer is to run: the container's own process with another command.
    fn write_process(
        &self,
        exec: &Exec,
        saved: &Spec,
        confinement: &Confinement,
        path: &Path,
    ) -> Result<(), Fault> {
        let malformed = || Fault::internal("the container's saved specification is incomplete");
        let mut process = saved.process().clone().ok_or_else(malformed)?;
        let mut env = exec.container.env.clone();
        for entry in &exec.spec.env {
            let name = entry
                .split_once('=')
                .map_or(entry.as_str(), |(name, _)| name);
            env.retain(|e| e.split_once('=').is_none_or(|(n, _)| n != name));
            env.push(entry.clone());
        }
        process.set_args(Some(exec.spec.args.clone()));
        process.set_env(Some(oci::environment(&env, exec.spec.tty)));
        process.set_terminal(Some(exec.spec.tty));
        let score = self.set_oom_score_adj(process.oom_score_adj().unwrap_or(self.oom_score_adj));
        process.set_oom_score_adj(Some(score));
        if confinement.remaining.is_some() {
            let all = oci::capability_sets(&confinement.available).map_err(Fault::internal)?;
            process.set_capabilities(Some(all));
        }
        let text = serde_json::to_vec(&process).map_err(Fault::internal)?;
        fs::write(path, text).map_err(|e| Fault::internal(format!("write {}: {e}", path.display())))
    }
}

fn remove_leftovers(state: &Path) {
    let Ok(entries) = fs::read_dir(state) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with("tenant-")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
