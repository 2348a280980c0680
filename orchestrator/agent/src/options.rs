//! What an agent is told when it starts, and why it can refuse to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use waggle_model::network::{PerFamily, TunnelMode, XdpMode};
use waggle_model::{Bytes, MilliCpu, NodeName};

use crate::eviction::EvictionOptions;
use crate::image_gc::ImageGcOptions;

/// How to run one node.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Node listeners of the servers, `https://172.30.0.1:6444`; tried in turn.
    pub servers: Vec<String>,
    /// Join token, `<secret>.<sha256 of the CA certificate, hex>`. Needed once, until the node has its certificate.
    pub token: Option<String>,
    /// Name of the node.
    pub node: NodeName,
    /// State of this node: certificate, last plans, images, containers. Made when missing.
    pub data: PathBuf,
    /// cgroup of the node below each hierarchy, `waggle/local/node1`.
    pub cgroup: String,
    /// Folder on a bpffs where maps and links are pinned.
    pub bpf_dir: PathBuf,
    /// Underlay addresses of the node; DNS listens at each.
    pub addresses: PerFamily<IpAddr>,
    /// Interface towards the other nodes; found by the primary address when absent.
    pub uplink: Option<String>,
    /// When pods of other nodes are reached through a tunnel; the same on every node.
    pub tunnel: TunnelMode,
    /// Whether the uplink has an XDP program.
    pub xdp: XdpMode,
    /// Labels of the Node object beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Folder of manifests of pods that this node runs whatever the scheduler thinks; `static-pods` in `data` when absent.
    pub static_pods: Option<PathBuf>,
    /// Registries (`host:port`) that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Where the agent's pid and start time (clock ticks since boot) are kept, for whoever ends it.
    pub pid_file: Option<PathBuf>,
    /// Program with the `supervisor` and `worker` subcommands; `None` is the calling program itself.
    pub supervisor: Option<PathBuf>,
    /// Who is asked for names outside the cluster; `None` reads `/etc/resolv.conf`.
    pub dns_upstream: Option<Vec<std::net::SocketAddr>>,
    /// When pods are given up because the node is short of something.
    pub eviction: EvictionOptions,
    /// When images that nobody uses go.
    pub image_gc: ImageGcOptions,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// What pods can't have.
    pub reserved: Reserved,
    /// Version of this build, `0.1.0`.
    pub version: String,
}

/// What is kept for the node's own processes: pods are placed by what is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Milli-cores.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Bytes.
    pub ephemeral_storage: u64,
}

impl std::str::FromStr for Reserved {
    type Err = String;

    /// Reads `cpu=500m,memory=1Gi,ephemeral-storage=1Gi`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let wrong = || format!("{part:?} can't be reserved: write RESOURCE=AMOUNT");
            let (name, amount) = part.split_once('=').ok_or_else(wrong)?;
            let bytes = || amount.parse().map(|Bytes(n)| n).map_err(|_| wrong());
            let (place, amount) = match name {
                "cpu" => {
                    let cpu: MilliCpu = amount.parse().map_err(|_| wrong())?;
                    (&mut all.cpu, cpu.0)
                }
                "memory" => (&mut all.memory, bytes()?),
                "ephemeral-storage" => (&mut all.ephemeral_storage, bytes()?),
                _ => {
                    let known = "cpu, memory, ephemeral-storage";
                    return Err(format!("{name:?} can't be reserved: name one of {known}"));
                }
            };
            *place = u64::try_from(amount).map_err(|_| wrong())?;
        }
        Ok(all)
    }
}

/// Why an agent can't run. Each is one line that names what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Needs root.
    #[error("the agent makes namespaces, cgroups and BPF programs: run it as root")]
    NotRoot,
    /// Something the kernel must have.
    #[error("this kernel or host lacks {feature}: {cause}")]
    Kernel {
        /// What is missing.
        feature: &'static str,
        /// How that was seen.
        cause: String,
    },
    /// The state folder.
    #[error("cannot {operation} {path}: {cause}")]
    Data {
        /// What was tried.
        operation: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// Joining the cluster.
    #[error("cannot join the cluster: {0}")]
    Join(String),
    /// An argument.
    #[error("{0}")]
    Argument(String),
    /// The node's own DNS listener.
    #[error(transparent)]
    Dns(#[from] waggle_dns::DnsError),
    /// The supervisor.
    #[error("cannot start or reach the supervisor: {0}")]
    Supervisor(String),
    /// Programs, maps, links and routes.
    #[error("cannot set up the node's network: {0}")]
    Datapath(String),
    /// The image store.
    #[error("cannot open the image store: {0}")]
    Images(String),
    /// A part of the agent failed where it must not.
    #[error("a part of the agent broke: {0}")]
    Broken(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_read_or_refused_by_name() {
        let reserved = "cpu=1500m,memory=1Gi".parse();
        let expect = Reserved {
            cpu: 1500,
            memory: 1 << 30,
            ephemeral_storage: 0,
        };
        assert_eq!(reserved, Ok(expect));
        for (bad, word) in [
            ("cpu", "RESOURCE=AMOUNT"),
            ("gpu=1", "cpu, memory"),
            ("memory=-1", "RESOURCE=AMOUNT"),
        ] {
            let error = bad.parse::<Reserved>().unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
