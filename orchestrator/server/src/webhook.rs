//! Calling admission webhooks: HTTPS to a URL, or to a pod behind a Service. Nothing dials a node, so a pod is reached
//! through its node's session. Which webhook is asked what is decided in `objects`.

mod idle;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::objects::WebhookCall;
use crate::streams::Streams;
use crate::streams::backends::{Connection, Endpoint, Port, connect, dial, endpoints};
use idle::{Idle, Sender};

/// Calls that wait to be begun.
const QUEUE: usize = 64;
/// Largest answer, in bytes.
const LARGEST: usize = 10 << 20;
/// How often connections are looked through that nobody uses.
const SWEEP: Duration = Duration::from_secs(10);
/// Authorities that the machine trusts, for a webhook without a caBundle.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Takes calls until `stop`; each runs by itself.
pub(crate) fn begin(streams: Streams, stop: CancellationToken) -> mpsc::Sender<WebhookCall> {
    let (sender, mut calls) = mpsc::channel::<WebhookCall>(QUEUE);
    tokio::spawn(async move {
        let idle = Arc::new(Idle::default());
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let call = tokio::select! {
                () = stop.cancelled() => return,
                _ = sweep.tick() => {
                    idle.sweep(Instant::now());
                    continue;
                }
                call = calls.recv() => call,
            };
            let Some(call) = call else { return };
            let (streams, idle) = (streams.clone(), Arc::clone(&idle));
            tokio::spawn(async move {
                let asked = ask(
                    &streams,
                    &idle,
                    &call.config,
                    call.review,
                    call.within.as_secs(),
                );
                let answered = tokio::time::timeout(call.within, asked).await;
                let late = |_| Err(format!("no answer within {} s", call.within.as_secs()));
                // Whoever asked may be gone.
                let _ = call.answer.send(answered.unwrap_or_else(late));
            });
        }
    });
    sender
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    /// What its certificate has to be for.
    host: String,
    port: u16,
    /// Path and query.
    path: String,
}

async fn ask(
    streams: &Streams,
    idle: &Idle,
    config: &Value,
    review: Vec<u8>,
    seconds: u64,
) -> Result<Vec<u8>, String> {
    let place = match config["url"].as_str() {
        Some(url) => of_url(url)?,
        None => of_service(&config["service"]),
    };
    let ends = match config["url"].as_str() {
        Some(_) => Vec::new(),
        None => ends_of(streams, &config["service"])?,
    };
    let named = |error: String| {
        format!(
            "Post https://{}:{}{}: {error}",
            place.host, place.port, place.path
        )
    };
    let (key, review) = (idle::Key::of(&place, config), Bytes::from(review));
    // One that was open may be closed by now, or just then; the webhook is asked again, as any may be.
    while let Some((mut sender, end)) = idle.take(&key, &ends, Instant::now()) {
        match post(&mut sender, &place, review.clone(), seconds).await {
            Ok((answer, true)) => {
                idle.keep(key, sender, end, Instant::now());
                return Ok(answer);
            }
            Ok((answer, false)) => return Ok(answer),
            Err(Fault::Closed(_)) => {}
            Err(Fault::Answer(why)) => return Err(named(why)),
        }
    }
    let (connection, end) = match config["url"].as_str() {
        Some(_) => {
            let stream = dial(place.host.trim_matches(['[', ']']), place.port).await?;
            let stream: Box<dyn Connection> = Box::new(stream);
            (stream, None)
        }
        None => {
            let (stream, end) = connect(streams, &config["service"]["name"], &ends).await?;
            (stream, Some(end))
        }
    };
    let mut sender = handshake(&place, config, connection).await.map_err(named)?;
    match post(&mut sender, &place, review, seconds).await {
        Ok((answer, stays)) => {
            if stays {
                idle.keep(key, sender, end, Instant::now());
            }
            Ok(answer)
        }
        Err(Fault::Closed(why) | Fault::Answer(why)) => Err(named(why)),
    }
}

