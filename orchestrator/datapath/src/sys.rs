//! The few system calls that neither aya nor nix offer as needed: links that outlive their owner and are replaced in
//! place, and the cookie of a network namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Where a program is attached; numbers of `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    Sendmsg4 = 14,
    Sendmsg6 = 15,
    Recvmsg4 = 19,
    Recvmsg6 = 20,
    Getpeername4 = 29,
    Getpeername6 = 30,
    SockRelease = 34,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// `union bpf_attr`, as far as these commands read it. Words of 4 bytes; what isn't set is zero.
#[repr(C, align(8))]
struct Attributes([u32; 16]);

impl Attributes {
    fn of_words(words: &[u32]) -> Self {
        let mut all = [0; 16];
        all[..words.len()].copy_from_slice(words);
        Self(all)
    }

    /// A pointer in the first 8 bytes, a descriptor behind it.
    fn of_path(path: &CString, fd: u32) -> Self {
        let pointer = path.as_ptr().expose_provenance() as u64;
        let bytes = pointer.to_ne_bytes();
        let low = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let high = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        Self::of_words(&[low, high, fd])
    }
}

fn bpf(command: libc::c_long, attributes: &Attributes) -> io::Result<libc::c_long> {
    let size = size_of::<Attributes>();
    // SAFETY: the kernel reads `size` bytes of the attributes, which live through the call, as do strings they point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn word(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    owned(bpf(BPF_OBJ_GET, &Attributes::of_path(&c_path(path)?, 0))?)
}

/// Pins `object` at `path`.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    bpf(
        BPF_OBJ_PIN,
        &Attributes::of_path(&c_path(path)?, word(object)),
    )
    .map(drop)
}

/// Attaches `program` to `target`: an interface index of the current network namespace, or a cgroup's descriptor.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    kind: AttachType,
) -> io::Result<OwnedFd> {
    owned(bpf(
        BPF_LINK_CREATE,
        &Attributes::of_words(&[word(program), target, kind as u32]),
    )?)
}

/// Puts `program` into an existing link, atomically.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    bpf(
        BPF_LINK_UPDATE,
        &Attributes::of_words(&[word(link), word(program)]),
    )
    .map(drop)
}

/// A descriptor as a link target.
pub(crate) fn target_of(fd: BorrowedFd<'_>) -> u32 {
    word(fd)
}

/// Cookie of the calling thread's network namespace.
pub(crate) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0u64;
    let mut length: libc::socklen_t = 8;
    let value = (&raw mut cookie).cast::<libc::c_void>();
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            value,
            &raw mut length,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}
