//! Containers: from the request to the running process. How they end: `endings`; how a new supervisor takes them over:
//! `adopt`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::core::{Core, Reply, Source, Then, process_of};
use super::keeper::CoreWord;
use super::logs::{Left, LogFile, Output};
use super::now_ns;
use super::pool::Task;
use super::record::{self, Record, Stage, is_plain_name};
use crate::cgroup::container_path;
use crate::cri::Stream;
use crate::error::FaultKind;
use crate::frame::MAX_FDS;
use crate::limits;
use crate::protocol::{Body, CreateJob, Fault, Job, JobBind, JobResult, NamespaceKind};
use crate::spec::{
    ContainerKey, ContainerPhase, ContainerSpec, ContainerState, MountSpec, ResourceSpec, Sandbox,
};
use crate::sys;

/// Who reaps a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parent {
    /// We made it.
    Us,
    /// Our predecessor made it; the keeper tells its end.
    Keeper,
    /// Somebody who won't tell; the kernel may.
    Stranger,
}

/// A container in our hands.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: Record,
    /// Of its process while it lives, with what the event loop knows it by.
    pub(super) process: Option<(OwnedFd, Option<u64>)>,
    pub(super) parent: Parent,
    pub(super) log: LogFile,
    pub(super) outputs: Vec<(Output, Stream, u64)>,
    /// Keeps a stdin open that will end.
    pub(super) stdin: Option<OwnedFd>,
    /// Who waits for its removal.
    pub(super) waiting: Vec<Reply>,
    /// What follows its removal.
    pub(super) after: Option<AfterRemoval>,
    pub(super) deleting: bool,
    /// Deletions that failed, and when the next one is due.
    pub(super) failures: u32,
    pub(super) retry: Option<Instant>,
    /// Since when its process is gone and its exit code is looked for.
    pub(super) lost: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum AfterRemoval {
    /// Its creation failed; the client hears of it when all is clean again.
    Tell(Reply, Fault),
    /// The next attempt takes its place, and is started or not.
    Create(Box<ContainerSpec>, bool, Reply),
}

/// A creation at a worker.
#[derive(Debug)]
pub(super) struct Created {
    key: ContainerKey,
    /// It was started too.
    started: bool,
    reply: Reply,
}

impl Container {
    pub(super) fn new(record: Record) -> Self {
        Container {
            log: LogFile::new(record.spec.log_path.clone()),
            record,
            process: None,
            parent: Parent::Us,
            outputs: Vec::new(),
            stdin: None,
            waiting: Vec::new(),
            after: None,
            deleting: false,
            failures: 0,
            retry: None,
            lost: None,
        }
    }

    /// Leaves nothing that was read to this process alone.
    pub(super) fn write_out(&mut self) {
        for (output, ..) in &mut self.outputs {
            output.write_out(&mut self.log);
        }
    }

    /// What clients see; nothing before it was created and after its removal began.
    pub(super) fn visible(&self) -> Option<ContainerState> {
        (self.record.stage == Stage::Live).then(|| self.record.state())
    }
}

impl Core {
    pub(super) fn container(&self, key: &ContainerKey) -> Result<&Container, Fault> {
        match self.containers.get(key) {
            Some(container) if container.record.stage == Stage::Live => Ok(container),
            Some(_) => Err(Fault::new(
                FaultKind::InvalidState,
                "it is being created or removed",
            )),
            None => Err(Fault::new(
                FaultKind::NotFound,
                "there is no such container",
            )),
        }
    }

    pub(super) fn create_container(
        &mut self,
        spec: ContainerSpec,
        start: bool,
        reply: Reply,
    ) -> Result<(), Fault> {
        let key = spec.key();
        self.check(&spec)?;
        match self.containers.get_mut(&key) {
            None => self.begin_creation(spec, start, reply),
            Some(old)
                if old.record.exited()
                    && old.record.spec.attempt < spec.attempt
                    && old.after.is_none() =>
            {
                old.after = Some(AfterRemoval::Create(Box::new(spec), start, reply));
                self.remove_container(&key, None);
                Ok(())
            }
            Some(old) => {
                let attempt = old.record.spec.attempt;
                Err(Fault::new(
                    FaultKind::AlreadyExists,
                    format!("attempt {attempt} is there"),
                ))
            }
        }
    }

