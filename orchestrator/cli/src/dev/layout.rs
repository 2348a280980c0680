//! Names, addresses and paths of a cluster on this machine. Pure: everything follows from the cluster's name, its home
//! folder and a node's number.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use waggle_model::ClusterName;

/// Where network namespaces are kept, as iproute2 does it.
pub(crate) const NETNS_DIR: &str = "/run/netns";
/// Root of the cgroup hierarchies.
pub(crate) const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Bridge of the fabric.
pub(crate) const BRIDGE: &str = "fabric0";
/// Address of the fabric namespace: API for pods and node listener.
pub(crate) const FABRIC_ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// The fabric's address in the nodes' IPv6 network.
pub(crate) const FABRIC_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, 1);
/// Prefix length of that network.
pub(crate) const FABRIC_PREFIX_V6: u8 = 64;
/// Range of pods' addresses, of each family.
pub(crate) const POD_CIDR: &str = "10.244.0.0/16,fd00:10:244::/48";
/// Range of Services' addresses, of each family.
pub(crate) const SERVICE_CIDR: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Prefix length of the fabric's network.
pub(crate) const FABRIC_PREFIX: u8 = 24;
/// Port of the API inside the fabric.
pub(crate) const API_PORT: u16 = 6443;
/// Port of the node listener inside the fabric.
pub(crate) const NODE_PORT: u16 = 6444;
/// Uplink of a node.
pub(crate) const UPLINK: &str = "eth0";
/// Addresses of the fabric's network that load balancers get: after those of nodes.
pub(crate) const LOAD_BALANCER_POOL: &str =
    "172.30.0.220-172.30.0.250,fd00:172:30::220-fd00:172:30::250";
/// Most servers.
pub(crate) const MAX_SERVERS: u16 = 9;
/// Most nodes that the fabric's network has addresses for.
pub(crate) const MAX_NODES: u16 = 200;

/// File in a cluster's folder that says that its nodes are on links of their own.
const ROUTED: &str = "routed";
/// File in the cluster's folder that says how many pods a node takes, when that is not the usual number.
const MAX_PODS_FILE: &str = "max-pods";
/// The usual number, Kubernetes'.
const MAX_PODS: u32 = 110;

/// One cluster.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Its name.
    pub(crate) name: ClusterName,
    /// Its state, `$WAGGLE_HOME/<cluster>`.
    pub(crate) dir: PathBuf,
}

impl Layout {
    /// Of a cluster below `home`.
    pub(crate) fn new(home: &Path, name: ClusterName) -> Result<Self> {
        if name.as_str().len() > 40 {
            bail!("the cluster name {name} is longer than 40 characters");
        }
        let dir = home.join(name.as_str());
        Ok(Self { name, dir })
    }

    /// Network namespace of the fabric.
    pub(crate) fn fabric(&self) -> String {
        format!("waggle-{}-fabric", self.name)
    }

    /// Network namespace of a node.
    pub(crate) fn netns(&self, node: u16) -> String {
        format!("waggle-{}-node{node}", self.name)
    }

    /// Whether a network namespace belongs to this cluster.
    pub(crate) fn owns_netns(&self, netns: &str) -> bool {
        let Some(rest) = netns
            .strip_prefix("waggle-")
            .and_then(|rest| rest.strip_prefix(self.name.as_str()))
        else {
            return false;
        };
        rest == "-fabric"
            || rest
                .strip_prefix("-node")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    }

    /// cgroup of the cluster below each hierarchy.
    pub(crate) fn cgroup(&self) -> String {
        format!("waggle/{}", self.name)
    }

    /// cgroup of a node, or of the server.
    pub(crate) fn cgroup_of(&self, part: &str) -> String {
        format!("{}/{part}", self.cgroup())
    }

    /// State of a node.
    pub(crate) fn node_dir(&self, node: u16) -> PathBuf {
        self.dir.join(node_name(node))
    }

    /// bpffs of a node.
    pub(crate) fn bpf_dir(&self, node: u16) -> PathBuf {
        self.node_dir(node).join("bpf")
    }

    /// State of the first server.
    pub(crate) fn server_dir(&self) -> PathBuf {
        self.dir.join(server_name(1))
    }

    /// Kubeconfig of the cluster's administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Log of a process: `server`, `node1`, `door-8080`.
    pub(crate) fn log(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{part}.log"))
    }

    /// Pid file of a process: its pid and its start time.
    pub(crate) fn pid_file(&self, part: &str) -> PathBuf {
        self.dir.join(format!("{part}.pid"))
    }

    /// Whether its nodes are on links of their own.
    pub(crate) fn is_routed(&self) -> bool {
        self.dir.join(ROUTED).exists()
    }

