//! Streams that the server asks for and the agent opens: logs, exec, port-forward. The request goes down the session,
//! the stream comes back by its number.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use waggle_wire::v1;

use super::links::Links;

/// How long a node may take to open a stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// Frames on their way to an agent.
pub(crate) const FRAMES: usize = 32;

/// Why there is no stream. Worded for the user who asked for logs or exec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenFault {
    /// The node has no session with this server.
    #[error("node {node:?} is not connected to the server")]
    NotConnected {
        /// Node.
        node: String,
    },
    /// It has one, but its agent did not open the stream.
    #[error("node {node:?} did not answer within {} seconds", PATIENCE.as_secs())]
    NoAnswer {
        /// Node.
        node: String,
    },
}

/// The server's ends of a stream with an agent.
#[derive(Debug)]
pub struct StreamEnds {
    /// Frames to the agent; dropped to end the stream.
    pub to_agent: mpsc::Sender<Result<v1::StreamFrame, tonic::Status>>,
    /// Frames from it.
    pub from_agent: tonic::Streaming<v1::StreamFrame>,
}

#[derive(Debug)]
struct Waiting {
    node: String,
    caller: oneshot::Sender<StreamEnds>,
}

/// Streams asked for and not yet opened, by number.
#[derive(Debug, Default)]
pub(crate) struct Rendezvous {
    waiting: Mutex<HashMap<String, Waiting>>,
}

impl Rendezvous {
    pub(super) async fn open(
        &self,
        links: &Links,
        node: &str,
        request: v1::open_stream::Request,
    ) -> Result<StreamEnds, OpenFault> {
        let not_connected = || OpenFault::NotConnected {
            node: node.to_owned(),
        };
        let link = links.get(node).ok_or_else(not_connected)?;
        let stream = uuid::Uuid::new_v4().to_string();
        let (caller, opened) = oneshot::channel();
        self.lock().insert(
            stream.clone(),
            Waiting {
                node: node.to_owned(),
                caller,
            },
        );
        let withdraw = Withdraw {
            rendezvous: self,
            stream: &stream,
        };
        if !link.request(v1::OpenStream {
            stream: stream.clone(),
            request: Some(request),
        }) {
            return Err(not_connected());
        }
        let opened = tokio::select! {
            () = link.ended.cancelled() => return Err(not_connected()),
            opened = tokio::time::timeout(PATIENCE, opened) => opened,
        };
        drop(withdraw);
        match opened {
            Ok(Ok(ends)) => Ok(ends),
            _ => Err(OpenFault::NoAnswer {
                node: node.to_owned(),
            }),
        }
    }

    /// Brings a stream that the agent of `node` has opened to whoever asked for it.
    pub(super) fn arrive(
        &self,
        node: &str,
        stream: &str,
        ends: StreamEnds,
    ) -> Result<(), tonic::Status> {
        let mut waiting = self.lock();
        let mine = waiting.get(stream).is_some_and(|one| one.node == node);
        let found = mine.then(|| waiting.remove(stream)).flatten();
        drop(waiting);
        let unknown = || tonic::Status::not_found(format!("nobody asked for stream {stream:?}"));
        found
            .ok_or_else(unknown)?
            .caller
            .send(ends)
            .map_err(|_| unknown())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a request back, also when its caller went away.
struct Withdraw<'a> {
    rendezvous: &'a Rendezvous,
    stream: &'a str,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.rendezvous.lock().remove(self.stream);
    }
}
