//! `GET /backup`: the whole store at one revision, keys and Secrets included, for administrators. What it looks like is
//! `waggle_store::backup`'s.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use tokio_util::io::ReaderStream;
use waggle_api::Status;

use super::answer::refusal;
use crate::objects::Caller;
use crate::pki::ADMINISTRATORS;
use crate::run::ServerState;

/// Bytes that wait for a slow reader.
const BUFFER: usize = 256 << 10;

pub(super) async fn backup(
    State(state): State<ServerState>,
    Extension(caller): Extension<Arc<Caller>>,
) -> Response {
    let user = caller.user();
    if !user.is_some_and(|user| user.belongs_to(ADMINISTRATORS)) {
        let why = format!("only members of {ADMINISTRATORS} may have the whole store");
        return refusal(&Status::failure(403, "Forbidden", why));
    }
    let (mut input, output) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        // After a fault the body ends without the backup's end, which its reader sees.
        match state.objects.backup(&mut input).await {
            Ok(summary) => tracing::info!(?summary, "a backup was made"),
            Err(error) => tracing::error!(%error, "a backup broke off"),
        }
    });
    let mut response = Response::new(Body::from_stream(ReaderStream::new(output)));
    let binary = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, binary);
    response
}
