//! How a process of the supervisor becomes another program, or another role, and keeps its children, its descriptors and
//! what it knows: it writes its state down, lets the descriptors stay open and executes. Who does so, when: `upgrade`
//! for the supervisor proper, `keeper`.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::{ROLE, SupervisorOptions};
use crate::frame::{Incoming, Outgoing};
use crate::sys;

/// Environment variable with the number of the descriptor that the state is in.
const STATE: &str = "WAGGLE_SUPERVISOR_STATE";
/// Changes whenever the state of either process is written differently.
const FORMAT: u32 = 1;

/// What is handed over, with how it is written.
#[derive(Serialize, Deserialize)]
struct Handed<T> {
    format: u32,
    state: T,
}

/// Descriptors that stay open for the next program; dropped, they don't any more.
#[derive(Debug, Default)]
pub(super) struct Luggage<'a> {
    packed: Vec<BorrowedFd<'a>>,
}

impl<'a> Luggage<'a> {
    /// Takes one along.
    pub(super) fn pack(&mut self, fd: &'a impl AsFd) -> io::Result<Packed> {
        let fd = fd.as_fd();
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        self.packed.push(fd);
        Ok(Packed(fd.as_raw_fd()))
    }

    fn pack_all(&mut self, fds: impl IntoIterator<Item = &'a OwnedFd>) -> io::Result<Vec<Packed>> {
        fds.into_iter().map(|fd| self.pack(fd)).collect()
    }

    /// Takes a connection along, with what is under way on it.
    pub(super) fn pack_peer(&mut self, peer: &'a Peer) -> io::Result<PackedPeer> {
        let (incoming, fds) = peer.incoming.rest();
        let incoming = PackedFrame {
            bytes: incoming.to_vec(),
            fds: self.pack_all(fds)?,
        };
        let mut outgoing = Vec::new();
        for frame in &peer.outgoing {
            let (bytes, fds) = frame.rest();
            outgoing.push(PackedFrame {
                bytes: bytes.to_vec(),
                fds: self.pack_all(fds)?,
            });
        }
        Ok(PackedPeer {
            socket: self.pack(peer)?,
            incoming,
            outgoing,
        })
    }
}

impl Drop for Luggage<'_> {
    fn drop(&mut self) {
        for fd in &self.packed {
            // It is open and ours; there is no other way to fail.
            let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    }
}

/// A descriptor in a state, by its number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Packed(RawFd);

impl Packed {
    /// Takes it out; each only once.
    pub(super) fn unpack(self) -> io::Result<OwnedFd> {
        let fd = sys::inherited(self.0)?;
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        Ok(fd)
    }
}

/// A connection in a state.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PackedPeer {
    socket: Packed,
    incoming: PackedFrame,
    outgoing: Vec<PackedFrame>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PackedFrame {
    bytes: Vec<u8>,
    fds: Vec<Packed>,
}

impl PackedFrame {
    fn unpack(self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let fds: io::Result<_> = self.fds.into_iter().map(Packed::unpack).collect();
        Ok((self.bytes, fds?))
    }
}

impl PackedPeer {
    pub(super) fn unpack(self) -> io::Result<Peer> {
        let mut peer = Peer::new(self.socket.unpack()?)?;
        let (bytes, fds) = self.incoming.unpack()?;
        peer.incoming = Incoming::from_rest(bytes, fds);
        for frame in self.outgoing {
            let (bytes, fds) = frame.unpack()?;
            peer.outgoing.push_back(Outgoing::from_rest(bytes, fds));
        }
        Ok(peer)
    }
}

