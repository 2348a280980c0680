//! Makes the namespaces of a sandbox and holds them by bind mounts in the supervisor's mount namespace, where the agent
//! sees them too.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use crate::error::FaultKind;
use crate::protocol::Fault;
use crate::spec::SandboxSpec;
use crate::sys;

/// Size of a pod's /dev/shm, as container engines have it.
const SHM: &str = "mode=1777,size=64m";

/// `fds`: the mount namespace in which the sandbox is to be visible.
pub(super) fn create(spec: &SandboxSpec, dir: &Path, fds: Vec<OwnedFd>) -> Result<(), Fault> {
    let [mounts]: [OwnedFd; 1] = fds
        .try_into()
        .map_err(|_| Fault::internal("a sandbox job comes with one descriptor"))?;
    let (mut read, write) = io::pipe().map_err(Fault::internal)?;
    // SAFETY: this process has one thread, so the child may do whatever it likes.
    match unsafe { fork() }.map_err(Fault::internal)? {
        ForkResult::Child => {
            drop(read);
            let mut write = write;
            let code = match build(spec, dir, &mounts) {
                Ok(()) => 0,
                Err((step, error)) => {
                    // Nobody to tell if this fails; the code does.
                    let _ = write!(write, "{step}: {error}");
                    1
                }
            };
            // SAFETY: ends this process without running what the parent has registered.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut said = String::new();
            read.read_to_string(&mut said).map_err(Fault::internal)?;
            let status = waitpid(child, None).map_err(Fault::internal)?;
            if said.is_empty() && matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)) {
                Ok(())
            } else {
                Err(Fault::new(
                    FaultKind::Internal,
                    if said.is_empty() {
                        format!("{status:?}")
                    } else {
                        said
                    },
                ))
            }
        }
    }
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn at<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> (&'static str, io::Error) {
    move |e| (step, e.into())
}

fn build(spec: &SandboxSpec, dir: &Path, mounts: &OwnedFd) -> Step<()> {
    setns(mounts, CloneFlags::CLONE_NEWNS).map_err(at("enter the supervisor's mount namespace"))?;
    let mut flags = CloneFlags::CLONE_NEWUTS;
    let mut held = vec!["uts"];
    if !spec.host_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        held.push("ipc");
    }
    if !spec.host_network {
        flags |= CloneFlags::CLONE_NEWNET;
        held.push("net");
    }
    unshare(flags).map_err(at("make namespaces"))?;
    nix::unistd::sethostname(&spec.hostname).map_err(at("set the hostname"))?;
    if !spec.host_network {
        sys::loopback_up().map_err(at("bring the loopback link up"))?;
        // Any user may open low ports and ping, as container engines have it; a host without /proc/sys can do without.
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    }
    for (name, value) in &spec.sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(path, value).map_err(at("set a kernel parameter (securityContext.sysctls)"))?;
    }
    if spec.share_pid {
        super::pause::start(dir).map_err(at("make a process namespace"))?;
        held.push("pid");
    }
    for name in held {
        let target = dir.join(name);
        fs::File::create(&target).map_err(at("make the file of a namespace"))?;
        // Our own stays the old one; our children's is the new one.
        let own = if name == "pid" {
            "pid_for_children"
        } else {
            name
        };
        let source = Path::new("/proc/self/ns").join(own);
        mount(
            Some(&source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(at("hold a namespace"))?;
    }
    let shm = dir.join("shm");
    fs::create_dir_all(&shm).map_err(at("make the folder of /dev/shm"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM)).map_err(at("mount /dev/shm"))
}
