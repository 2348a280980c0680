//! Connections of clients and of nodes: TLS, HTTP/1.1 or HTTP/2, upgrades, and an end that lets running requests finish.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::audit::PeerAddress;
use crate::auth::PeerCertificate;

/// How long a client may take to agree on TLS, and to send a request's head.
const GREETING: Duration = Duration::from_secs(10);
/// How long running requests may go on after the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(5);
/// Rest after a failed accept (out of descriptors, mostly), so that it does not spin.
const REST: Duration = Duration::from_millis(50);
/// How often an idle HTTP/2 peer is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Requests of one connection at a time.
const STREAMS: u32 = 1000;
/// Bytes that wait for a node to take them, at most: what all nodes are told is not to be there once for each of thousands.
const WAITING: usize = 16 << 10;

/// Who calls a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Callers {
    /// Of any HTTP version, with upgrades.
    Clients,
    /// By HTTP/2, as gRPC has it. Whether one is still there is for others to find out.
    Nodes,
}

/// Serves `router` on `listener` until `stop`, then until its requests are done, bounded.
pub(crate) async fn serve(
    listener: TcpListener,
    callers: Callers,
    tls: Arc<ServerConfig>,
    router: Router,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
                connections.spawn(async move {
                    let router = Routed { router, peer };
                    if let Err(error) = connection(stream, callers, acceptor, router, stop).await {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FAREWELL, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(left = connections.len(), "requests were cut off");
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;
type Stream = TlsStream<TcpStream>;

/// What answers the requests of a connection.
struct Routed {
    router: Router,
    peer: SocketAddr,
}

async fn connection(
    stream: TcpStream,
    callers: Callers,
    acceptor: TlsAcceptor,
    to: Routed,
    stop: CancellationToken,
) -> Result<(), Fault> {
    stream.set_nodelay(true)?;
    let greeting = Box::pin(tokio::time::timeout(GREETING, acceptor.accept(stream)));
    let stream = greeting.await??;
    match callers {
        Callers::Clients => Box::pin(of_client(stream, to, stop)).await,
        Callers::Nodes => of_node(stream, to, stop).await,
    }
}

async fn of_client(stream: Stream, to: Routed, stop: CancellationToken) -> Result<(), Fault> {
    let service = to.service(&stream);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(GREETING);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_concurrent_streams(STREAMS);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn of_node(stream: Stream, to: Routed, stop: CancellationToken) -> Result<(), Fault> {
    let service = to.service(&stream);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(WAITING)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

impl Routed {
    fn service(
        self,
        stream: &Stream,
    ) -> impl hyper::service::Service<
        http::Request<Incoming>,
        Response = http::Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + use<> {
        let certificates = stream.get_ref().1.peer_certificates();
        let first = certificates.and_then(|chain| chain.first());
        let peer = PeerCertificate(first.map(|der| der.to_vec()));
        hyper::service::service_fn(move |request: http::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(PeerAddress(self.peer));
            self.router.clone().oneshot(request)
        })
    }
}
