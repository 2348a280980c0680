//! Closing somebody else's sockets: SOCK_DESTROY over NETLINK_SOCK_DIAG, in the network namespace of the calling thread.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FAMILIES: [u8; 2] = [2, 10];
/// TCP_ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING; a connected UDP socket
/// counts as established.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_sockid`, whose last eight bytes are the cookie.
const ID: usize = 48;
/// Before it in `struct inet_diag_msg`.
const BEFORE_ID: usize = 4;

/// A way to the sockets of one network namespace.
pub(crate) struct SocketDiag(OwnedFd);

impl SocketDiag {
    /// To those of the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let opened = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        );
        Ok(Self(opened?))
    }

    /// Closes the connected sockets that have these cookies; says how many there were.
    pub(crate) fn destroy(&self, protocol: u8, cookies: &HashSet<u64>) -> io::Result<usize> {
        let mut closed = 0;
        for family in FAMILIES {
            for id in self.find(family, protocol, cookies)? {
                closed += usize::from(self.destroy_one(family, protocol, &id)?);
            }
        }
        Ok(closed)
    }

    fn find(&self, family: u8, protocol: u8, cookies: &HashSet<u64>) -> io::Result<Vec<[u8; ID]>> {
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        self.ask(SOCK_DIAG_BY_FAMILY, flags, family, protocol, &[0; ID])?;
        let mut found = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, body) in messages(&buffer[..length]) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(io::Error::from_raw_os_error(errno(body)?)),
                    _ => found.extend(id_of(body).filter(|id| cookies.contains(&cookie(id)))),
                }
            }
        }
    }

    /// `false` when it is gone already.
    fn destroy_one(&self, family: u8, protocol: u8, id: &[u8; ID]) -> io::Result<bool> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.ask(SOCK_DESTROY, flags, family, protocol, id)?;
        let mut answer = [0; 512];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let Some((NLMSG_ERROR, body)) = messages(&answer[..length]).next() else {
            return Err(io::Error::other("the kernel answers with something else"));
        };
        match errno(body)? {
            0 => Ok(true),
            libc::ENOENT | libc::ESTALE => Ok(false),
            number => Err(io::Error::from_raw_os_error(number)),
        }
    }

    /// Sends a `struct inet_diag_req_v2`.
    fn ask(
        &self,
        kind: u16,
        flags: u16,
        family: u8,
        protocol: u8,
        id: &[u8; ID],
    ) -> io::Result<()> {
        let length = HEADER + 8 + ID;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence and port: there is one question at a time.
        bytes.extend([0; 8]);
        bytes.extend([family, protocol, 0, 0]);
        bytes.extend(CONNECTED.to_ne_bytes());
        bytes.extend(id);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }
}

/// Kind and body of each message; what is cut off is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The positive error number of an error message or an acknowledgement.
fn errno(body: &[u8]) -> io::Result<i32> {
    let bytes = body.get(..4).and_then(|bytes| bytes.try_into().ok());
    let bytes = bytes.ok_or_else(|| io::Error::other("an answer of the kernel is cut off"))?;
    Ok(i32::from_ne_bytes(bytes).saturating_neg())
}

fn id_of(body: &[u8]) -> Option<[u8; ID]> {
    body.get(BEFORE_ID..BEFORE_ID + ID)?.try_into().ok()
}

fn cookie(id: &[u8; ID]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id[ID - 8..]);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn cut_off_answers_are_left_out() {
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&[200, 0, 0, 0, 3, 0]).count(), 0);
        assert!(errno(&[1]).is_err());
        assert_eq!(errno(&(-2i32).to_ne_bytes()).unwrap(), libc::ENOENT);
    }

    #[test]
    fn nobody_has_the_cookie_zero() {
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let diag = SocketDiag::open().unwrap();
        assert_eq!(diag.destroy(6, &[0].into()).unwrap(), 0);
    }
}