/// Becomes `program` in a role, with a state. Comes back only when that fails, and then nothing has changed.
pub(super) fn become_program<T: Serialize>(
    program: BorrowedFd<'_>,
    role: &str,
    options: &SupervisorOptions,
    state: T,
) -> io::Error {
    match try_to_become(program, role, options, state) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_to_become<T: Serialize>(
    program: BorrowedFd<'_>,
    role: &str,
    options: &SupervisorOptions,
    state: T,
) -> io::Result<std::convert::Infallible> {
    let handed = Handed {
        format: FORMAT,
        state,
    };
    // Stays open over the execution.
    let mut file = std::fs::File::from(memfd_create(c"supervisor-state", MFdFlags::empty())?);
    file.write_all(&serde_json::to_vec(&handed).map_err(io::Error::other)?)?;
    file.rewind()?;
    let text = |parts: &[&OsStr]| {
        CString::new(
            parts
                .iter()
                .map(|p| p.as_bytes())
                .collect::<Vec<_>>()
                .concat(),
        )
        .map_err(io::Error::other)
    };
    let path = text(&[OsStr::new(&format!(
        "/proc/self/fd/{}",
        program.as_raw_fd()
    ))])?;
    let (data, cgroup) = (options.data.as_os_str(), OsStr::new(&options.cgroup));
    let words = ["waggle", "supervisor", "--data"].map(OsStr::new);
    let words = words
        .into_iter()
        .chain([data, OsStr::new("--cgroup"), cgroup]);
    let arguments: io::Result<Vec<CString>> = words.map(|word| text(&[word])).collect();
    let number = file.as_raw_fd().to_string();
    let mut environment = vec![
        text(&[OsStr::new(ROLE), OsStr::new("="), OsStr::new(role)])?,
        text(&[OsStr::new(STATE), OsStr::new("="), OsStr::new(&number)])?,
    ];
    for name in ["WAGGLE_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            environment.push(text(&[OsStr::new(name), OsStr::new("="), &value])?);
        }
    }
    Ok(nix::unistd::execve(&path, &arguments?, &environment)?)
}

/// The state that this process was handed, if it is not the first of its line.
pub(super) fn received<T: DeserializeOwned>() -> io::Result<Option<T>> {
    let Some(number) = std::env::var_os(STATE) else {
        return Ok(None);
    };
    let number = number.to_str().and_then(|n| n.parse().ok());
    let number = number.ok_or_else(|| io::Error::other(format!("{STATE} is no number")))?;
    let mut text = Vec::new();
    std::fs::File::from(Packed(number).unpack()?).read_to_end(&mut text)?;
    let handed: Handed<serde_json::Value> = serde_json::from_slice(&text)?;
    if handed.format != FORMAT {
        let text = format!("a state of format {}; this is {FORMAT}", handed.format);
        return Err(io::Error::other(text));
    }
    Ok(Some(serde_json::from_value(handed.state)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn closes(fd: impl AsFd) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn what_is_not_taken_along_in_the_end_closes_again() {
        let (a, b) = UnixStream::pair().unwrap();
        {
            let mut luggage = Luggage::default();
            luggage.pack(&a).unwrap();
            assert!(!closes(&a) && closes(&b));
        }
        assert!(closes(&a));
    }

    #[test]
    fn a_program_that_cannot_be_executed_changes_nothing() {
        let file = tempfile::tempfile().unwrap();
        let options = SupervisorOptions::new("/nowhere", "nothing");
        let error = become_program(file.as_fd(), "core", &options, 7);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }

    #[test]
    fn a_connection_arrives_with_what_was_under_way() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut from = Peer::new(theirs.into()).unwrap();
        let mut to = Peer::new(ours.into()).unwrap();
        to.send(&"one", Vec::new()).unwrap();
        to.flush().unwrap();
        from.fill().unwrap();
        from.send(&"two", Vec::new()).unwrap();
        let mut luggage = Luggage::default();
        let packed = luggage.pack_peer(&from).unwrap();
        let text = serde_json::to_string(&packed).unwrap();
        drop(luggage);
        std::mem::forget(from);
        let packed: PackedPeer = serde_json::from_str(&text).unwrap();
        let mut from = packed.unpack().unwrap();
        assert_eq!(from.next::<String>().unwrap().unwrap().0, "one");
        from.flush().unwrap();
        to.fill().unwrap();
        assert_eq!(to.next::<String>().unwrap().unwrap().0, "two");
    }
}