    /// Puts the nodes of a cluster that has none yet on links of their own.
    pub(crate) fn make_routed(&self) -> Result<()> {
        if self.is_routed() {
            return Ok(());
        }
        if !self.nodes().is_empty() {
            bail!(
                "the nodes of the cluster {} share one link: --routed is for a new cluster; run `waggle dev down` first",
                self.name
            );
        }
        let mark = self.dir.join(ROUTED);
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(&mark, ""))
            .with_context(|| format!("cannot write {}", mark.display()))
    }

    /// How many pods each of its nodes takes.
    pub(crate) fn max_pods(&self) -> u32 {
        let text = std::fs::read_to_string(self.dir.join(MAX_PODS_FILE));
        text.ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(MAX_PODS)
    }

    /// Chooses that for a cluster that has no nodes yet: their ranges are given once.
    pub(crate) fn set_max_pods(&self, count: u32) -> Result<()> {
        if self.max_pods() == count {
            return Ok(());
        }
        if !self.nodes().is_empty() {
            bail!(
                "the nodes of the cluster {} take {} pods each: --max-pods is for a new cluster; run `waggle dev down` first",
                self.name,
                self.max_pods()
            );
        }
        let file = self.dir.join(MAX_PODS_FILE);
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| std::fs::write(&file, count.to_string()))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Prefix length of a node's range: twice as many addresses as pods, so that one that was given back rests a while.
    pub(crate) fn node_prefix(&self) -> u32 {
        let addresses = self.max_pods().saturating_mul(2).max(256);
        u32::BITS - addresses.next_power_of_two().trailing_zeros()
    }

    /// Numbers of the nodes that have a state folder or a network namespace, in order.
    pub(crate) fn nodes(&self) -> Vec<u16> {
        let names = |dir: &Path| -> Vec<String> {
            std::fs::read_dir(dir)
                .map(|entries| {
                    entries
                        .flatten()
                        .filter_map(|entry| entry.file_name().into_string().ok())
                        .collect()
                })
                .unwrap_or_default()
        };
        let mut numbers: Vec<u16> = names(&self.dir)
            .iter()
            .filter_map(|name| node_number(name))
            .collect();
        for netns in names(Path::new(NETNS_DIR)) {
            let number = netns
                .strip_prefix(&format!("waggle-{}-", self.name))
                .and_then(node_number);
            numbers.extend(number);
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}

/// `server` for the first, `server2` for the second.
pub(crate) fn server_name(server: u16) -> String {
    match server {
        1 => "server".to_owned(),
        more => format!("server{more}"),
    }
}

/// A server's port in the fabric, after the first server's.
pub(crate) fn fabric_port(first: u16, server: u16) -> u16 {
    first + (server - 1) * 10
}

/// `node1`.
pub(crate) fn node_name(node: u16) -> String {
    format!("node{node}")
}

fn node_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("node")?;
    if digits.starts_with('0') {
        None
    } else {
        digits.parse().ok()
    }
}

/// Underlay address of a node.
pub(crate) fn node_address(node: u16) -> Ipv4Addr {
    let base = u32::from(Ipv4Addr::new(172, 30, 0, 10));
    Ipv4Addr::from(base + u32::from(node))
}

/// The same in the fabric's IPv6 network.
pub(crate) fn node_address_v6(node: u16) -> Ipv6Addr {
    let base = u128::from(FABRIC_ADDRESS_V6) + 0xf;
    Ipv6Addr::from(base + u128::from(node))
}

/// Path of a network namespace.
pub(crate) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(name: &str) -> Layout {
        Layout::new(Path::new("/h"), name.try_into().unwrap()).unwrap()
    }

    #[test]
    fn a_nodes_range_holds_its_pods() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), "wgt-cli-pods".try_into().unwrap()).unwrap();
        for (pods, prefix) in [(110, 24), (128, 24), (129, 23), (500, 22), (16_000, 17)] {
            layout.set_max_pods(pods).unwrap();
            assert_eq!((layout.max_pods(), layout.node_prefix()), (pods, prefix));
        }
        std::fs::create_dir_all(layout.node_dir(1)).unwrap();
        layout.set_max_pods(16_000).unwrap();
        let fault = layout.set_max_pods(110).unwrap_err().to_string();
        assert!(fault.contains("16000 pods each"), "{fault}");
    }

    #[test]
    fn everything_follows_from_name_and_number() {
        let local = layout("local");
        assert_eq!(local.netns(2), "waggle-local-node2");
        assert_eq!(local.cgroup_of("node2"), "waggle/local/node2");
        assert_eq!(local.bpf_dir(2), Path::new("/h/local/node2/bpf"));
        assert_eq!(node_address(2), Ipv4Addr::new(172, 30, 0, 12));
        assert_eq!(node_address(MAX_NODES), Ipv4Addr::new(172, 30, 0, 210));
    }

    #[test]
    fn load_balancers_have_addresses_that_no_node_has() {
        let pool: waggle_model::network::AddressPool = LOAD_BALANCER_POOL.parse().unwrap();
        let fabric: waggle_model::network::Cidr = "172.30.0.0/24".parse().unwrap();
        assert!(
            pool.addresses(true)
                .all(|one| fabric.contains(one) && one != fabric.last())
        );
        let nodes = (1..=MAX_NODES).map(node_address).chain([FABRIC_ADDRESS]);
        for address in nodes {
            assert!(!pool.contains(address.into()), "{address}");
        }
    }

    #[test]
    fn a_cluster_never_owns_what_is_another_clusters() {
        let a = layout("a");
        assert!(a.owns_netns("waggle-a-fabric") && a.owns_netns("waggle-a-node12"));
        for other in [
            "waggle-a-b-fabric",
            "waggle-ab-node1",
            "waggle-a-node",
            "waggle-a-node1-fabric",
            "other-a-node1",
            "waggle-a-nodex",
        ] {
            assert!(!a.owns_netns(other), "{other}");
        }
        assert!(layout("a-node1").owns_netns("waggle-a-node1-fabric"));
    }

    #[test]
    fn nodes_are_found_by_their_folders() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::new(home.path(), "wgt-cli-layout".try_into().unwrap()).unwrap();
        for name in ["node10", "node2", "node02", "nodes", "server"] {
            std::fs::create_dir_all(layout.dir.join(name)).unwrap();
        }
        assert_eq!(layout.nodes(), [2, 10]);
    }
}
