//! Containers: from the request to the exit code, and how a new supervisor takes over those of the one before.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;

use super::core::{Core, Reply, Source, Then, process_of};
use super::keeper::{CoreWord, Exit};
use super::logs::{Left, LogFile, Output};
use super::now_ns;
use super::pool::Task;
use super::record::{self, Record, Stage, is_plain_name};
use crate::cgroup::container_path;
use crate::cri::Stream;
use crate::error::FaultKind;
use crate::frame::MAX_FDS;
use crate::protocol::{Body, CreateJob, Fault, Job, JobBind, JobResult, NamespaceKind};
use crate::spec::{ContainerKey, ContainerPhase, ContainerSpec, ContainerState, Sandbox};
use crate::sys::{self, Children, Ending};

/// The exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;
/// How long the exit code of somebody else's child may take to appear.
const LOST_PATIENCE: Duration = Duration::from_secs(2);

/// A removal that fails is tried so often before who waits for it is told.
const MAX_QUICK_RETRIES: u32 = 5;
/// And then again after so long, for ever.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// Who reaps a container's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
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
    process: Option<(OwnedFd, Option<u64>)>,
    parent: Parent,
    log: LogFile,
    outputs: Vec<(Output, Stream, u64)>,
    /// Who waits for its removal.
    waiting: Vec<Reply>,
    /// What follows its removal.
    after: Option<AfterRemoval>,
    deleting: bool,
    /// Deletions that failed, and when the next one is due.
    failures: u32,
    retry: Option<Instant>,
    /// Since when its process is gone and its exit code is looked for.
    pub(super) lost: Option<Instant>,
}

#[derive(Debug)]
enum AfterRemoval {
    /// Its creation failed; the client hears of it when all is clean again.
    Tell(Reply, Fault),
    /// The next attempt takes its place.
    Create(Box<ContainerSpec>, Reply),
}

/// A creation at a worker.
#[derive(Debug)]
pub(super) struct Created {
    key: ContainerKey,
    reply: Reply,
}

