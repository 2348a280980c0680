//! What libcontainer is told to run, made from a container's specification: pure, no files, no clocks.

use std::path::{Path, PathBuf};

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder,
    LinuxCpuBuilder, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxMemoryBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount, MountBuilder, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::limits::{CPU_PERIOD, cpu_quota, cpu_shares};
use crate::spec::{ContainerSpec, MountSpec, ResourceSpec};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What the worker has made ready.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The mounted root.
    pub(crate) rootfs: PathBuf,
    /// Namespaces to join, by path.
    pub(crate) namespaces: Vec<(LinuxNamespaceType, PathBuf)>,
    /// Bind mounts, their sources in the worker's mount namespace.
    pub(crate) binds: Vec<Bind>,
    /// cgroup below each hierarchy's root.
    pub(crate) cgroup: String,
    /// libcontainer makes the cgroup and writes the limits; otherwise both are done.
    pub(crate) make_cgroup: bool,
    /// Capabilities that this host lets us give.
    pub(crate) available: Vec<String>,
    /// oom_score_adj that this host permits.
    pub(crate) oom_score_adj: i32,
    /// Soft and hard limit of open files.
    pub(crate) open_files: (u64, u64),
    /// Its first process has all of them until its filter is in place, and drops what it isn't to have itself.
    pub(crate) has_all: bool,
    /// The host's devices, for a privileged container.
    pub(crate) devices: Vec<LinuxDevice>,
}

/// A bind mount, with where its source is in the worker's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) mount: MountSpec,
}

/// A specification that libcontainer takes, and what in it is less than was asked for.
pub(crate) fn build(
    spec: &ContainerSpec,
    ready: &Ready,
) -> Result<(Spec, Vec<String>), OciSpecError> {
    let mut notes = Vec::new();
    let (capabilities, missing) = granted(spec, &ready.available);
    if !missing.is_empty() {
        notes.push(format!("this host can't give {}", missing.join(", ")));
    }
    if ready.oom_score_adj != spec.oom_score_adj {
        notes.push(format!(
            "oom_score_adj is {} instead of {}: the host doesn't permit less",
            ready.oom_score_adj, spec.oom_score_adj
        ));
    }
    let has = match ready.has_all {
        true => &ready.available,
        false => &capabilities,
    };
    let mut process = process(spec, has, ready)?;
    process.set_oom_score_adj(Some(ready.oom_score_adj));
    let mut oci = SpecBuilder::default()
        .version("1.0.2")
        .process(process)
        .root(
            RootBuilder::default()
                .path(&ready.rootfs)
                .readonly(spec.read_only_root)
                .build()?,
        )
        .mounts(mounts(spec, &ready.binds)?)
        .linux(linux(spec, ready)?)
        .build()?;
    oci.set_hostname(None);
    oci.set_annotations(None);
    Ok((oci, notes))
}

/// The capabilities to give, and those that can't be given.
pub(crate) fn granted(spec: &ContainerSpec, available: &[String]) -> (Vec<String>, Vec<String>) {
    if spec.privileged {
        return (available.to_vec(), Vec::new());
    }
    spec.capabilities
        .iter()
        .cloned()
        .partition(|c| available.contains(c))
}

/// All sets but ambient and inheritable, as container engines do since CVE-2022-24769.
pub(crate) fn capability_sets(names: &[String]) -> Result<LinuxCapabilities, OciSpecError> {
    let set: Capabilities = names
        .iter()
        .filter_map(|n| n.trim_start_matches("CAP_").parse::<Capability>().ok())
        .collect();
    let mut sets = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()?;
    sets.set_inheritable(Some(Capabilities::new()));
    sets.set_ambient(Some(Capabilities::new()));
    Ok(sets)
}

fn process(
    spec: &ContainerSpec,
    capabilities: &[String],
    ready: &Ready,
) -> Result<Process, OciSpecError> {
    let user = UserBuilder::default().uid(spec.user.uid).gid(spec.user.gid);
    let user = user
        .additional_gids(spec.user.additional_gids.clone())
        .build()?;
    let mut process = ProcessBuilder::default()
        .terminal(spec.tty)
        .user(user)
        .args(spec.args.clone())
        .env(environment(&spec.env, spec.tty))
        .cwd(if spec.cwd.is_empty() {
            "/"
        } else {
            spec.cwd.as_str()
        })
        .capabilities(capability_sets(capabilities)?)
        .rlimits(open_files(ready.open_files)?)
        .build()?;
    // `false` is not the same as nothing here: the filter would be loaded too late.
    process.set_no_new_privileges(spec.no_new_privileges.then_some(true));
    Ok(process)
}

