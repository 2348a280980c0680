//! The command line as a whole. The client verbs and `dev` define their own arguments; here are the roles'.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use waggle_agent::{EvictionOptions, GracePeriods, ImageGcOptions, Reclaims, Reserved, Thresholds};
use waggle_model::network::{AddressPool, Cidr, PerFamily, PortRange, TunnelMode, XdpMode};

use clap::{Parser, Subcommand};
use waggle_server::listen::ListenAddress;

/// A container orchestrator whose service network lives in the kernel.
#[derive(Debug, Parser)]
#[command(name = "waggle", version = crate::VERSION, propagate_version = false, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) globals: waggle_cli::Globals,
    #[command(subcommand)]
    pub(crate) command: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// A cluster on this machine
    Dev(waggle_cli::dev::DevArgs),
    /// Run the control plane
    Server(ServerArgs),
    /// Run a node
    Agent(AgentArgs),
    /// Put a backup into an empty store, for servers that are not started yet
    Restore(RestoreArgs),
    /// Owns the containers of a node; started by the agent
    #[command(hide = true)]
    Supervisor(SupervisorArgs),
    /// Creates containers; started by the supervisor
    #[command(hide = true)]
    Worker,
    #[command(flatten)]
    Verb(waggle_cli::Verb),
}

/// Arguments of `server`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Folder of the store, keys, certificates and tokens
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where the cluster's objects are kept: `embedded`, in the data folder, for one server; or
    /// `etcd=https://HOST:2379,...`, for several servers
    #[arg(long, value_name = "STORE", default_value = "embedded")]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) etcd: EtcdFiles,
    /// Where other servers reach the API of this one, when that is not where pods do
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) peer: Option<SocketAddr>,
    /// Where the API is served: ADDRESS:PORT[@/run/netns/NAME]; may be given more than once
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub(crate) listen: Vec<ListenAddress>,
    /// Where agents dial in: ADDRESS:PORT[@/run/netns/NAME]; may be given more than once
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_listen: Vec<ListenAddress>,
    /// Where pods reach the API, when it is not the first --listen address beyond loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Further name or address that the server's certificate carries; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Vec<String>,
    /// Audit policy (audit.k8s.io/v1), YAML: which requests are noted, and how much of them
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy_file: Option<PathBuf>,
    /// Where they are noted [default: audit.log in the data folder]
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub(crate) audit_log_path: Option<PathBuf>,
    /// MiB after which a new audit log is begun
    #[arg(long, value_name = "MIB", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) audit_log_maxsize: u64,
    /// Full audit logs that are kept
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub(crate) audit_log_maxbackup: usize,
    /// Encrypt Secrets in the embedded store, by a key that is made at the first start and kept in encryption.yaml of the
    /// data folder
    #[arg(long, conflicts_with = "encryption_provider_config")]
    pub(crate) secrets_encryption: bool,
    /// What to encrypt in the store, and by which keys: EncryptionConfiguration (apiserver.config.k8s.io/v1), YAML, with
    /// the providers aesgcm and identity
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_provider_config: Option<PathBuf>,
    /// Seats that requests share by priority and fairness [default: 100 for each processor, 200 to 600]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_requests_inflight: Option<u32>,
    /// What the kubeconfig calls the cluster
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster_name: Option<String>,
    /// Range of the pods' addresses; in a dual-stack cluster one of each family, with a comma
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.244.0.0/16")]
    pub(crate) pod_cidr: PerFamily<Cidr>,
    /// Prefix length of the part of the pods' IPv4 range that a node gets when it joins
    #[arg(
        long,
        value_name = "BITS",
        default_value_t = 24,
        value_parser = clap::value_parser!(u8).range(8..=30)
    )]
    pub(crate) node_cidr_mask_size: u8,
    /// Range of the Services' virtual addresses; the first family is the one that Services get unless they ask
    #[arg(long, value_name = "CIDR[,CIDR]", default_value = "10.96.0.0/16")]
    pub(crate) service_cidr: PerFamily<Cidr>,
    /// Ports of every node that Services of type NodePort and LoadBalancer get
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767")]
    pub(crate) service_node_port_range: PortRange,
    /// Addresses that Services of type LoadBalancer get; the nodes announce them on their link. Without any, those
    /// Services wait
    #[arg(long, value_name = "CIDR[,CIDR]|FIRST-LAST")]
    pub(crate) load_balancer_pool: Option<AddressPool>,
    /// Profiles of the scheduler: a KubeSchedulerConfiguration, YAML
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) eviction: EvictionRates,
}

