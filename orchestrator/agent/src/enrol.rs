//! Who this node is to the servers: its key, the certificate that a join token buys, and the next certificate before
//! that one ends. A server is known by the fingerprint of the cluster's authority in the token, before the token's
//! secret is said to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use waggle_model::NodeName;
use waggle_wire::v1;
use waggle_wire::v1::enrolment_client::EnrolmentClient;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::AgentError;
use crate::dial::dial;
use crate::folder::{read, write};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that has been silent this long is asked whether it still works, and has as long to answer. That its machine is
/// there is seen to by `dial`.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A join token, `<secret>.<SHA-256 of the authority's certificate, hex>`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct JoinToken {
    whole: String,
    authority: [u8; 32],
}

impl std::str::FromStr for JoinToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text
            .rsplit_once('.')
            .map(|(_, hex)| hex)
            .unwrap_or_default();
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (hex.len() == 64)
            .then(|| (0..64).step_by(2).map(byte).collect())
            .flatten();
        match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(authority) => Ok(Self {
                whole: text.to_owned(),
                authority,
            }),
            None => Err(
                "the join token is not whole: it is SECRET.HASH, as the server wrote it to its \
                         `join-token` file"
                    .to_owned(),
            ),
        }
    }
}

/// What a node shows to a server and knows it by.
#[derive(Clone)]
pub(crate) struct NodeIdentity {
    key_pem: String,
    certificate_pem: String,
    ca_pem: String,
}

impl NodeIdentity {
    /// The identity kept in `folder`, if this node has joined before.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, AgentError> {
        let text = |name: &str| -> Result<Option<String>, AgentError> {
            Ok(read(&folder.join(name))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let parts = (text("node.key")?, text("node.crt")?, text("ca.crt")?);
        let (Some(key_pem), Some(certificate_pem), Some(ca_pem)) = parts else {
            return Ok(None);
        };
        Ok(Some(Self {
            key_pem,
            certificate_pem,
            ca_pem,
        }))
    }

    fn save(&self, folder: &Path) -> Result<(), AgentError> {
        write(&folder.join("ca.crt"), self.ca_pem.as_bytes(), 0o644)?;
        write(&folder.join("node.key"), self.key_pem.as_bytes(), 0o600)?;
        write(
            &folder.join("node.crt"),
            self.certificate_pem.as_bytes(),
            0o600,
        )
    }

    /// Seconds since the epoch between which the certificate holds.
    fn validity(&self) -> Option<(i64, i64)> {
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let validity = certificate.validity();
        Some((
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        ))
    }

    /// How long until two thirds of the certificate's life are over.
    pub(crate) fn renew_in(&self, now: i64) -> Duration {
        let (from, to) = self.validity().unwrap_or((now, now));
        let at = from + (to - from) / 3 * 2;
        Duration::from_secs(u64::try_from(at - now).unwrap_or(0))
    }

    fn expired(&self, now: i64) -> bool {
        self.validity().is_none_or(|(_, to)| to <= now)
    }

    /// A connection to `server` as this node.
    pub(crate) async fn connect(&self, server: &str) -> Result<Channel, String> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .identity(Identity::from_pem(&self.certificate_pem, &self.key_pem));
        let endpoint = endpoint(server)?.tls_config(tls).map_err(|e| chain(&e))?;
        dial(&endpoint)
            .await
            .map_err(|error| format!("{server}: {}", chain(&error)))
    }
}

