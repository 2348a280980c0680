//! A follower's way to the leader: what only the leader may answer (writes, and what needs a node) is handed on to it, in
//! the name of whoever asked. A leader is waited for, bounded, so that a failover is a pause and not an error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONNECTION, HOST, RETRY_AFTER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waggle_api::Status;

use crate::auth::User;
use crate::http::status_response;
use crate::leading::{Leader, Leading};

/// Who asked, as the follower knows it.
pub(crate) const REMOTE_USER: HeaderName = HeaderName::from_static("x-remote-user");
/// One header for each of their groups.
pub(crate) const REMOTE_GROUP: HeaderName = HeaderName::from_static("x-remote-group");
/// Their uid, if there is one.
pub(crate) const REMOTE_UID: HeaderName = HeaderName::from_static("x-remote-uid");
/// One header for each value of what else is known of them: the key and the value, JSON in base64, so that no key is
/// bent to fit a header's name.
pub(crate) const REMOTE_EXTRA: HeaderName = HeaderName::from_static("x-remote-extra");

/// How long a leader is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Rest between two attempts at a leader that can't be reached.
const REST: Duration = Duration::from_millis(200);
/// How often a silent connection is asked whether it lives, and how long that may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

type Stream = TokioIo<TlsStream<TcpStream>>;
type Sender = http2::SendRequest<Body>;

/// Connections to the leader, as a server of the cluster.
pub(crate) struct Forwarder {
    tls: TlsConnector,
    tls_http1: TlsConnector,
    open: tokio::sync::Mutex<Option<(String, Sender)>>,
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarder").finish_non_exhaustive()
    }
}

/// Whether only the leader may answer this.
pub(crate) fn is_leaders(request: &Request) -> bool {
    let path = request.uri().path();
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    !reads || request.headers().contains_key(UPGRADE) || needs_nodes(path)
}