/// How fast the pods of silent nodes are given up.
#[derive(Debug, clap::Args)]
pub(crate) struct EvictionRates {
    /// Silent nodes a second whose pods are given up, in each zone
    #[arg(long, value_name = "RATE", default_value_t = 0.1, value_parser = rate)]
    pub(crate) node_eviction_rate: f64,
    /// The same in a large zone of which too many nodes are silent; in a small one it is none
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = rate)]
    pub(crate) secondary_node_eviction_rate: f64,
    /// Part of a zone's nodes from which on too many are silent (three at least)
    #[arg(long, value_name = "PART", default_value_t = 0.55, value_parser = rate)]
    pub(crate) unhealthy_zone_threshold: f64,
    /// A zone with more nodes than this is large
    #[arg(long, value_name = "NODES", default_value_t = 50)]
    pub(crate) large_cluster_size_threshold: usize,
}

fn rate(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let known = number.is_finite() && number >= 0.0;
    known
        .then_some(number)
        .ok_or_else(|| "neither 0 nor above".to_owned())
}

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// What `waggle backup` wrote
    pub(crate) file: PathBuf,
    /// Data folder of a server with the embedded store; made when it is missing
    #[arg(long, value_name = "DIR", required_unless_present = "store")]
    pub(crate) data: Option<PathBuf>,
    /// `etcd=https://HOST:2379,...`
    #[arg(long, value_name = "STORE", conflicts_with = "data")]
    pub(crate) store: Option<StoreArg>,
    #[command(flatten)]
    pub(crate) etcd: EtcdFiles,
}

/// How the members of an etcd are known, and what they know us by.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct EtcdFiles {
    /// Authority of the etcd members' certificates, PEM; needed for https members
    #[arg(long, value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Client certificate towards etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub(crate) etcd_key: Option<PathBuf>,
}

/// A store, as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreArg {
    /// In the data folder.
    Embedded,
    /// These members.
    Etcd(Vec<String>),
}

impl std::str::FromStr for StoreArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "embedded" {
            return Ok(Self::Embedded);
        }
        let wrong = || {
            format!(
                "{text:?} is no store: write embedded, or etcd=https://HOST:2379,https://HOST:2379,..."
            )
        };
        let members = text.strip_prefix("etcd=").ok_or_else(wrong)?;
        let members: Vec<String> = members
            .split(',')
            .map(|one| one.trim().to_owned())
            .collect();
        let url = |one: &String| {
            let host = one.strip_prefix("https://").or(one.strip_prefix("http://"));
            host.is_some_and(|host| !host.is_empty())
        };
        if !members.iter().all(url) {
            return Err(wrong());
        }
        Ok(Self::Etcd(members))
    }
}