    pub(super) fn check(&self, spec: &ContainerSpec) -> Result<(), Fault> {
        let invalid = |text: String| Err(Fault::new(FaultKind::Invalid, text));
        if !is_plain_name(&spec.name) {
            return invalid(format!("{:?} can't name a container", spec.name));
        }
        if self
            .sandboxes
            .get(&spec.pod)
            .is_none_or(|s| s.ready().is_none())
        {
            return Err(Fault::new(FaultKind::NotFound, "the pod has no sandbox"));
        }
        if spec.args.first().is_none_or(String::is_empty) {
            return invalid(
                "no command is given, by neither the container nor its image".to_owned(),
            );
        }
        if spec.mounts.len() > MAX_FDS - 10 {
            return invalid(format!("{} mounts are too many", spec.mounts.len()));
        }
        match spec
            .mounts
            .iter()
            .find(|m| !m.target.starts_with('/') || m.target == "/")
        {
            Some(mount) => invalid(format!(
                "mount target {:?} must be an absolute path below /",
                mount.target
            )),
            None => Ok(()),
        }
    }

    pub(super) fn begin_creation(
        &mut self,
        spec: ContainerSpec,
        start: bool,
        reply: Reply,
    ) -> Result<(), Fault> {
        let key = spec.key();
        let mut container = Container::new(Record::new(spec, &self.boot));
        let dir = self.folders.container(&container.record.id);
        let prepared = self.prepare(&mut container, start, &dir);
        self.containers.insert(key.clone(), container);
        match prepared {
            Ok((job, fds)) => {
                let then = Then::Created(Created {
                    key: key.clone(),
                    started: start,
                    reply,
                });
                self.pool.push(Task {
                    pod: key.pod,
                    job,
                    fds,
                    then,
                });
            }
            Err(fault) => self.undo_creation(&key, reply, fault),
        }
        Ok(())
    }

    /// Folder, streams and descriptors of a new container.
    fn prepare(
        &mut self,
        container: &mut Container,
        start: bool,
        dir: &Path,
    ) -> Result<(Job, Vec<OwnedFd>), Fault> {
        let spec = container.record.spec.clone();
        fs::create_dir_all(dir).map_err(Fault::internal)?;
        record::write(dir, &container.record).map_err(Fault::internal)?;
        let sandbox = self
            .sandboxes
            .get(&spec.pod)
            .and_then(|s| s.ready())
            .cloned();
        let sandbox =
            sandbox.ok_or_else(|| Fault::new(FaultKind::NotFound, "the pod has no sandbox"))?;
        let (mut namespaces, mut fds) = self.namespaces(&sandbox).map_err(Fault::internal)?;
        if let Some(other) = &spec.pid_of {
            namespaces.retain(|kind| *kind != NamespaceKind::Pid);
            fds.truncate(namespaces.len());
            fds.push(self.process_namespace(&spec.pod, other)?);
            namespaces.push(NamespaceKind::Pid);
        }
        let mut binds = Vec::new();
        let shm = match sandbox.spec.host_ipc {
            true => PathBuf::from("/dev/shm"),
            false => self.folders.sandbox(&spec.pod).join("shm"),
        };
        let own = MountSpec {
            source: Some(shm),
            target: "/dev/shm".to_owned(),
            ..MountSpec::default()
        };
        for mount in std::iter::once(&own).chain(&spec.mounts) {
            let Some(source) = &mount.source else {
                continue;
            };
            let failed = |e: io::Error| {
                let text = format!("mount {} at {}: {e}", source.display(), mount.target);
                Fault::new(FaultKind::Invalid, text)
            };
            let folder = fs::metadata(source).map_err(failed)?.is_dir();
            fds.push(sys::open_tree(source).map_err(failed)?);
            binds.push(JobBind {
                mount: mount.clone(),
                folder,
            });
        }
        if !spec.tty {
            let key = spec.key();
            fds.extend(
                self.streams(container, &key, dir)
                    .map_err(Fault::internal)?,
            );
        }
        let job = CreateJob {
            id: container.record.id.clone(),
            dir: dir.to_owned(),
            cgroup: container_path(&self.options.cgroup, &spec.pod, &spec.name),
            start,
            namespaces,
            binds,
            spec,
        };
        Ok((Job::CreateContainer(Box::new(job)), fds))
    }

