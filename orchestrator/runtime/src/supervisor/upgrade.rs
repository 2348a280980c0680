//! The supervisor proper becomes another program with all that it has, or takes its dead keeper's place. Either waits until
//! no job is under way; clients wait meanwhile. What is handed over and how: `handover`.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};
use serde::{Deserialize, Serialize};

use super::clients::Client;
use super::core::{Core, Parts, Reply, Source};
use super::handover::{self, Luggage, Packed, PackedPeer};
use super::keeper::{self, CoreWord};
use super::{SupervisorOptions, Wait, lock};
use crate::cri::Stream;
use crate::error::FaultKind;
use crate::protocol::{Body, Fault};
use crate::sys::Ending;

/// How long what is under way may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the supervisor is about to become.
#[derive(Debug)]
pub(super) enum Becoming {
    /// The supervisor of this program, asked for by a client.
    Program { program: OwnedFd, reply: Reply },
    /// Its own keeper; another process becomes the supervisor.
    Keeper,
}

/// Everything that the next program needs and does not find in the data folder.
#[derive(Serialize, Deserialize)]
pub(super) struct State {
    lock: Packed,
    listener: Packed,
    keeper: Option<PackedPeer>,
    keeper_pid: i32,
    program: Packed,
    asked_by: Reply,
    next_token: u64,
    clients: Vec<PackedClient>,
    streams: Vec<PackedStreams>,
    execs: Vec<(i32, Reply)>,
    strays: Vec<(i32, Ending)>,
}

#[derive(Serialize, Deserialize)]
struct PackedClient {
    token: u64,
    peer: PackedPeer,
    subscribed: Option<u64>,
}

/// What is open of a container, by its id.
#[derive(Serialize, Deserialize)]
struct PackedStreams {
    id: String,
    tty: bool,
    stdin: Option<Packed>,
    /// Each with who looks on.
    outputs: Vec<(Stream, Packed, Vec<Packed>)>,
}

/// The name under which the keeper knows a stream.
fn stream_name(id: &str, stream: Stream, tty: bool) -> String {
    match (stream, tty) {
        (_, true) => format!("{id}/terminal"),
        (Stream::Stdout, false) => format!("{id}/stdout"),
        (Stream::Stderr, false) => format!("{id}/stderr"),
    }
}

impl Core {
    /// Becomes a program as soon as nothing is under way.
    pub(super) fn begin_upgrade(&mut self, fds: Vec<OwnedFd>, reply: Reply) -> Result<(), Fault> {
        let [program]: [OwnedFd; 1] = fds
            .try_into()
            .map_err(|_| Fault::new(FaultKind::Invalid, "one descriptor comes with it"))?;
        if self.becoming.is_some() || self.shutdown.is_some() {
            let text = "it is about to become something else";
            return Err(Fault::new(FaultKind::InvalidState, text));
        }
        self.begin_becoming(Becoming::Program { program, reply });
        Ok(())
    }

    pub(super) fn begin_becoming(&mut self, what: Becoming) {
        let before = self.becoming.replace((what, Instant::now() + PATIENCE));
        if let Some((Becoming::Program { reply, .. }, _)) = before {
            let text = "the keeper died; this process takes its place";
            let fault = Fault::new(FaultKind::InvalidState, text);
            self.answer(reply, Body::Failed(fault));
        }
        self.listen_to_clients();
    }

    /// Hears clients again, or no more; what they say meanwhile waits in their sockets.
    fn listen_to_clients(&mut self) {
        let mut tokens = vec![(self.listener.as_fd(), self.listener_token)];
        tokens.extend(self.clients.iter().map(|(t, c)| (c.peer.as_fd(), *t)));
        for (fd, token) in tokens {
            let mut flags = EpollFlags::empty();
            flags.set(EpollFlags::EPOLLIN, self.becoming.is_none());
            if let Err(error) = self.epoll.modify(fd, &mut EpollEvent::new(flags, token)) {
                tracing::warn!(%error, "a client can't be put off, or heard again");
            }
        }
    }

    /// No job, and nothing that only this process knows of.
    fn settled(&self) -> bool {
        self.pool.is_idle()
            && self
                .containers
                .values()
                .all(|c| c.lost.is_none() && c.waiting.is_empty() && c.after.is_none())
    }

    /// Goes on with what is to become of this process. Comes back when that is not yet, or not possible.
    pub(super) fn try_becoming(&mut self) {
        let Some((_, deadline)) = &self.becoming else {
            return;
        };
        if self.shutdown.is_some() {
            return;
        }
        let (settled, late) = (self.settled(), *deadline <= Instant::now());
        if !settled && !late {
            return;
        }
        let mut held = None;
        if matches!(self.becoming, Some((Becoming::Keeper, _))) {
            // Whoever else holds it is a keeper whose supervisor waits for our end; or it is still being given back.
            held = lock(&self.options.data.join("supervisor.lock"), Wait::Not).ok();
            if held.is_none() && !late {
                return;
            }
        }
        for container in self.containers.values_mut() {
            container.write_out();
        }
        match self.becoming.take() {
            Some((Becoming::Program { program, reply }, _)) => {
                let fault = match settled {
                    true => Fault::internal(self.become_program(&program, reply)),
                    false => Fault::new(
                        FaultKind::TimedOut,
                        format!("a job is under way for more than {PATIENCE:?}"),
                    ),
                };
                self.answer(reply, Body::Failed(fault));
            }
            Some((Becoming::Keeper, _)) => {
                let error = held.map(|held| self.become_keeper(&held));
                tracing::error!(?error, "nobody starts this supervisor again");
                self.watch_keepers_containers();
            }
            None => {}
        }
        self.listen_to_clients();
        let clients: Vec<u64> = self.clients.keys().copied().collect();
        // What came before they were put off has no event any more.
        for token in clients {
            self.hear_client(token);
        }
    }

