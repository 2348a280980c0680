//! `pods/{name}/exec` and `attach`: what is asked for, and by which transport it is served.

use axum::extract::{Path, Query, State};
use axum::response::Response;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;

use super::channel::{V4, V5, serve_command};
use super::spdy::{self, Wanted};
use super::target::Target;
use super::upgrade::Upgrade;
use super::{Streams, refusal};
use crate::sessions::StreamEnds;

type Pairs = Query<Vec<(String, String)>>;

pub(super) async fn serve(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let opened = open(&streams, &namespace, &name, &pairs);
    serve_over(upgrade, wanted(&pairs), opened).await
}

pub(super) async fn attach(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    Query(pairs): Pairs,
    upgrade: Upgrade,
) -> Response {
    let opened = open_attached(&streams, &namespace, &name, &pairs);
    serve_over(upgrade, wanted(&pairs), opened).await
}

/// Answers with the upgrade, once `opened` gives what is carried; a refusal is a plain answer.
async fn serve_over(
    upgrade: Upgrade,
    wanted: Wanted,
    opened: impl Future<Output = Result<StreamEnds, Status>>,
) -> Response {
    match upgrade {
        Upgrade::WebSocket(upgrade) => match opened.await {
            Ok(ends) => upgrade
                .protocols([V5, V4])
                .on_upgrade(|socket| serve_command(socket, ends)),
            Err(status) => refusal(&status),
        },
        Upgrade::Spdy(upgrade) => {
            let agreed = match upgrade.agree(spdy::COMMAND_PROTOCOLS) {
                Ok(agreed) => agreed,
                Err(answer) => return answer,
            };
            let protocol = agreed.protocol;
            match opened.await {
                Ok(ends) => agreed.answer(move |connection| {
                    spdy::serve_command(connection, protocol, wanted, ends)
                }),
                Err(status) => refusal(&status),
            }
        }
    }
}

fn wanted(pairs: &[(String, String)]) -> Wanted {
    let [stdin, stdout, stderr, tty] =
        ["stdin", "stdout", "stderr", "tty"].map(|key| is(pairs, key));
    Wanted {
        stdin,
        stdout,
        stderr,
        tty,
    }
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
    let Wanted {
        stdin,
        stdout,
        stderr,
        ..
    } = wanted(pairs);
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
    let Wanted {
        stdin,
        stdout,
        stderr,
        tty,
    } = wanted(pairs);
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