    /// The process namespace of a container that runs.
    fn process_namespace(&self, pod: &str, name: &str) -> Result<OwnedFd, Fault> {
        let key = ContainerKey {
            pod: pod.to_owned(),
            name: name.to_owned(),
        };
        let invalid = |text: String| Fault::new(FaultKind::InvalidState, text);
        let pid = self.container(&key)?.record.pid;
        let pid = pid.ok_or_else(|| invalid(format!("container {name} isn't running")))?;
        let opened = fs::File::open(format!("/proc/{pid}/ns/pid"));
        opened
            .map(Into::into)
            .map_err(|error| invalid(format!("the processes of {name}: {error}")))
    }

    fn namespaces(&self, sandbox: &Sandbox) -> io::Result<(Vec<NamespaceKind>, Vec<OwnedFd>)> {
        let dir = self.folders.sandbox(&sandbox.pod);
        let mut wanted = vec![(NamespaceKind::Uts, "uts")];
        if !sandbox.spec.host_ipc {
            wanted.push((NamespaceKind::Ipc, "ipc"));
        }
        if !sandbox.spec.host_network {
            wanted.push((NamespaceKind::Network, "net"));
        }
        // Last, for a container that wants another one.
        if sandbox.spec.share_pid {
            wanted.push((NamespaceKind::Pid, "pid"));
        }
        let mut fds = Vec::new();
        for (_, name) in &wanted {
            fds.push(fs::File::open(dir.join(name))?.into());
        }
        Ok((wanted.into_iter().map(|(kind, _)| kind).collect(), fds))
    }