fn endpoint(server: &str) -> Result<Endpoint, String> {
    if !server.starts_with("https://") {
        return Err(format!(
            "server {server:?}: write an address such as https://172.30.0.1:6444"
        ));
    }
    let endpoint =
        Endpoint::from_shared(server.to_owned()).map_err(|e| format!("server {server:?}: {e}"))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// An error with its causes, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// How joining failed.
#[derive(Debug)]
pub(crate) enum JoinFault {
    /// Trying again won't help.
    Refused(String),
    /// The server may be there later.
    Later(String),
}

/// Enrolment of one node.
pub(crate) struct Enrolment {
    pub(crate) node: NodeName,
    pub(crate) folder: PathBuf,
    pub(crate) servers: Vec<String>,
    pub(crate) token: Option<String>,
}

impl Enrolment {
    /// The identity kept on disk, or `None` when the node has to join first.
    ///
    /// # Errors
    /// [`AgentError::Join`] when it has to join and can't, for want of a (whole) token.
    pub(crate) fn kept(&self, now: i64) -> Result<Option<NodeIdentity>, AgentError> {
        let kept = NodeIdentity::load(&self.folder)?.filter(|identity| !identity.expired(now));
        if kept.is_none() {
            self.token().map_err(AgentError::Join)?;
        }
        Ok(kept)
    }

    fn token(&self) -> Result<JoinToken, String> {
        match &self.token {
            Some(token) => token.trim().parse(),
            None => Err(format!(
                "node {} has no certificate yet: give it the join token (--token)",
                self.node
            )),
        }
    }

    /// Buys a certificate with the token, at the first server that answers.
    pub(crate) async fn join(&self) -> Result<NodeIdentity, JoinFault> {
        let token = self.token().map_err(JoinFault::Refused)?;
        let mut last = "no server was given (--server)".to_owned();
        for server in &self.servers {
            match self.join_at(server, &token).await {
                Err(JoinFault::Later(why)) => last = why,
                done => return done,
            }
        }
        Err(JoinFault::Later(last))
    }

    async fn join_at(&self, server: &str, token: &JoinToken) -> Result<NodeIdentity, JoinFault> {
        let verifier = Arc::new(Pinned::new(token.authority));
        let endpoint = endpoint(server).map_err(JoinFault::Refused)?;
        let endpoint = endpoint
            .tls_config_with_verifier(ClientTlsConfig::new(), Arc::<Pinned>::clone(&verifier))
            .map_err(|e| JoinFault::Refused(chain(&e)))?;
        let channel = dial(&endpoint).await.map_err(|error| {
            let text = format!("{server}: {}", chain(&error));
            if verifier.mismatched() {
                JoinFault::Refused(format!(
                    "{server} belongs to another cluster than the join token"
                ))
            } else {
                JoinFault::Later(text)
            }
        })?;
        let (key_pem, csr_pem) = request(&self.node).map_err(JoinFault::Refused)?;
        let request = v1::JoinRequest {
            token: token.whole.clone(),
            node: self.node.to_string(),
            csr_pem,
        };
        let reply =
            EnrolmentClient::new(channel)
                .join(request)
                .await
                .map_err(|status| match status.code() {
                    tonic::Code::Unavailable
                    | tonic::Code::Unknown
                    | tonic::Code::DeadlineExceeded => {
                        JoinFault::Later(format!("{server}: {}", status.message()))
                    }
                    _ => JoinFault::Refused(status.message().to_owned()),
                })?;
        self.keep(key_pem, reply.into_inner(), &token.authority)
    }

    fn keep(
        &self,
        key_pem: String,
        reply: v1::JoinReply,
        pin: &[u8; 32],
    ) -> Result<NodeIdentity, JoinFault> {
        let ca = CertificateDer::from_pem_slice(reply.ca_pem.as_bytes()).map_err(|error| {
            JoinFault::Refused(format!("the server's authority is unreadable: {error}"))
        })?;
        if digest(&ca) != *pin {
            return Err(JoinFault::Refused(
                "the server answered with another authority than the token's".into(),
            ));
        }
        let identity = NodeIdentity {
            key_pem,
            certificate_pem: reply.certificate_pem,
            ca_pem: reply.ca_pem,
        };
        identity
            .save(&self.folder)
            .map_err(|error| JoinFault::Refused(error.to_string()))?;
        Ok(identity)
    }

    /// Exchanges the certificate for a fresh one, with a new key.
    pub(crate) async fn renew(
        &self,
        old: &NodeIdentity,
        channel: Channel,
    ) -> Result<NodeIdentity, String> {
        let (key_pem, csr_pem) = request(&self.node)?;
        let mut client = v1::node_client::NodeClient::new(channel);
        let reply = client
            .renew(v1::RenewRequest { csr_pem })
            .await
            .map_err(|s| s.message().to_owned())?;
        let v1::JoinReply {
            certificate_pem,
            ca_pem,
        } = reply.into_inner();
        let ca_pem = if ca_pem.is_empty() {
            old.ca_pem.clone()
        } else {
            ca_pem
        };
        let identity = NodeIdentity {
            key_pem,
            certificate_pem,
            ca_pem,
        };
        identity
            .save(&self.folder)
            .map_err(|error| error.to_string())?;
        Ok(identity)
    }
}

/// A new private key and the request for its certificate, PEM. The server writes the subject.
fn request(node: &NodeName) -> Result<(String, String), String> {
    let key = KeyPair::generate().map_err(|e| format!("cannot make a key: {e}"))?;
    let params = CertificateParams::new(vec![node.to_string()])
        .map_err(|e| format!("node name {node} is not fit for a certificate: {e}"))?;
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem());
    Ok((
        key.serialize_pem(),
        csr.map_err(|e| format!("cannot make a signing request: {e}"))?,
    ))
}

fn digest(der: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// Trusts a server whose chain ends in the authority with this fingerprint, and checks the chain against it.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<rustls::crypto::CryptoProvider>,
    mismatch: std::sync::atomic::AtomicBool,
}

impl Pinned {
    fn new(authority: [u8; 32]) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self {
            authority,
            provider,
            mismatch: false.into(),
        }
    }

    fn mismatched(&self) -> bool {
        self.mismatch.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let general = |text: &dyn std::fmt::Display| rustls::Error::General(text.to_string());
        let Some(ca) = intermediates
            .iter()
            .find(|der| digest(der) == self.authority)
        else {
            self.mismatch
                .store(true, std::sync::atomic::Ordering::Relaxed);
            return Err(general(
                &"the server does not belong to the cluster of the join token",
            ));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| general(&error))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests;
