//! `pods/{name}/portforward`: over SPDY, also inside of a WebSocket, as many connections as the client opens; over a plain
//! WebSocket one to each port of the request: for the port number i, channel 2i carries data and channel 2i+1 an error. The
//! first message of each channel from the server is its port, two bytes, low byte first.

use std::collections::HashMap;

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;

use super::channel::{self, V4, V5};
use super::conversation::{HungUp, Listen, Said, Speak, Told, bridge};
use super::spdy;
use super::target::Target;
use super::upgrade::Upgrade;
use super::{Streams, refusal};
use crate::sessions::StreamEnds;

/// Ports that one request may name.
const MOST_PORTS: usize = 64;
/// Messages on their way to a port or to the client.
const QUEUE: usize = 32;

type Pairs = Query<Vec<(String, String)>>;

pub(super) async fn serve(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let target = match Target::find(&streams, &namespace, &name) {
        Ok(target) => target,
        Err(status) => return refusal(&status),
    };
    let upgrade = match upgrade {
        Upgrade::WebSocket(upgrade) => upgrade.protocols([spdy::TUNNEL, V5, V4]),
        Upgrade::Spdy(upgrade) => {
            return match upgrade.agree(&[spdy::FORWARD_PROTOCOL]) {
                Ok(agreed) => agreed
                    .answer(move |connection| spdy::serve_forward(connection, streams, target)),
                Err(answer) => answer,
            };
        }
    };
    if upgrade
        .selected_protocol()
        .is_some_and(|one| one == spdy::TUNNEL)
    {
        return upgrade.on_upgrade(move |socket| {
            spdy::serve_forward(channel::tunnel(socket), streams, target)
        });
    }
    match open(&streams, &target, &pairs).await {
        Ok(opened) => upgrade.on_upgrade(move |socket| carry(socket, opened)),
        Err(status) => refusal(&status),
    }
}

async fn open(
    streams: &Streams,
    target: &Target,
    pairs: &[(String, String)],
) -> Result<Vec<(u16, StreamEnds)>, Status> {
    let mut opened = Vec::new();
    for port in ports(pairs)? {
        let request = v1::PortForwardRequest {
            pod: Some(target.pod.clone()),
            port: port.into(),
        };
        opened.push((
            port,
            target.open(streams, Request::PortForward(request)).await?,
        ));
    }
    Ok(opened)
}

fn ports(pairs: &[(String, String)]) -> Result<Vec<u16>, Status> {
    let texts = pairs
        .iter()
        .filter(|(key, _)| key == "ports")
        .flat_map(|(_, value)| value.split(','));
    let ports = texts.map(|text| match text.trim().parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Status::bad_request(format!(
            "ports: {text:?} is not a port (1 to 65535)"
        ))),
    });
    let ports: Vec<u16> = ports.collect::<Result<_, _>>()?;
    match ports.len() {
        0 => Err(Status::bad_request(
            "at least 1 port must be specified (ports)",
        )),
        1..=MOST_PORTS => Ok(ports),
        many => Err(Status::bad_request(format!(
            "{many} ports are more than the {MOST_PORTS} that are served at once"
        ))),
    }
}

/// Carries data of every port both ways until all have ended or the client has.
async fn carry(socket: WebSocket, ports: Vec<(u16, StreamEnds)>) {
    let (mut to_client, mut from_client) = socket.split();
    let (out, mut messages) = mpsc::channel(QUEUE);
    let mut inputs = Inputs::new();
    for (data, (port, ends)) in (0..u8::MAX).step_by(2).zip(ports) {
        for channel in [data, data + 1] {
            let first = channel::message(channel, &port.to_le_bytes());
            if to_client.send(first).await.is_err() {
                return;
            }
        }
        let (input, said) = mpsc::channel(QUEUE);
        inputs.insert(data, input);
        let mut channels = Channels {
            data,
            out: out.clone(),
        };
        tokio::spawn(async move { bridge(&mut Received(said), &mut channels, ends).await });
    }
    drop(out);
    let inward = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) => pass_on(&inputs, bytes).await,
                Message::Close(_) => return,
                _ => {}
            }
        }
    };
    let outward = async {
        while let Some(message) = messages.recv().await {
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        drop(
            to_client
                .send(Message::Close(Some(channel::normal())))
                .await,
        );
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

/// Towards each port, by its data channel.
type Inputs = HashMap<u8, mpsc::Sender<Said>>;

async fn pass_on(inputs: &Inputs, bytes: Bytes) {
    let (channel, said) = match *bytes {
        [channel::CLOSE, closed, ..] => (closed, Said::StdinClosed),
        [channel, ..] => (channel, Said::Stdin(bytes.slice(1..))),
        [] => return,
    };
    if let Some(input) = inputs.get(&channel) {
        // A port that has ended takes no more.
        drop(input.send(said).await);
    }
}

/// What a client says to one of several ports, as it was told apart.
pub(super) struct Received(pub(super) mpsc::Receiver<Said>);

impl Listen for Received {
    async fn hear(&mut self) -> Option<Said> {
        self.0.recv().await
    }
}

/// A port's two channels.
struct Channels {
    data: u8,
    out: mpsc::Sender<Message>,
}

impl Speak for Channels {
    async fn tell(&mut self, told: Told) -> Result<(), HungUp> {
        let message = match told {
            Told::Stdout(bytes) => channel::message(self.data, &bytes),
            Told::End(Err(status)) => channel::message(self.data + 1, status.message.as_bytes()),
            Told::Stderr(_) | Told::End(Ok(_)) => return Ok(()),
        };
        self.out.send(message).await.map_err(|_| HungUp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], expect: Result<&[u16], &str>) {
        let pairs: Vec<_> = values
            .iter()
            .map(|value| ("ports".to_owned(), (*value).to_owned()))
            .collect();
        let found = ports(&pairs).map_err(|status| status.message);
        assert_eq!(found.as_deref().map_err(String::as_str), expect);
    }

    #[test]
    fn ports_are_read_one_by_one_or_in_a_list() {
        check(&["80"], Ok(&[80]));
        check(&["80", "443,8080"], Ok(&[80, 443, 8080]));
        check(&[], Err("at least 1 port must be specified (ports)"));
        check(&["0"], Err("ports: \"0\" is not a port (1 to 65535)"));
        check(&["http"], Err("ports: \"http\" is not a port (1 to 65535)"));
    }
}
