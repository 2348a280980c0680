//! How containers end and go: exit codes from whoever knows them, removal until nothing is left.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::containers::{AfterRemoval, Container, Parent};
use super::core::{Core, Reply, Source, Then};
use super::keeper::{CoreWord, Exit};
use super::now_ns;
use super::pool::Task;
use super::record::{self, Stage};
use crate::cgroup::container_path;
use crate::protocol::{Body, Job, JobResult};
use crate::spec::{ContainerKey, ContainerPhase};
use crate::sys::{self, Children, Ending};

/// The exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;
/// How long the exit code of somebody else's child may take to appear.
const LOST_PATIENCE: Duration = Duration::from_secs(2);

/// A removal that fails is tried so often before who waits for it is told.
const MAX_QUICK_RETRIES: u32 = 5;
/// And then again after so long, for ever.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
impl Core {
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
    pub(super) fn continue_removal(&mut self, key: &ContainerKey) {
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
            (Some(AfterRemoval::Create(_, _, reply)), Some(fault)) => {
                self.answer(reply, Body::Failed(fault))
            }
            (Some(AfterRemoval::Create(spec, start, reply)), None) => {
                if let Err(fault) = self
                    .check(&spec)
                    .and_then(|()| self.begin_creation(*spec, start, reply))
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
    pub(super) fn exited(&mut self, key: &ContainerKey, ending: Option<Ending>, at_ns: i64) {
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
}
