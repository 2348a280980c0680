//! One question to a container: over HTTP, by opening a connection, by running a command in it, or by gRPC (`health`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// Runs a command in the container: exit code and the beginning of what it wrote.
pub(crate) trait Asker: Send + Sync {
    /// `Err` when the command could not be run at all.
    fn exec(
        &self,
        container: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<(i32, String), String>>;
}

/// Asks once; `Err` says why the probe failed.
pub(super) async fn ask(
    probe: &Probe,
    container: &Container,
    address: IpAddr,
    asker: &dyn Asker,
    timeout: Duration,
) -> Result<(), String> {
    if let Some(action) = &probe.exec {
        let command = action.command.clone().unwrap_or_default();
        return match asker.exec(&container.name, command, timeout).await? {
            (0, _) => Ok(()),
            (code, output) => Err(format!("command exited with {code}: {}", output.trim_end())),
        };
    }
    if let Some(action) = &probe.http_get {
        let code = http_get(action, container, address).await?;
        return match code {
            200..400 => Ok(()),
            code => Err(format!("HTTP probe failed with statuscode: {code}")),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let port = named_port(&action.port, container)?;
        let target = target(action.host.as_deref(), address, port)?;
        return TcpStream::connect(target)
            .await
            .map(drop)
            .map_err(|e| format!("dial tcp {target}: {e}"));
    }
    if let Some(action) = &probe.grpc {
        let port = named_port(&IntOrString::Int(action.port), container)?;
        let service = action.service.clone().unwrap_or_default();
        return super::health::check(SocketAddr::new(address, port), service).await;
    }
    Err("the probe names no action".to_owned())
}

fn target(host: Option<&str>, address: IpAddr, port: u16) -> Result<SocketAddr, String> {
    let address = match host.filter(|host| !host.is_empty()) {
        Some(host) => host
            .parse()
            .map_err(|_| format!("host {host:?} is no IP address"))?,
        None => address,
    };
    Ok(SocketAddr::new(address, port))
}

/// A port number, or the number of the container's port of that name.
fn named_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container
                .ports
                .iter()
                .flatten()
                .find(|p| p.name.as_ref() == Some(name));
            named
                .map(|p| p.container_port)
                .or_else(|| name.parse().ok())
                .unwrap_or_default()
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|n| *n != 0)
        .ok_or_else(|| format!("container has no port {port:?}"))
}

/// One GET; the status code of the answer. Certificates are not checked, as Kubernetes does.
pub(crate) async fn http_get(
    action: &HTTPGetAction,
    container: &Container,
    address: IpAddr,
) -> Result<u16, String> {
    let port = named_port(&action.port, container)?;
    let target = target(action.host.as_deref(), address, port)?;
    let stream = TcpStream::connect(target)
        .await
        .map_err(|e| format!("dial tcp {target}: {e}"))?;
    if action.scheme.as_deref() == Some("HTTPS") {
        let name = rustls_pki_types::ServerName::IpAddress(target.ip().into());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(unchecked()?));
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|e| format!("TLS to {target}: {e}"))?;
        exchange(action, target, TokioIo::new(stream)).await
    } else {
        exchange(action, target, TokioIo::new(stream)).await
    }
}

async fn exchange<S>(action: &HTTPGetAction, target: SocketAddr, stream: S) -> Result<u16, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let fault = |error: &dyn std::fmt::Display| format!("GET from {target}: {error}");
    let path = action
        .path
        .as_deref()
        .filter(|p| !p.is_empty())
        .unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let mut request = http::Request::get(path)
        .header("User-Agent", "kube-probe/waggle")
        .header("Accept", "*/*");
    let given = action.http_headers.iter().flatten();
    let mut host = target.to_string();
    for header in given {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            request = request.header(&header.name, &header.value);
        }
    }
    let request = request
        .header("Host", host)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|e| fault(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .map_err(|e| fault(&e))?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| fault(&e));
    let code = match answer {
        Ok(answer) => {
            let code = answer.status().as_u16();
            // A little of the body, so that the server does not see a reset on small pages.
            let _ = Limited::new(answer.into_body(), 10 << 10).collect().await;
            Ok(code)
        }
        Err(error) => Err(error),
    };
    driver.abort();
    code
}

fn unchecked() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Takes every certificate: a probe asks whether the container answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls_pki_types::CertificateDer<'_>,
        _intermediates: &[rustls_pki_types::CertificateDer<'_>],
        _server_name: &rustls_pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