async fn handshake(
    place: &Place,
    config: &Value,
    connection: Box<dyn Connection>,
) -> Result<Sender, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let tls = TlsConnector::from(Arc::new(trust(&config["caBundle"])?));
    let name = ServerName::try_from(place.host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| text(&error))?;
    let stream = tls
        .connect(name, connection)
        .await
        .map_err(|error| text(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| text(&error))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Why a request has no answer.
enum Fault {
    /// The connection was closed before anything came.
    Closed(String),
    /// Something came that is none.
    Answer(String),
}

/// The answer, and whether the connection stays open.
async fn post(
    sender: &mut Sender,
    place: &Place,
    review: Bytes,
    seconds: u64,
) -> Result<(Vec<u8>, bool), Fault> {
    let join = if place.path.contains('?') { '&' } else { '?' };
    let request = Request::post(format!("{}{join}timeout={seconds}s", place.path))
        .header(HOST, format!("{}:{}", place.host, place.port))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(review))
        .map_err(|error| Fault::Answer(error.to_string()))?;
    let closed = |error: hyper::Error| Fault::Closed(error.to_string());
    sender.ready().await.map_err(closed)?;
    let response = sender.send_request(request).await.map_err(closed)?;
    let status = response.status();
    let ends = response
        .headers()
        .get(CONNECTION)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| Fault::Answer(error.to_string()))?;
    if !status.is_success() {
        return Err(Fault::Answer(format!("the server answered {status}")));
    }
    Ok((body.to_bytes().to_vec(), !ends))
}

fn of_url(url: &str) -> Result<Place, String> {
    let uri: Uri = url
        .parse()
        .map_err(|error| format!("clientConfig.url {url:?}: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err(format!(
            "clientConfig.url {url:?}: must begin with https://"
        ));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Place {
        host: uri.host().unwrap_or_default().to_owned(),
        port: uri.port_u16().unwrap_or(443),
        path: path.to_owned(),
    })
}

fn of_service(service: &Value) -> Place {
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let path = text("path");
    let slash = if path.starts_with('/') { "" } else { "/" };
    Place {
        host: format!("{}.{}.svc", text("name"), text("namespace")),
        port: port_of(service),
        path: format!("{slash}{path}"),
    }
}

fn port_of(service: &Value) -> u16 {
    let port = service["port"]
        .as_u64()
        .and_then(|port| port.try_into().ok());
    port.unwrap_or(443)
}

fn ends_of(streams: &Streams, service: &Value) -> Result<Vec<Endpoint>, String> {
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    let (namespace, name, port) = (text("namespace"), text("name"), port_of(service));
    let found = endpoints(&streams.objects, namespace, name, Port::Number(port));
    found.map_err(|status| match status.code {
        404 => format!("service {namespace}/{name} not found"),
        _ => status.message,
    })
}

/// Whom to believe: the authorities of `bundle` (PEM in base64), or the machine's.
fn trust(bundle: &Value) -> Result<ClientConfig, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let pem = match bundle.as_str().filter(|bundle| !bundle.is_empty()) {
        Some(bundle) => STANDARD
            .decode(bundle)
            .map_err(|error| format!("clientConfig.caBundle is no base64: {error}"))?,
        None => std::fs::read(SYSTEM_AUTHORITIES).map_err(|error| {
            format!(
                "clientConfig.caBundle is empty, and {SYSTEM_AUTHORITIES} can't be read: {error}"
            )
        })?,
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err("clientConfig.caBundle holds no certificate".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_read_from_urls_and_services() {
        let place = of_url("https://hooks.example.com:8443/a/b?c=d").unwrap();
        assert_eq!(
            (place.host.as_str(), place.port),
            ("hooks.example.com", 8443)
        );
        assert_eq!(place.path, "/a/b?c=d");
        assert_eq!(of_url("https://127.0.0.1").unwrap().port, 443);
        assert!(of_url("http://127.0.0.1/a").is_err());
        let place = of_service(&json!({"name": "hook", "namespace": "shop", "path": "check"}));
        let expect = Place {
            host: "hook.shop.svc".into(),
            port: 443,
            path: "/check".into(),
        };
        assert_eq!(place, expect);
    }
}