/// Logs, flows, proxies and usage come from nodes, and nodes speak with the leader; and the scheduler is the leader's.
fn needs_nodes(path: &str) -> bool {
    if path.starts_with("/apis/metrics.k8s.io/") {
        return true;
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let below = match parts.as_slice() {
        ["apis", "waggle.dev", "v1", "flows"]
        | ["apis", "waggle.dev", "v1", "namespaces", _, "flows"]
        | [
            "apis",
            "waggle.dev",
            "v1",
            "namespaces",
            _,
            "schedulingexplanations",
            _,
        ] => {
            return true;
        }
        ["api", "v1", "componentstatuses", ..] => return true,
        ["api", "v1", "nodes", _, below, ..] => below,
        [
            "api",
            "v1",
            "namespaces",
            _,
            "pods" | "services",
            _,
            below,
            ..,
        ] => below,
        _ => return false,
    };
    ["log", "exec", "attach", "portforward", "proxy", "metrics"].contains(below)
}

impl Forwarder {
    /// With this server's certificate towards other servers.
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        let with = |protocol: &[u8]| {
            let mut config = ClientConfig::clone(&tls);
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Self {
            tls: with(b"h2"),
            tls_http1: with(b"http/1.1"),
            open: tokio::sync::Mutex::new(None),
        }
    }

    /// Hands the request on. Gives it back when this server has come to lead meanwhile.
    pub(crate) async fn forward(
        &self,
        leading: &Leading,
        user: Option<&User>,
        mut request: Request,
    ) -> Result<Response, Request> {
        let upgrade = request.headers().get(UPGRADE).cloned();
        sign(request.headers_mut(), user);
        let mut leader = leading.watch();
        let until = Instant::now() + PATIENCE;
        let mut why = "no server leads the cluster now".to_owned();
        while Instant::now() < until {
            let known = leader.borrow_and_update().clone();
            let address = match known {
                Leader::Us => return Err(request),
                Leader::Nobody => {
                    let _ = tokio::time::timeout(REST, leader.changed()).await;
                    continue;
                }
                Leader::Other(address) => address,
            };
            let sent = match &upgrade {
                Some(protocol) => self.upgraded(&address, protocol, &mut request).await,
                None => self.plain(&address, &mut request).await,
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(Fault::Unsent(cause)) => why = cause,
                Err(Fault::Unsure(cause)) => return Ok(unsure(&cause)),
            }
            let _ = tokio::time::timeout(REST, leader.changed()).await;
        }
        let mut response = status_response(&Status::unavailable(why));
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        Ok(response)
    }

    async fn plain(&self, address: &str, request: &mut Request) -> Result<Response, Fault> {
        let mut sender = self.sender(address).await?;
        if sender.ready().await.is_err() {
            self.forget(address).await;
            return Err(Fault::Unsent(format!(
                "the leader at {address} has hung up"
            )));
        }
        let request = taken(request, address, Version::HTTP_2);
        match sender.send_request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => {
                self.forget(address).await;
                Err(Fault::Unsure(format!("the leader at {address}: {error}")))
            }
        }
    }

    /// A connection of its own, whose ends are joined once the leader has agreed.
    async fn upgraded(
        &self,
        address: &str,
        protocol: &HeaderValue,
        request: &mut Request,
    ) -> Result<Response, Fault> {
        let stream = connect(&self.tls_http1, address).await?;
        let (mut sender, connection) = http1::handshake(stream)
            .await
            .map_err(|error| Fault::Unsent(format!("{address}: {error}")))?;
        tokio::spawn(connection.with_upgrades());
        let ours = hyper::upgrade::on(&mut *request);
        let mut outward = taken(request, address, Version::HTTP_11);
        let headers = outward.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        if let Ok(host) = HeaderValue::from_str(address) {
            headers.insert(HOST, host);
        }
        let mut response = sender
            .send_request(outward)
            .await
            .map_err(|error| Fault::Unsure(format!("{address}: {error}")))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let theirs = hyper::upgrade::on(&mut response);
            tokio::spawn(async move {
                let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
                    return;
                };
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                let joined = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
                tracing::debug!(?joined, "a forwarded stream ended");
            });
        }
        Ok(response.map(Body::new))
    }

    async fn sender(&self, address: &str) -> Result<Sender, Fault> {
        let mut open = self.open.lock().await;
        if let Some((known, sender)) = &*open
            && known == address
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let stream = connect(&self.tls, address).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1)
            .handshake(stream)
            .await
            .map_err(|error| Fault::Unsent(format!("{address}: {error}")))?;
        tokio::spawn(connection);
        *open = Some((address.to_owned(), sender.clone()));
        Ok(sender)
    }

    async fn forget(&self, address: &str) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|(known, _)| known == address) {
            *open = None;
        }
    }
}

/// Why a request got no answer.
enum Fault {
    /// It was not sent; it may be sent again.
    Unsent(String),
    /// It may have been carried out.
    Unsure(String),
}

async fn connect(tls: &TlsConnector, address: &str) -> Result<Stream, Fault> {
    let unsent = |error: &dyn std::fmt::Display| {
        Fault::Unsent(format!("the leader at {address} can't be reached: {error}"))
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| unsent(&error))?;
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        tls.connect(name, stream).await
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
        Ok(Err(error)) => Err(unsent(&error)),
        Err(_) => Err(unsent(&"no answer in time")),
    }
}

/// Puts down who asked, whatever the request says of that itself.
fn sign(headers: &mut HeaderMap, user: Option<&User>) {
    headers.remove(AUTHORIZATION);
    for name in [REMOTE_USER, REMOTE_GROUP, REMOTE_UID, REMOTE_EXTRA] {
        headers.remove(name);
    }
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    let Some(user) = user else { return };
    if let Some(name) = value(&user.name) {
        headers.insert(REMOTE_USER, name);
    }
    for group in user.groups.iter().filter_map(|group| value(group)) {
        headers.append(REMOTE_GROUP, group);
    }
    if let Some(uid) = value(&user.uid).filter(|_| !user.uid.is_empty()) {
        headers.insert(REMOTE_UID, uid);
    }
    let extra = user.extra.iter().filter_map(|one| value(&packed(one)));
    for one in extra {
        headers.append(REMOTE_EXTRA, one);
    }
}

