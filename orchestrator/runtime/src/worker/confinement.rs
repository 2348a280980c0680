//! What the processes of a container may do: which system call filter and which capabilities they get, and when. Loading a
//! filter is a privilege, so a process that may gain new ones has all that we have until its filter is in place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};

use super::Worker;
use super::filter::Filter;
use crate::error::FaultKind;
use crate::oci;
use crate::protocol::Fault;
use crate::seccomp::default_profile;
use crate::spec::ContainerSpec;

/// What is loaded and dropped before a program is executed.
pub(super) struct Confinement {
    pub(super) filter: Option<Filter>,
    /// What remains once the filter is in place; nothing when libcontainer drops the rest itself.
    pub(super) remaining: Option<LinuxCapabilities>,
    /// What this host lets us give.
    pub(super) available: Vec<String>,
}

impl Worker {
    /// Of a container's first process. The node's own profile is kept beside the container, for what is executed later.
    pub(super) fn confine_first(
        &self,
        spec: &ContainerSpec,
        dir: &Path,
    ) -> Result<Confinement, Fault> {
        let profile = match &spec.seccomp_profile {
            Some(path) => {
                let text = fs::read(path).map_err(|e| bad_profile(path, &e))?;
                let profile = parse(path, &text)?;
                fs::write(kept(dir), text).map_err(Fault::internal)?;
                Some(profile)
            }
            None => None,
        };
        self.confine(spec, profile)
    }

    /// Of a process that joins a container.
    pub(super) fn confine_next(
        &self,
        spec: &ContainerSpec,
        dir: &Path,
    ) -> Result<Confinement, Fault> {
        let Some(given) = &spec.seccomp_profile else {
            return self.confine(spec, None);
        };
        let path = kept(dir);
        let text = match fs::read(&path) {
            // Made by a version that kept it elsewhere.
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::read(given),
            other => other,
        };
        let text = text.map_err(|e| bad_profile(&path, &e))?;
        let profile = parse(&path, &text)?;
        self.confine(spec, Some(profile))
    }

    fn confine(
        &self,
        spec: &ContainerSpec,
        profile: Option<LinuxSeccomp>,
    ) -> Result<Confinement, Fault> {
        let available = available_capabilities()?;
        let (granted, _) = oci::granted(spec, &available);
        let default = spec.seccomp_default && !spec.privileged;
        let profile = match profile {
            None if default => Some(default_profile(&granted).map_err(Fault::internal)?),
            other => other,
        };
        let filter = profile.map(|p| self.filters.of(&p)).transpose()?;
        let remaining = match filter.is_some() && !spec.no_new_privileges {
            true => Some(oci::capability_sets(&granted).map_err(Fault::internal)?),
            false => None,
        };
        Ok(Confinement {
            filter,
            remaining,
            available,
        })
    }
}

fn kept(dir: &Path) -> PathBuf {
    dir.join("seccomp.json")
}

fn bad_profile(path: &Path, error: &dyn std::fmt::Display) -> Fault {
    let text = format!("seccomp profile {}: {error}", path.display());
    Fault::new(FaultKind::Invalid, text)
}

fn parse(path: &Path, text: &[u8]) -> Result<LinuxSeccomp, Fault> {
    serde_json::from_slice(text).map_err(|e| bad_profile(path, &e))
}

/// Names of our effective capabilities, which is what we can give.
fn available_capabilities() -> Result<Vec<String>, Fault> {
    let status = fs::read_to_string("/proc/self/status").map_err(Fault::internal)?;
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .ok_or_else(|| Fault::internal("our capabilities can't be read"))?;
    Ok(CAPABILITIES
        .split_whitespace()
        .enumerate()
        .filter(|(bit, _)| mask & (1 << bit) != 0)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect())
}

/// In the order of their numbers, linux/capability.h.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT \
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE \
    AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF \
    CHECKPOINT_RESTORE";
