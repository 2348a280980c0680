//! The default system call filter: the list that container engines agree on, with what each capability adds.

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// Flags of clone(2) that make namespaces.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// personality(2) values that change nothing that matters.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;

const FILES: &str = "access chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
    fcntl64 fdatasync fgetxattr file_getattr file_setattr flistxattr flock fremovexattr fsetxattr fstat fstat64 \
    fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat \
    lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat \
    lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat \
    renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statx statmount \
    listmount symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime \
    utimensat utimensat_time64 utimes vmsplice write writev chdir cachestat";

const EVENTS: &str = "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch \
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit pipe pipe2 poll ppoll \
    ppoll_time64 pselect6 pselect6_time64 select _newselect signalfd signalfd4 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 ioctl";

const MEMORY: &str = "brk madvise map_shadow_stack memfd_create memfd_secret membarrier mincore mlock mlock2 mlockall \
    mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
    process_mrelease remap_file_pages";

const NETWORK: &str = "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

const PROCESSES: &str = "alarm arch_prctl capget capset execve execveat exit exit_group fork get_robust_list \
    get_thread_area getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer \
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit \
    getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr modify_ldt pause pidfd_open \
    pidfd_send_signal prctl prlimit64 ptrace restart_syscall riscv_flush_icache rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid \
    setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
    setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setuid setuid32 \
    sigaltstack sigprocmask sigreturn sysinfo tgkill time times tkill ugetrlimit uname uretprobe vfork wait4 waitid \
    waitpid process_vm_readv process_vm_writev";

const TIME: &str = "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64";

const IPC: &str = "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv \
    msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget";

/// What a capability makes worth allowing.
const BY_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
];

/// The filter for a container that has these capabilities. What it doesn't allow fails with EPERM.
pub(crate) fn default_profile(capabilities: &[String]) -> Result<LinuxSeccomp, OciSpecError> {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let mut names: Vec<&str> = [FILES, EVENTS, MEMORY, NETWORK, PROCESSES, TIME, IPC]
        .iter()
        .flat_map(|s| s.split_whitespace())
        .collect();
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            names.extend(calls.split_whitespace());
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![rule(&names, Vec::new())?];
    for value in PERSONALITIES {
        rules.push(rule(
            &["personality"],
            vec![compare(0, value, LinuxSeccompOperator::ScmpCmpEq)?],
        )?);
    }
    rules.push(rule(
        &["socket"],
        vec![compare(0, AF_VSOCK, LinuxSeccompOperator::ScmpCmpNe)?],
    )?);
    if !has("CAP_SYS_ADMIN") {
        let plain = LinuxSeccompArgBuilder::default()
            .index(0_usize)
            .value(CLONE_NAMESPACES)
            .value_two(0_u64)
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .build()?;
        rules.push(rule(&["clone"], vec![plain])?);
        // Its flags are behind a pointer. ENOSYS makes the C library fall back to clone.
        rules.push(
            LinuxSyscallBuilder::default()
                .names(vec!["clone3".to_owned()])
                .action(LinuxSeccompAction::ScmpActErrno)
                .errno_ret(libc::ENOSYS as u32)
                .build()?,
        );
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .architectures(architectures())
        .syscalls(rules)
        .build()
}

fn architectures() -> Vec<Arch> {
    match std::env::consts::ARCH {
        "x86_64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "aarch64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        _ => vec![Arch::ScmpArchNative],
    }
}

fn rule(names: &[&str], arguments: Vec<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let builder = LinuxSyscallBuilder::default()
        .names(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActAllow);
    if arguments.is_empty() {
        builder.build()
    } else {
        builder.args(arguments).build()
    }
}

fn compare(
    index: usize,
    value: u64,
    op: LinuxSeccompOperator,
) -> Result<LinuxSeccompArg, OciSpecError> {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(value)
        .op(op)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(profile: &LinuxSeccomp, name: &str) -> bool {
        profile.syscalls().iter().flatten().any(|s| {
            s.action() == LinuxSeccompAction::ScmpActAllow
                && s.args().is_none()
                && s.names().iter().any(|n| n == name)
        })
    }

    #[test]
    fn capabilities_open_their_calls_only() {
        let plain = default_profile(&["CAP_CHOWN".into()]).unwrap();
        let admin = default_profile(&["CAP_SYS_ADMIN".into()]).unwrap();
        for (name, in_plain, in_admin) in [
            ("read", true, true),
            ("mount", false, true),
            ("unshare", false, true),
            ("keyctl", false, false),
            ("io_uring_setup", false, false),
            ("kexec_load", false, false),
            ("chroot", false, false),
            ("clone3", false, true),
        ] {
            assert_eq!(
                allows(&plain, name),
                in_plain,
                "{name} without capabilities"
            );
            assert_eq!(allows(&admin, name), in_admin, "{name} with CAP_SYS_ADMIN");
        }
    }
}
