//! The audit log: one line of JSON (an audit.k8s.io/v1 Event) in a file for every stage of a request that the policy
//! names. What is noted of which request is `waggle-api`'s to say; here are the file, its rotation, and the bodies.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use waggle_api::access::Action;
use waggle_api::audit::{self, Level, Policy, Stage};
use waggle_api::{Status, protobuf};

use crate::http::input;
use crate::objects::Caller;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// The policy, YAML or JSON.
    pub policy: PathBuf,
    /// Where events are written.
    pub log: PathBuf,
    /// Bytes after which a new file is begun.
    pub largest: u64,
    /// Full files that are kept beside it.
    pub kept: usize,
}

/// What is wrong with the audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The policy.
    #[error("audit policy {path}: {cause}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// The field that is wrong, and what it may be.
        cause: String,
    },
    /// The log.
    #[error("can't write the audit log {path}: {cause}")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
}

/// Where a client connected from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// The log, open.
#[derive(Debug)]
pub struct AuditLog {
    policy: Policy,
    options: AuditOptions,
    file: Mutex<(File, u64)>,
}

impl AuditLog {
    /// Reads the policy and opens the log; what is in it stays.
    ///
    /// # Errors
    /// [`AuditError`]: the file, and what is wrong.
    pub fn open(options: AuditOptions) -> Result<Self, AuditError> {
        let broken = |cause: String| AuditError::Policy {
            path: options.policy.clone(),
            cause,
        };
        let text = std::fs::read_to_string(&options.policy).map_err(|e| broken(e.to_string()))?;
        let value: Value = serde_yaml_ng::from_str(&text).map_err(|e| broken(e.to_string()))?;
        let policy = Policy::read(&value).map_err(broken)?;
        let file = open(&options.log).map_err(|cause| AuditError::Log {
            path: options.log.clone(),
            cause,
        })?;
        Ok(Self {
            policy,
            options,
            file: Mutex::new(file),
        })
    }

    fn file(&self) -> MutexGuard<'_, (File, u64)> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an event: before the answer is sent, so that what a client has seen is in the log.
    fn write(&self, event: &Value) {
        let mut line = event.to_string();
        line.push('\n');
        let mut file = self.file();
        if file.1 > 0 && file.1 + line.len() as u64 > self.options.largest {
            match rotate(&self.options.log, self.options.kept) {
                Ok(fresh) => *file = fresh,
                Err(error) => tracing::error!(%error, "the audit log can't be rotated"),
            }
        }
        match file.0.write_all(line.as_bytes()) {
            Ok(()) => file.1 += line.len() as u64,
            Err(error) => tracing::error!(%error, "an event is missing from the audit log"),
        }
    }

    /// Begins to note a request; its body is read when the policy wants it and somebody will read it (`reads`). `None`
    /// when nothing is noted of it.
    ///
    /// # Errors
    /// 413 or 400 for a body that can't be read.
    pub(crate) async fn begin(
        &self,
        request: &mut Request,
        action: &Action,
        caller: &Caller,
        reads: bool,
        received: Timestamp,
    ) -> Result<Option<Record<'_>>, Status> {
        let decision = self.policy.decide(action, caller.sender());
        if decision.level == Level::None {
            return Ok(None);
        }
        let reads = reads && !action.resource.is_empty();
        let body = if reads && decision.level >= Level::Request {
            taken(request).await?
        } else {
            Value::Null
        };
        let path = request.uri().path();
        let address = request.extensions().get::<PeerAddress>();
        let id = uuid::Uuid::new_v4().to_string();
        let seen = audit::Request {
            id: &id,
            uri: &request.uri().to_string(),
            version: version(path),
            action,
            user: caller.sender(),
            stands_in_for: caller.impersonated(),
            address: address.map(|address| address.0.ip().to_canonical().to_string()),
            agent: header(request.headers()),
            received: &micros(received),
        };
        let mut event = seen.event(decision.level, Stage::RequestReceived, &micros(received));
        if decision.notes(Stage::RequestReceived) {
            self.write(&event);
        }
        if !body.is_null() {
            event["requestObject"] = body;
        }
        Ok(Some(Record {
            log: self,
            decision,
            event,
        }))
    }
}

/// A request that is being noted.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    log: &'a AuditLog,
    decision: audit::Decision<'a>,
    event: Value,
}

