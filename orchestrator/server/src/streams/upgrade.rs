//! How a client asks for streams: a WebSocket, or SPDY/3.1 (kubectl before 1.30, and whatever can't speak WebSocket).

use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;
use http::header::UPGRADE;
use http::request::Parts;
use waggle_api::Status;

use super::refusal;
use super::spdy;

/// What a client asks for.
pub(super) enum Upgrade {
    /// With subprotocols in `Sec-WebSocket-Protocol`.
    WebSocket(WebSocketUpgrade),
    /// With subprotocols in `X-Stream-Protocol-Version`.
    Spdy(spdy::Upgrade),
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        if let Some(upgrade) = spdy::Upgrade::take(parts) {
            return Ok(Self::Spdy(upgrade));
        }
        match WebSocketUpgrade::from_request_parts(parts, state).await {
            Ok(upgrade) => Ok(Self::WebSocket(upgrade)),
            Err(rejection) => {
                let asked = parts.headers.get(UPGRADE);
                let asked = asked
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or("none");
                let message = format!(
                    "streams need an upgrade to a WebSocket or to SPDY/3.1 (asked for: {asked}): {rejection}"
                );
                Err(refusal(&Status::bad_request(message)))
            }
        }
    }
}
