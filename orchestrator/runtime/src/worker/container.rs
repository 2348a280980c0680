//! Creates and starts a container with libcontainer: overlay and volumes are mounted here, in the worker's own mount
//! namespace, just long enough for the container to take its copy.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{
    LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespaceType,
};
use libcontainer::syscall::syscall::SyscallType;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use super::confinement::Confinement;
use super::program::Program;
use super::terminal::Console;
use super::{Outcome, Worker};
use crate::error::FaultKind;
use crate::limits;
use crate::oci::{self, Bind, Ready};
use crate::protocol::{CreateJob, Fault, JobResult, NamespaceKind};
use crate::sys;

impl Worker {
    pub(super) fn create(&self, job: &CreateJob, fds: Vec<OwnedFd>) -> Outcome {
        self.make_cgroup(job)?;
        let confinement = self.confine_first(&job.spec, &job.dir)?;
        self.in_child(&job.cgroup, |last| {
            let mut scene = Scene {
                stage: self.setup.hide.clone(),
                mounted: Vec::new(),
            };
            let outcome = self.create_on(&mut scene, job, fds, confinement, last);
            scene.clear();
            outcome
        })
    }

    /// On version 1; on version 2 libcontainer does it.
    fn make_cgroup(&self, job: &CreateJob) -> Result<(), Fault> {
        if self.cgroups.is_v2() {
            return Ok(());
        }
        let mut settings = limits::v1(&job.spec.resources);
        settings.extend(limits::v1_devices(job.spec.privileged));
        self.cgroups
            .make(&job.cgroup)
            .and_then(|()| self.cgroups.apply(&job.cgroup, &settings))
            .map_err(Fault::internal)
    }

    fn create_on(
        &self,
        scene: &mut Scene,
        job: &CreateJob,
        fds: Vec<OwnedFd>,
        confinement: Confinement,
        last: Option<RawFd>,
    ) -> Outcome {
        let mut fds = fds.into_iter();
        let namespaces: Vec<OwnedFd> = fds.by_ref().take(job.namespaces.len()).collect();
        let trees: Vec<OwnedFd> = fds.by_ref().take(job.binds.len()).collect();
        let rootfs = scene.overlay(&job.dir, &job.spec.layers)?;
        make_working_folder(&rootfs, &job.spec.cwd)?;
        let binds = scene.binds(job, &trees)?;
        let ready = Ready {
            rootfs,
            namespaces: job
                .namespaces
                .iter()
                .zip(&namespaces)
                .map(|(kind, fd)| joined(*kind, fd))
                .collect(),
            binds,
            cgroup: job.cgroup.clone(),
            make_cgroup: self.cgroups.is_v2(),
            has_all: confinement.remaining.is_some(),
            available: confinement.available,
            oom_score_adj: self.set_oom_score_adj(job.spec.oom_score_adj),
            open_files: self.setup.open_files,
            devices: if job.spec.privileged {
                host_devices()
            } else {
                Vec::new()
            },
        };
        let (spec, notes) = oci::build(&job.spec, &ready).map_err(Fault::internal)?;
        spec.save(job.dir.join("config.json"))
            .map_err(Fault::internal)?;
        let mut builder = ContainerBuilder::new(job.id.clone(), SyscallType::default())
            .with_root_path(&self.setup.oci)
            .map_err(Fault::internal)?
            .with_executor(Program::init(
                last,
                confinement.filter,
                confinement.remaining,
            ));
        let console = if job.spec.tty {
            Some(Console::listen(&job.dir)?)
        } else {
            None
        };
        if let Some(console) = &console {
            builder = builder.with_console_socket(Some(console.path()));
        } else {
            let mut stdio = || {
                fds.next()
                    .ok_or_else(|| Fault::internal("a stream of the container is missing"))
            };
            builder = builder
                .with_stdin(stdio()?)
                .with_stdout(stdio()?)
                .with_stderr(stdio()?);
        }
        let mut container = builder
            .as_init(&job.dir)
            .with_systemd(false)
            .with_detach(true)
            .build()
            .map_err(|e| Fault::new(FaultKind::Invalid, chain(&e)))?;
        let pid = container
            .pid()
            .ok_or_else(|| Fault::internal("a created container has no process"))?
            .as_raw();
        let master = console.map(Console::accept).transpose()?;
        sys::set_slice(pid, sys::Slice::Default);
        if job.start {
            container.start().map_err(|e| Fault::internal(chain(&e)))?;
        }
        Ok((
            JobResult::Process { pid, notes },
            master.into_iter().collect(),
        ))
    }

