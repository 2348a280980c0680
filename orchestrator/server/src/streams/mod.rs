//! What streams between a user and a node: logs, exec, port-forward, proxies, flows. The node's agent does the work;
//! here its frames become HTTP, WebSocket messages and SPDY frames.

pub(crate) mod backends;
mod channel;
mod conversation;
mod exec;
mod flows;
mod forward;
mod logs;
mod proxy;
mod spdy;
mod target;
#[cfg(test)]
mod tests;
pub(crate) mod tunnel;
mod upgrade;

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
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

/// Serves `flows` of waggle.dev/v1, and `/api/v1/namespaces/{namespace}/pods/{name}/` log, exec, portforward, attach and proxy, and proxy of Services. Callers are
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
        .merge(proxies())
        .with_state(streams)
}

/// `proxy` of pods and Services: whatever stands below it is theirs.
fn proxies() -> Router<Streams> {
    ["", "/", "/{*path}"]
        .into_iter()
        .fold(Router::new(), |router, below| {
            let path =
                |kind| format!("/api/v1/namespaces/{{namespace}}/{kind}/{{name}}/proxy{below}");
            router
                .route(&path("pods"), any(proxy::to_pod))
                .route(&path("services"), any(proxy::to_service))
        })
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
