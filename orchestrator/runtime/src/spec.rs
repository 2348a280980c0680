//! What the agent asks of the supervisor, as plain data that crosses their socket. No Kubernetes types: the agent has
//! already decided everything.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A pod's sandbox: network, IPC and UTS namespaces kept alive by bind mounts, no pause process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Pod UID; names the sandbox.
    pub pod: String,
    /// For people: namespace and name.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Hostname in its UTS namespace.
    pub hostname: String,
    /// Uses the node's network namespace instead of one of its own.
    pub host_network: bool,
    /// Uses the node's IPC namespace and /dev/shm.
    #[serde(default)]
    pub host_ipc: bool,
    /// Its containers are in one process namespace, whose first process is none of them.
    #[serde(default)]
    pub share_pid: bool,
    /// Kernel parameters of its own namespaces: name with dots, value.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

/// A sandbox that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Pod UID.
    pub pod: String,
    /// As asked for.
    pub spec: SandboxSpec,
    /// Path of its network namespace; `None` when it uses the node's.
    pub netns: Option<PathBuf>,
    /// Its folder in the unified cgroup hierarchy, for programs that are attached there.
    pub cgroup: PathBuf,
}

/// Names a container: one container of a pod lives at a time under a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerKey {
    /// Pod UID.
    pub pod: String,
    /// Container name within the pod.
    pub name: String,
}

impl std::fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pod, self.name)
    }
}

/// One container, with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Pod UID.
    pub pod: String,
    /// Container name, unique within the pod.
    pub name: String,
    /// 0 for the first start; a restart is a new container with the next attempt.
    pub attempt: u32,
    /// Overlay layers, lowest first; unpacked folders in the image store.
    pub layers: Vec<PathBuf>,
    /// Root is read-only.
    pub read_only_root: bool,
    /// argv.
    pub args: Vec<String>,
    /// Environment, in order, `NAME=value`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// User and groups.
    pub user: UserSpec,
    /// Bind mounts beside the default ones (/proc, /dev, /sys).
    pub mounts: Vec<MountSpec>,
    /// Limits.
    pub resources: ResourceSpec,
    /// Capabilities, `CAP_NET_BIND_SERVICE`; the agent has applied add and drop to the default set.
    pub capabilities: Vec<String>,
    /// no_new_privs.
    pub no_new_privileges: bool,
    /// All capabilities, all devices, no seccomp.
    pub privileged: bool,
    /// Default seccomp profile is applied.
    pub seccomp_default: bool,
    /// Seccomp profile of the node's own, a JSON file, instead of the default one.
    #[serde(default)]
    pub seccomp_profile: Option<PathBuf>,
    /// Shares the node's process namespace.
    #[serde(default)]
    pub host_pid: bool,
    /// Is in the process namespace of this container of its pod.
    #[serde(default)]
    pub pid_of: Option<String>,
    /// Has a terminal.
    pub tty: bool,
    /// Stdin is kept open (no reader at /dev/null).
    pub stdin: bool,
    /// Stdin ends when the first client that was attached to it goes.
    #[serde(default)]
    pub stdin_once: bool,
    /// Log file (CRI format), in the pod's log folder.
    pub log_path: PathBuf,
    /// oom_score_adj; clamped to what this host permits.
    pub oom_score_adj: i32,
    /// Free text kept with the container and given back by `list`, for an agent that adopts it.
    pub annotations: BTreeMap<String, String>,
}

impl ContainerSpec {
    /// The pair that names this container.
    #[must_use]
    pub fn key(&self) -> ContainerKey {
        ContainerKey {
            pod: self.pod.clone(),
            name: self.name.clone(),
        }
    }
}

/// Numeric user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// Uid.
    pub uid: u32,
    /// Gid.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// One bind mount or tmpfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Folder or file of the host; `None` for a tmpfs.
    pub source: Option<PathBuf>,
    /// Absolute path in the container.
    pub target: String,
    /// Read-only.
    pub read_only: bool,
    /// Size of a tmpfs in bytes.
    pub tmpfs_bytes: Option<u64>,
    /// What the node mounts below the source later is seen in the container (`HostToContainer`).
    #[serde(default)]
    pub receives_mounts: bool,
    /// And what the container mounts below it is seen on the node, and in who shares it (`Bidirectional`).
    #[serde(default)]
    pub sends_mounts: bool,
    /// What is mounted below the source is read-only too, when it is.
    #[serde(default)]
    pub recursive: bool,
}

/// cgroup limits; `None` means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceSpec {
    /// Relative weight from the request, milli-cores.
    pub cpu_request_milli: Option<u64>,
    /// Quota, milli-cores.
    pub cpu_limit_milli: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Processes.
    pub pids_limit: Option<u64>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerPhase {
    /// Created, its process waits for start.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited {
        /// Exit code; 128 + signal when killed by one.
        code: i32,
        /// Signal that ended it.
        signal: Option<i32>,
        /// The kernel killed it, or one of its processes, for memory.
        oom_killed: bool,
        /// Nanoseconds since the epoch.
        finished_ns: i64,
    },
}

/// A container as the supervisor knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// As asked for.
    pub spec: ContainerSpec,
    /// Init's pid while it lives.
    pub pid: Option<i32>,
    /// Phase.
    pub phase: ContainerPhase,
    /// Nanoseconds since the epoch; 0 before it was started.
    pub started_ns: i64,
    /// What had to be done differently from what was asked (a clamped limit, an exit code that nobody saw); for events.
    pub notes: Vec<String>,
}

impl ContainerState {
    /// Whether it has ended.
    #[must_use]
    pub fn exited(&self) -> bool {
        matches!(self.phase, ContainerPhase::Exited { .. })
    }
}

/// A command in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Pod UID.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// argv.
    pub args: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// Stdin is connected.
    pub stdin: bool,
    /// `NAME=value` added to the container's environment (TERM).
    pub env: Vec<String>,
    /// First size of the terminal, columns and rows; ignored without one.
    pub terminal_size: Option<(u16, u16)>,
}

/// What the kernel counts for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time used since creation, nanoseconds.
    pub cpu_ns: u64,
    /// Working set: usage less inactive file pages, bytes.
    pub memory_bytes: u64,
}