/// Arguments of `agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// Node listener of a server, https://HOST:PORT; may be given more than once
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) server: Vec<String>,
    /// Join token; needed until the node has its certificate
    #[arg(
        long,
        env = "WAGGLE_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub(crate) token: Option<String>,
    /// Name of the node; else the host's
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<waggle_model::NodeName>,
    /// State of the node
    #[arg(long, value_name = "DIR", default_value = "/var/lib/waggle")]
    pub(crate) data: PathBuf,
    /// File that holds the agent's pid, also after it died and was started again
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// cgroup of the node below each hierarchy
    #[arg(long, value_name = "PATH", default_value = "waggle/node")]
    pub(crate) cgroup: String,
    /// Folder on a bpffs for maps and links
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/waggle")]
    pub(crate) bpf: PathBuf,
    /// Address of the node towards the other nodes; in a dual-stack cluster one of each family, with a comma
    #[arg(long, value_name = "ADDRESS[,ADDRESS]")]
    pub(crate) address: PerFamily<IpAddr>,
    /// Interface towards the other nodes; found by the address when absent
    #[arg(long, value_name = "NAME")]
    pub(crate) uplink: Option<String>,
    /// When pods of other nodes are reached through a VXLAN tunnel: auto (nodes behind a gateway), always, never; the same
    /// on every node
    #[arg(long, value_name = "WHEN", default_value_t)]
    pub(crate) tunnel: TunnelMode,
    /// Program on the uplink that hands calls with direct return over and drops unwanted callers before the kernel makes packets
    /// of them: never, native (in the driver; on a veth the other end must receive by NAPI), generic
    #[arg(long, value_name = "MODE", default_value_t)]
    pub(crate) xdp: XdpMode,
    /// Label of the Node object, key=value; may be given more than once
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// Folder of static pods: each file a Pod (YAML or JSON) that this node runs for as long as the file is there; else
    /// `static-pods` in the data folder
    #[arg(long, value_name = "FOLDER")]
    pub(crate) static_pods: Option<PathBuf>,
    /// Registry that is spoken to without TLS; may be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) insecure_registry: Vec<String>,
    #[command(flatten)]
    pub(crate) eviction: EvictionArgs,
    #[command(flatten)]
    pub(crate) image_gc: ImageGcArgs,
    /// How many pods the node takes; their addresses must fit into its range (the server's --node-cidr-mask-size)
    #[arg(
        long,
        env = "WAGGLE_MAX_PODS",
        value_name = "COUNT",
        default_value_t = 110,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub(crate) max_pods: u32,
    /// What is kept for the node's own processes, RESOURCE=AMOUNT,...; pods are placed by what is left
    #[arg(
        long,
        env = "WAGGLE_SYSTEM_RESERVED",
        value_name = "LIST",
        default_value = ""
    )]
    pub(crate) system_reserved: Reserved,
    /// Who is asked for names outside the cluster, else those in /etc/resolv.conf; may be given more than once
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) dns_upstream: Vec<SocketAddr>,
}

/// When pods are given up because the node is short of something.
#[derive(Debug, clap::Args)]
pub(crate) struct EvictionArgs {
    /// What must be left, or pods go at once: SIGNAL<AMOUNT,... of memory.available, nodefs.available, nodefs.inodesFree,
    /// imagefs.available, imagefs.inodesFree (the file system of DATA/images), pid.available; 100Mi or 10%
    #[arg(
        long,
        env = "WAGGLE_EVICTION_HARD",
        value_name = "LIST",
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,pid.available<10%"
    )]
    eviction_hard: Thresholds,
    /// What should be left, or pods go after a grace period
    #[arg(
        long,
        env = "WAGGLE_EVICTION_SOFT",
        value_name = "LIST",
        default_value = ""
    )]
    eviction_soft: Thresholds,
    /// How long less may be left: SIGNAL=DURATION,...
    #[arg(
        long,
        env = "WAGGLE_EVICTION_SOFT_GRACE_PERIOD",
        value_name = "LIST",
        default_value = "",
        value_parser = |text: &str| GracePeriods::parse(text, waggle_cli::parse_duration)
    )]
    eviction_soft_grace_period: GracePeriods,
    /// How much more than what must be left is made free once less was: SIGNAL=AMOUNT,...
    #[arg(
        long,
        env = "WAGGLE_EVICTION_MINIMUM_RECLAIM",
        value_name = "LIST",
        default_value = ""
    )]
    eviction_minimum_reclaim: Reclaims,
    /// How long pods have to end, at most, when a soft threshold is passed, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    eviction_max_pod_grace_period: u32,
    /// How long the node says that it is under pressure after it last was
    #[arg(
        long,
        env = "WAGGLE_EVICTION_PRESSURE_TRANSITION_PERIOD",
        value_name = "DURATION",
        default_value = "5m",
        value_parser = waggle_cli::parse_duration
    )]
    eviction_pressure_transition_period: Duration,
}

