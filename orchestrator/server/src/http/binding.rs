//! Binding a pod to a node, as schedulers of others do it: POST to `pods/NAME/binding`, or to `bindings` with the name in the body.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use waggle_api::Status;

use super::answer::{json as document, refusal};
use super::input;
use super::query::Query;
use crate::objects::Objects;
use crate::run::ServerState;

/// POST to the pod.
pub(super) async fn of_pod(
    State(state): State<ServerState>,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(&state.objects, &namespace, Some(&name), request).await
}

/// POST to the namespace's `bindings`.
pub(super) async fn by_body(
    State(state): State<ServerState>,
    Path(namespace): Path<String>,
    request: Request,
) -> Response {
    answer(&state.objects, &namespace, None, request).await
}

async fn answer(
    objects: &Objects,
    namespace: &str,
    name: Option<&str>,
    request: Request,
) -> Response {
    match bind(objects, namespace, name, request).await {
        Ok(()) => {
            let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            document(StatusCode::CREATED, &success)
        }
        Err(status) => refusal(&status),
    }
}

async fn bind(
    objects: &Objects,
    namespace: &str,
    name: Option<&str>,
    request: Request,
) -> Result<(), Status> {
    let dry_run = Query::parse(request.uri())?.dry_run;
    let (body, _) = input::value(request).await?;
    let text = |part: &str, field: &str| body[part][field].as_str().unwrap_or_default();
    let named = text("metadata", "name");
    let name = name.unwrap_or(named);
    if !named.is_empty() && named != name {
        return Err(Status::bad_request(format!(
            "the name of the Binding ({named}) does not match the pod's ({name})"
        )));
    }
    let node = text("target", "name");
    if node.is_empty() || !matches!(text("target", "kind"), "" | "Node") {
        return Err(Status::bad_request(
            "a Binding's target must be a Node with a name (target.name)",
        ));
    }
    let uid = text("metadata", "uid");
    if dry_run {
        objects.may_bind(namespace, name, uid, node)
    } else {
        objects.bind(namespace, name, uid, node).await
    }
}
