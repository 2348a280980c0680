//! System calls that have no safe wrapper elsewhere: the new mount interface, process descriptors, the loopback link.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// linux/sched.h; the crate's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 1 << 33;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
/// `_IOWR(0xFF, 11, struct pidfd_info)` for its first published size of 64 bytes (Linux 6.13).
const PIDFD_GET_INFO: libc::c_ulong = 0xC040_FF0B;
/// The exit code is wanted and was given (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ending {
    /// Exit code; 128 + signal when killed.
    pub(crate) code: i32,
    /// The signal that killed it.
    pub(crate) signal: Option<i32>,
}

impl Ending {
    /// From the status word of wait(2).
    pub(crate) fn from_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            Ending {
                code: 128 + signal,
                signal: Some(signal),
            }
        } else {
            Ending {
                code: libc::WEXITSTATUS(status),
                signal: None,
            }
        }
    }
}

/// Forks a process with a single thread; the child is in a cgroup of the unified hierarchy from its first instruction
/// (`CLONE_INTO_CGROUP`), which spares both the wait that moving it there costs.
///
/// # Safety
/// The caller has one thread: the child goes on with a copy of it and of nothing else.
pub(crate) unsafe fn fork_into(cgroup: Option<BorrowedFd<'_>>) -> io::Result<Option<i32>> {
    // SAFETY: all of it may be zero.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags = CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: the arguments are whole and outlive the call; no memory is shared, so the child needs no stack of its own.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) })?;
    Ok((pid != 0).then_some(pid as i32))
}

/// The shortest slice that the kernel takes, nanoseconds.
const SHORT_SLICE: u64 = 100_000;
const SCHED_FLAG_RESET_ON_FORK: u64 = 1;

/// How long a process may run before it makes room, which also says how soon it gets to run: one with a shorter slice
/// goes first (EEVDF, Linux 6.12). It gets no larger share of the processor by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slice {
    /// The kernel's own.
    Default,
    /// The shortest; children inherit it.
    Short,
    /// The shortest; children have the kernel's own.
    ShortAlone,
}

/// Sets the slice of a process (`0`: the caller). Nothing happens where the kernel doesn't know it.
pub(crate) fn set_slice(pid: i32, slice: Slice) {
    // SAFETY: no pointers.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, pid as libc::id_t) };
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: if slice == Slice::ShortAlone {
            SCHED_FLAG_RESET_ON_FORK
        } else {
            0
        },
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: if slice == Slice::Default {
            0
        } else {
            SHORT_SLICE
        },
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the attributes are whole and outlive the call. Without them everything works, later.
    unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the system call succeeded and gave us a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Clones the mount at a path, with what is mounted below it, as a detached tree.
pub(crate) fn open_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: the path is a valid C string for the length of the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Puts a filter, a program of `struct sock_filter`s, over the calling thread; `flags` as seccomp(2) takes them.
pub(crate) fn load_filter(program: &[u8], flags: libc::c_ulong) -> io::Result<()> {
    let instruction = std::mem::size_of::<libc::sock_filter>();
    let len = u16::try_from(program.len() / instruction)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is as long as it says, and the kernel copies it without writing to it or minding its alignment.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Attaches a detached mount.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: both paths are valid C strings for the length of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Mounts overlayfs with one call for each layer (lowest first), so that their number isn't bound by a page.
pub(crate) fn mount_overlay(
    layers: &[&Path],
    upper: &Path,
    work: &Path,
    target: &Path,
) -> io::Result<()> {
    // SAFETY: the name is a C string.
    let context = owned(unsafe {
        libc::syscall(
            libc::SYS_fsopen,
            c"overlay".as_ptr(),
            libc::O_CLOEXEC as libc::c_uint,
        )
    })?;
    let set = |key: &CStr, value: &Path| -> io::Result<()> {
        let value = text(value)?;
        // SAFETY: key and value are C strings, which is what this command takes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        };
        Errno::result(result).map(drop).map_err(io::Error::from)
    };
    set(c"source", Path::new("overlay"))?;
    for layer in layers.iter().rev() {
        set(c"lowerdir+", layer)?;
    }
    set(c"upperdir", upper)?;
    set(c"workdir", work)?;
    let null = std::ptr::null::<libc::c_char>();
    // SAFETY: this command takes neither key nor value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            null,
            null,
            0,
        )
    };
    if let Err(errno) = Errno::result(result) {
        return Err(explain(&context, errno));
    }
    // SAFETY: no pointers.
    let mount = owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    move_mount(mount.as_fd(), target)
}

