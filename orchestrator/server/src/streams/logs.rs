//! `pods/{name}/log`: a container's output as a body that grows while the request follows it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{Stream, unfold};
use serde::Deserialize;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::target::{Target, fault};
use super::{Streams, refusal};
use crate::sessions::StreamEnds;

/// How long an answer waits for the first line before its headers go out without one.
const FIRST_LINE: Duration = Duration::from_millis(500);

/// What a request for logs asks for.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LogOptions {
    container: String,
    #[serde(deserialize_with = "flag")]
    follow: bool,
    #[serde(deserialize_with = "flag")]
    previous: bool,
    #[serde(deserialize_with = "flag")]
    timestamps: bool,
    tail_lines: Option<i64>,
    since_seconds: Option<i64>,
    since_time: Option<jiff::Timestamp>,
    limit_bytes: Option<i64>,
}

/// As Go reads booleans in a query: `true`, `1`, `t`; empty is true.
pub(super) fn flag<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.as_str() {
        "true" | "True" | "TRUE" | "1" | "t" | "T" | "" => Ok(true),
        "false" | "False" | "FALSE" | "0" | "f" | "F" => Ok(false),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is neither true nor false"
        ))),
    }
}

pub(super) async fn serve(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    options: Result<Query<LogOptions>, QueryRejection>,
) -> Response {
    let opened = match options {
        Ok(Query(options)) => open(&streams, &namespace, &name, options).await,
        Err(rejection) => Err(Status::bad_request(rejection.body_text())),
    };
    match opened {
        Ok(body) => ([(header::CONTENT_TYPE, "text/plain")], body).into_response(),
        Err(status) => refusal(&status),
    }
}

async fn open(
    streams: &Streams,
    namespace: &str,
    name: &str,
    options: LogOptions,
) -> Result<Body, Status> {
    let target = Target::find(streams, namespace, name)?;
    let container = target.container(&options.container)?;
    let request = request(&target, container, &options, streams.objects.now())?;
    let mut ends = target.open(streams, Request::Logs(request)).await?;
    // A fault that comes at once is answered as one; later it can only break the body off.
    let first = match tokio::time::timeout(FIRST_LINE, next(&mut ends)).await {
        Ok(Piece::Fault(status)) => return Err(status),
        Ok(Piece::End) => return Ok(Body::empty()),
        Ok(Piece::Bytes(bytes)) => Some(bytes),
        Err(_) => None,
    };
    Ok(Body::from_stream(body(first, ends)))
}

fn request(
    target: &Target,
    container: String,
    options: &LogOptions,
    now: jiff::Timestamp,
) -> Result<v1::LogsRequest, Status> {
    let positive = |field: &str, value: Option<i64>, least: i64| match value {
        Some(value) if value < least => Err(Status::bad_request(format!(
            "{field} must be {least} or more, not {value}"
        ))),
        other => Ok(other),
    };
    let since_time = options
        .since_time
        .map(|time| (now.as_second() - time.as_second()).max(1));
    let since = positive("sinceSeconds", options.since_seconds, 1)?.or(since_time);
    Ok(v1::LogsRequest {
        pod: Some(target.pod.clone()),
        container,
        follow: options.follow,
        previous: options.previous,
        timestamps: options.timestamps,
        tail_lines: positive("tailLines", options.tail_lines, 0)?.unwrap_or(-1),
        since_seconds: since.unwrap_or(0),
        limit_bytes: positive("limitBytes", options.limit_bytes, 1)?.unwrap_or(0),
    })
}

enum Piece {
    Bytes(Bytes),
    End,
    Fault(Status),
}

async fn next(ends: &mut StreamEnds) -> Piece {
    loop {
        match ends.from_agent.message().await {
            Ok(Some(v1::StreamFrame {
                frame: Some(Frame::Stdout(bytes) | Frame::Stderr(bytes)),
            })) => {
                return Piece::Bytes(bytes);
            }
            Ok(Some(v1::StreamFrame {
                frame: Some(Frame::End(end)),
            })) => {
                return fault(&end).map_or(Piece::End, Piece::Fault);
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                return Piece::Fault(Status::internal("the node ended the log stream early"));
            }
            Err(status) => return Piece::Fault(Status::internal(status.message())),
        }
    }
}

fn body(
    first: Option<Bytes>,
    ends: StreamEnds,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    unfold((first, Some(ends)), async |(first, ends)| {
        let mut ends = ends?;
        if let Some(first) = first {
            return Some((Ok(first), (None, Some(ends))));
        }
        match next(&mut ends).await {
            Piece::Bytes(bytes) => Some((Ok(bytes), (None, Some(ends)))),
            Piece::End => None,
            Piece::Fault(status) => Some((Err(status), (None, None))),
        }
    })
}
