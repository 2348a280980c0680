//! How a new supervisor takes over the containers of the one before.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use super::containers::{Container, Parent};
use super::core::{Core, Source};
use super::keeper::{CoreWord, Exit};
use super::logs::Output;
use super::now_ns;
use super::record::{self, Record, Stage};
use crate::cri::Stream;
use crate::spec::{ContainerKey, ContainerPhase};
use crate::sys;

impl Core {
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
        container.parent = match sys::parent(pid) {
            Some(parent) if parent == nix::unistd::getpid().as_raw() => Parent::Us,
            Some(parent) if parent == self.keeper_pid => Parent::Keeper,
            _ => Parent::Stranger,
        };
        let token = if container.parent != Parent::Keeper {
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
        container.stdin = kept.remove(&format!("{id}/stdin"));
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
