//! Answers that are no objects: version, health, discovery, OpenAPI. The documents themselves are made in `waggle-api`.

use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use waggle_api::discovery::{self, Aggregated, Version};
use waggle_api::{Status, openapi};

use super::accept::aggregated;
use super::answer::{bytes, json as document, refusal};
use crate::run::ServerState;

/// GET /version.
pub(super) async fn version() -> Response {
    let platform = format!("{}/{}", std::env::consts::OS, go_architecture());
    let version = Version::new(env!("CARGO_PKG_VERSION"), &platform);
    document(
        StatusCode::OK,
        &serde_json::to_value(version).unwrap_or_default(),
    )
}

/// As Go, and so Kubernetes, calls it.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn text(code: StatusCode, text: impl Into<String>) -> Response {
    bytes(code, "text/plain; charset=utf-8", Bytes::from(text.into()))
}

/// GET /livez: the process answers.
pub(super) async fn alive(uri: Uri) -> Response {
    checked(&uri, &Ok(()))
}

/// GET /readyz: the store can be read and the cache follows it.
pub(super) async fn ready(State(state): State<ServerState>, uri: Uri) -> Response {
    checked(&uri, &state.objects.check().await)
}

/// The outcome of the checks, one by one where `?verbose` asks for that or one has failed.
fn checked(uri: &Uri, store: &Result<(), Status>) -> Response {
    let name = uri.path().split('/').nth(1).unwrap_or_default();
    let verbose = uri.query().is_some_and(|query| {
        query
            .split('&')
            .any(|one| one.split('=').next() == Some("verbose"))
    });
    let mut lines = "[+]ping ok\n".to_owned();
    match store {
        Ok(()) if !verbose => text(StatusCode::OK, "ok"),
        Ok(()) => {
            if name != "livez" {
                lines.push_str("[+]store ok\n");
            }
            text(StatusCode::OK, format!("{lines}{name} check passed\n"))
        }
        Err(status) => {
            lines.push_str(&format!("[-]store failed: {status}\n"));
            let lines = format!("{lines}{name} check failed\n");
            text(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
    }
}

/// GET /api.
pub(super) async fn core_versions(
    State(state): State<ServerState>,
    headers: HeaderMap,
) -> Response {
    match aggregated(&headers) {
        Some(form) => aggregate(
            form,
            &discovery::aggregated_core(&state.objects.kinds(), form),
        ),
        None => document(
            StatusCode::OK,
            &discovery::versions(&state.advertise.to_string()),
        ),
    }
}

/// GET /apis.
pub(super) async fn groups(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    let kinds = state.objects.kinds();
    match aggregated(&headers) {
        Some(form) => aggregate(form, &discovery::aggregated_groups(&kinds, form)),
        None => document(StatusCode::OK, &discovery::groups(&kinds)),
    }
}

fn aggregate(form: Aggregated, value: &Value) -> Response {
    bytes(
        StatusCode::OK,
        discovery::aggregated_media_type(form),
        Bytes::from(value.to_string()),
    )
}

fn found(value: Option<Value>) -> Response {
    match value {
        Some(value) => document(StatusCode::OK, &value),
        None => refusal(&Status::unknown_path()),
    }
}

/// GET /apis/GROUP.
pub(super) async fn group(State(state): State<ServerState>, Path(group): Path<String>) -> Response {
    found(discovery::group(&state.objects.kinds(), &group))
}

/// GET /api/v1.
pub(super) async fn core_resources(State(state): State<ServerState>) -> Response {
    found(discovery::resources(&state.objects.kinds(), "", "v1"))
}

/// GET /apis/GROUP/VERSION.
pub(super) async fn resources(
    State(state): State<ServerState>,
    Path((group, version)): Path<(String, String)>,
) -> Response {
    let kinds = state.objects.kinds();
    found(discovery::resources(&kinds, &group, &version).filter(|_| !group.is_empty()))
}

/// GET /openapi/v2, as JSON or in the protobuf form.
pub(super) async fn openapi_v2(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    let kinds = state.objects.kinds();
    let accepted = headers
        .get_all(http::header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    if accepted
        .into_iter()
        .any(|value| value.contains("proto-openapi.spec.v2"))
    {
        // Named as asked for, but for the "@" that no parser of media types takes.
        let named = openapi::V2_PROTOBUF.replace('@', ".");
        return bytes(StatusCode::OK, &named, kinds.openapi_v2_protobuf());
    }
    bytes(StatusCode::OK, "application/json", kinds.openapi_v2_json())
}

/// GET /openapi/v3.
pub(super) async fn openapi_v3(State(state): State<ServerState>) -> Response {
    document(StatusCode::OK, &state.objects.kinds().openapi_v3_index())
}

/// GET /openapi/v3/PATH.
pub(super) async fn openapi_v3_group(
    State(state): State<ServerState>,
    Path(path): Path<String>,
) -> Response {
    match state.objects.kinds().openapi_v3(&path) {
        Some(value) => document(StatusCode::OK, value),
        None => refusal(&Status::unknown_path()),
    }
}
