//! What a server is told at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use waggle_model::network::Cidr;
use waggle_store::EtcdOptions;

use crate::listen::ListenAddress;

/// Where a server keeps the cluster's objects.
#[derive(Debug, Clone, Default)]
pub enum StoreOptions {
    /// In one file of its data folder, for one server.
    #[default]
    Embedded,
    /// In an etcd, for one server or several.
    Etcd(EtcdOptions),
}

/// Options of a server. [`ServerOptions::new`] fills in what is rarely chosen.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Folder of the store, keys, certificates and tokens.
    pub data: PathBuf,
    /// Where the objects are kept.
    pub store: StoreOptions,
    /// Where other servers reach the API of this one, when that is not where pods do.
    pub peer: Option<SocketAddr>,
    /// Where the API is served.
    pub listen: Vec<ListenAddress>,
    /// Where agents dial in.
    pub node_listen: Vec<ListenAddress>,
    /// Virtual addresses of Services.
    pub service_cidr: Cidr,
    /// Addresses of all pods.
    pub pod_cidr: Cidr,
    /// Virtual address of the cluster's DNS.
    pub dns_vip: IpAddr,
    /// Virtual address of Service default/kubernetes.
    pub api_vip: IpAddr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Where pods reach the API; the first address that is not loopback when absent.
    pub advertise: Option<SocketAddr>,
    /// Further names and addresses that the server's certificate carries.
    pub extra_names: Vec<String>,
    /// What the kubeconfig calls the cluster.
    pub cluster_name: String,
}

impl ServerOptions {
    /// The defaults: 10.96.0.0/16 for Services (.1 the API, .10 DNS), 10.244.0.0/16 for pods, cluster.local.
    pub fn new(data: PathBuf, listen: Vec<ListenAddress>, node_listen: Vec<ListenAddress>) -> Self {
        let range = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| unreachable!("{text} is an address range"))
        };
        Self {
            data,
            store: StoreOptions::Embedded,
            peer: None,
            listen,
            node_listen,
            service_cidr: range("10.96.0.0/16"),
            pod_cidr: range("10.244.0.0/16"),
            dns_vip: [10, 96, 0, 10].into(),
            api_vip: [10, 96, 0, 1].into(),
            cluster_domain: "cluster.local".into(),
            advertise: None,
            extra_names: Vec::new(),
            cluster_name: "waggle".into(),
        }
    }

    /// Every name and address that clients may call the server by.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
        ];
        names.push(self.api_vip.to_string());
        let service = "kubernetes.default.svc";
        names.extend(["kubernetes", "kubernetes.default", service].map(str::to_owned));
        names.push(format!("{service}.{}", self.cluster_domain));
        let addresses = self
            .listen
            .iter()
            .chain(&self.node_listen)
            .map(|one| one.address.ip());
        names.extend(
            addresses
                .filter(|address| !address.is_unspecified())
                .map(|address| address.to_string()),
        );
        let told = self.advertise.iter().chain(&self.peer);
        names.extend(told.map(|address| address.ip().to_string()));
        names.extend(self.extra_names.iter().cloned());
        names
    }
}
