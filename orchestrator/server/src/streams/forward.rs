//! `pods/{name}/portforward` over WebSocket: for the port number i of the request, channel 2i carries data and channel
//! 2i+1 an error. The first message of each channel from the server is its port, two bytes, low byte first.

use std::collections::HashMap;

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use bytes::Bytes;
use tokio::sync::mpsc;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::channel;
use super::target::{Target, fault};
use super::{Streams, Upgrade, over_web_socket};
use crate::sessions::StreamEnds;

/// Ports that one request may name.
const MOST_PORTS: usize = 64;

type Pairs = Query<Vec<(String, String)>>;

pub(super) async fn serve(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let opened = open(&streams, &namespace, &name, &pairs);
    over_web_socket("port-forward", upgrade, opened, bridge).await
}

async fn open(
    streams: &Streams,
    namespace: &str,
    name: &str,
    pairs: &[(String, String)],
) -> Result<Vec<(u16, StreamEnds)>, Status> {
    let target = Target::find(streams, namespace, name)?;
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
async fn bridge(mut socket: WebSocket, ports: Vec<(u16, StreamEnds)>) {
    let (out, mut messages) = mpsc::channel::<Message>(32);
    let mut inputs = HashMap::new();
    for (index, (port, ends)) in ports.into_iter().enumerate() {
        let Ok(index) = u8::try_from(index) else {
            break;
        };
        let data = index * 2;
        for channel in [data, data + 1] {
            if socket
                .send(channel::message(channel, &port.to_le_bytes()))
                .await
                .is_err()
            {
                return;
            }
        }
        inputs.insert(data, ends.to_agent);
        tokio::spawn(carry_out(data, ends.from_agent, out.clone()));
    }
    drop(out);
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                None => break,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Binary(bytes))) => carry_in(&mut inputs, bytes).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            }
        }
    }
    drop(socket.send(Message::Close(None)).await);
}

type Inputs = HashMap<u8, mpsc::Sender<Result<v1::StreamFrame, tonic::Status>>>;

async fn carry_in(inputs: &mut Inputs, bytes: Bytes) {
    let Some(&channel) = bytes.first() else {
        return;
    };
    if channel == 255 {
        let closed = bytes.get(1).and_then(|closed| inputs.remove(closed));
        if let Some(input) = closed {
            let frame = v1::StreamFrame {
                frame: Some(Frame::StdinClosed(true)),
            };
            drop(input.send(Ok(frame)).await);
        }
    } else if let Some(input) = inputs.get(&channel) {
        let frame = v1::StreamFrame {
            frame: Some(Frame::Stdin(bytes.slice(1..))),
        };
        drop(input.send(Ok(frame)).await);
    }
}

async fn carry_out(
    data: u8,
    mut from_agent: tonic::Streaming<v1::StreamFrame>,
    out: mpsc::Sender<Message>,
) {
    loop {
        let message = match from_agent.message().await {
            Ok(Some(v1::StreamFrame {
                frame: Some(Frame::Stdout(bytes)),
            })) => channel::message(data, &bytes),
            Ok(Some(v1::StreamFrame {
                frame: Some(Frame::End(end)),
            })) => {
                if let Some(status) = fault(&end) {
                    drop(
                        out.send(channel::message(data + 1, status.message.as_bytes()))
                            .await,
                    );
                }
                return;
            }
            Ok(Some(_)) => continue,
            Ok(None) => return,
            Err(status) => {
                drop(
                    out.send(channel::message(data + 1, status.message().as_bytes()))
                        .await,
                );
                return;
            }
        };
        if out.send(message).await.is_err() {
            return;
        }
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
