//! The clients of the supervisor: their requests, the answers, and who hears of changes.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::containers::Container;
use super::core::{Core, Reply, Source};
use super::keeper::CoreWord;
use super::peer::Peer;
use super::sandboxes::SandboxEntry;
use crate::error::FaultKind;
use crate::protocol::{Answer, Body, Call, Fault, Request};
use crate::spec::{ContainerKey, ContainerState};

/// A connected client.
pub(super) struct Client {
    pub(super) peer: Peer,
    /// The call under which it hears of changes.
    pub(super) subscribed: Option<u64>,
}

impl Core {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let root = getsockopt(&stream, PeerCredentials).is_ok_and(|c| c.uid() == 0);
            if !root {
                tracing::warn!("a user other than root is turned away");
                continue;
            }
            let token = self.token(Source::Client);
            let added = Peer::new(stream.into()).and_then(|peer| {
                self.epoll
                    .add(&peer, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
                Ok(peer)
            });
            match added {
                Ok(peer) => drop(self.clients.insert(
                    token,
                    Client {
                        peer,
                        subscribed: None,
                    },
                )),
                Err(error) => tracing::warn!(%error, "a client can't be taken"),
            }
        }
    }

    pub(super) fn hear_client(&mut self, token: u64) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        let open = client.peer.fill().unwrap_or(false);
        loop {
            let Some(client) = self.clients.get_mut(&token) else {
                return;
            };
            if self.becoming.is_some() {
                return;
            }
            match client.peer.next::<Call>() {
                Ok(Some((call, fds))) => self.request(
                    Reply {
                        client: token,
                        call: call.id,
                    },
                    call.request,
                    fds,
                ),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a client says what can't be understood");
                    self.drop_client(token);
                    return;
                }
            }
        }
        if !open {
            self.drop_client(token);
        }
    }

    fn drop_client(&mut self, token: u64) {
        self.clients.remove(&token);
        self.sources.remove(&token);
    }

    fn request(&mut self, reply: Reply, request: Request, fds: Vec<OwnedFd>) {
        let closing = self.shutdown.is_some();
        let result = match request {
            Request::Ping => Ok(Some(Body::Pong {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                cgroup: self.options.cgroup.clone(),
            })),
            Request::List => Ok(Some(self.list())),
            Request::Subscribe => {
                self.subscribe(reply);
                Ok(None)
            }
            Request::Shutdown => {
                self.begin_shutdown(reply);
                Ok(None)
            }
            Request::Revive(command) => {
                self.tell_keeper_with(&CoreWord::Revive(command), fds);
                Ok(Some(Body::Done))
            }
            Request::Upgrade => self.begin_upgrade(fds, reply).map(|()| None),
            Request::TakeLeave => {
                self.tell_keeper(&CoreWord::TakeLeave);
                Ok(Some(Body::Done))
            }
            Request::RemoveSandbox { pod } => self.remove_sandbox(&pod).map(|()| Some(Body::Done)),
            Request::RemoveContainer(key) => Ok(self
                .remove_container(&key, Some(reply))
                .then_some(Body::Done)),
            Request::SignalContainer { key, signal } => self
                .signal_container(&key, signal)
                .map(|()| Some(Body::Done)),
            Request::ResizeContainer { key, resources } => self
                .resize_container(&key, resources)
                .map(|()| Some(Body::Done)),
            Request::SignalExec { exec, signal } => self
                .signal_exec(reply.client, exec, signal)
                .map(|()| Some(Body::Done)),
            _ if closing => Err(Fault::new(
                FaultKind::InvalidState,
                "the supervisor is shutting down",
            )),
            Request::CreateSandbox(spec) => self.create_sandbox(spec, reply),
            Request::CreateContainer(spec) => {
                self.create_container(*spec, false, reply).map(|()| None)
            }
            Request::RunContainer(spec) => self.create_container(*spec, true, reply).map(|()| None),
            Request::Attach(key) => self.attach_client(&key, fds, reply).map(|()| None),
            Request::CloseStdin(key) => {
                self.close_stdin(&key);
                Ok(Some(Body::Done))
            }
            Request::StartContainer(key) => self.start_container(&key, reply).map(|()| None),
            Request::Exec(spec) => self.exec(spec, fds, reply).map(|()| None),
        };
        match result {
            Ok(Some(body)) => self.answer(reply, body),
            Ok(None) => {}
            Err(fault) => self.answer(reply, Body::Failed(fault)),
        }
    }

    fn list(&self) -> Body {
        Body::List {
            sandboxes: self
                .sandboxes
                .values()
                .filter_map(SandboxEntry::ready)
                .cloned()
                .collect(),
            containers: self
                .containers
                .values()
                .filter_map(Container::visible)
                .collect(),
        }
    }

    fn subscribe(&mut self, reply: Reply) {
        if let Some(client) = self.clients.get_mut(&reply.client) {
            client.subscribed = Some(reply.call);
        }
        self.answer(reply, Body::Done);
        let all: Vec<ContainerState> = self
            .containers
            .values()
            .filter_map(Container::visible)
            .collect();
        for state in all {
            self.answer(reply, Body::Container(Box::new(state)));
        }
    }

    pub(super) fn answer(&mut self, reply: Reply, body: Body) {
        self.answer_with(reply, body, Vec::new());
    }

    pub(super) fn answer_with(&mut self, reply: Reply, body: Body, fds: Vec<OwnedFd>) {
        // A client that has gone needs no answer.
        let Some(client) = self.clients.get_mut(&reply.client) else {
            return;
        };
        if let Err(error) = client.peer.send(
            &Answer {
                id: reply.call,
                body,
            },
            fds,
        ) {
            tracing::warn!(%error, "a client is given up");
            self.drop_client(reply.client);
        }
    }

    /// Tells every subscriber.
    pub(super) fn tell(&mut self, state: &ContainerState) {
        let subscribers: Vec<Reply> = self
            .clients
            .iter()
            .filter_map(|(client, c)| {
                c.subscribed.map(|call| Reply {
                    client: *client,
                    call,
                })
            })
            .collect();
        for reply in subscribers {
            self.answer(reply, Body::Container(Box::new(state.clone())));
        }
    }

    pub(super) fn flush(&mut self) {
        let mut gone = Vec::new();
        for (token, client) in &mut self.clients {
            match client.peer.flush() {
                Ok(done) => {
                    if client.peer.wants_room == done {
                        client.peer.wants_room = !done;
                        let mut flags = EpollFlags::empty();
                        flags.set(EpollFlags::EPOLLIN, self.becoming.is_none());
                        flags.set(EpollFlags::EPOLLOUT, !done);
                        let mut event = EpollEvent::new(flags, *token);
                        if self.epoll.modify(&client.peer, &mut event).is_err() {
                            gone.push(*token);
                        }
                    }
                }
                Err(_) => gone.push(*token),
            }
        }
        for token in gone {
            self.drop_client(token);
        }
        if let Some(keeper) = &mut self.keeper
            && keeper.flush().is_err()
        {
            self.keeper_gone();
        }
    }

    fn begin_shutdown(&mut self, reply: Reply) {
        self.shutdown = Some(reply);
        let keys: Vec<ContainerKey> = self.containers.keys().cloned().collect();
        for key in keys {
            self.remove_container(&key, None);
        }
    }

    /// `true` when all is gone and the client knows.
    pub(super) fn finish_shutdown(&mut self) -> bool {
        let Some(reply) = self.shutdown else {
            return false;
        };
        if !self.containers.is_empty() || !self.pool.is_idle() {
            return false;
        }
        let mut errors = Vec::new();
        let pods: Vec<String> = self.sandboxes.keys().cloned().collect();
        for pod in pods {
            if let Err(fault) = self.remove_sandbox(&pod) {
                errors.push(format!("sandbox {pod}: {}", fault.message));
            }
        }
        let pods = format!("{}/pods", self.options.cgroup);
        errors.extend(
            self.cgroups
                .remove_settled(&pods)
                .iter()
                .map(io::Error::to_string),
        );
        let body = if errors.is_empty() {
            Body::Done
        } else {
            Body::Failed(Fault::internal(errors.join("; ")))
        };
        self.answer(reply, body);
        self.flush();
        if let Err(error) = std::fs::remove_file(self.options.socket()) {
            tracing::warn!(%error, "the socket can't be removed");
        }
        true
    }
}