impl Record<'_> {
    /// Notes the answer.
    pub(crate) async fn end(
        mut self,
        caller: &Caller,
        response: Response,
        goes_on: bool,
        now: Timestamp,
    ) -> Response {
        let stage = if goes_on {
            Stage::ResponseStarted
        } else {
            Stage::ResponseComplete
        };
        if !self.decision.notes(stage) {
            return response;
        }
        let code = response.status();
        let wants = self.decision.level == Level::RequestResponse || !code.is_success();
        let (response, body) = if wants && !goes_on && is_json(response.headers()) {
            copied(response).await
        } else {
            (response, Value::Null)
        };
        self.event["stage"] = stage.word().into();
        self.event["stageTimestamp"] = micros(now).into();
        self.event["responseStatus"] = status(code, &body);
        if self.decision.level == Level::RequestResponse && !body.is_null() {
            self.event["responseObject"] = body;
        }
        for (key, value) in caller.annotations() {
            self.event["annotations"][key] = value.into();
        }
        self.log.write(&self.event);
        response
    }
}

fn status(code: StatusCode, body: &Value) -> Value {
    let mut status = json!({"metadata": {}, "code": code.as_u16()});
    if body["kind"] == "Status" {
        for field in ["status", "reason", "message"] {
            if !body[field].is_null() {
                status[field] = body[field].clone();
            }
        }
    }
    status
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

fn header(headers: &HeaderMap) -> &str {
    let value = headers.get(USER_AGENT);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// `v1` of `/apis/apps/v1/...`.
fn version(path: &str) -> &str {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match parts.next() {
        Some("api") => parts.next(),
        Some("apis") => parts.nth(1),
        _ => None,
    }
    .unwrap_or_default()
}

/// The body of a request, which keeps it.
async fn taken(request: &mut Request) -> Result<Value, Status> {
    let bytes = input::whole(std::mem::take(request.body_mut())).await?;
    let value = decoded(input::media_type(request.headers()), &bytes);
    *request.body_mut() = Body::from(bytes);
    Ok(value)
}

fn decoded(kind: &str, bytes: &Bytes) -> Value {
    if kind == protobuf::MEDIA_TYPE {
        return protobuf::parse(bytes).unwrap_or_default();
    }
    if kind.ends_with("yaml") {
        return input::from_yaml(bytes).unwrap_or_default();
    }
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// The body of an answer, which keeps it. One that breaks off stays broken off.
async fn copied(response: Response) -> (Response, Value) {
    let (head, body) = response.into_parts();
    match body.collect().await {
        Ok(all) => {
            let bytes = all.to_bytes();
            let value = serde_json::from_slice(&bytes).unwrap_or_default();
            (Response::from_parts(head, Body::from(bytes)), value)
        }
        Err(error) => {
            let broken = futures::stream::once(async move { Err::<Bytes, _>(error) });
            (
                Response::from_parts(head, Body::from_stream(broken)),
                Value::Null,
            )
        }
    }
}

fn micros(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Puts the full file aside as `NAME.1`, the one before as `NAME.2`, and begins another.
fn rotate(path: &Path, kept: usize) -> std::io::Result<(File, u64)> {
    let numbered = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..kept).rev() {
        match std::fs::rename(numbered(number), numbered(number + 1)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if kept == 0 {
        std::fs::remove_file(path)?;
    } else {
        std::fs::rename(path, numbered(1))?;
    }
    open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.yaml");
        let text = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]\n";
        std::fs::write(&policy, text).unwrap();
        let log = folder.path().join("audit.log");
        let options = AuditOptions {
            policy,
            log: log.clone(),
            largest: 20,
            kept: 2,
        };
        let audit = AuditLog::open(options).unwrap();
        for number in 0..7 {
            audit.write(&json!({"number": number}));
        }
        let lines = |name: &str| {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines("audit.log"), ["{\"number\":6}"]);
        assert_eq!(lines("audit.log.1"), ["{\"number\":5}"]);
        assert_eq!(lines("audit.log.2"), ["{\"number\":4}"]);
        assert!(!folder.path().join("audit.log.3").exists());
    }

    #[test]
    fn versions_are_read_from_paths() {
        for (path, expect) in [
            ("/api/v1/pods", "v1"),
            ("/apis/apps/v1/deployments", "v1"),
            ("/apis/autoscaling/v2/x", "v2"),
            ("/healthz", ""),
        ] {
            assert_eq!(version(path), expect, "{path}");
        }
    }
}
