//! What everything on this node shares: its name and folders, the adapters, and what the cluster has told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use waggle_datapath::Datapath;
use waggle_model::Generation;
use waggle_model::network::{NetworkState, PerFamily};
use waggle_runtime::images::{ImageStore, PullOptions};
use waggle_wire::v1;

use crate::containers::Containers;
use crate::events::Recorder;
use crate::eviction::{EvictionOptions, Pressure};
use crate::folder::Folder;
use crate::image_gc::ImageGcOptions;
use crate::network::Network;
use crate::options::Reserved;
use crate::outbox::Outbox;
use crate::pods::env::Surroundings;
use crate::pods::files::ClusterDns;
use crate::pods::resize::{Amounts, Held};

/// The node, shared by every task.
pub(crate) struct Node {
    pub(crate) name: String,
    /// The primary one of `addresses`.
    pub(crate) address: IpAddr,
    pub(crate) addresses: PerFamily<IpAddr>,
    pub(crate) version: String,
    pub(crate) cgroup: String,
    pub(crate) folder: Folder,
    pub(crate) containers: Arc<Containers>,
    pub(crate) images: ImageStore,
    pub(crate) pull: PullOptions,
    pub(crate) datapath: Arc<Datapath>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) recorder: Recorder,
    /// What the cluster has told of itself.
    pub(crate) cluster: watch::Sender<Cluster>,
    /// The connection of the session, while there is one.
    pub(crate) server: watch::Sender<Option<tonic::transport::Channel>>,
    /// The newest network state.
    pub(crate) network: Arc<Network>,
    /// What the datapath reported lately.
    pub(crate) flows: crate::flows::Flows,
    /// What the datapath has no room for.
    pub(crate) refused: watch::Sender<v1::Refusals>,
    /// Whether a server will hear of it.
    pub(crate) refused_told: AtomicBool,
    /// What the node is short of, as it tells.
    pub(crate) pressures: watch::Sender<BTreeSet<Pressure>>,
    pub(crate) eviction: EvictionOptions,
    pub(crate) image_gc: ImageGcOptions,
    pub(crate) reserved: Reserved,
    /// Generation that is in the kernel.
    pub(crate) applied: watch::Sender<Generation>,
    /// How many pods it takes.
    pub(crate) max_pods: u32,
    /// What pods hold of it.
    pub(crate) held: Held,
    /// What pods may hold.
    pub(crate) allocatable: Amounts,
    /// CPUs of the node, milli-cores.
    pub(crate) cpu_milli: u64,
    /// Memory of the node, bytes.
    pub(crate) memory: u64,
    /// The node's own resolv.conf.
    pub(crate) resolv_conf: String,
}

/// What a cluster tells its nodes; kept on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// History that generations belong to; empty before the first.
    pub(crate) epoch: String,
    pub(crate) domain: String,
    pub(crate) dns_vip: Option<IpAddr>,
    pub(crate) api_vip: Option<IpAddr>,
    pub(crate) service_cidr: String,
    pub(crate) pod_cidr: String,
    pub(crate) node_cidr: String,
    pub(crate) heartbeat_seconds: u32,
}

impl From<v1::Welcome> for Cluster {
    fn from(welcome: v1::Welcome) -> Self {
        let cluster = welcome.cluster.unwrap_or_default();
        Self {
            epoch: welcome.epoch,
            domain: cluster.cluster_domain,
            dns_vip: cluster.dns_vip.parse().ok(),
            api_vip: cluster.api_vip.parse().ok(),
            service_cidr: cluster.service_cidr,
            pod_cidr: cluster.pod_cidr,
            node_cidr: welcome.pod_cidr,
            heartbeat_seconds: welcome.heartbeat_seconds,
        }
    }
}

impl Cluster {
    /// Its domain, `cluster.local` before it is known.
    pub(crate) fn domain(&self) -> &str {
        if self.domain.is_empty() {
            "cluster.local"
        } else {
            &self.domain
        }
    }

    /// The time between two words to the server.
    pub(crate) fn heartbeat(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.heartbeat_seconds.clamp(1, 60).into())
    }
}

impl Node {
    /// What a pod's references may point at, `services` being the newest network state.
    pub(crate) fn surroundings<'a>(&'a self, services: &'a NetworkState) -> Surroundings<'a> {
        Surroundings {
            node: &self.name,
            hosts: self.addresses,
            node_cpu: self.cpu_milli,
            node_memory: self.memory,
            services,
            api: self.cluster.borrow().api_vip,
        }
    }

    /// What pods are told about DNS.
    pub(crate) fn dns(&self) -> ClusterDns {
        let cluster = self.cluster.borrow();
        ClusterDns {
            vip: cluster.dns_vip,
            domain: cluster.domain().to_owned(),
            node: self.resolv_conf.clone(),
        }
    }
}
