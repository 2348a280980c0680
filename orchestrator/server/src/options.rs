//! What a server is told at its start.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use waggle_model::network::{AddressPool, Cidr, PerFamily, PortRange};
pub use waggle_plan::node_lifecycle::Settings as NodeLifecycle;
use waggle_store::EtcdOptions;

use crate::ServerError;
use crate::audit::AuditOptions;
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

/// What is encrypted in the store.
#[derive(Debug, Clone, Default)]
pub enum EncryptionOptions {
    /// Nothing.
    #[default]
    Nothing,
    /// Secrets, by a key that this server makes and keeps in its data folder.
    OwnKey,
    /// What an EncryptionConfiguration says.
    Configured(PathBuf),
}

/// Options of a server. [`ServerOptions::new`] fills in what is rarely chosen.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Folder of the store, keys, certificates and tokens.
    pub data: PathBuf,
    /// Where the objects are kept.
    pub store: StoreOptions,
    /// What is encrypted in it.
    pub encryption: EncryptionOptions,
    /// Where other servers reach the API of this one, when that is not where pods do.
    pub peer: Option<SocketAddr>,
    /// Where the API is served.
    pub listen: Vec<ListenAddress>,
    /// Where agents dial in.
    pub node_listen: Vec<ListenAddress>,
    /// Virtual addresses of Services; the first family is the one that Services get unless they ask for another.
    pub service_cidr: PerFamily<Cidr>,
    /// Addresses of all pods.
    pub pod_cidr: PerFamily<Cidr>,
    /// Prefix length of the part of an IPv4 [`Self::pod_cidr`] that a node gets.
    pub node_cidr_mask_size: u8,
    /// Ports of every node that Services get.
    pub node_ports: PortRange,
    /// Addresses of Services of type LoadBalancer; without any, those wait.
    pub load_balancer_pool: Option<AddressPool>,
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
    /// Which requests are noted where; none are when absent.
    pub audit: Option<AuditOptions>,
    /// How pods are placed.
    pub scheduler: Arc<waggle_plan::scheduler::Settings>,
    /// How patient the cluster is with silent nodes.
    pub node_lifecycle: NodeLifecycle,
    /// Seats that requests share; as many as suit the machine when absent.
    pub max_requests_in_flight: Option<u32>,
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
            encryption: EncryptionOptions::Nothing,
            peer: None,
            listen,
            node_listen,
            service_cidr: range("10.96.0.0/16"),
            pod_cidr: range("10.244.0.0/16"),
            node_cidr_mask_size: 24,
            node_ports: PortRange::NODE_PORTS,
            load_balancer_pool: None,
            dns_vip: [10, 96, 0, 10].into(),
            api_vip: [10, 96, 0, 1].into(),
            cluster_domain: "cluster.local".into(),
            advertise: None,
            extra_names: Vec::new(),
            cluster_name: "waggle".into(),
            audit: None,
            scheduler: Arc::default(),
            node_lifecycle: NodeLifecycle::default(),
            max_requests_in_flight: None,
        }
    }

    /// Chooses the cluster's ranges. The API gets the first address of the services' primary range, DNS the tenth.
    ///
    /// # Errors
    /// [`ServerError::Ranges`] when the families of the two differ or a range is too small for its use.
    pub fn use_ranges(
        &mut self,
        pods: PerFamily<Cidr>,
        services: PerFamily<Cidr>,
    ) -> Result<(), ServerError> {
        let refused = |cause: String| ServerError::Ranges { cause };
        if services
            .iter()
            .any(|one| pods.family(one.address().is_ipv4()).is_none())
        {
            return Err(refused(format!(
                "--service-cidr {services} has a family that --pod-cidr {pods} lacks"
            )));
        }
        for range in pods.iter() {
            let most = match range.address().is_ipv4() {
                true => self.node_cidr_mask_size,
                false => 64,
            };
            if range.prefix() > most {
                return Err(refused(format!(
                    "--pod-cidr {range}: every node gets a /{most} of it, so it must not be smaller"
                )));
            }
        }
        let at = |index| {
            services
                .primary()
                .nth(index)
                .filter(|_| services.primary().size() > 11)
        };
        let (Some(api), Some(dns)) = (at(1), at(10)) else {
            return Err(refused(format!(
                "--service-cidr {}: too small, the cluster itself needs 12 addresses",
                services.primary()
            )));
        };
        (self.pod_cidr, self.service_cidr) = (pods, services);
        (self.api_vip, self.dns_vip) = (api, dns);
        Ok(())
    }

    /// Chooses the addresses of load balancers, after [`ServerOptions::use_ranges`].
    ///
    /// # Errors
    /// [`ServerError::Ranges`] when they are pods' or Services' addresses.
    pub fn use_pool(&mut self, pool: AddressPool) -> Result<(), ServerError> {
        let ranges = [
            ("--pod-cidr", self.pod_cidr),
            ("--service-cidr", self.service_cidr),
        ];
        for (option, ranges) in ranges {
            if let Some(range) = ranges.iter().find(|range| pool.overlaps(*range)) {
                return Err(ServerError::Ranges {
                    cause: format!("--load-balancer-pool {pool} overlaps with {option} {range}"),
                });
            }
        }
        self.load_balancer_pool = Some(pool);
        Ok(())
    }

    /// Takes how pods are placed from a KubeSchedulerConfiguration, YAML or JSON.
    ///
    /// # Errors
    /// [`ServerError::Scheduler`] when it can't be read or means nothing here.
    pub fn use_scheduler_config(&mut self, path: &Path) -> Result<(), ServerError> {
        let wrong = |cause: String| ServerError::Scheduler {
            path: path.to_owned(),
            cause,
        };
        let text = std::fs::read_to_string(path).map_err(|cause| wrong(cause.to_string()))?;
        let value = serde_yaml_ng::from_str(&text).map_err(|cause| wrong(cause.to_string()))?;
        let read = waggle_plan::scheduler::Settings::read(value);
        let (settings, unused) = read.map_err(|cause| wrong(cause.to_string()))?;
        if !unused.is_empty() {
            tracing::warn!(path = %path.display(), fields = unused.join(", "), "nothing here depends on these fields");
        }
        self.scheduler = Arc::new(settings);
        Ok(())
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