/// A file system context says more than an error number, when it is read.
fn explain(context: &OwnedFd, errno: Errno) -> io::Error {
    let mut buffer = [0_u8; 512];
    match nix::unistd::read(context, &mut buffer) {
        Ok(n) => {
            let said = String::from_utf8_lossy(&buffer[..n]);
            io::Error::new(
                io::Error::from(errno).kind(),
                format!("{} ({})", errno.desc(), said.trim()),
            )
        }
        Err(_) => errno.into(),
    }
}

/// A descriptor of a process that exists, or of a child that was not reaped.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A descriptor that the program before has left open, by its number; who asks owns it from now on.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a number that is no descriptor is an error.
    Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and each number that was handed over is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Locks an open file; the lock ends with the last descriptor of it, whatever program that is in.
pub(crate) fn lock(file: BorrowedFd<'_>, wait: bool) -> io::Result<()> {
    let operation = libc::LOCK_EX | if wait { 0 } else { libc::LOCK_NB };
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) })?;
    Ok(())
}

/// Signals exactly this process; no error when it has ended.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null info is allowed and means what kill(2) would send.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Which children to wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Children<'a> {
    /// Any; it stays a zombie, so that its files in /proc can be read before it is reaped by number.
    Peek,
    /// This one, which has ended or will soon.
    Pid(i32),
    /// This one.
    Pidfd(BorrowedFd<'a>),
}

/// Waits for a child: `None` when none has ended, or there is none. Never blocks but for a given pid.
pub(crate) fn wait(children: Children<'_>) -> io::Result<Option<(i32, Ending)>> {
    let (kind, id, flags) = match children {
        Children::Peek => (
            libc::P_ALL,
            0,
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        ),
        Children::Pid(pid) => (libc::P_PID, pid as libc::id_t, libc::WEXITED),
        Children::Pidfd(fd) => (
            libc::P_PIDFD,
            fd.as_raw_fd() as libc::id_t,
            libc::WEXITED | libc::WNOHANG,
        ),
    };
    loop {
        // SAFETY: all zeros is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the structure lives for the length of the call, which fills it.
        match Errno::result(unsafe { libc::waitid(kind, id, &raw mut info, flags) }) {
            Ok(_) => {
                // SAFETY: waitid fills these two fields, or leaves the zeros.
                let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
                let ending = match info.si_code {
                    libc::CLD_EXITED => Ending {
                        code: status,
                        signal: None,
                    },
                    _ => Ending {
                        code: 128 + status,
                        signal: Some(status),
                    },
                };
                return Ok((pid != 0).then_some((pid, ending)));
            }
            Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// How a process ended that somebody else reaped; `None` while nobody has, or on a kernel that doesn't tell.
pub(crate) fn pidfd_ending(pidfd: BorrowedFd<'_>) -> Option<Ending> {
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request reads and writes one structure of the size that is part of its number.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then(|| Ending::from_status(info.exit_code))
}

/// Brings up `lo` in the network namespace of the caller.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: no pointers.
    let socket = owned(libc::c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        libc::IFF_UP as libc::c_short | libc::IFF_RUNNING as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives for the length of the call.
    Errno::result(unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    })?;
    Ok(())
}

/// Start time of a process in clock ticks since boot, which together with its pid names it for good.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// Its parent.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 4)?.parse().ok()
}

/// A field of /proc/PID/stat, counted as proc(5) does; not the name.
fn stat_field(pid: i32, number: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything, even parentheses.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(number.checked_sub(3)?)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_its_parent() {
        let me = std::process::id() as i32;
        assert_eq!(parent(me), Some(std::os::unix::process::parent_id() as i32));
        assert!(start_ticks(me).is_some_and(|t| t > 0));
        assert_eq!(start_ticks(i32::MAX), None);
    }

    #[test]
    fn statuses_become_endings() {
        assert_eq!(
            Ending::from_status(3 << 8),
            Ending {
                code: 3,
                signal: None
            }
        );
        assert_eq!(
            Ending::from_status(9),
            Ending {
                code: 137,
                signal: Some(9)
            }
        );
    }

    #[test]
    fn an_ending_can_be_asked_for_after_somebody_reaped() {
        let mut child = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 7"])
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(child.id() as i32).unwrap();
        child.wait().unwrap();
        // A kernel before 6.15 says nothing.
        assert!(matches!(
            pidfd_ending(pidfd.as_fd()),
            None | Some(Ending {
                code: 7,
                signal: None
            })
        ));
    }
}
