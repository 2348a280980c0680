//! The node listener: mTLS on every address that was given, and the two services behind it.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{Stream, select_all};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use waggle_wire::v1;
use waggle_wire::v1::enrolment_server::EnrolmentServer;
use waggle_wire::v1::node_server::{Node, NodeServer};

use super::enrol::{Desk, caller, issue};
use super::rendezvous::{FRAMES, StreamEnds};
use super::{Inner, SessionsError, account, session, static_pods, volumes};

/// How long a peer may take to say who it is or which stream it opens.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// How long streams may go on after the server was told to end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Largest message from an agent, in bytes.
const LARGEST: usize = 16 << 20;

/// Serves nodes until `stop`.
pub(super) async fn serve(
    inner: Arc<Inner>,
    listeners: Vec<TcpListener>,
    stop: CancellationToken,
) -> Result<(), SessionsError> {
    if listeners.is_empty() {
        stop.cancelled().await;
        return Ok(());
    }
    let (own, authority) = (inner.pki.server(), inner.pki.ca_pem());
    // The authority goes along: an agent that joins knows it by its fingerprint only.
    let chain = format!("{}{authority}", own.certificate_pem);
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(chain, &own.key_pem))
        .client_ca_root(Certificate::from_pem(authority))
        .client_auth_optional(true);
    let mut incoming = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        // The server's own option is about listeners of its own only. Without it an answer's trailers wait 40 ms for the
        // other side to acknowledge what came before them.
        incoming.push(
            TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?)
                .with_nodelay(Some(true)),
        );
    }
    let node = NodeServer::new(Sill(Arc::clone(&inner))).max_decoding_message_size(LARGEST);
    let links = Arc::clone(&inner);
    let end = stop.clone();
    let served = Server::builder()
        .tls_config(tls)
        .map_err(SessionsError::Tls)?
        .add_service(EnrolmentServer::new(Desk(Arc::clone(&inner))))
        .add_service(node)
        .serve_with_incoming_shutdown(select_all(incoming), async move {
            end.cancelled().await;
            links.links.close_all();
        });
    tokio::select! {
        served = served => served.map_err(SessionsError::Ended),
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_WORDS).await } => Ok(()),
    }
}

/// The service for nodes with a certificate.
#[derive(Debug)]
struct Sill(Arc<Inner>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Sill {
    type SessionStream = Boxed<v1::FromServer>;
    type StreamStream = Boxed<v1::StreamFrame>;

    async fn session(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = caller(&request)?;
        let mut inbound = request.into_inner();
        let inner = Arc::clone(&self.0);
        let (down, messages) = mpsc::channel(session::QUEUE);
        // The answer's headers go first: an agent may wait for them before it says hello.
        tokio::spawn(async move {
            let hello = match hello(&mut inbound, &node).await {
                Ok(hello) => hello,
                Err(status) => return drop(down.send(Err(status)).await),
            };
            session::run(inner, node, hello, inbound, down).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn stream(
        &self,
        request: Request<Streaming<v1::StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let node = caller(&request)?;
        let mut from_agent = request.into_inner();
        let inner = Arc::clone(&self.0);
        let (to_agent, frames) = mpsc::channel(FRAMES);
        tokio::spawn(async move {
            let refused = to_agent.clone();
            let arrived = match stream_name(&mut from_agent).await {
                Ok(stream) => inner.rendezvous.arrive(
                    &node,
                    &stream,
                    StreamEnds {
                        to_agent,
                        from_agent,
                    },
                ),
                Err(status) => Err(status),
            };
            if let Err(status) = arrived {
                drop(refused.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        let node = caller(&request)?;
        let reply = issue(&self.0, &node, &request.into_inner().csr_pem)?;
        Ok(Response::new(reply))
    }

    async fn volumes(
        &self,
        request: Request<v1::VolumesRequest>,
    ) -> Result<Response<v1::VolumesReply>, Status> {
        let node = caller(&request)?;
        let reply = volumes::orders(&self.0, &node, &request.into_inner().removed).await;
        Ok(Response::new(reply))
    }

    async fn static_pods(
        &self,
        request: Request<v1::StaticPodsRequest>,
    ) -> Result<Response<v1::StaticPodsReply>, Status> {
        let node = caller(&request)?;
        let reply = static_pods::settle(&self.0, &node, request.into_inner().pods).await;
        Ok(Response::new(reply))
    }

    async fn token(
        &self,
        request: Request<v1::TokenRequest>,
    ) -> Result<Response<v1::TokenReply>, Status> {
        let node = caller(&request)?;
        let reply = account::token(&self.0, &node, &request.into_inner())?;
        Ok(Response::new(reply))
    }
}

async fn hello(inbound: &mut Streaming<v1::FromAgent>, node: &str) -> Result<v1::Hello, Status> {
    use v1::from_agent::Message;
    match first(inbound).await?.message {
        Some(Message::Hello(hello)) if hello.node == node => Ok(hello),
        Some(Message::Hello(hello)) => Err(Status::permission_denied(format!(
            "the certificate is node {node:?}'s, but the session says {:?}",
            hello.node
        ))),
        _ => Err(Status::invalid_argument("a session starts with hello")),
    }
}

async fn stream_name(inbound: &mut Streaming<v1::StreamFrame>) -> Result<String, Status> {
    match first(inbound).await?.frame {
        Some(v1::stream_frame::Frame::Stream(stream)) => Ok(stream),
        _ => Err(Status::invalid_argument("a stream starts with its name")),
    }
}

async fn first<T>(inbound: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(FIRST_WORD, inbound.message()).await;
    let message = message.map_err(|_| Status::deadline_exceeded("nothing was said"))??;
    message.ok_or_else(|| Status::aborted("ended before a word was said"))
}
