//! Kubernetes' remote command protocol over WebSocket: each binary message starts with the number of its channel.
//! <https://github.com/kubernetes/enhancements/tree/master/keps/sig-api-machinery/4006-transition-spdy-to-websockets>

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::conversation::{FAREWELL, HungUp, Listen, Said, Speak, Told, bridge, outcome, size};
use crate::sessions::StreamEnds;

/// With half close of stdin.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// Without.
pub(super) const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// Carries one Status at the end.
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Says which channel is closed.
pub(super) const CLOSE: u8 = 255;

/// Bytes under way in each direction of a tunnel before the sender waits.
const BUFFER: usize = 64 << 10;

/// Serves a command: its streams on one side, the client's messages on the other.
pub(super) async fn serve_command(socket: WebSocket, ends: StreamEnds) {
    let (to_client, from_client) = socket.split();
    let (mut messages, mut channels) = (Messages(from_client), Channels(to_client));
    bridge(&mut messages, &mut channels, ends).await;
    // What the client still sends is read, or the connection's reset could take the end with it.
    let hung_up = async { while messages.hear().await.is_some() {} };
    drop(tokio::time::timeout(FAREWELL, hung_up).await);
}

/// From a command's client.
struct Messages(SplitStream<WebSocket>);

impl Listen for Messages {
    async fn hear(&mut self) -> Option<Said> {
        loop {
            match self.0.next().await? {
                Ok(Message::Binary(bytes)) => {
                    if let Some(said) = said(&bytes) {
                        return Some(said);
                    }
                }
                Ok(Message::Text(text)) => {
                    if let Some(said) = said(&Bytes::from(text)) {
                        return Some(said);
                    }
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) | Err(_) => return None,
            }
        }
    }
}

/// To a command's client.
struct Channels(SplitSink<WebSocket, Message>);

impl Speak for Channels {
    async fn tell(&mut self, told: Told) -> Result<(), HungUp> {
        let sent = match told {
            Told::Stdout(bytes) => self.0.send(message(STDOUT, &bytes)).await,
            Told::Stderr(bytes) => self.0.send(message(STDERR, &bytes)).await,
            Told::End(ended) => {
                let status = outcome(&ended).to_string();
                match self.0.send(message(ERROR, status.as_bytes())).await {
                    Ok(()) => self.0.send(Message::Close(Some(normal()))).await,
                    failed => failed,
                }
            }
        };
        sent.map_err(|_| HungUp)
    }
}

/// The code of an end that was meant.
pub(super) fn normal() -> CloseFrame {
    CloseFrame {
        code: 1000,
        reason: "".into(),
    }
}

/// Reads a client's message; `None` when it says nothing that matters here.
fn said(bytes: &Bytes) -> Option<Said> {
    match *bytes.first()? {
        STDIN if bytes.len() > 1 => Some(Said::Stdin(bytes.slice(1..))),
        RESIZE => size(&bytes[1..]).map(Said::Resize),
        CLOSE if bytes.get(1) == Some(&STDIN) => Some(Said::StdinClosed),
        _ => None,
    }
}

/// A message on a channel.
pub(super) fn message(channel: u8, payload: &[u8]) -> Message {
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(payload);
    Message::Binary(bytes.freeze())
}

/// The bytes that a WebSocket's binary messages make up, for another protocol to run over.
pub(super) fn tunnel(socket: WebSocket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    let (mut to_client, mut from_client) = socket.split();
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        while let Some(Ok(message)) = from_client.next().await {
            let written = match message {
                Message::Binary(bytes) => write.write_all(&bytes).await,
                Message::Close(_) => break,
                _ => Ok(()),
            };
            if written.is_err() {
                return;
            }
        }
        // The reader sees the end; where it is gone, there is nobody to tell.
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let bytes = Bytes::copy_from_slice(&buffer[..count]);
            if to_client.send(Message::Binary(bytes)).await.is_err() {
                return;
            }
        }
        drop(to_client.send(Message::Close(Some(normal()))).await);
    });
    ours
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_wire::v1;

    fn check(bytes: &[u8], expect: Option<Said>) {
        assert_eq!(said(&Bytes::copy_from_slice(bytes)), expect, "{bytes:?}");
    }

    #[test]
    fn messages_are_told_apart_by_their_first_byte() {
        check(b"\x00hi", Some(Said::Stdin(Bytes::from_static(b"hi"))));
        check(
            b"\x04{\"Width\":80,\"Height\":24}",
            Some(Said::Resize(v1::Resize {
                width: 80,
                height: 24,
            })),
        );
        check(b"\x04nonsense", None);
        check(&[255, 0], Some(Said::StdinClosed));
        check(&[255, 1], None);
        check(&[], None);
        check(&[0], None);
    }
}
