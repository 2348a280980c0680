//! Frames on a unix stream socket: length, number of descriptors, JSON; descriptors travel beside the first byte.
//! What the frames say: `protocol`.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the header: length of the body and number of descriptors, little-endian u32 each.
const HEADER: usize = 8;
/// Longest body; a container with a very large environment stays far below.
const MAX_BODY: usize = 16 << 20;
/// The kernel passes at most 253 descriptors in one message.
pub(crate) const MAX_FDS: usize = 250;

/// A frame that waits to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

impl Outgoing {
    /// Encodes a value together with the descriptors that belong to it.
    pub(crate) fn new<T: Serialize>(value: &T, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let body = serde_json::to_vec(value).map_err(io::Error::other)?;
        if body.len() > MAX_BODY || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes with {} descriptors is too large",
                    body.len(),
                    fds.len()
                ),
            ));
        }
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(fds.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(Outgoing {
            bytes,
            sent: 0,
            fds,
        })
    }

    /// What is still to be sent.
    pub(crate) fn rest(&self) -> (&[u8], &[OwnedFd]) {
        (&self.bytes[self.sent..], &self.fds)
    }

    /// A frame whose first part is gone, as [`rest`](Self::rest) gave it.
    pub(crate) fn from_rest(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Outgoing {
            bytes,
            sent: 0,
            fds,
        }
    }

    /// Sends as much as the socket takes now; `true` when all of it is gone.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            let part = [IoSlice::new(&self.bytes[self.sent..])];
            let raw: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
            match sendmsg::<()>(
                socket.as_raw_fd(),
                &part,
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            ) {
                Ok(n) => {
                    self.sent += n;
                    self.fds.clear();
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

/// Receives one descriptor that comes without a frame.
pub(crate) fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut incoming = Incoming::default();
    incoming.receive(socket)?;
    incoming
        .fds
        .pop_front()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor came"))
}

/// Puts frames together again.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Incoming {
    /// What has come and was not taken yet.
    pub(crate) fn rest(&self) -> (&[u8], &VecDeque<OwnedFd>) {
        (&self.bytes, &self.fds)
    }

    /// Goes on from what [`rest`](Self::rest) gave.
    pub(crate) fn from_rest(bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Self {
        Incoming {
            bytes,
            fds: fds.into(),
        }
    }

    /// Reads once; `Ok(0)` is the end of the stream, `WouldBlock` comes through.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut chunk = vec![0_u8; 64 << 10];
        let mut control = nix::cmsg_space!([RawFd; 253]);
        let n = loop {
            let mut parts = [IoSliceMut::new(&mut chunk)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                Ok(message) => {
                    for part in message.cmsgs()? {
                        if let ControlMessageOwned::ScmRights(raw) = part {
                            // SAFETY: the kernel has just installed these descriptors for us; nobody else owns them.
                            self.fds.extend(
                                raw.into_iter()
                                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                            );
                        }
                    }
                    break message.bytes;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        self.bytes.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    /// Takes the next whole frame, if there is one.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(header) = self.bytes.get(..HEADER) else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let fds = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if length > MAX_BODY || fds > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "frame header out of range",
            ));
        }
        let Some(body) = self.bytes.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        if self.fds.len() < fds {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "frame without its descriptors",
            ));
        }
        let value = serde_json::from_slice(body)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        self.bytes.drain(..HEADER + length);
        Ok(Some((value, self.fds.drain(..fds).collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn frames_keep_their_descriptors_and_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let big = "x".repeat(100_000);
        for (value, fds) in [
            (big.as_str(), vec![]),
            ("with", vec![OwnedFd::from(writer)]),
            ("last", vec![]),
        ] {
            assert!(Outgoing::new(&value, fds).unwrap().send(a.as_fd()).unwrap());
        }
        drop(a);
        let mut incoming = Incoming::default();
        let mut seen = Vec::new();
        loop {
            while let Some((text, fds)) = incoming.next::<String>().unwrap() {
                for fd in fds {
                    std::fs::File::from(fd).write_all(text.as_bytes()).unwrap();
                }
                seen.push(text);
            }
            if incoming.receive(b.as_fd()).unwrap() == 0 {
                break;
            }
        }
        assert_eq!(seen, [big.as_str(), "with", "last"]);
        let mut through = String::new();
        reader.read_to_string(&mut through).unwrap();
        assert_eq!(through, "with");
    }

    #[test]
    fn a_hostile_header_is_refused() {
        let mut incoming = Incoming {
            bytes: vec![0xff; 8],
            fds: VecDeque::new(),
        };
        assert!(incoming.next::<String>().is_err());
        let mut incoming = Incoming {
            bytes: vec![2, 0, 0, 0, 1, 0, 0, 0, b'1', b'2'],
            fds: VecDeque::new(),
        };
        assert!(incoming.next::<u32>().is_err());
    }
}