    /// FIFOs for what the container writes; gives its ends. It opens them for reading too, so that it never sees a
    /// broken pipe while nobody reads.
    fn streams(
        &mut self,
        container: &mut Container,
        key: &ContainerKey,
        dir: &Path,
    ) -> io::Result<Vec<OwnedFd>> {
        let stdin = if container.record.spec.stdin {
            let path = dir.join("stdin");
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))?;
            let both = OpenOptions::new().read(true).write(true).open(&path)?;
            if container.record.spec.stdin_once {
                let theirs = OpenOptions::new().read(true).open(&path)?;
                let ours = both.into();
                self.keep(format!("{}/stdin", container.record.id), &ours);
                container.stdin = Some(ours);
                theirs
            } else {
                both
            }
        } else {
            fs::File::open("/dev/null")?
        };
        let mut fds = vec![stdin.into()];
        for (stream, name) in [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")] {
            let path = dir.join(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))?;
            let theirs = OpenOptions::new().read(true).write(true).open(&path)?;
            // Any user of the container may open /dev/stdout.
            nix::sys::stat::fchmod(&theirs, Mode::from_bits_truncate(0o666))?;
            fds.push(theirs.into());
            let ours = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)?;
            self.attach(container, key, ours.into(), stream, name)?;
        }
        Ok(fds)
    }

    fn attach(
        &mut self,
        container: &mut Container,
        key: &ContainerKey,
        fd: OwnedFd,
        stream: Stream,
        name: &str,
    ) -> io::Result<()> {
        self.keep(format!("{}/{name}", container.record.id), &fd);
        let token = self.watch(&fd, Source::Output(key.clone(), stream))?;
        container.outputs.push((
            Output::new(fd, stream, container.record.spec.tty),
            stream,
            token,
        ));
        Ok(())
    }

    fn attach_terminal(
        &mut self,
        container: &mut Container,
        key: &ContainerKey,
        fd: OwnedFd,
    ) -> io::Result<()> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        self.attach(container, key, fd, Stream::Stdout, "terminal")
    }

    pub(super) fn container_created(
        &mut self,
        created: &Created,
        result: JobResult,
        fds: Vec<OwnedFd>,
    ) {
        let Created {
            key,
            started,
            reply,
        } = created;
        let Some(mut container) = self.containers.remove(key) else {
            return;
        };
        let mut ended = None;
        let adopted = process_of(result).and_then(|(pid, notes)| {
            container.record.pid = Some(pid);
            container.record.notes = notes;
            if *started {
                container.record.started_ns = now_ns();
                container.record.phase = ContainerPhase::Running;
                ended = self.take_stray(pid);
                if ended.is_some() {
                    return Ok(());
                }
            }
            container.record.ticks = sys::start_ticks(pid);
            let pidfd = sys::pidfd_open(pid).map_err(Fault::internal)?;
            let token = self
                .watch(&pidfd, Source::Container(key.clone()))
                .map_err(Fault::internal)?;
            container.process = Some((pidfd, Some(token)));
            if let Some(master) = fds.into_iter().next() {
                self.attach_terminal(&mut container, key, master)
                    .map_err(Fault::internal)?;
            }
            Ok(())
        });
        let removed_meanwhile = container.record.stage == Stage::Removing;
        if adopted.is_ok() && !removed_meanwhile {
            container.record.stage = Stage::Live;
        }
        self.containers.insert(key.clone(), container);
        match adopted {
            Err(fault) => self.undo_creation(key, *reply, fault),
            Ok(()) if removed_meanwhile => {
                self.answer(
                    *reply,
                    Body::Failed(Fault::new(
                        FaultKind::InvalidState,
                        "it was removed meanwhile",
                    )),
                );
                self.continue_removal(key);
            }
            Ok(()) => {
                match ended {
                    Some(ending) => self.exited(key, Some(ending), now_ns()),
                    None => self.changed(key),
                }
                let state = self.containers.get(key).map(|c| c.record.state());
                if let Some(state) = state {
                    self.answer(*reply, Body::Container(Box::new(state)));
                }
            }
        }
    }

    pub(super) fn undo_creation(&mut self, key: &ContainerKey, reply: Reply, fault: Fault) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        container.record.stage = Stage::Removing;
        container.after = Some(AfterRemoval::Tell(reply, fault));
        self.continue_removal(key);
    }

    pub(super) fn start_container(
        &mut self,
        key: &ContainerKey,
        reply: Reply,
    ) -> Result<(), Fault> {
        let container = self.container(key)?;
        match &container.record.phase {
            ContainerPhase::Created if container.record.started_ns == 0 => {}
            ContainerPhase::Created => {
                return Err(Fault::new(FaultKind::InvalidState, "it is being started"));
            }
            ContainerPhase::Running => {
                return Err(Fault::new(FaultKind::InvalidState, "it runs already"));
            }
            ContainerPhase::Exited { .. } => {
                return Err(Fault::new(FaultKind::InvalidState, "it has ended"));
            }
        }
        let job = Job::StartContainer {
            id: container.record.id.clone(),
        };
        if let Some(container) = self.containers.get_mut(key) {
            container.record.started_ns = now_ns();
        }
        let then = Then::Started {
            key: key.clone(),
            reply,
        };
        self.pool.push(Task {
            pod: key.pod.clone(),
            job,
            fds: Vec::new(),
            then,
        });
        Ok(())
    }

    pub(super) fn container_started(
        &mut self,
        key: &ContainerKey,
        reply: Reply,
        result: JobResult,
    ) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        let body = match result {
            // A short one may have ended before we hear that it was started.
            JobResult::Failed(_) if container.record.exited() => {
                Body::Container(Box::new(container.record.state()))
            }
            JobResult::Failed(fault) => {
                container.record.started_ns = 0;
                Body::Failed(fault)
            }
            _ => {
                if container.record.phase == ContainerPhase::Created {
                    container.record.phase = ContainerPhase::Running;
                }
                Body::Container(Box::new(container.record.state()))
            }
        };
        self.changed(key);
        self.answer(reply, body);
    }

    pub(super) fn signal_container(
        &mut self,
        key: &ContainerKey,
        signal: i32,
    ) -> Result<(), Fault> {
        if !(0..=64).contains(&signal) {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("there is no signal {signal}"),
            ));
        }
        match &self.container(key)?.process {
            Some((pidfd, _)) => sys::pidfd_signal(pidfd.as_fd(), signal).map_err(Fault::internal),
            None => Ok(()),
        }
    }

    /// Changes the limits of a container that runs. A write that fails leaves those before it; a limit of memory that is below
    /// what the container uses is refused, before the kernel kills it for that.
    pub(super) fn resize_container(
        &mut self,
        key: &ContainerKey,
        resources: ResourceSpec,
    ) -> Result<(), Fault> {
        if self.container(key)?.record.exited() {
            return Err(Fault::new(FaultKind::InvalidState, "it has ended"));
        }
        let cgroup = container_path(&self.options.cgroup, &key.pod, &key.name);
        let has = self.container(key)?.record.spec.resources.memory_limit;
        let shrinks = resources
            .memory_limit
            .filter(|limit| has.is_none_or(|has| *limit < has));
        if let Some(limit) = shrinks {
            let used = self.cgroups.usage(&cgroup).map_err(Fault::internal)?;
            if used.memory_bytes > limit {
                let used = used.memory_bytes;
                let text = format!("memory limit {limit} is below what it uses, {used} bytes");
                return Err(Fault::new(FaultKind::InvalidState, text));
            }
        }
        let settings = match self.cgroups.is_v2() {
            true => limits::v2(&resources),
            false => limits::v1(&resources),
        };
        self.cgroups
            .apply(&cgroup, &settings)
            .map_err(Fault::internal)?;
        if let Some(container) = self.containers.get_mut(key) {
            container.record.spec.resources = resources;
        }
        self.changed(key);
        Ok(())
    }

    /// Writes a container's record and tells who listens.
    pub(super) fn changed(&mut self, key: &ContainerKey) {
        let Some(container) = self.containers.get(key) else {
            return;
        };
        let dir = self.folders.container(&container.record.id);
        if let Err(error) = record::write(&dir, &container.record) {
            tracing::error!(container = %key, %error, "its record can't be written; a new supervisor would not know");
        }
        if let Some(state) = container.visible() {
            self.tell(&state);
        }
    }

    /// A container wrote something.
    pub(super) fn output(&mut self, key: &ContainerKey, stream: Stream) {
        let Some(mut container) = self.containers.remove(key) else {
            return;
        };
        let Container { outputs, log, .. } = &mut container;
        let ended = match outputs.iter_mut().find(|(_, s, _)| *s == stream) {
            Some((output, _, token)) => {
                (output.read(log) == Left::Ended).then_some((stream, *token))
            }
            None => None,
        };
        if let Some((stream, token)) = ended
            && let Some((output, ..)) = container.outputs.iter().find(|(_, s, _)| *s == stream)
        {
            self.unwatch(output, token);
        }
        self.containers.insert(key.clone(), container);
    }

    /// Empties the streams into the log and closes them.
    pub(super) fn release_streams(&mut self, mut container: Container) -> Container {
        for (output, _, token) in std::mem::take(&mut container.outputs) {
            self.unwatch(&output, token);
            output.finish(&mut container.log);
        }
        container.stdin = None;
        let names: &[&str] = if container.record.spec.tty {
            &["terminal"]
        } else {
            &["stdin", "stdout", "stderr"]
        };
        for name in names {
            self.tell_keeper(&CoreWord::Forget {
                name: format!("{}/{name}", container.record.id),
            });
        }
        container
    }
}