    pub(super) fn start(&self, id: &str) -> Result<(), Fault> {
        let mut container =
            Container::load(self.setup.oci.join(id)).map_err(|e| Fault::internal(chain(&e)))?;
        container.start().map_err(|e| Fault::internal(chain(&e)))
    }
}

/// What is mounted for one creation.
struct Scene {
    /// A place in memory that nobody else sees; what is made here to mount on stays for the next creation.
    stage: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Scene {
    fn overlay(&mut self, dir: &Path, layers: &[PathBuf]) -> Result<PathBuf, Fault> {
        if layers.is_empty() {
            return Err(Fault::new(FaultKind::Invalid, "the image has no layers"));
        }
        let [rootfs, upper, work] = ["rootfs", "upper", "work"].map(|name| dir.join(name));
        for folder in [&rootfs, &upper, &work] {
            fs::create_dir_all(folder)
                .map_err(|e| Fault::internal(format!("create {}: {e}", folder.display())))?;
        }
        let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        if let Some(missing) = lower.iter().find(|l| !l.is_dir()) {
            return Err(Fault::new(
                FaultKind::Invalid,
                format!("layer {} is missing", missing.display()),
            ));
        }
        let mounted = match sys::mount_overlay(&lower, &upper, &work, &rootfs) {
            // A kernel before 6.7 takes all layers in one string only.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                mount_by_string(&lower, &upper, &work, &rootfs)
            }
            other => other,
        };
        mounted.map_err(|e| Fault::internal(format!("mount the root file system: {e}")))?;
        self.mounted.push(rootfs.clone());
        Ok(rootfs)
    }

    /// Attaches the detached sources where libcontainer can name them.
    fn binds(&mut self, job: &CreateJob, trees: &[OwnedFd]) -> Result<Vec<Bind>, Fault> {
        let mut binds = Vec::new();
        for (number, (bind, tree)) in job.binds.iter().zip(trees).enumerate() {
            let kind = if bind.folder { "folder" } else { "file" };
            let place = self.stage.join(format!("{kind}-{number}"));
            let made = match bind.folder {
                true => fs::create_dir_all(&place),
                // Never emptied: should a mount have stayed on it, it would be somebody's file.
                false => OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&place)
                    .map(drop),
            };
            let made = made.and_then(|()| sys::move_mount(tree.as_fd(), &place));
            made.map_err(|e| {
                let target = &bind.mount.target;
                Fault::internal(format!("attach the source of {target}: {e}"))
            })?;
            self.mounted.push(place.clone());
            // libcontainer binds it once more, which inherits this: what it sets afterwards has no effect.
            match (bind.mount.sends_mounts, bind.mount.receives_mounts) {
                (true, _) => Ok(()),
                (false, true) => propagate(&place, MsFlags::MS_SLAVE),
                (false, false) => propagate(&place, MsFlags::MS_PRIVATE),
            }
            .map_err(Fault::internal)?;
            binds.push(Bind {
                source: place,
                mount: bind.mount.clone(),
            });
        }
        Ok(binds)
    }

    fn clear(&mut self) {
        for place in self.mounted.drain(..).rev() {
            // A copy that is still shared would take the node's own mounts below the folder along.
            let ended = propagate(&place, MsFlags::MS_PRIVATE)
                .and_then(|()| umount2(&place, MntFlags::MNT_DETACH).map_err(io::Error::from));
            if let Err(error) = ended {
                tracing::warn!(place = %place.display(), %error, "a mount of a creation stays until the worker ends");
            }
        }
    }
}

