//! Port-forward: for every connection the client opens a pair of streams, one for data and one for the error that may end it,
//! with the same request number, the error's first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;

use super::super::Streams;
use super::super::conversation::{HungUp, Said, Speak, Told, bridge};
use super::super::forward::Received;
use super::super::target::Target;
use super::headers::Headers;
use super::session::{self, Event, Out, header};

/// What is spoken over the streams.
pub(in super::super) const PROTOCOL: &str = "portforward.k8s.io";
/// The same, with SPDY inside of a WebSocket.
pub(in super::super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Connections at once through one client.
const MOST: usize = 1024;
/// Frames on their way to a port. A port that does not read holds the client's other ones up once they are under way.
const QUEUE: usize = 32;

/// Serves every connection that the client opens to ports of `target` over `connection`.
pub(in super::super) async fn serve<T>(connection: T, streams: Streams, target: Target)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut session, out) = session::open(connection);
    let mut ports = Ports {
        streams,
        target: Arc::new(target),
        out,
        errors: HashMap::new(),
        inputs: HashMap::new(),
        running: JoinSet::new(),
    };
    // Dropping the connections under way ends them when the client is gone.
    while let Some(event) = session.next().await {
        let done = match event {
            Event::Opened {
                stream,
                headers,
                last,
            } => ports.opened(stream, &headers, last).await,
            Event::Data {
                stream,
                bytes,
                last,
            } => {
                ports.said(stream, bytes, last).await;
                Ok(())
            }
            Event::Reset { stream } => {
                ports.inputs.remove(&stream);
                Ok(())
            }
        };
        if done.is_err() {
            return;
        }
    }
}

struct Ports {
    streams: Streams,
    target: Arc<Target>,
    out: Out,
    /// Error streams by request and port, until their data streams are there.
    errors: HashMap<(String, u16), u32>,
    /// Towards connections, by data stream.
    inputs: HashMap<u32, mpsc::Sender<Said>>,
    running: JoinSet<()>,
}

impl Ports {
    async fn opened(&mut self, stream: u32, headers: &Headers, last: bool) -> Result<(), HungUp> {
        while self.running.try_join_next().is_some() {}
        self.inputs.retain(|_, input| !input.is_closed());
        let port = header(headers, "port").parse().unwrap_or(0);
        if port == 0 || self.running.len() + self.errors.len() >= MOST {
            return self.out.refuse(stream).await;
        }
        // Clients of old give no number: their error stream comes first, its data stream next.
        let request = |first: u32| match header(headers, "requestid") {
            "" => first.to_string(),
            request => request.to_owned(),
        };
        match header(headers, "streamtype") {
            "error" => {
                self.errors.insert((request(stream), port), stream);
                self.out.accept(stream).await
            }
            "data" => {
                let key = (request(stream.saturating_sub(2)), port);
                let Some(error) = self.errors.remove(&key) else {
                    return self.out.refuse(stream).await;
                };
                self.out.accept(stream).await?;
                self.connect(port, error, stream);
                self.said(stream, Bytes::new(), last).await;
                Ok(())
            }
            _ => self.out.refuse(stream).await,
        }
    }

    fn connect(&mut self, port: u16, error: u32, data: u32) {
        let (input, said) = mpsc::channel(QUEUE);
        self.inputs.insert(data, input);
        let (streams, target) = (self.streams.clone(), Arc::clone(&self.target));
        let mut output = Output {
            out: self.out.clone(),
            target: Arc::clone(&target),
            port,
            error,
            data,
        };
        self.running.spawn(async move {
            let request = v1::PortForwardRequest {
                pod: Some(target.pod.clone()),
                port: port.into(),
            };
            match target.open(&streams, Request::PortForward(request)).await {
                Ok(ends) => bridge(&mut Received(said), &mut output, ends).await,
                Err(status) => drop(output.tell(Told::End(Err(status))).await),
            }
            output.close().await;
        });
    }

    async fn said(&mut self, stream: u32, bytes: Bytes, last: bool) {
        let Some(input) = self.inputs.get(&stream) else {
            return;
        };
        let mut alive = bytes.is_empty() || input.send(Said::Stdin(bytes)).await.is_ok();
        if alive && last {
            alive = input.send(Said::StdinClosed).await.is_ok();
        }
        if !alive {
            self.inputs.remove(&stream);
        }
    }
}

/// To the client's end of one connection.
struct Output {
    out: Out,
    target: Arc<Target>,
    port: u16,
    error: u32,
    data: u32,
}

impl Speak for Output {
    async fn tell(&mut self, told: Told) -> Result<(), HungUp> {
        match told {
            Told::Stdout(bytes) => self.out.data(self.data, bytes).await,
            Told::End(Err(status)) => {
                let pod = &self.target.pod;
                let words = format!(
                    "error forwarding port {} to pod {}, uid {}: {}",
                    self.port, pod.name, pod.uid, status.message
                );
                self.out.data(self.error, words.into()).await
            }
            Told::Stderr(_) | Told::End(Ok(_)) => Ok(()),
        }
    }
}

impl Output {
    /// Ends both streams; a client that is gone needs no end.
    async fn close(&self) {
        for stream in [self.error, self.data] {
            drop(self.out.end(stream).await);
        }
    }
}
