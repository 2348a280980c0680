//! The few system calls that neither aya nor nix offer as needed: links that outlive their owner and are replaced in
//! place, maps written by the batch or through memory, and the cookie of a network namespace.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use aya::Pod;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
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
    Xdp = 37,
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

/// Attaches `program` to `target`: an interface index of the current network namespace, or a cgroup's descriptor. `flags` are
/// those of the kind.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    target: u32,
    (kind, flags): (AttachType, u32),
) -> io::Result<OwnedFd> {
    owned(bpf(
        BPF_LINK_CREATE,
        &Attributes::of_words(&[word(program), target, kind as u32, flags]),
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

/// A socket that sends whole frames.
pub(crate) fn packet_socket() -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers; what it returns is nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends a frame out by the interface at `ifindex`.
pub(crate) fn send_frame(socket: BorrowedFd<'_>, ifindex: u32, frame: &[u8]) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    // SAFETY: the frame and the address are borrowed for the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `union bpf_attr` of the batch commands.
#[repr(C, align(8))]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

fn batch(command: libc::c_long, batch: &mut Batch) -> (usize, io::Result<()>) {
    let (size, all) = (size_of::<Batch>(), batch.count);
    // SAFETY: the kernel reads `size` bytes of the attributes, reads as many keys and values as `count` says from
    // buffers that live through the call and are that long, and writes back `count`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *batch, size) };
    if result < 0 {
        let fault = io::Error::last_os_error();
        // A command that was refused as a whole leaves the count as it was.
        let done = if batch.count == all { 0 } else { batch.count };
        (done as usize, Err(fault))
    } else {
        (batch.count as usize, Ok(()))
    }
}

/// Writes rows in their order. Says how many were written, all of them or those before the fault.
pub(crate) fn update_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> (usize, io::Result<()>) {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count,
        map: word(map),
        element_flags: 0,
        flags: 0,
    };
    batch(BPF_MAP_UPDATE_BATCH, &mut attributes)
}

/// Removes rows in their order. Says how many were removed, all of them or those before the fault.
pub(crate) fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> (usize, io::Result<()>) {
    let count = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr().expose_provenance() as u64,
        values: 0,
        count,
        map: word(map),
        element_flags: 0,
        flags: 0,
    };
    batch(BPF_MAP_DELETE_BATCH, &mut attributes)
}

/// The rows of an array map (BPF_F_MMAPABLE), shared with the kernel.
pub(crate) struct SharedRows<T> {
    start: NonNull<T>,
    count: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; rows are plain values and writes need `&mut self`.
unsafe impl<T: Pod + Send> Send for SharedRows<T> {}

impl<T: Pod> SharedRows<T> {
    /// Maps the `count` rows of an array whose values are `T`.
    pub(crate) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        // The kernel rounds each value up to 8 bytes.
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours is there.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at zero"))?;
        Ok(Self { start, count })
    }

    /// The row at `index`; `None` past the end.
    pub(crate) fn get(&self, index: u32) -> Option<T> {
        let index = usize::try_from(index)
            .ok()
            .filter(|index| *index < self.count)?;
        // SAFETY: inside the mapping, which lives as long as `self`; every bit pattern is a `T`.
        Some(unsafe { self.start.add(index).read_volatile() })
    }

    /// Writes the row at `index`; false past the end. Programs may read half of it: nothing may lead them there yet.
    pub(crate) fn set(&mut self, index: u32, row: T) -> bool {
        let index = usize::try_from(index)
            .ok()
            .filter(|index| *index < self.count);
        let Some(index) = index else {
            return false;
        };
        // SAFETY: as above; nobody else in this process writes, and programs never do.
        unsafe { self.start.add(index).write_volatile(row) };
        true
    }

    /// What was written is seen before whatever is written to other maps from now on.
    pub(crate) fn publish(&self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }
}

impl<T> Drop for SharedRows<T> {
    fn drop(&mut self) {
        let length = self.count * size_of::<T>();
        // SAFETY: exactly the mapping made above, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), length) };
    }
}
