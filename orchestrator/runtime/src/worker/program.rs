//! The last steps before a container's program: clean signals, the filter of an exec, and an error that says why.

use std::collections::HashSet;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::{LinuxCapabilities, Spec};
use libcontainer::syscall::linux::LinuxSyscall;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask,
};
use nix::unistd::{AccessFlags, access};

use super::filter::Filter;

/// How a program is started.
#[derive(Clone)]
pub(super) struct Program {
    init: bool,
    /// The `tasks` file of the last cgroup to join: inherited, closed by what is executed.
    last: Option<RawFd>,
    filter: Option<Filter>,
    /// What remains after the filter is in place, which may need more.
    capabilities: Option<LinuxCapabilities>,
}

impl Program {
    /// A container's first process.
    pub(super) fn init(
        last: Option<RawFd>,
        filter: Option<Filter>,
        capabilities: Option<LinuxCapabilities>,
    ) -> Self {
        Program {
            init: true,
            last,
            filter,
            capabilities,
        }
    }

    /// A process that joins a container.
    pub(super) fn exec(
        last: Option<RawFd>,
        filter: Option<Filter>,
        capabilities: Option<LinuxCapabilities>,
    ) -> Self {
        Program {
            init: false,
            ..Self::init(last, filter, capabilities)
        }
    }
}

impl Executor for Program {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let result = self.prepare().and_then(|()| DefaultExecutor {}.exec(spec));
        if let (true, Err(error)) = (self.init, &result) {
            // Nobody listens any more but the log.
            eprintln!("waggle: {}", super::container::chain(error));
            // SAFETY: ends this process; 127 is what a shell says of a program that can't be run.
            unsafe { libc::_exit(127) }
        }
        result
    }

    /// The first step of ours: where libcontainer would load the filter of a container's first process.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |text: String| Err(ExecutorValidationError::ArgValidationError(text));
        if self.init {
            self.confine()
                .or_else(|error| failed(super::container::chain(&error)))?;
        }
        let process = spec.process().as_ref();
        let Some(name) = process
            .and_then(|p| p.args().as_ref())
            .and_then(|args| args.first())
        else {
            return failed("no command is given".into());
        };
        let env = process
            .and_then(|p| p.env().as_ref())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let path = env
            .iter()
            .find_map(|e| e.strip_prefix("PATH="))
            .unwrap_or_default();
        match find(name, path) {
            Found::Yes => Ok(()),
            Found::No if name.contains('/') => failed(format!("{name}: no such file or directory")),
            Found::No => failed(format!(
                "{name}: executable file not found in $PATH ({path})"
            )),
            Found::NotExecutable(at) => failed(format!("{}: permission denied", at.display())),
        }
    }
}

impl Program {
    fn prepare(&self) -> Result<(), ExecutorError> {
        reset_signals();
        let failed =
            |step: &str, e: &dyn std::error::Error| ExecutorError::Other(format!("{step}: {e}"));
        if let Some(last) = self.last {
            // SAFETY: who forked us opened it and keeps it open; here it stays open until the program is executed.
            let tasks = unsafe { BorrowedFd::borrow_raw(last) };
            nix::unistd::write(tasks, b"0")
                .map_err(|e| failed("join the container's cgroup", &e))?;
        }
        // One that joins is run at once; until then it needs calls that a narrow filter would not allow.
        match self.init {
            true => Ok(()),
            false => self.confine(),
        }
    }

    fn confine(&self) -> Result<(), ExecutorError> {
        let failed =
            |step: &str, e: &dyn std::error::Error| ExecutorError::Other(format!("{step}: {e}"));
        if let Some(filter) = &self.filter {
            filter
                .load()
                .map_err(|e| failed("load the system call filter", &e))?;
        }
        if let Some(capabilities) = &self.capabilities {
            drop_privileges(capabilities, &LinuxSyscall)
                .map_err(|e| failed("drop capabilities", &e))?;
        }
        Ok(())
    }
}

/// A Rust program ignores SIGPIPE, and what is ignored stays so in what it executes.
fn reset_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: the default action runs no code of ours. Two signals can't be changed, which is fine.
        let _ = unsafe { sigaction(signal, &default) };
    }
    // An empty mask can always be set.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

enum Found {
    Yes,
    No,
    NotExecutable(PathBuf),
}

/// Whether execvp will find something that it may run.
fn find(name: &str, path: &str) -> Found {
    let mut folders = HashSet::new();
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![name.into()]
    } else {
        path.split(':')
            .filter(|f| folders.insert(*f))
            .map(|folder| Path::new(folder).join(name))
            .collect()
    };
    let mut refused = None;
    for candidate in candidates {
        if !candidate.is_file() {
            continue;
        }
        if access(&candidate, AccessFlags::X_OK).is_ok() {
            return Found::Yes;
        }
        refused.get_or_insert(candidate);
    }
    refused.map_or(Found::No, Found::NotExecutable)
}