impl Container {
    fn new(record: Record) -> Self {
        Container {
            log: LogFile::new(record.spec.log_path.clone()),
            record,
            process: None,
            parent: Parent::Us,
            outputs: Vec::new(),
            waiting: Vec::new(),
            after: None,
            deleting: false,
            failures: 0,
            retry: None,
            lost: None,
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
        reply: Reply,
    ) -> Result<(), Fault> {
        let key = spec.key();
        self.check(&spec)?;
        match self.containers.get_mut(&key) {
            None => self.begin_creation(spec, reply),
            Some(old)
                if old.record.exited()
                    && old.record.spec.attempt < spec.attempt
                    && old.after.is_none() =>
            {
                old.after = Some(AfterRemoval::Create(Box::new(spec), reply));
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

    fn check(&self, spec: &ContainerSpec) -> Result<(), Fault> {
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

    fn begin_creation(&mut self, spec: ContainerSpec, reply: Reply) -> Result<(), Fault> {
        let key = spec.key();
        let mut container = Container::new(Record::new(spec, &self.boot));
        let dir = self.folders.container(&container.record.id);
        let prepared = self.prepare(&mut container, &dir);
        self.containers.insert(key.clone(), container);
        match prepared {
            Ok((job, fds)) => {
                let then = Then::Created(Created {
                    key: key.clone(),
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
        let (namespaces, mut fds) = self.namespaces(&sandbox).map_err(Fault::internal)?;
        let mut binds = Vec::new();
        let shm = self.folders.sandbox(&spec.pod).join("shm");
        let own = (shm.as_path(), "/dev/shm", false);
        let asked = spec
            .mounts
            .iter()
            .filter_map(|m| Some((m.source.as_deref()?, m.target.as_str(), m.read_only)));
        for (source, target, read_only) in std::iter::once(own).chain(asked) {
            let failed = |e: io::Error| {
                Fault::new(
                    FaultKind::Invalid,
                    format!("mount {} at {target}: {e}", source.display()),
                )
            };
            let folder = fs::metadata(source).map_err(failed)?.is_dir();
            fds.push(sys::open_tree(source).map_err(failed)?);
            binds.push(JobBind {
                target: target.to_owned(),
                read_only,
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
            unified: self.unified_of(&spec.pod),
            namespaces,
            binds,
            spec,
        };
        Ok((Job::CreateContainer(Box::new(job)), fds))
    }

    fn namespaces(&self, sandbox: &Sandbox) -> io::Result<(Vec<NamespaceKind>, Vec<OwnedFd>)> {
        let dir = self.folders.sandbox(&sandbox.pod);
        let mut wanted = vec![(NamespaceKind::Ipc, "ipc"), (NamespaceKind::Uts, "uts")];
        if !sandbox.spec.host_network {
            wanted.push((NamespaceKind::Network, "net"));
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
            OpenOptions::new().read(true).write(true).open(&path)?
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
        let Created { key, reply } = created;
        let Some(mut container) = self.containers.remove(key) else {
            return;
        };
        let adopted = process_of(result).and_then(|(pid, notes)| {
            container.record.pid = Some(pid);
            container.record.notes = notes;
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
        let state = container.record.state();
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
                self.changed(key);
                self.answer(*reply, Body::Container(Box::new(state)));
            }
        }
    }

    fn undo_creation(&mut self, key: &ContainerKey, reply: Reply, fault: Fault) {
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

    /// Begins a removal, or joins one. `true` when there is nothing to remove.
    pub(super) fn remove_container(&mut self, key: &ContainerKey, reply: Option<Reply>) -> bool {
        let Some(container) = self.containers.get_mut(key) else {
            return true;
        };
        container.waiting.extend(reply);
        let before = std::mem::replace(&mut container.record.stage, Stage::Removing);
        if before != Stage::Creating {
            self.continue_removal(key);
        }
        false
    }

    /// The next step of a removal: its process first, then all the rest.
    fn continue_removal(&mut self, key: &ContainerKey) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        let dir = self.folders.container(&container.record.id);
        if let Err(error) = record::write(&dir, &container.record) {
            tracing::warn!(container = %key, %error, "its record can't be written");
        }
        if let Some((pidfd, _)) = &container.process {
            if let Err(error) = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL) {
                tracing::error!(container = %key, %error, "it can't be killed");
            }
            return;
        }
        if std::mem::replace(&mut container.deleting, true) {
            return;
        }
        let job = Job::DeleteContainer {
            id: container.record.id.clone(),
            dir,
            cgroup: container_path(&self.options.cgroup, &key.pod, &key.name),
        };
        let then = Then::Deleted { key: key.clone() };
        self.pool.push(Task {
            pod: key.pod.clone(),
            job,
            fds: Vec::new(),
            then,
        });
    }

    pub(super) fn container_deleted(&mut self, key: &ContainerKey, result: JobResult) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        container.deleting = false;
        let failed = match result {
            JobResult::Failed(fault) => Some(fault),
            _ => None,
        };
        if let Some(fault) = &failed {
            tracing::warn!(container = %key, reason = fault.message, "a removal failed; it is tried again");
            container.failures += 1;
            if container.failures < MAX_QUICK_RETRIES {
                return self.continue_removal(key);
            }
            container.retry = Some(Instant::now() + RETRY_PAUSE);
        }
        let waiting = std::mem::take(&mut container.waiting);
        let after = container.after.take();
        if failed.is_none()
            && let Some(container) = self.containers.remove(key)
        {
            self.release_streams(container);
        }
        let body = failed.clone().map_or(Body::Done, Body::Failed);
        for reply in waiting {
            self.answer(reply, body.clone());
        }
        match (after, failed) {
            (None, _) => {}
            (Some(AfterRemoval::Tell(reply, fault)), _) => self.answer(reply, Body::Failed(fault)),
            (Some(AfterRemoval::Create(_, reply)), Some(fault)) => {
                self.answer(reply, Body::Failed(fault))
            }
            (Some(AfterRemoval::Create(spec, reply)), None) => {
                if let Err(fault) = self
                    .check(&spec)
                    .and_then(|()| self.begin_creation(*spec, reply))
                {
                    self.answer(reply, Body::Failed(fault));
                }
            }
        }
    }

    /// Tries again to remove what could not be removed.
    pub(super) fn retry_removals(&mut self) {
        let now = Instant::now();
        let due = |c: &Container| c.retry.is_some_and(|at| at <= now);
        let keys: Vec<ContainerKey> = self
            .containers
            .iter()
            .filter(|(_, c)| due(c))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            if let Some(container) = self.containers.get_mut(&key) {
                container.retry = None;
            }
            self.continue_removal(&key);
        }
    }

    /// Empties the streams into the log and closes them.
    fn release_streams(&mut self, mut container: Container) -> Container {
        for (output, _, token) in std::mem::take(&mut container.outputs) {
            self.unwatch(&output, token);
            output.finish(&mut container.log);
        }
        let names: &[&str] = if container.record.spec.tty {
            &["terminal"]
        } else {
            &["stdout", "stderr"]
        };
        for name in names {
            self.tell_keeper(&CoreWord::Forget {
                name: format!("{}/{name}", container.record.id),
            });
        }
        container
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

    /// A process of ours, or one that we only watch, has ended.
    pub(super) fn container_ended(&mut self, key: &ContainerKey) {
        let Some(container) = self.containers.get_mut(key) else {
            return;
        };
        let Some((pidfd, _)) = &container.process else {
            return;
        };
        if container.parent != Parent::Us {
            container.lost.get_or_insert_with(Instant::now);
            // Its code is looked for by the clock now; the event would come again and again.
            let (fd, token) = match &mut container.process {
                Some((fd, token)) => (fd.try_clone(), token.take()),
                None => return,
            };
            if let (Ok(fd), Some(token)) = (fd, token) {
                self.unwatch(fd, token);
            }
            return;
        }
        match sys::wait(Children::Pidfd(pidfd.as_fd())) {
            Ok(Some((_, ending))) => self.exited(key, Some(ending), now_ns()),
            Ok(None) => {
                let stray = container.record.pid.and_then(|pid| self.take_stray(pid));
                if stray.is_some() || !self.lives(key) {
                    self.exited(key, stray, now_ns());
                }
            }
            Err(error) => {
                tracing::error!(container = %key, %error, "its exit code can't be read");
                self.exited(key, None, now_ns());
            }
        }
    }

    /// Whether its process is there, be it as a zombie.
    fn lives(&self, key: &ContainerKey) -> bool {
        self.containers.get(key).is_some_and(|c| {
            c.record
                .pid
                .and_then(sys::start_ticks)
                .is_some_and(|now| Some(now) == c.record.ticks)
        })
    }

    /// Looks for the exit codes of containers that are not our children.
    pub(super) fn find_lost(&mut self) {
        let mut found = Vec::new();
        for (key, container) in &self.containers {
            let Some(since) = container.lost else {
                continue;
            };
            let ending = container
                .process
                .as_ref()
                .and_then(|(pidfd, _)| sys::pidfd_ending(pidfd.as_fd()));
            if ending.is_some() || since.elapsed() > LOST_PATIENCE {
                found.push((key.clone(), ending));
            }
        }
        for (key, ending) in found {
            self.exited(&key, ending, now_ns());
        }
    }

    pub(super) fn keeper_saw(&mut self, exit: Exit) {
        let key = self.containers.iter().find(|(_, c)| {
            c.record.pid == Some(exit.pid)
                && c.record.ticks == Some(exit.ticks)
                && c.parent == Parent::Keeper
        });
        if let Some(key) = key.map(|(key, _)| key.clone()) {
            self.exited(&key, Some(exit.ending), exit.at_ns);
        }
        self.tell_keeper(&CoreWord::Noted {
            pid: exit.pid,
            ticks: exit.ticks,
        });
    }

    /// The keeper, which would have told us of their end, is gone.
    pub(super) fn watch_keepers_containers(&mut self) {
        let keys: Vec<ContainerKey> = self
            .containers
            .iter()
            .filter(|(_, c)| c.parent == Parent::Keeper)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let Some(mut container) = self.containers.remove(&key) else {
                continue;
            };
            container.parent = Parent::Stranger;
            if let Some((pidfd, token)) = &mut container.process {
                match self.watch(&*pidfd, Source::Container(key.clone())) {
                    Ok(watched) => *token = Some(watched),
                    Err(error) => tracing::error!(container = %key, %error, "it can't be watched"),
                }
            }
            self.containers.insert(key, container);
        }
    }

    /// Takes note of the end of a container.
    fn exited(&mut self, key: &ContainerKey, ending: Option<Ending>, at_ns: i64) {
        let Some(mut container) = self.containers.remove(key) else {
            return;
        };
        if let Some((pidfd, Some(token))) = container.process.take() {
            self.unwatch(&pidfd, token);
        }
        container.lost = None;
        let mut container = self.release_streams(container);
        let cgroup = container_path(&self.options.cgroup, &key.pod, &key.name);
        let record = &mut container.record;
        if ending.is_none() {
            record.notes.push("nobody saw its exit code".to_owned());
        }
        let ending = ending.unwrap_or(Ending {
            code: UNKNOWN_CODE,
            signal: None,
        });
        record.pid = None;
        record.phase = ContainerPhase::Exited {
            code: ending.code,
            signal: ending.signal,
            oom_killed: self.cgroups.oom_kills(&cgroup) > 0,
            finished_ns: at_ns,
        };
        let removing = record.stage == Stage::Removing;
        self.containers.insert(key.clone(), container);
        if removing {
            self.continue_removal(key);
        } else {
            self.changed(key);
        }
    }

    /// Writes a container's record and tells who listens.
    fn changed(&mut self, key: &ContainerKey) {
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

    /// Takes over what our predecessor had.
    pub(super) fn load_containers(
        &mut self,
        mut kept: BTreeMap<String, OwnedFd>,
        exits: &[Exit],
    ) -> io::Result<()> {
        for (dir, record) in record::read_all::<Record>(&self.folders.containers())? {
            match record {
                Some(record) => self.load_container(record, &mut kept, exits),
                None => {
                    // Nothing was made before the first record was whole.
                    tracing::warn!(dir = %dir.display(), "a folder without a record is removed");
                    fs::remove_dir_all(&dir)?;
                }
            }
        }
        for name in kept.into_keys() {
            self.tell_keeper(&CoreWord::Forget { name });
        }
        for exit in exits {
            self.tell_keeper(&CoreWord::Noted {
                pid: exit.pid,
                ticks: exit.ticks,
            });
        }
        Ok(())
    }

    fn load_container(
        &mut self,
        record: Record,
        kept: &mut BTreeMap<String, OwnedFd>,
        exits: &[Exit],
    ) {
        let key = record.spec.key();
        let mut container = Container::new(record);
        let unfinished = container.record.stage != Stage::Live;
        if unfinished {
            container.record.stage = Stage::Removing;
        }
        if container.record.exited() || container.record.boot != self.boot {
            let vanished = !container.record.exited();
            self.containers.insert(key.clone(), container);
            if vanished {
                self.exited(&key, None, now_ns());
            } else if unfinished {
                self.continue_removal(&key);
            }
            return;
        }
        if let Err(error) = self.reopen(&mut container, &key, kept) {
            tracing::error!(container = %key, %error, "what it writes can't be read any more");
        }
        let exit = exits.iter().find(|e| {
            Some(e.pid) == container.record.pid && Some(e.ticks) == container.record.ticks
        });
        let alive = exit.is_none() && self.take_over(&mut container, &key);
        let creating = container.record.pid.is_none();
        if !alive && exit.is_none() && !creating {
            // The keeper may be about to tell.
            container.parent = Parent::Keeper;
            container.lost = Some(Instant::now());
        }
        self.containers.insert(key.clone(), container);
        match (alive, exit) {
            (true, _) => {
                if unfinished {
                    self.continue_removal(&key);
                }
            }
            (false, Some(exit)) => self.exited(&key, Some(exit.ending), exit.at_ns),
            (false, None) if creating || unfinished => self.continue_removal(&key),
            (false, None) => {}
        }
    }

    /// `true` when its process lives and is watched from now on.
    fn take_over(&mut self, container: &mut Container, key: &ContainerKey) -> bool {
        let (Some(pid), Some(ticks)) = (container.record.pid, container.record.ticks) else {
            return false;
        };
        let Ok(pidfd) = sys::pidfd_open(pid) else {
            return false;
        };
        // After the descriptor is open, so that it is this process and no later one.
        if sys::start_ticks(pid) != Some(ticks) {
            return false;
        }
        if container.record.phase == ContainerPhase::Created && container.record.started_ns > 0 {
            container.record.phase = ContainerPhase::Running;
        }
        container.parent = if sys::parent(pid) == Some(self.keeper_pid) {
            Parent::Keeper
        } else {
            Parent::Stranger
        };
        let token = if container.parent == Parent::Stranger {
            match self.watch(&pidfd, Source::Container(key.clone())) {
                Ok(token) => Some(token),
                Err(error) => {
                    tracing::error!(container = %key, %error, "it can't be watched");
                    None
                }
            }
        } else {
            None
        };
        container.process = Some((pidfd, token));
        true
    }

    fn reopen(
        &mut self,
        container: &mut Container,
        key: &ContainerKey,
        kept: &mut BTreeMap<String, OwnedFd>,
    ) -> io::Result<()> {
        let id = container.record.id.clone();
        let wanted: &[(Stream, &str)] = if container.record.spec.tty {
            &[(Stream::Stdout, "terminal")]
        } else {
            &[(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")]
        };
        for (stream, name) in wanted {
            let fd = match kept.remove(&format!("{id}/{name}")) {
                Some(fd) => fd,
                None if container.record.spec.tty => continue,
                None => OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK)
                    .open(self.folders.container(&id).join(name))?
                    .into(),
            };
            let token = self.watch(&fd, Source::Output(key.clone(), *stream))?;
            container.outputs.push((
                Output::new(fd, *stream, container.record.spec.tty),
                *stream,
                token,
            ));
        }
        Ok(())
    }
}
