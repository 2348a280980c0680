//! What streams between a user and a node: logs, exec, port-forward, flows; and binding, the one other subresource of a
//! pod that is not plain data. The node's agent does the work; here its frames become HTTP, WebSocket messages and SPDY frames.

mod channel;
mod conversation;
mod exec;
mod flows;
mod forward;
mod logs;
mod spdy;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod tunnel;
mod upgrade;

use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use waggle_api::Status;

use crate::leading::Leading;
use crate::objects::Objects;

/// What streams are made of.
#[derive(Debug, Clone)]
pub struct Streams {
    /// Where pods are found.
    pub objects: Arc<Objects>,
    /// How their nodes are reached.
    pub leading: Leading,
}

/// Serves `flows` of waggle.dev/v1, and `/api/v1/namespaces/{namespace}/pods/{name}/` log, exec, portforward, attach and binding. Callers are
/// authenticated and authorized before they come here.
pub fn router(streams: Streams) -> Router {
    const POD: &str = "/api/v1/namespaces/{namespace}/pods/{name}";
    Router::new()
        .route("/apis/waggle.dev/v1/flows", get(flows::of_cluster))
        .route(
            "/apis/waggle.dev/v1/namespaces/{namespace}/flows",
            get(flows::of_namespace),
        )
        .route(&format!("{POD}/log"), get(logs::serve))
        .route(&format!("{POD}/exec"), get(exec::serve).post(exec::serve))
        .route(
            &format!("{POD}/portforward"),
            get(forward::serve).post(forward::serve),
        )
        .route(
            &format!("{POD}/attach"),
            get(exec::attach).post(exec::attach),
        )
        .route(&format!("{POD}/binding"), post(bind))
        .route(
            "/api/v1/namespaces/{namespace}/bindings",
            post(bind_by_body),
        )
        .with_state(streams)
}

/// A [`Status`] as a response.
pub(crate) fn refusal(status: &Status) -> Response {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        status.to_value().to_string(),
    )
        .into_response()
}

async fn bind(
    State(streams): State<Streams>,
    Path((namespace, name)): Path<(String, String)>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(body)) => bound(&streams, &namespace, &name, &body).await,
        Err(rejection) => refusal(&Status::bad_request(rejection.body_text())),
    }
}

async fn bind_by_body(
    State(streams): State<Streams>,
    Path(namespace): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(body)) => {
            let name = body["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            bound(&streams, &namespace, &name, &body).await
        }
        Err(rejection) => refusal(&Status::bad_request(rejection.body_text())),
    }
}

async fn bound(streams: &Streams, namespace: &str, name: &str, body: &Value) -> Response {
    let node = body["target"]["name"].as_str().unwrap_or_default();
    let kind = body["target"]["kind"].as_str().unwrap_or("Node");
    if node.is_empty() || !matches!(kind, "" | "Node") {
        return refusal(&Status::bad_request(
            "a Binding's target must be a Node with a name (target.name)",
        ));
    }
    let uid = body["metadata"]["uid"].as_str().unwrap_or_default();
    match streams.objects.bind(namespace, name, uid, node).await {
        Ok(()) => {
            let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            (StatusCode::CREATED, Json(success)).into_response()
        }
        Err(status) => refusal(&status),
    }
}
