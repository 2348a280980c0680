//! Starts a server and ends it: store, objects, keys, controllers, node sessions, HTTP API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waggle_api::Status;
use waggle_store::{EmbeddedStore, Store};

use crate::controllers::{Controllers, Recorder, View};
use crate::http;
use crate::listen::{ListenAddress, ListenError};
use crate::objects::{Objects, ServiceNetwork};
use crate::options::ServerOptions;
use crate::pki::{Pki, PkiError};
use crate::sessions::{Numbers, Sessions, SessionsError, Settings};
use crate::usage::UsageRegistry;

/// How long history is kept: watches and continued lists may be this old.
const HISTORY: Duration = Duration::from_secs(300);

/// Why a server can't start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No address to serve the API on.
    #[error("no address to listen on: give --listen ADDRESS:PORT")]
    NoAddress,
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store.
    #[error(transparent)]
    Store(#[from] waggle_store::Error),
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
    /// A part of the server ended by a panic.
    #[error("a part of the server broke: {0}")]
    Broken(String),
}

/// What the HTTP API works with. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ServerState {
    /// The cluster's objects.
    pub objects: Arc<Objects>,
    /// What nodes and pods use.
    pub usage: Arc<UsageRegistry>,
    /// Nodes.
    pub sessions: Sessions,
    /// Keys and certificates.
    pub pki: Arc<Pki>,
    /// Where pods reach the API.
    pub advertise: SocketAddr,
    /// The server is to end.
    pub stop: CancellationToken,
}

/// Runs a server until `stop`; then lets running requests finish, bounded.
///
/// # Errors
/// [`ServerError`]: one sentence that names the file, address or object.
pub async fn run(options: ServerOptions, stop: CancellationToken) -> Result<(), ServerError> {
    let now = jiff::Timestamp::now();
    let listeners = bind_all(&options.listen, "--listen")?;
    let node_listeners = bind_all(&options.node_listen, "--node-listen")?;
    let bound: Vec<SocketAddr> = listeners.iter().map(|(_, address)| *address).collect();
    let advertise = options
        .advertise
        .or_else(|| advertised(&bound))
        .ok_or(ServerError::NoAddress)?;
    let pki = Arc::new(Pki::open(&options.data, &options.names(), now)?);
    let store = open_store(&options.data)?;
    let network = ServiceNetwork {
        range: options.service_cidr,
        kept: vec![options.api_vip, options.dns_vip],
    };
    let objects =
        Objects::open_with(Arc::clone(&store), Arc::new(jiff::Timestamp::now), network).await?;
    objects.bootstrap(options.api_vip, advertise).await?;
    let usage = Arc::new(UsageRegistry::default());
    let view = View::follow(&objects).await?;
    let numbers = Numbers::open(&objects)?;
    let recorder = Recorder::start(Arc::clone(&objects));
    let sessions = Sessions::new(
        Arc::clone(&objects),
        Arc::clone(&view),
        numbers.clone(),
        Arc::clone(&usage),
        recorder.clone(),
        settings(&options),
        Arc::clone(&pki),
    );
    let tls = pki.server_tls()?;
    let state = ServerState {
        objects: Arc::clone(&objects),
        usage,
        sessions: sessions.clone(),
        pki: Arc::clone(&pki),
        advertise,
        stop: stop.clone(),
    };
    let mut parts = JoinSet::new();
    let router = http::router(state);
    for (listener, address) in listeners {
        let listener = to_tokio(listener, address)?;
        let (tls, router, stop) = (Arc::clone(&tls), router.clone(), stop.clone());
        parts.spawn(async move {
            http::serve(listener, tls, router, stop).await;
            Ok(())
        });
    }
    let controllers = Controllers {
        objects: Arc::clone(&objects),
        view,
        numbers,
        recorder,
    };
    let end = stop.clone();
    parts.spawn(async move {
        controllers.run(end).await;
        Ok(())
    });
    let end = stop.clone();
    let node_listeners = node_listeners
        .into_iter()
        .map(|(listener, _)| listener)
        .collect();
    parts.spawn(async move {
        sessions
            .serve(node_listeners, end)
            .await
            .map_err(ServerError::from)
    });
    parts.spawn(forget_history(objects, stop.clone()));
    // Last, so that whoever sees it finds a server that answers.
    let url = format!("https://{}", local(&bound).unwrap_or(advertise));
    pki.write_kubeconfig(
        &options.data.join("admin.kubeconfig"),
        &url,
        &options.cluster_name,
    )?;
    tracing::info!(%url, data = %options.data.display(), "the server is up");
    let outcome = finish(parts, stop).await;
    store.close().await;
    outcome
}

/// Waits for every part. The first that fails ends the others.
async fn finish(
    mut parts: JoinSet<Result<(), ServerError>>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
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

fn open_store(data: &Path) -> Result<Arc<dyn Store>, ServerError> {
    Ok(Arc::new(EmbeddedStore::open(&data.join("store.redb"))?))
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

fn settings(options: &ServerOptions) -> Settings {
    Settings {
        domain: options.cluster_domain.clone(),
        dns_vip: options.dns_vip,
        api_vip: options.api_vip,
        service_range: options.service_cidr,
        pod_range: options.pod_cidr,
        ..Settings::default()
    }
}