    fn become_program(&self, program: &OwnedFd, asked_by: Reply) -> io::Error {
        let mut luggage = Luggage::default();
        match self.pack(program, asked_by, &mut luggage) {
            Ok(state) => handover::become_program(program.as_fd(), "core", &self.options, state),
            Err(error) => error,
        }
    }

    fn pack<'a>(
        &'a self,
        program: &'a OwnedFd,
        asked_by: Reply,
        luggage: &mut Luggage<'a>,
    ) -> io::Result<State> {
        let mut clients = Vec::new();
        for (token, client) in &self.clients {
            clients.push(PackedClient {
                token: *token,
                peer: luggage.pack_peer(&client.peer)?,
                subscribed: client.subscribed,
            });
        }
        let mut streams = Vec::new();
        for container in self.containers.values() {
            let mut outputs = Vec::new();
            for (output, stream, _) in &container.outputs {
                let copies: io::Result<_> = output.copies().map(|c| luggage.pack(c)).collect();
                outputs.push((*stream, luggage.pack(output)?, copies?));
            }
            let stdin = container.stdin.as_ref();
            streams.push(PackedStreams {
                id: container.record.id.clone(),
                tty: container.record.spec.tty,
                stdin: stdin.map(|fd| luggage.pack(fd)).transpose()?,
                outputs,
            });
        }
        let keeper = self.keeper.as_ref();
        Ok(State {
            lock: luggage.pack(&self.lock)?,
            listener: luggage.pack(&self.listener)?,
            keeper: keeper.map(|peer| luggage.pack_peer(peer)).transpose()?,
            keeper_pid: self.keeper_pid,
            program: luggage.pack(program)?,
            asked_by,
            next_token: self.next_token,
            clients,
            streams,
            execs: self.execs.values().map(|e| (e.pid, e.reply)).collect(),
            strays: self.strays.iter().map(|(pid, (e, _))| (*pid, *e)).collect(),
        })
    }

    /// The containers are this process's children whatever it runs; another one will own them.
    fn become_keeper(&self, held: &File) -> io::Error {
        let become_it = || -> io::Result<std::convert::Infallible> {
            let mut luggage = Luggage::default();
            let mut kept = BTreeMap::new();
            for container in self.containers.values() {
                let (id, tty) = (&container.record.id, container.record.spec.tty);
                for (output, stream, _) in &container.outputs {
                    kept.insert(stream_name(id, *stream, tty), luggage.pack(output)?);
                }
                if let Some(stdin) = &container.stdin {
                    kept.insert(format!("{id}/stdin"), luggage.pack(stdin)?);
                }
            }
            let state = keeper::State::new(luggage.pack(held)?, kept);
            let program = File::open("/proc/self/exe")?;
            Err(handover::become_program(
                program.as_fd(),
                "keeper",
                &self.options,
                state,
            ))
        };
        become_it()
            .err()
            .unwrap_or_else(|| io::ErrorKind::Other.into())
    }

    /// Goes on from what the program before has handed over.
    pub(super) fn resume(options: &SupervisorOptions, state: State) -> io::Result<Self> {
        let mut kept = BTreeMap::new();
        let mut copies: HashMap<String, Vec<(Stream, OwnedFd)>> = HashMap::new();
        for streams in state.streams {
            let (id, tty) = (streams.id, streams.tty);
            for (stream, fd, lookers) in streams.outputs {
                kept.insert(stream_name(&id, stream, tty), fd.unpack()?);
                for fd in lookers {
                    let of = copies.entry(id.clone()).or_default();
                    of.push((stream, fd.unpack()?));
                }
            }
            if let Some(stdin) = streams.stdin {
                kept.insert(format!("{id}/stdin"), stdin.unpack()?);
            }
        }
        let mut core = Core::new(
            options,
            Parts {
                lock: state.lock.unpack()?.into(),
                listener: state.listener.unpack()?.into(),
                keeper: state.keeper.map(PackedPeer::unpack).transpose()?,
                keeper_pid: state.keeper_pid,
                next_token: state.next_token,
            },
        )?;
        let now = Instant::now();
        let strays = state.strays.into_iter();
        core.strays = strays.map(|(pid, e)| (pid, (e, now))).collect();
        for client in state.clients {
            core.resume_client(client)?;
        }
        core.take_over_all(kept, &[])?;
        for container in core.containers.values_mut() {
            for (stream, fd) in copies.remove(&container.record.id).unwrap_or_default() {
                let output = container.outputs.iter_mut().find(|(_, s, _)| *s == stream);
                if let Some((output, ..)) = output {
                    output.copy_to(fd);
                }
            }
        }
        for (pid, reply) in state.execs {
            core.watch_exec(pid, reply);
        }
        let program = state.program.unpack()?;
        core.tell_keeper_with(&CoreWord::Become, vec![program]);
        core.answer(state.asked_by, Body::Done);
        let clients: Vec<u64> = core.clients.keys().copied().collect();
        for token in clients {
            core.hear_client(token);
        }
        Ok(core)
    }

    fn resume_client(&mut self, client: PackedClient) -> io::Result<()> {
        let peer = client.peer.unpack()?;
        self.epoll
            .add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, client.token))?;
        self.sources.insert(client.token, Source::Client);
        let subscribed = client.subscribed;
        self.clients
            .insert(client.token, Client { peer, subscribed });
        Ok(())
    }
}

/// Whether the process runs the program that a path leads to now.
pub(super) fn runs(pid: u32, program: &Path) -> io::Result<bool> {
    let theirs = fs::metadata(format!("/proc/{pid}/exe"))?;
    let ours = fs::metadata(program)?;
    Ok((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
}