fn open_files((soft, hard): (u64, u64)) -> Result<Vec<PosixRlimit>, OciSpecError> {
    Ok(vec![
        PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(soft)
            .hard(hard)
            .build()?,
    ])
}

/// The environment with what every program expects.
pub(crate) fn environment(given: &[String], tty: bool) -> Vec<String> {
    let mut env = given.to_vec();
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    if tty && !env.iter().any(|e| e.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    env
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
}

fn mounts(spec: &ContainerSpec, binds: &[Bind]) -> Result<Vec<Mount>, OciSpecError> {
    let sys = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        mount(
            "tmpfs",
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        )?,
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        )?,
        mount(
            "mqueue",
            "mqueue",
            "/dev/mqueue",
            &["nosuid", "noexec", "nodev"],
        )?,
        mount(
            "sysfs",
            "sysfs",
            "/sys",
            &["nosuid", "noexec", "nodev", sys],
        )?,
    ];
    let mut asked = Vec::new();
    for bind in binds {
        let how = &bind.mount;
        let access = match (how.read_only, how.recursive) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        let propagation = match (how.sends_mounts, how.receives_mounts) {
            (true, _) => "rshared",
            (false, true) => "rslave",
            (false, false) => "rprivate",
        };
        let source = bind.source.to_string_lossy();
        let options = ["rbind", propagation, access];
        asked.push(mount("bind", &source, &how.target, &options)?);
    }
    for tmpfs in spec.mounts.iter().filter(|m| m.source.is_none()) {
        let size = tmpfs.tmpfs_bytes.map(|bytes| format!("size={bytes}"));
        let access = if tmpfs.read_only { "ro" } else { "rw" };
        let mut options = vec!["nosuid", "nodev", "mode=1777", access];
        options.extend(size.as_deref());
        asked.push(mount("tmpfs", "tmpfs", &tmpfs.target, &options)?);
    }
    // Of two at one place the later one is meant, and an outer one comes before what is mounted in it.
    mounts.retain(|m| !asked.iter().any(|a| a.destination() == m.destination()));
    asked.sort_by_key(|m| m.destination().components().count());
    for ask in asked {
        mounts.retain(|m| m.destination() != ask.destination());
        mounts.push(ask);
    }
    Ok(mounts)
}

fn namespace(
    kind: LinuxNamespaceType,
    path: Option<&Path>,
) -> Result<LinuxNamespace, OciSpecError> {
    let builder = LinuxNamespaceBuilder::default().typ(kind);
    match path {
        Some(path) => builder.path(path).build(),
        None => builder.build(),
    }
}

fn linux(spec: &ContainerSpec, ready: &Ready) -> Result<Linux, OciSpecError> {
    let mut namespaces = vec![namespace(LinuxNamespaceType::Mount, None)?];
    let joins = |(kind, _): &(LinuxNamespaceType, _)| *kind == LinuxNamespaceType::Pid;
    if !spec.host_pid && !ready.namespaces.iter().any(joins) {
        namespaces.push(namespace(LinuxNamespaceType::Pid, None)?);
    }
    for (kind, path) in &ready.namespaces {
        namespaces.push(namespace(*kind, Some(path))?);
    }
    let strings = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let hidden = !spec.privileged;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(format!("/{}", ready.cgroup))
        .masked_paths(if hidden { strings(&MASKED) } else { Vec::new() })
        .readonly_paths(if hidden {
            strings(&READ_ONLY)
        } else {
            Vec::new()
        })
        .devices(ready.devices.clone())
        .build()?;
    linux.set_resources(if ready.make_cgroup {
        Some(resources(&spec.resources, spec.privileged)?)
    } else {
        None
    });
    if spec.mounts.iter().any(|mount| mount.sends_mounts) {
        linux.set_rootfs_propagation(Some("shared".to_owned()));
    }
    Ok(linux)
}

fn device_rule(allow: bool, kind: LinuxDeviceType) -> Result<LinuxDeviceCgroup, OciSpecError> {
    LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .access("rwm")
        .build()
}

