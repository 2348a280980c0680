//! Node sessions: agents dial in over mTLS, are told their pods and the network state, and say what became of both.
//! Also here, because they follow from what nodes are told: numbers, pod addresses, and the order in which pods end.
//! Deciding is `waggle-plan`'s, objects are `Objects`'.

mod account;
mod assignments;
mod beats;
mod cadence;
mod capacity;
mod enforcement;
mod enrol;
mod farewell;
mod feed;
#[cfg(test)]
pub(crate) mod fixture;
mod hub;
mod links;
mod node;
mod numbers;
mod rendezvous;
mod service;
mod session;
mod static_pods;
mod stirred;
#[cfg(test)]
mod tests;
mod upward;
mod volumes;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waggle_api::{Resource, Status};
use waggle_model::Generation;
use waggle_model::network::{Cidr, PerFamily};
use waggle_plan::identity::Registry;
use waggle_wire::v1;

use crate::controllers::{Recorder, View};
use crate::objects::Objects;
use crate::pki::{Pki, PkiError};
use crate::usage::UsageRegistry;

pub use beats::Beats;
pub use enforcement::Enforcement;
pub use numbers::Numbers;
pub use rendezvous::{OpenFault, StreamEnds};

/// What every node is told of the cluster, and how sessions are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `cluster.local`.
    pub domain: String,
    /// Virtual address of the cluster's DNS.
    pub dns_vip: std::net::IpAddr,
    /// Virtual address of Service default/kubernetes.
    pub api_vip: std::net::IpAddr,
    /// Virtual addresses of Services.
    pub service_range: PerFamily<Cidr>,
    /// Addresses of all pods.
    pub pod_range: PerFamily<Cidr>,
    /// Prefix length of a node's part of the IPv4 [`Self::pod_range`].
    pub node_prefix: u8,
    /// The same for IPv6.
    pub node_prefix_v6: u8,
    /// How often a node reports, when there are not very many.
    pub heartbeat: Duration,
    /// What network generations start after; [`Numbers::begin_term`] gives it. Else the clock does.
    pub base: Option<Generation>,
}

impl Default for Settings {
    /// 10.244.0.0/16 for pods, a /24 a node; 10.96.0.0/16 for Services; a heartbeat each 3 seconds.
    fn default() -> Self {
        let range = |text: &str| {
            text.parse()
                .unwrap_or_else(|_| unreachable!("{text} is an address range"))
        };
        Self {
            domain: "cluster.local".into(),
            dns_vip: [10, 96, 0, 10].into(),
            api_vip: [10, 96, 0, 1].into(),
            service_range: range("10.96.0.0/16"),
            pod_range: range("10.244.0.0/16"),
            node_prefix: 24,
            node_prefix_v6: 64,
            heartbeat: Duration::from_secs(3),
            base: None,
        }
    }
}

/// Why nodes can't be served.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// Certificate, key or authority can't be used.
    #[error("node listener: {0}")]
    Tls(#[source] PkiError),
    /// A listener can't be handed to the runtime.
    #[error("node listener: {0}")]
    Listener(#[from] std::io::Error),
}

/// Every node session of this server. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    objects: Arc<Objects>,
    view: Arc<View>,
    numbers: Numbers,
    usage: Arc<UsageRegistry>,
    recorder: Recorder,
    settings: Settings,
    pki: Arc<Pki>,
    /// Names this server's history of generations; another start is another history.
    epoch: String,
    links: links::Links,
    beats: beats::Beats,
    cadence: Arc<cadence::Cadence>,
    capacity: capacity::Capacity,
    enforcement: Enforcement,
    hub: hub::Hub,
    rendezvous: rendezvous::Rendezvous,
    /// Ranges of Node objects that are being made, until the view shows them. Held while one is chosen, so that no range is
    /// given twice.
    registering: tokio::sync::Mutex<BTreeMap<String, Vec<Cidr>>>,
}

impl Sessions {
    /// The cluster as planners see it.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.inner.view)
    }

    /// How far the nodes are with each tenant's policies.
    pub fn enforcement(&self) -> Enforcement {
        self.inner.enforcement.clone()
    }

    /// When nodes spoke last.
    pub fn beats(&self) -> Beats {
        self.inner.beats.clone()
    }

    /// Sessions over these objects. Nothing runs yet.
    pub fn new(
        objects: Arc<Objects>,
        view: Arc<View>,
        numbers: Numbers,
        usage: Arc<UsageRegistry>,
        recorder: Recorder,
        settings: Settings,
        pki: Arc<Pki>,
    ) -> Self {
        let cadence = Arc::new(cadence::Cadence::new(settings.heartbeat));
        let inner = Inner {
            hub: hub::Hub::new(settings.base.unwrap_or_else(|| from_clock(objects.now()))),
            objects,
            view,
            numbers,
            usage,
            recorder,
            settings,
            pki,
            epoch: uuid::Uuid::new_v4().to_string(),
            links: links::Links::default(),
            beats: beats::Beats::new(Arc::clone(&cadence)),
            cadence,
            capacity: capacity::Capacity::default(),
            enforcement: Enforcement::default(),
            rendezvous: rendezvous::Rendezvous::default(),
            registering: tokio::sync::Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Keeps the network state and serves nodes on `listeners` until `stop`.
    ///
    /// # Errors
    /// [`SessionsError`] when serving can't start or ends early.
    pub async fn serve(
        &self,
        listeners: Vec<TcpListener>,
        stop: CancellationToken,
    ) -> Result<(), SessionsError> {
        let inner = Arc::clone(&self.inner);
        tokio::select! {
            served = service::serve(Arc::clone(&inner), listeners, stop.clone()) => served,
            () = hub::keep(Arc::clone(&inner)) => Ok(()),
            () = capacity::keep(&inner) => Ok(()),
            () = beats::keep(&inner) => Ok(()),
        }
    }

    /// Names of the nodes that have a session now.
    pub fn connected(&self) -> Vec<String> {
        self.inner.links.names()
    }

    /// The lowest network generation that every connected node has applied, and the newest one there is.
    pub fn network_progress(&self) -> (Option<u64>, u64) {
        let lowest = self.inner.links.lowest_acknowledged(|_| true);
        (
            lowest.map(|generation| generation.0),
            self.inner.hub.generation().0,
        )
    }

    /// Numbers of tenants and the like, now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.inner.numbers.registry()
    }

    /// The time.
    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.inner.objects.now()
    }

    /// Asks `node` for a stream and waits until its agent has opened it.
    ///
    /// # Errors
    /// [`OpenFault`] when the node has no session or does not answer in time.
    pub async fn open(
        &self,
        node: &str,
        request: v1::open_stream::Request,
    ) -> Result<StreamEnds, OpenFault> {
        self.inner
            .rendezvous
            .open(&self.inner.links, node, request)
            .await
    }
}

/// The time in milliseconds: above any generation that was reached before.
pub(crate) fn from_clock(now: jiff::Timestamp) -> Generation {
    Generation(now.as_millisecond().max(1).unsigned_abs())
}

/// A kind's registry row.
pub(crate) fn kind(api_version: &str, name: &str) -> Result<&'static Resource, Status> {
    waggle_api::by_kind(api_version, name).ok_or_else(|| {
        Status::internal(format!(
            "kind {name} of {api_version} is not in the registry"
        ))
    })
}
