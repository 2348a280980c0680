//! Starts a server and ends it: store, objects, keys, controllers, node sessions, HTTP API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waggle_api::Status;
use waggle_model::Generation;
use waggle_store::{Bid, EmbeddedStore, EtcdStore, Store, Term};

use crate::audit::{AuditError, AuditLog};
use crate::controllers::{Controllers, Recorder, View};
use crate::encryption::{self, Encryption, EncryptionError, Sealed};
use crate::flow::FlowControl;
use crate::forward::Forwarder;
use crate::http;
use crate::keys;
use crate::leading::{Leader, Leading};
use crate::listen::{ListenAddress, ListenError};
use crate::metrics::Metrics;
use crate::objects::{Objects, ServiceNetwork};
use crate::options::{EncryptionOptions, ServerOptions, StoreOptions};
use crate::pki::{Pki, PkiError};
use crate::sessions::{Numbers, Sessions, SessionsError, Settings};
use crate::streams::Streams;
use crate::usage::UsageRegistry;
use crate::webhook;

/// How long history is kept: watches and continued lists may be this old.
const HISTORY: Duration = Duration::from_secs(300);
/// How often a follower looks who leads.
const POLL: Duration = Duration::from_millis(300);

/// Why a server can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No address to serve the API on.
    #[error("no address to listen on: give --listen ADDRESS:PORT")]
    NoAddress,
    /// Ranges of addresses.
    #[error("{cause}")]
    Ranges {
        /// Which option, and what is wrong with it.
        cause: String,
    },
    /// How pods are to be placed.
    #[error("--scheduler-config {}: {cause}", path.display())]
    Scheduler {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store.
    #[error(transparent)]
    Store(#[from] waggle_store::Error),
    /// What is in the store.
    #[error(transparent)]
    Restore(#[from] waggle_store::backup::BackupError),
    /// An address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A listener can't be handed to the runtime.
    #[error("can't serve on {address}: {cause}")]
    Listener {
        /// Which.
        address: String,
        /// Why.
        cause: std::io::Error,
    },
    /// Objects that the server needs.
    #[error("can't prepare the cluster's objects: {0}")]
    Objects(#[from] Status),
    /// Node sessions.
    #[error(transparent)]
    Sessions(#[from] SessionsError),
    /// The data folder was used with another store.
    #[error(
        "{path} belongs to another cluster than the store: give this server a data folder of its own, or the store that \
         the folder was made with"
    )]
    OtherCluster {
        /// The file that differs.
        path: PathBuf,
    },
    /// What is encrypted, and how.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// Another server leads now.
    #[error("this server leads the cluster no longer")]
    Deposed,
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A part of the server ended by a panic.
    #[error("a part of the server broke: {0}")]
    Broken(String),
}

impl ServerError {
    /// Whether a server that starts over may meet this for a moment: the store has no majority, or its own addresses are
    /// not quite given back yet.
    fn passes(&self) -> bool {
        matches!(
            self,
            Self::Store(_) | Self::Objects(_) | Self::Listen(_) | Self::Listener { .. }
        )
    }
}

/// What the HTTP API works with. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ServerState {
    /// The cluster's objects.
    pub objects: Arc<Objects>,
    /// What this server counts.
    pub metrics: Arc<Metrics>,
    /// What nodes and pods use.
    pub usage: Arc<UsageRegistry>,
    /// Whose request waits for whose.
    pub flow: Arc<FlowControl>,
    /// Where requests are noted, if they are.
    pub audit: Option<Arc<AuditLog>>,
    /// Who leads, and what the leader alone has.
    pub leading: Leading,
    /// How pods are placed.
    pub scheduler: Arc<waggle_plan::scheduler::Settings>,
    /// Keys and certificates.
    pub pki: Arc<Pki>,
    /// Where pods reach the API.
    pub advertise: SocketAddr,
    /// The server is to end.
    pub stop: CancellationToken,
}

/// Runs a server until `stop`; then lets running requests finish, bounded. One that led and was deposed starts over,
/// with nothing left of what it knew.
///
/// # Errors
/// [`ServerError`]: one sentence that names the file, address or object.
pub async fn run(options: ServerOptions, stop: CancellationToken) -> Result<(), ServerError> {
    let mut deposed = false;
    loop {
        match once(&options, &stop).await {
            _ if stop.is_cancelled() && deposed => return Ok(()),
            Err(ServerError::Deposed) => {
                tracing::warn!("this server leads no longer; it starts over as a follower");
                deposed = true;
            }
            Err(error) if deposed && error.passes() => {
                tracing::warn!(%error, "this server can't start over yet");
            }
            outcome => return outcome,
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn once(options: &ServerOptions, stop: &CancellationToken) -> Result<(), ServerError> {
    let now = jiff::Timestamp::now();
    let listeners = bind_all(&options.listen, "--listen")?;
    let node_listeners = bind_all(&options.node_listen, "--node-listen")?;
    let node_listeners = node_listeners.into_iter().map(|(one, _)| one).collect();
    let bound: Vec<SocketAddr> = listeners.iter().map(|(_, address)| *address).collect();
    let advertise = options
        .advertise
        .or_else(|| advertised(&bound))
        .ok_or(ServerError::NoAddress)?;
    crate::pki::make_folder(&options.data)?;
    let encryption = Arc::new(read_encryption(options)?);
    let (store, election) = open_store(options).await?;
    let store: Arc<dyn Store> = Arc::new(Sealed::new(store, Arc::clone(&encryption)));
    waggle_store::backup::check_finished(store.as_ref()).await?;
    let pki = keys::open(store.as_ref(), &options.data, &options.names(), now).await?;
    let forwarder = match &election {
        Some(_) => Some(Arc::new(Forwarder::new(pki.peer_tls()?))),
        None => None,
    };
    let audit = options.audit.clone().map(AuditLog::open).transpose()?;
    let audit = audit.map(Arc::new);
    let network = ServiceNetwork {
        ranges: options.service_cidr,
        kept: vec![options.api_vip, options.dns_vip],
        node_ports: options.node_ports,
    };
    let objects =
        Objects::open_with(Arc::clone(&store), Arc::new(jiff::Timestamp::now), network).await?;
    let server = Arc::new(Server {
        state: ServerState {
            objects,
            metrics: Arc::new(Metrics::new(store_file(options))),
            usage: Arc::new(UsageRegistry::default()),
            flow: FlowControl::new(options.max_requests_in_flight),
            audit,
            leading: Leading::elected(forwarder),
            scheduler: Arc::clone(&options.scheduler),
            pki: Arc::new(pki),
            advertise,
            stop: stop.child_token(),
        },
        options: options.clone(),
        store: Arc::clone(&store),
        encryption,
    });
    let streams = Streams {
        objects: Arc::clone(&server.state.objects),
        leading: server.state.leading.clone(),
    };
    let calls = webhook::begin(streams, server.state.stop.clone());
    server.state.objects.begin_to_call(calls);
    let mut parts = JoinSet::new();
    match election {
        Some(store) => {
            let elected = Arc::clone(&server).elected(store, node_listeners);
            parts.spawn(elected);
        }
        // Before anybody is answered: it finds a cluster with all that belongs to one.
        None => server.lead(node_listeners, &mut parts).await?,
    }
    server.serve(listeners, &mut parts)?;
    // Last, so that whoever sees it finds a server that answers.
    let url = format!("https://{}", local(&bound).unwrap_or(advertise));
    server.state.pki.write_kubeconfig(
        &options.data.join("admin.kubeconfig"),
        &url,
        &options.cluster_name,
    )?;
    tracing::info!(%url, data = %options.data.display(), "the server is up");
    let outcome = finish(parts, &server.state.stop).await;
    store.close().await;
    outcome
}

/// One server, from its start until it ends or is deposed.
struct Server {
    state: ServerState,
    options: ServerOptions,
    store: Arc<dyn Store>,
    encryption: Arc<Encryption>,
}

type Parts = JoinSet<Result<(), ServerError>>;

impl Server {
    /// The HTTP API.
    fn serve(
        &self,
        listeners: Vec<(TcpListener, SocketAddr)>,
        parts: &mut Parts,
    ) -> Result<(), ServerError> {
        let tls = self.state.pki.server_tls()?;
        let router = http::router(self.state.clone());
        for (listener, address) in listeners {
            let listener = to_tokio(listener, address)?;
            let (tls, router) = (Arc::clone(&tls), router.clone());
            let stop = self.state.stop.clone();
            parts.spawn(async move {
                http::serve(listener, http::Callers::Clients, tls, router, stop).await;
                Ok(())
            });
        }
        Ok(())
    }

    /// Begins what the leader alone does.
    async fn lead(
        &self,
        node_listeners: Vec<TcpListener>,
        parts: &mut Parts,
    ) -> Result<(), ServerError> {
        let (state, options) = (&self.state, &self.options);
        let objects = &state.objects;
        objects.begin_to_write().await?;
        let anew = encryption::rewrite(self.store.as_ref(), &self.encryption).await?;
        if anew > 0 {
            tracing::info!(
                values = anew,
                "values were encrypted anew, as is said today"
            );
        }
        objects.bootstrap(options.api_vip, state.advertise).await?;
        let view = View::follow(objects).await?;
        let numbers = Numbers::open(objects)?;
        let base = numbers.begin_term().await?;
        let recorder = Recorder::start(Arc::clone(objects));
        let sessions = Sessions::new(
            Arc::clone(objects),
            Arc::clone(&view),
            numbers.clone(),
            Arc::clone(&state.usage),
            recorder.clone(),
            settings(options, base),
            Arc::clone(&state.pki),
        );
        let controllers = Controllers {
            objects: Arc::clone(objects),
            view,
            numbers,
            enforcement: sessions.enforcement(),
            beats: sessions.beats(),
            recorder,
            usage: Arc::clone(&state.usage),
            metrics: Arc::clone(&state.metrics),
            pki: Arc::clone(&state.pki),
            authority: state.pki.ca_pem().to_owned(),
            pool: options.load_balancer_pool.clone(),
            scheduler: Arc::clone(&state.scheduler),
            node_lifecycle: options.node_lifecycle,
        };
        let end = state.stop.clone();
        parts.spawn(async move {
            controllers.run(end).await;
            Ok(())
        });
        let (serving, end) = (sessions.clone(), state.stop.clone());
        parts.spawn(async move {
            serving
                .serve(node_listeners, end)
                .await
                .map_err(ServerError::from)
        });
        parts.spawn(forget_history(Arc::clone(objects), state.stop.clone()));
        objects.begin_to_ask();
        state.leading.begin(sessions);
        Ok(())
    }

    /// Follows until this server is elected, then leads until it ends or is deposed.
    async fn elected(
        self: Arc<Self>,
        store: EtcdStore,
        node_listeners: Vec<TcpListener>,
    ) -> Result<(), ServerError> {
        let stop = &self.state.stop;
        let turned_away = turn_away(&node_listeners)?;
        let term = tokio::select! {
            term = self.win(&store) => term,
            () = stop.cancelled() => return Ok(()),
        };
        drop(turned_away);
        tracing::info!("this server leads");
        let mut parts = Parts::new();
        let outcome = match self.lead(node_listeners, &mut parts).await {
            Ok(()) => tokio::select! {
                () = term.over() => Err(ServerError::Deposed),
                ended = finish(parts, stop) => ended,
            },
            Err(error) => {
                tracing::error!(%error, "this server was elected and can't lead");
                Err(ServerError::Deposed)
            }
        };
        term.resign().await;
        outcome
    }

    /// Stands for election until it is won.
    async fn win(&self, store: &EtcdStore) -> Term {
        let peer = self
            .options
            .peer
            .unwrap_or(self.state.advertise)
            .to_string();
        let leading = &self.state.leading;
        loop {
            match store.stand(&peer).await {
                Ok(Bid::Won(term)) => return term,
                // Our own, from before we were started again.
                Ok(Bid::Lost(leader)) if leader == peer => leading.hear(Leader::Nobody),
                Ok(Bid::Lost(leader)) => leading.hear(Leader::Other(leader)),
                Err(error) => {
                    tracing::warn!(%error, "nobody can be elected now");
                    leading.hear(Leader::Nobody);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Hangs up on nodes that dial a server that does not lead, so that they try the next at once. Until the answer is
/// dropped.
fn turn_away(listeners: &[TcpListener]) -> Result<JoinSet<()>, ServerError> {
    let mut turning = JoinSet::new();
    for listener in listeners {
        let fault = |cause| ServerError::Listener {
            address: "a node listener".into(),
            cause,
        };
        let address = listener.local_addr().map_err(fault)?;
        let listener = to_tokio(listener.try_clone().map_err(fault)?, address)?;
        turning.spawn(async move {
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(POLL).await;
                }
            }
        });
    }
    Ok(turning)
}

/// Waits for every part. The first that fails ends the others.
async fn finish(mut parts: Parts, stop: &CancellationToken) -> Result<(), ServerError> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(ServerError::Broken(error.to_string())));
        if let (Err(error), true) = (ended, outcome.is_ok()) {
            tracing::error!(%error, "the server ends");
            outcome = Err(error);
        }
        stop.cancel();
    }
    outcome
}

/// Forgets history older than [`HISTORY`].
async fn forget_history(objects: Arc<Objects>, stop: CancellationToken) -> Result<(), ServerError> {
    let mut old = *objects.changed().borrow();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(HISTORY) => {}
        }
        let now = *objects.changed().borrow();
        if let Err(error) = objects.compact(old).await {
            tracing::warn!(%error, "history can't be forgotten now; it is tried again");
            continue;
        }
        old = now;
    }
}

/// What is to be encrypted, and by which keys.
fn read_encryption(options: &ServerOptions) -> Result<Encryption, ServerError> {
    Ok(match (&options.encryption, &options.store) {
        (EncryptionOptions::Nothing, _) => Encryption::default(),
        (EncryptionOptions::Configured(path), _) => Encryption::read(path)?,
        (EncryptionOptions::OwnKey, StoreOptions::Embedded) => {
            Encryption::own(&options.data.join("encryption.yaml"))?
        }
        (EncryptionOptions::OwnKey, StoreOptions::Etcd(_)) => {
            return Err(EncryptionError::Several.into());
        }
    })
}

/// The embedded store's file.
fn store_file(options: &ServerOptions) -> Option<PathBuf> {
    matches!(options.store, StoreOptions::Embedded).then(|| options.data.join("store.redb"))
}

/// The store, and the same once more when it is one with elections.
async fn open_store(
    options: &ServerOptions,
) -> Result<(Arc<dyn Store>, Option<EtcdStore>), ServerError> {
    match &options.store {
        StoreOptions::Embedded => {
            let file = store_file(options).unwrap_or_default();
            let store = EmbeddedStore::open(&file)?;
            Ok((Arc::new(store), None))
        }
        StoreOptions::Etcd(etcd) => {
            let store = EtcdStore::open(etcd).await?;
            Ok((Arc::new(store.clone()), Some(store)))
        }
    }
}

fn bind_all(
    addresses: &[ListenAddress],
    option: &'static str,
) -> Result<Vec<(TcpListener, SocketAddr)>, ServerError> {
    let bind = |address: &ListenAddress| {
        let listener = address.bind(option)?;
        let bound = listener.local_addr().unwrap_or(address.address);
        Ok((listener, bound))
    };
    addresses.iter().map(bind).collect()
}

fn to_tokio(
    listener: TcpListener,
    address: SocketAddr,
) -> Result<tokio::net::TcpListener, ServerError> {
    let fault = |cause| ServerError::Listener {
        address: address.to_string(),
        cause,
    };
    listener.set_nonblocking(true).map_err(fault)?;
    tokio::net::TcpListener::from_std(listener).map_err(fault)
}

/// The first address that others can reach; otherwise the first.
fn advertised(bound: &[SocketAddr]) -> Option<SocketAddr> {
    let reachable =
        |address: &&SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
    bound.iter().find(reachable).or(bound.first()).copied()
}

/// The address at which this machine reaches the API.
fn local(bound: &[SocketAddr]) -> Option<SocketAddr> {
    let loopback = |address: &&SocketAddr| address.ip().is_loopback();
    let anywhere = bound.iter().find(|address| address.ip().is_unspecified());
    let anywhere =
        anywhere.map(|address| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()));
    bound
        .iter()
        .find(loopback)
        .copied()
        .or(anywhere)
        .or(bound.first().copied())
}

fn settings(options: &ServerOptions, base: Generation) -> Settings {
    Settings {
        base: Some(base),
        domain: options.cluster_domain.clone(),
        dns_vip: options.dns_vip,
        api_vip: options.api_vip,
        service_range: options.service_cidr,
        pod_range: options.pod_cidr,
        node_prefix: options.node_cidr_mask_size,
        ..Settings::default()
    }
}