impl From<EvictionArgs> for EvictionOptions {
    fn from(args: EvictionArgs) -> Self {
        Self {
            hard: args.eviction_hard,
            soft: args.eviction_soft,
            soft_grace: args.eviction_soft_grace_period,
            most_grace: args.eviction_max_pod_grace_period.into(),
            transition: args.eviction_pressure_transition_period,
            reclaim: args.eviction_minimum_reclaim,
        }
    }
}

/// When images that nobody uses go.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageGcArgs {
    /// Percent of the images' disk in use from which on images that nobody uses go, the least recently used first; 100: never
    #[arg(
        long,
        env = "WAGGLE_IMAGE_GC_HIGH_THRESHOLD",
        value_name = "PERCENT",
        default_value_t = 85
    )]
    image_gc_high_threshold: u8,
    /// Percent at which that is enough
    #[arg(
        long,
        env = "WAGGLE_IMAGE_GC_LOW_THRESHOLD",
        value_name = "PERCENT",
        default_value_t = 80
    )]
    image_gc_low_threshold: u8,
    /// An image that came less than so long ago stays
    #[arg(
        long,
        env = "WAGGLE_IMAGE_MINIMUM_GC_AGE",
        value_name = "DURATION",
        default_value = "2m",
        value_parser = waggle_cli::parse_duration
    )]
    image_minimum_gc_age: Duration,
    /// An image that was not used for longer goes, however empty the disk is; 0s: never
    #[arg(
        long,
        env = "WAGGLE_IMAGE_MAXIMUM_GC_AGE",
        value_name = "DURATION",
        default_value = "0s",
        value_parser = waggle_cli::parse_duration
    )]
    image_maximum_gc_age: Duration,
}

impl From<ImageGcArgs> for ImageGcOptions {
    fn from(args: ImageGcArgs) -> Self {
        Self {
            high: args.image_gc_high_threshold,
            low: args.image_gc_low_threshold,
            min_age: args.image_minimum_gc_age,
            max_age: args.image_maximum_gc_age,
        }
    }
}

/// Arguments of `supervisor`.
#[derive(Debug, clap::Args)]
pub(crate) struct SupervisorArgs {
    /// Its folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// cgroup of the node below each hierarchy
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is no label: write key=value")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn roles_and_verbs_are_read() {
        let read = |line: &str| {
            Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.command)
        };
        assert!(matches!(
            read("waggle server --data /d --listen 127.0.0.1:1"),
            Ok(Action::Server(_))
        ));
        let Ok(Action::Server(server)) = read(
            "waggle server --data /d --listen 127.0.0.1:1 --store etcd=https://a:2379,https://b:2379 --etcd-ca c",
        ) else {
            panic!("no server");
        };
        let members = ["https://a:2379", "https://b:2379"].map(str::to_owned);
        assert_eq!(server.store, StoreArg::Etcd(members.to_vec()));
        assert!(matches!(
            read("waggle get pods -A -o wide"),
            Ok(Action::Verb(_))
        ));
        assert!(matches!(
            read("waggle dev up --nodes 3 --publish 8080=shop/web:80"),
            Ok(Action::Dev(_))
        ));
        let Ok(Action::Agent(agent)) =
            read("waggle agent --server https://a:1 --address 10.0.0.1 --label a=b")
        else {
            panic!("no agent");
        };
        assert_eq!(agent.label, [("a".to_owned(), "b".to_owned())]);
        for wrong in [
            "waggle",
            "waggle gett pods",
            "waggle dev up --nodes 0",
            "waggle agent --server https://a:1",
            "waggle server --data /d --listen 127.0.0.1:1 --store etcd=",
            "waggle server --data /d --listen 127.0.0.1:1 --load-balancer-pool 10.0.0.1",
            "waggle server --data /d --listen 127.0.0.1:1 --service-node-port-range 30000",
            "waggle server --data /d --listen 127.0.0.1:1 --store etcd=a:2379",
            "waggle server --data /d --listen 127.0.0.1:1 --store redis=https://a",
            "waggle server --data /d --listen 127.0.0.1:1 --etcd-cert c",
            "waggle restore f",
            "waggle restore f --data /d --store etcd=https://a",
            "waggle scale deploy/x",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
