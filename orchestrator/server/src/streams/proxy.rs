//! `proxy` of pods and Services: an HTTP request that is a pod's to answer, through its node; WebSockets and other upgrades too.
//! Who asks is known to this server alone: what they proved it by stays here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, LOCATION, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode, Uri};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::Value;
use tokio_rustls::TlsConnector;
use waggle_api::Status;

use super::backends::{self, Connection, Endpoint, Port, endpoints};
use super::{Streams, refusal, tunnel};
use crate::sessions::kind;

/// Headers that are between two neighbours.
const NEIGHBOURS: [HeaderName; 6] = [
    CONNECTION,
    http::header::PROXY_AUTHENTICATE,
    http::header::PROXY_AUTHORIZATION,
    http::header::TE,
    http::header::TRANSFER_ENCODING,
    UPGRADE,
];
/// What headers that say who asks begin with.
const IDENTITIES: [&str; 2] = ["impersonate-", "x-remote-"];
/// A port that nobody names.
const PORT: u16 = 80;

/// What stands before `proxy` in the path: `web`, `web:8080` or `https:web:8443`.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    tls: bool,
    name: &'a str,
    /// A number or, of a Service, a name; may be empty.
    port: &'a str,
}

impl<'a> Place<'a> {
    fn read(text: &'a str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => ("-", "", ""),
        };
        if name.is_empty() || !matches!(scheme, "" | "http" | "https") {
            return Err(Status::bad_request(format!(
                "invalid proxy request {text:?}"
            )));
        }
        Ok(Self {
            tls: scheme == "https",
            name,
            port,
        })
    }
}

type Names = Path<Vec<(String, String)>>;

fn named<'a>(names: &'a [(String, String)], wanted: &str) -> &'a str {
    let mut found = names.iter().filter(|(name, _)| name == wanted);
    found.next().map_or("", |(_, value)| value.as_str())
}

/// Any request below `pods/NAME/proxy`.
pub(super) async fn to_pod(
    State(streams): State<Streams>,
    Path(names): Names,
    request: Request,
) -> Response {
    let (namespace, name) = (named(&names, "namespace"), named(&names, "name"));
    let connecting = async {
        let place = Place::read(name)?;
        let port = pod_port(&streams, namespace, &place)?;
        let stream = tunnel::connect(&streams, namespace, place.name, port).await?;
        let stream: Box<dyn Connection> = Box::new(stream);
        Ok((stream, place.tls))
    };
    answer(connecting, request).await
}

fn pod_port(streams: &Streams, namespace: &str, place: &Place<'_>) -> Result<u16, Status> {
    if !place.port.is_empty() {
        let port = place.port.parse().ok().filter(|port| *port != 0);
        return port.ok_or_else(|| {
            Status::bad_request(format!("invalid pod request, port {:?}", place.port))
        });
    }
    let pods = kind("v1", "Pod")?;
    let pod = streams.objects.get(pods, namespace, place.name);
    let pod = pod.ok_or_else(|| Status::not_found(pods, place.name))?;
    Ok(first_port(&pod.value))
}

/// The first that a container says it has.
fn first_port(pod: &Value) -> u16 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|one| one["ports"][0]["containerPort"].as_u64());
    let first = ports.next().and_then(|port| port.try_into().ok());
    first.unwrap_or(PORT)
}

/// Any request below `services/NAME/proxy`.
pub(super) async fn to_service(
    State(streams): State<Streams>,
    Path(names): Names,
    request: Request,
) -> Response {
    let (namespace, name) = (named(&names, "namespace"), named(&names, "name"));
    let connecting = async {
        let place = Place::read(name)?;
        let port = match place.port.parse() {
            Ok(number) => Port::Number(number),
            Err(_) => Port::Name(place.port),
        };
        let mut ends = endpoints(&streams.objects, namespace, place.name, port)?;
        ends.retain(is_reachable);
        let service = Value::from(place.name);
        let connected = backends::connect(&streams, &service, &ends).await;
        let (stream, _) = connected.map_err(Status::unavailable)?;
        Ok((stream, place.tls))
    };
    answer(connecting, request).await
}

/// Whether a request may go there: not to this machine's own ports, whatever somebody wrote into a slice.
fn is_reachable(end: &Endpoint) -> bool {
    let Endpoint::Address(address, _) = end else {
        return true;
    };
    let local = match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let address = address.to_canonical();
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// `connecting` says whether what is connected wants TLS.
async fn answer(
    connecting: impl Future<Output = Result<(Box<dyn Connection>, bool), Status>>,
    request: Request,
) -> Response {
    let path = request.uri().path();
    if path.ends_with("/proxy") && request.method().is_safe() {
        // Relative links in the answer would lead elsewhere.
        let query = request.uri().query().map(|query| format!("?{query}"));
        let slash = format!("{path}/{}", query.unwrap_or_default());
        return (StatusCode::MOVED_PERMANENTLY, [(LOCATION, slash)]).into_response();
    }
    let sent = match connecting.await {
        Ok((stream, false)) => send(stream, request).await,
        Ok((stream, true)) => match encrypted(stream).await {
            Ok(stream) => send(stream, request).await,
            Err(error) => Err(error),
        },
        Err(status) => return refusal(&status),
    };
    sent.unwrap_or_else(|error| {
        refusal(&Status::unavailable(format!(
            "error trying to reach service: {error}"
        )))
    })
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

async fn send(stream: Box<dyn Connection>, request: Request) -> Result<Response, Fault> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let (base, below) = split(request.uri());
    let upgrade = request.headers().get(UPGRADE).cloned();
    let mut request = request;
    let ours = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    // What carries no body must not say that one follows.
    let body = if body.is_end_stream() {
        Body::empty()
    } else {
        body
    };
    let host = parts.uri.authority().map(ToString::to_string);
    parts.uri = Uri::from(below);
    parts.version = http::Version::HTTP_11;
    outward(&mut parts.headers, &base, host, upgrade.as_ref());
    let sent = sender.send_request(http::Request::from_parts(parts, body));
    let mut response = sent.await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else {
                return;
            };
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            let joined = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            tracing::debug!(?joined, "a proxied stream ended");
        });
        return Ok(response.map(Body::new));
    }
    let headers = response.headers_mut();
    for name in NEIGHBOURS {
        headers.remove(name);
    }
    if let Some(place) = headers.get(LOCATION).and_then(|place| place.to_str().ok())
        && let Some(place) = moved(place, &base)
    {
        headers.insert(LOCATION, place);
    }
    Ok(response.map(Body::new))
}