fn resources(limits: &ResourceSpec, privileged: bool) -> Result<LinuxResources, OciSpecError> {
    let mut cpu = LinuxCpuBuilder::default();
    if let Some(milli) = limits.cpu_request_milli {
        cpu = cpu.shares(cpu_shares(milli));
    }
    if let Some(milli) = limits.cpu_limit_milli {
        cpu = cpu.period(CPU_PERIOD).quota(cpu_quota(milli));
    }
    let mut resources = LinuxResourcesBuilder::default()
        .devices(vec![device_rule(privileged, LinuxDeviceType::A)?])
        .cpu(cpu.build()?);
    if let Some(bytes) = limits.memory_limit {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        resources = resources.memory(LinuxMemoryBuilder::default().limit(bytes).build()?);
    }
    if let Some(pids) = limits.pids_limit {
        resources = resources.pids(
            LinuxPidsBuilder::default()
                .limit(i64::try_from(pids).unwrap_or(i64::MAX))
                .build()?,
        );
    }
    resources.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{MountSpec, UserSpec};

    fn sample() -> ContainerSpec {
        ContainerSpec {
            pod: "p".into(),
            name: "c".into(),
            attempt: 0,
            layers: vec!["/layers/a".into()],
            read_only_root: false,
            args: vec!["/bin/true".into()],
            env: vec!["A=1".into()],
            cwd: String::new(),
            user: UserSpec {
                uid: 5,
                gid: 6,
                additional_gids: vec![7],
            },
            mounts: Vec::new(),
            resources: ResourceSpec::default(),
            capabilities: vec!["CAP_CHOWN".into(), "CAP_SYS_RESOURCE".into()],
            no_new_privileges: false,
            privileged: false,
            seccomp_default: true,
            seccomp_profile: None,
            host_pid: false,
            pid_of: None,
            tty: false,
            stdin: false,
            stdin_once: false,
            log_path: "/log".into(),
            oom_score_adj: 0,
            annotations: Default::default(),
        }
    }

    fn ready() -> Ready {
        Ready {
            rootfs: "/r".into(),
            namespaces: vec![(LinuxNamespaceType::Network, "/n".into())],
            binds: Vec::new(),
            cgroup: "waggle/x".into(),
            make_cgroup: true,
            available: vec!["CAP_CHOWN".into(), "CAP_NET_ADMIN".into()],
            oom_score_adj: 0,
            open_files: (1024, 4096),
            has_all: true,
            devices: Vec::new(),
        }
    }

    #[test]
    fn missing_capabilities_are_left_out_and_told() {
        let (spec, notes) = build(&sample(), &ready()).unwrap();
        let process = spec.process().as_ref().unwrap();
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(
            sets.effective().as_ref().unwrap().len(),
            2,
            "all, to load its filter"
        );
        assert_eq!(sets.ambient().as_ref().unwrap().len(), 0);
        assert_eq!(notes, ["this host can't give CAP_SYS_RESOURCE"]);
        assert_eq!(process.no_new_privileges(), None);
        assert_eq!(spec.hostname(), &None);
        let dropped = Ready {
            has_all: false,
            ..ready()
        };
        let (bound, _) = build(&sample(), &dropped).unwrap();
        let sets = bound.process().as_ref().unwrap().capabilities().clone();
        assert_eq!(sets.unwrap().effective().as_ref().unwrap().len(), 1);
    }

    #[test]
    fn privileged_is_everything() {
        let mut spec = sample();
        spec.privileged = true;
        let (spec, notes) = build(&spec, &ready()).unwrap();
        assert!(notes.is_empty());
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.seccomp().is_none());
        assert_eq!(linux.masked_paths().as_ref().unwrap().len(), 0);
        assert!(
            linux
                .resources()
                .as_ref()
                .unwrap()
                .devices()
                .as_ref()
                .unwrap()[0]
                .allow()
        );
    }

    #[test]
    fn mounts_are_ordered_and_replace_defaults() {
        let mut spec = sample();
        spec.mounts = vec![MountSpec {
            source: None,
            target: "/data/cache".into(),
            read_only: false,
            tmpfs_bytes: Some(1 << 20),
            ..MountSpec::default()
        }];
        let bind = |target: &str| Bind {
            source: "/s".into(),
            mount: MountSpec {
                target: target.into(),
                ..MountSpec::default()
            },
        };
        let mounts = mounts(&spec, &[bind("/data"), bind("/dev/mqueue")]).unwrap();
        let targets: Vec<_> = mounts
            .iter()
            .map(|m| m.destination().to_str().unwrap())
            .collect();
        assert_eq!(
            targets,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys",
                "/data",
                "/dev/mqueue",
                "/data/cache"
            ]
        );
    }
}
