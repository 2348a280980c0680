//! What an agent is told when it starts, and why it can refuse to.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use waggle_model::NodeName;
use waggle_model::network::{PerFamily, TunnelMode, XdpMode};

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
    /// Registries (`host:port`) that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Where the agent's pid and start time (clock ticks since boot) are kept, for whoever ends it.
    pub pid_file: Option<PathBuf>,
    /// Program with the `supervisor` and `worker` subcommands; `None` is the calling program itself.
    pub supervisor: Option<PathBuf>,
    /// Who is asked for names outside the cluster; `None` reads `/etc/resolv.conf`.
    pub dns_upstream: Option<Vec<std::net::SocketAddr>>,
    /// Version of this build, `0.1.0`.
    pub version: String,
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
