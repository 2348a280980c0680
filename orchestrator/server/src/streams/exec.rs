//! `pods/{name}/exec` and `attach`: a WebSocket on one side, the agent's stream on the other.

use axum::extract::ws::{Message, WebSocket};
use axum::extract::{Path, Query, State};
use axum::response::Response;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::channel::{self, STDERR, STDOUT, Said};
use super::target::{Target, fault};
use super::{Streams, Upgrade, over_web_socket};
use crate::sessions::StreamEnds;

type Pairs = Query<Vec<(String, String)>>;

pub(super) async fn serve(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let opened = open(&streams, &namespace, &name, &pairs);
    over_web_socket("exec", upgrade, opened, bridge).await
}

pub(super) async fn attach(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let opened = open_attached(&streams, &namespace, &name, &pairs);
    over_web_socket("attach", upgrade, opened, bridge).await
}

/// A parameter of the query.
fn one<'a>(pairs: &'a [(String, String)], key: &str) -> Option<&'a str> {
    let found = pairs.iter().find(|(name, _)| name == key);
    found.map(|(_, value)| value.as_str())
}

fn is(pairs: &[(String, String)], key: &str) -> bool {
    matches!(
        one(pairs, key),
        Some("true" | "1" | "True" | "TRUE" | "t" | "T")
    )
}

async fn open_attached(
    streams: &Streams,
    namespace: &str,
    name: &str,
    pairs: &[(String, String)],
) -> Result<StreamEnds, Status> {
    let target = Target::find(streams, namespace, name)?;
    let (stdin, stdout, stderr) = (is(pairs, "stdin"), is(pairs, "stdout"), is(pairs, "stderr"));
    let request = v1::AttachRequest {
        container: target.container(one(pairs, "container").unwrap_or_default())?,
        pod: Some(target.pod.clone()),
        stdin,
        // Clients that name no stream want to see what is written.
        stdout: stdout || (!stdin && !stderr),
        stderr,
    };
    target.open(streams, Request::Attach(request)).await
}

async fn open(
    streams: &Streams,
    namespace: &str,
    name: &str,
    pairs: &[(String, String)],
) -> Result<StreamEnds, Status> {
    let target = Target::find(streams, namespace, name)?;
    let command: Vec<String> = pairs
        .iter()
        .filter(|(name, _)| name == "command")
        .map(|(_, value)| value.clone())
        .collect();
    if command.iter().all(String::is_empty) {
        return Err(Status::bad_request(
            "you must specify at least 1 command for the exec",
        ));
    }
    let [stdin, stdout, stderr, tty] =
        ["stdin", "stdout", "stderr", "tty"].map(|key| is(pairs, key));
    if !stdin && !stdout && !stderr {
        return Err(Status::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let request = v1::ExecRequest {
        container: target.container(one(pairs, "container").unwrap_or_default())?,
        pod: Some(target.pod.clone()),
        command,
        stdin,
        stdout,
        stderr: stderr && !tty,
        tty,
    };
    target.open(streams, Request::Exec(request)).await
}

/// Carries frames both ways until the command or the client ends.
async fn bridge(mut socket: WebSocket, mut ends: StreamEnds) {
    let outcome = loop {
        tokio::select! {
            message = socket.recv() => {
                let said = message.and_then(Result::ok).map_or(Said::Gone, channel::said);
                if said == Said::Gone {
                    // Dropping the stream tells the agent that nobody listens.
                    return;
                }
                if let Some(frame) = frame(said)
                    && ends.to_agent.send(Ok(frame)).await.is_err()
                {
                    tracing::debug!("an exec's input came after its end");
                }
            }
            frame = ends.from_agent.message() => {
                let message = match heard(frame) {
                    Heard::Output(message) => message,
                    Heard::Nothing => continue,
                    Heard::End(outcome) => break outcome,
                };
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        }
    };
    if socket.send(channel::ended(&outcome)).await.is_ok() {
        let close = axum::extract::ws::CloseFrame {
            code: 1000,
            reason: "".into(),
        };
        drop(socket.send(Message::Close(Some(close))).await);
    }
}

fn frame(said: Said) -> Option<v1::StreamFrame> {
    let frame = match said {
        Said::Stdin(bytes) => Frame::Stdin(bytes),
        Said::Resize(size) => Frame::Resize(size),
        Said::StdinClosed => Frame::StdinClosed(true),
        Said::Gone | Said::Nothing => return None,
    };
    Some(v1::StreamFrame { frame: Some(frame) })
}

enum Heard {
    Output(Message),
    Nothing,
    End(Result<i32, Status>),
}

fn heard(message: Result<Option<v1::StreamFrame>, tonic::Status>) -> Heard {
    match message {
        Ok(Some(v1::StreamFrame { frame: Some(frame) })) => match frame {
            Frame::Stdout(bytes) => Heard::Output(channel::message(STDOUT, &bytes)),
            Frame::Stderr(bytes) => Heard::Output(channel::message(STDERR, &bytes)),
            Frame::End(end) => Heard::End(fault(&end).map_or(Ok(end.exit_code), Err)),
            _ => Heard::Nothing,
        },
        Ok(Some(_)) => Heard::Nothing,
        Ok(None) => Heard::End(Err(Status::internal(
            "the node ended the command's stream early",
        ))),
        Err(status) => Heard::End(Err(Status::internal(status.message()))),
    }
}