/// Says how mounts in a tree of mounts are seen elsewhere.
fn propagate(tree: &Path, how: MsFlags) -> io::Result<()> {
    let none = None::<&str>;
    mount(none, tree, none, how | MsFlags::MS_REC, none).map_err(io::Error::from)
}

/// The old way: at most a page of options, so layers are named relative to their common folder.
fn mount_by_string(layers: &[&Path], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let common = layers[0].parent().unwrap_or(Path::new("/"));
    let short = |layer: &&Path| {
        layer
            .strip_prefix(common)
            .unwrap_or(layer)
            .display()
            .to_string()
    };
    let lower: Vec<String> = layers.iter().rev().map(short).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    std::env::set_current_dir(common)?;
    let mounted = mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    std::env::set_current_dir("/")?;
    mounted.map_err(io::Error::from)
}

fn joined(kind: NamespaceKind, fd: &OwnedFd) -> (LinuxNamespaceType, PathBuf) {
    let kind = match kind {
        NamespaceKind::Network => LinuxNamespaceType::Network,
        NamespaceKind::Ipc => LinuxNamespaceType::Ipc,
        NamespaceKind::Uts => LinuxNamespaceType::Uts,
        NamespaceKind::Pid => LinuxNamespaceType::Pid,
    };
    (kind, format!("/proc/self/fd/{}", fd.as_raw_fd()).into())
}

/// Images name working directories that they don't have; every engine makes them.
fn make_working_folder(rootfs: &Path, cwd: &str) -> Result<(), Fault> {
    let make = || -> io::Result<()> {
        let root = fs::File::open(rootfs)?;
        let how = |flags| {
            OpenHow::new()
                .flags(flags | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
        };
        let mut sofar = PathBuf::from(".");
        for part in Path::new(cwd)
            .components()
            .filter(|c| matches!(c, std::path::Component::Normal(_)))
        {
            let next = sofar.join(part);
            match openat2(&root, &next, how(OFlag::O_PATH)) {
                Ok(_) => {}
                Err(nix::errno::Errno::ENOENT) => {
                    let above = openat2(&root, &sofar, how(OFlag::O_PATH | OFlag::O_DIRECTORY))?;
                    nix::sys::stat::mkdirat(
                        &above,
                        part.as_os_str(),
                        Mode::from_bits_truncate(0o755),
                    )?;
                }
                Err(errno) => return Err(errno.into()),
            }
            sofar = next;
        }
        Ok(())
    };
    make().map_err(|e| Fault::new(FaultKind::Invalid, format!("working directory {cwd}: {e}")))
}

/// Devices of the host's /dev and /dev/net, but for terminals and those that every container has.
fn host_devices() -> Vec<LinuxDevice> {
    let own = [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx",
    ];
    let mut devices = Vec::new();
    for folder in ["/dev", "/dev/net", "/dev/mapper"] {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let kind = metadata.file_type();
            let kind = match (kind.is_char_device(), kind.is_block_device()) {
                (true, _) => LinuxDeviceType::C,
                (_, true) => LinuxDeviceType::B,
                _ => continue,
            };
            if own.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            devices.extend(device(&entry.path(), &metadata, kind));
        }
    }
    devices
}

fn device(path: &Path, metadata: &fs::Metadata, kind: LinuxDeviceType) -> Option<LinuxDevice> {
    use std::os::unix::fs::MetadataExt;
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::try_from(nix::sys::stat::major(number)).ok()?)
        .minor(i64::try_from(nix::sys::stat::minor(number)).ok()?)
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .ok()
}

/// An error with its causes: libcontainer's own texts name the step only.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