/// Where the proxy begins, and what is asked of what is behind it.
fn split(uri: &Uri) -> (String, PathAndQuery) {
    let path = uri.path();
    let end = path
        .find("/proxy/")
        .map_or(path.len(), |at| at + "/proxy".len());
    let (base, below) = path.split_at(end);
    let below = if below.is_empty() { "/" } else { below };
    let query = uri.query().map(|query| format!("?{query}"));
    let below = format!("{below}{}", query.unwrap_or_default());
    let below = below.try_into();
    (
        base.to_owned(),
        below.unwrap_or_else(|_| PathAndQuery::from_static("/")),
    )
}

/// The headers as the pod gets them.
fn outward(
    headers: &mut HeaderMap,
    base: &str,
    host: Option<String>,
    upgrade: Option<&HeaderValue>,
) {
    let private = |name: &HeaderName| {
        let said = |start: &&str| name.as_str().starts_with(start);
        *name == AUTHORIZATION || NEIGHBOURS.contains(name) || IDENTITIES.iter().any(said)
    };
    let gone: Vec<HeaderName> = headers
        .keys()
        .filter(|name| private(name))
        .cloned()
        .collect();
    for name in gone {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    // HTTP/2 has it in the address.
    let host = host.and_then(|host| HeaderValue::from_str(&host).ok());
    let host = headers.get(HOST).cloned().or(host);
    let host = host.unwrap_or_else(|| HeaderValue::from_static("localhost"));
    headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
    headers.insert(HOST, host);
    if let Ok(base) = HeaderValue::from_str(base) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), base);
    }
    let proto = HeaderName::from_static("x-forwarded-proto");
    headers.insert(proto, HeaderValue::from_static("https"));
}

/// A place on the same host, as a client has to ask for it.
fn moved(place: &str, base: &str) -> Option<HeaderValue> {
    let same = place.starts_with('/') && !place.starts_with("//");
    HeaderValue::from_str(&format!("{base}{place}"))
        .ok()
        .filter(|_| same)
}

async fn encrypted(stream: Box<dyn Connection>) -> Result<Box<dyn Connection>, Fault> {
    let provider = rustls::crypto::ring::default_provider();
    let anyone = Anyone(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(anyone))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    Ok(Box::new(stream))
}

/// Takes whatever certificate a pod has, as Kubernetes does: the node's session says that it is the pod.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_have_a_scheme_a_name_and_a_port() {
        for (text, expect) in [
            ("web", Some((false, "web", ""))),
            ("web:", Some((false, "web", ""))),
            ("web:8080", Some((false, "web", "8080"))),
            ("https:web:", Some((true, "web", ""))),
            ("http:web:x", Some((false, "web", "x"))),
            ("ftp:web:1", None),
            ("a:b:c:d", None),
            (":80", None),
        ] {
            let place = Place::read(text).ok();
            let found = place.map(|place| (place.tls, place.name, place.port));
            assert_eq!(found, expect, "{text}");
        }
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}]}]}});
        assert_eq!((first_port(&pod), first_port(&json!({}))), (8080, 80));
    }

    #[test]
    fn what_is_below_is_asked_and_what_names_the_caller_stays() {
        let uri = "/api/v1/namespaces/a/pods/b/proxy/c/proxy/d?e=f&g=%20"
            .parse()
            .unwrap();
        let (base, below) = split(&uri);
        assert_eq!(base, "/api/v1/namespaces/a/pods/b/proxy");
        assert_eq!(below, "/c/proxy/d?e=f&g=%20");
        let (_, below) = split(&"/api/v1/namespaces/a/pods/b/proxy".parse().unwrap());
        assert_eq!(below, "/");
        let mut headers = HeaderMap::new();
        for name in [
            "authorization",
            "impersonate-user",
            "x-remote-user",
            "te",
            "accept",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        outward(&mut headers, &base, Some("api:6443".into()), None);
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let forwarded = ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-uri"];
        assert_eq!(names, [&["accept", "host"][..], &forwarded].concat());
        assert_eq!(headers[HOST], "api:6443");
        let moved = |place: &str| moved(place, "/x/proxy");
        assert_eq!(moved("/login").unwrap(), "/x/proxy/login");
        assert_eq!(
            (moved("//evil"), moved("https://a/"), moved("b")),
            (None, None, None)
        );
    }

    #[test]
    fn this_machine_is_not_asked() {
        for (address, expect) in [
            ("192.0.2.7", true),
            ("10.0.0.1", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("fe80::1", false),
            ("fd00::1", true),
        ] {
            let end = Endpoint::Address(address.parse().unwrap(), 80);
            assert_eq!(is_reachable(&end), expect, "{address}");
        }
    }
}
