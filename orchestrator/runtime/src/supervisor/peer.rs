//! A connection that never blocks the supervisor: frames in, frames out as the other side takes them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{Incoming, Outgoing};

/// Frames that may wait for a slow reader before it is given up.
const MAX_WAITING: usize = 20_000;

/// One end of a unix stream.
#[derive(Debug)]
pub(super) struct Peer {
    socket: OwnedFd,
    pub(super) incoming: Incoming,
    pub(super) outgoing: VecDeque<Outgoing>,
    /// Whether the event loop was told that we wait for room.
    pub(super) wants_room: bool,
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&socket, FcntlArg::F_GETFL)?);
        fcntl(&socket, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Peer {
            socket,
            incoming: Incoming::default(),
            outgoing: VecDeque::new(),
            wants_room: false,
        })
    }

    /// Reads what has come; `false` at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        loop {
            match self.incoming.receive(self.socket.as_fd()) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
    }

    /// The next whole frame.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.incoming.next()
    }

    /// Puts a frame in line.
    pub(super) fn send<T: Serialize>(&mut self, value: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        if self.outgoing.len() >= MAX_WAITING {
            return Err(io::Error::other("the other side doesn't read"));
        }
        self.outgoing.push_back(Outgoing::new(value, fds)?);
        Ok(())
    }

    /// Sends what the other side takes; `false` when some is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while let Some(frame) = self.outgoing.front_mut() {
            if !frame.send(self.socket.as_fd())? {
                return Ok(false);
            }
            self.outgoing.pop_front();
        }
        Ok(true)
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