fn packed(extra: &(String, Vec<String>)) -> String {
    // Texts always serialize.
    STANDARD.encode(serde_json::to_vec(extra).unwrap_or_default())
}

/// Who asked, as [`sign`] put it down.
pub(crate) fn signed_by(headers: &HeaderMap) -> Option<User> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let extra = |value: &HeaderValue| {
        let decoded = STANDARD.decode(value.as_bytes()).ok()?;
        serde_json::from_slice(&decoded).ok()
    };
    Some(User {
        name: headers.get(REMOTE_USER).map(text)?,
        uid: headers.get(REMOTE_UID).map(text).unwrap_or_default(),
        groups: headers.get_all(REMOTE_GROUP).iter().map(text).collect(),
        extra: headers
            .get_all(REMOTE_EXTRA)
            .iter()
            .filter_map(extra)
            .collect(),
    })
}

/// The request as it goes out; what is left behind is empty.
fn taken(request: &mut Request, address: &str, version: Version) -> http::Request<Body> {
    let mut outward = std::mem::take(request);
    let path = outward
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let uri = match version {
        Version::HTTP_2 => format!("https://{address}{path}").parse(),
        _ => path.parse::<Uri>(),
    };
    // It was parsed before.
    *outward.uri_mut() = uri.unwrap_or_default();
    *outward.version_mut() = version;
    for header in [CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE] {
        outward.headers_mut().remove(header);
    }
    outward.headers_mut().remove("keep-alive");
    outward.extensions_mut().clear();
    outward
}

fn unsure(cause: &str) -> Response {
    status_response(&Status::timeout(format!(
        "the request may or may not have been carried out: {cause}"
    )))
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, leaders: bool) {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(is_leaders(&request), leaders, "{method} {path}");
    }

    #[test]
    fn writes_and_what_needs_a_node_are_the_leaders() {
        check("GET", "/api/v1/namespaces/shop/pods/web", false);
        check("GET", "/api/v1/pods?watch=true", false);
        check("GET", "/api/v1/namespaces/shop/configmaps/log", false);
        check("GET", "/apis/apps/v1/deployments", false);
        check("POST", "/api/v1/namespaces/shop/pods", true);
        check("DELETE", "/api/v1/namespaces/shop/pods/web", true);
        check("GET", "/apis/waggle.dev/v1/flows?watch=true", true);
        let explanation = "/apis/waggle.dev/v1/namespaces/shop/schedulingexplanations/web-1";
        check("GET", explanation, true);
        check("GET", "/apis/waggle.dev/v1/namespaces/shop/flows", true);
        check("GET", "/apis/waggle.dev/v1/tenants", false);
        check("GET", "/api/v1/nodes/node1/proxy/metrics", true);
        check("GET", "/metrics", false);
        check(
            "GET",
            "/api/v1/namespaces/shop/pods/web/log?follow=true",
            true,
        );
        check(
            "GET",
            "/api/v1/namespaces/shop/services/web/proxy/a/b",
            true,
        );
        check("GET", "/apis/metrics.k8s.io/v1beta1/nodes", true);
    }

    #[test]
    fn nobody_signs_as_another() {
        let mut headers = HeaderMap::new();
        headers.insert(REMOTE_USER, HeaderValue::from_static("admin"));
        headers.insert(REMOTE_GROUP, HeaderValue::from_static("system:masters"));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        headers.insert(REMOTE_UID, HeaderValue::from_static("0"));
        headers.insert(REMOTE_EXTRA, HeaderValue::from_static("x"));
        let user = User {
            name: "eve".into(),
            groups: vec!["a".into(), "b".into()],
            uid: "7".into(),
            extra: vec![("example.com/Key%".into(), vec!["x".into(), "y z".into()])],
        };
        sign(&mut headers, Some(&user));
        assert_eq!(headers[REMOTE_USER], "eve");
        let groups: Vec<_> = headers.get_all(REMOTE_GROUP).iter().collect();
        assert_eq!(groups, ["a", "b"]);
        assert!(!headers.contains_key(AUTHORIZATION));
        assert_eq!(signed_by(&headers), Some(user));
        sign(&mut headers, None);
        assert!(headers.is_empty());
    }
}
