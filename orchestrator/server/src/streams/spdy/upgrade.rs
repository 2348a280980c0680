//! The upgrade of an HTTP/1.1 connection to SPDY/3.1 and the choice of what is spoken over it.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONNECTION, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use waggle_api::Status;

use super::super::refusal;

/// What is spoken over the streams: each one that the client knows, then the one that was chosen.
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What the server knows, when nothing fits.
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// The connection once it is a byte stream.
pub(in super::super) type Connection = TokioIo<hyper::upgrade::Upgraded>;

/// A client's wish for SPDY/3.1.
pub(in super::super) struct Upgrade {
    connection: OnUpgrade,
    offered: Vec<String>,
}

/// The same, with what will be spoken.
pub(in super::super) struct Agreed {
    connection: OnUpgrade,
    /// One of those that the server knows.
    pub(in super::super) protocol: &'static str,
}

impl Upgrade {
    /// Takes it from a request that has it.
    pub(in super::super) fn take(parts: &mut Parts) -> Option<Self> {
        let asked = parts.headers.get(UPGRADE)?.to_str().ok()?;
        if !asked.eq_ignore_ascii_case(SPDY) {
            return None;
        }
        Some(Self {
            connection: parts.extensions.remove::<OnUpgrade>()?,
            offered: offered(&parts.headers),
        })
    }

    /// Chooses among the protocols that the server knows, the client's favourite first. A client that names none gets the last of them.
    ///
    /// # Errors
    /// The answer when nothing fits: 403 with what would.
    #[expect(clippy::result_large_err, reason = "an answer is an answer")]
    pub(in super::super) fn agree(
        self,
        known: &'static [&'static str],
    ) -> Result<Agreed, Response> {
        let find = |offered: &String| known.iter().find(|known| *known == offered);
        let chosen = match self.offered.as_slice() {
            [] => known.last(),
            offered => offered.iter().find_map(find),
        };
        let Some(protocol) = chosen else {
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                self.offered.join(" "),
                known.join(" ")
            );
            let mut response = refusal(&Status::failure(403, "Forbidden", &message));
            for known in known {
                let value = HeaderValue::from_static(known);
                response.headers_mut().append(ACCEPTED_VERSIONS, value);
            }
            return Err(response);
        };
        Ok(Agreed {
            connection: self.connection,
            protocol,
        })
    }
}

impl Agreed {
    /// Answers with the upgrade, and has `serve` speak once the connection is there.
    pub(in super::super) fn answer<F>(
        self,
        serve: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let connection = self.connection;
        tokio::spawn(async move {
            match connection.await {
                Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "an upgrade to SPDY came to nothing"),
            }
        });
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static(SPDY));
        headers.insert(PROTOCOL_VERSION, HeaderValue::from_static(self.protocol));
        response
    }
}

fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(PROTOCOL_VERSION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .collect()
}
