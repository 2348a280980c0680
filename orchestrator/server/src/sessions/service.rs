//! The two services that nodes call, on every address that was given.

use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{Stream, TryStreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use waggle_wire::v1;
use waggle_wire::v1::enrolment_server::EnrolmentServer;
use waggle_wire::v1::node_server::{Node, NodeServer};

use super::enrol::{Desk, caller, issue};
use super::rendezvous::{FRAMES, StreamEnds};
use super::{Inner, SessionsError, account, session, static_pods, volumes};
use crate::http::{self, Callers};

/// How long a peer may take to say who it is or which stream it opens.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Largest message from an agent, in bytes.
const LARGEST: usize = 16 << 20;

/// Serves nodes until `stop`.
pub(super) async fn serve(
    inner: Arc<Inner>,
    listeners: Vec<TcpListener>,
    stop: CancellationToken,
) -> Result<(), SessionsError> {
    // Connections end with this, however it ends.
    let stop = stop.child_token();
    let _ends = stop.clone().drop_guard();
    let tls = inner.pki.server_tls().map_err(SessionsError::Tls)?;
    let node = NodeServer::new(Sill(Arc::clone(&inner))).max_decoding_message_size(LARGEST);
    let router = Routes::new(EnrolmentServer::new(Desk(Arc::clone(&inner))))
        .add_service(node)
        .prepare()
        .into_axum_router();
    let mut serving = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (tls, router) = (Arc::clone(&tls), router.clone());
        serving.push(http::serve(
            listener,
            Callers::Nodes,
            tls,
            router,
            stop.clone(),
        ));
    }
    let end = async {
        stop.cancelled().await;
        inner.links.close_all();
    };
    tokio::join!(join_all(serving), end);
    Ok(())
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
            let hello = match Box::pin(hello(&mut inbound, &node)).await {
                Ok(hello) => hello,
                Err(status) => return drop(down.send(Err(status)).await),
            };
            session::run(inner, node, hello, inbound, down).await;
        });
        let messages = ReceiverStream::new(messages);
        Ok(Response::new(Box::pin(messages.map_ok(|boxed| *boxed))))
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
