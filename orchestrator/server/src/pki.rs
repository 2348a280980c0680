//! Keys and certificates of a cluster: one authority, the server's certificate, the administrator's, the nodes' (signed
//! from their requests), the join token and the administrator's bearer token. Everything is made at the first start,
//! kept in the data folder, secrets readable by their owner only, and the same after a restart.

mod clients;

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use jiff::Timestamp;
use rand::RngCore as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::ClientConfig;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use waggle_model::NodeName;

use crate::auth::Tokens;

pub use clients::Subject;

/// Group of the cluster's administrators.
pub const ADMINISTRATORS: &str = "system:masters";
/// Group of nodes.
pub const NODES: &str = "system:nodes";
/// Group of the cluster's servers, who may speak for others.
pub const SERVERS: &str = "system:waggle-servers";
/// Files of the folder that every server of a cluster has the same.
pub(crate) const SHARED: [&str; 5] = [
    "ca.key",
    "ca.crt",
    "service-account.key",
    "join-token",
    "admin-token",
];
/// What a node's user name starts with; the node's name follows.
pub const NODE_USER: &str = "system:node:";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_DAYS: u32 = 3650;
const CERTIFICATE_DAYS: u32 = 365;
/// Certificates are valid from a little before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(60 * 60);

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file.
    #[error("can't {operation} {path}: {cause}")]
    File {
        /// `read`, `write`.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error(
        "{path} does not hold a usable {what}: {cause}; restore it, or move the folder away to start afresh"
    )]
    Unusable {
        /// Which.
        path: PathBuf,
        /// `private key`, `certificate`.
        what: &'static str,
        /// Why.
        cause: String,
    },
    /// A node's request for a certificate can't be granted.
    #[error("the certificate signing request of node {node} is refused: {cause}")]
    Request {
        /// The node.
        node: String,
        /// Why.
        cause: String,
    },
    /// A certificate could not be made.
    #[error("can't make the {what} certificate: {cause}")]
    Making {
        /// Whose.
        what: String,
        /// Why.
        cause: String,
    },
}

/// The cluster's keys and certificates.
pub struct Pki {
    folder: PathBuf,
    ca_pem: String,
    ca_key: KeyPair,
    server: Pair,
    admin: Pair,
    peer: Pair,
    join_token: String,
    admin_token: String,
    tokens: Tokens,
}

/// A certificate and its private key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl Pki {
    /// Opens what `folder` holds, making what is missing. `names` are the names and addresses that clients use to reach
    /// the server; the server's certificate is made anew at each start so that it always carries them.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn open(folder: &Path, names: &[String], now: Timestamp) -> Result<Self, PkiError> {
        make_folder(folder)?;
        let ca_key = key(&folder.join("ca.key"))?;
        let ca_pem = authority(&folder.join("ca.crt"), &ca_key, now)?;
        let issue = |name: &str, params: Result<CertificateParams, PkiError>| {
            let key = key(&folder.join(format!("{name}.key")))?;
            let certificate_pem = signed(name, params?, &key, &ca_pem, &ca_key)?;
            write(
                &folder.join(format!("{name}.crt")),
                certificate_pem.as_bytes(),
                0o644,
            )?;
            Ok(Pair {
                certificate_pem,
                key_pem: key.serialize_pem(),
            })
        };
        let server = issue("server", server_params(names, now))?;
        let admin = issue(
            "admin",
            client_params("waggle-admin", Some(ADMINISTRATORS), now),
        )?;
        let peer = issue("peer", client_params("waggle-server", Some(SERVERS), now))?;
        let path = folder.join("service-account.key");
        let tokens =
            Tokens::new(&key(&path)?.serialize_der()).map_err(|cause| PkiError::Unusable {
                path,
                what: "private key",
                cause,
            })?;
        let join_token = token(
            &folder.join("join-token"),
            &format!(".{}", fingerprint(&ca_pem)),
        )?;
        let admin_token = token(&folder.join("admin-token"), "")?;
        Ok(Self {
            folder: folder.to_owned(),
            ca_pem,
            ca_key,
            server,
            admin,
            peer,
            join_token,
            admin_token,
            tokens,
        })
    }

    /// Where everything is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The server's certificate and key, for the API and the node listener alike.
    pub fn server(&self) -> &Pair {
        &self.server
    }

    /// The administrator's certificate and key.
    pub fn admin(&self) -> &Pair {
        &self.admin
    }

    /// What an agent shows to join: `<secret>.<SHA-256 of the authority's certificate, hex>`. The second part lets the
    /// agent know the server before it says the secret.
    pub fn join_token(&self) -> &str {
        &self.join_token
    }

    /// Whether this is the join token. Takes the same time for every wrong one.
    pub fn is_join_token(&self, token: &str) -> bool {
        same(token, &self.join_token)
    }

    /// Whether this is the administrator's bearer token.
    pub fn is_admin_token(&self, token: &str) -> bool {
        same(token, &self.admin_token)
    }

    /// Signs and knows the tokens of ServiceAccounts.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Grants a node the certificate it requests: CN=system:node:NAME, O=system:nodes, whatever subject it asked for.
    ///
    /// # Errors
    /// [`PkiError::Request`] for a request that is malformed or not signed by its own key.
    pub fn sign_node(
        &self,
        node: &NodeName,
        csr_pem: &str,
        now: Timestamp,
    ) -> Result<String, PkiError> {
        let refused = |error: rcgen::Error| PkiError::Request {
            node: node.to_string(),
            cause: error.to_string(),
        };
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(refused)?;
        request.params = client_params(&format!("{NODE_USER}{node}"), Some(NODES), now)?;
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &self.ca_key).map_err(refused)?;
        Ok(request.signed_by(&issuer).map_err(refused)?.pem())
    }

    /// TLS of a listener: HTTP/2 and HTTP/1.1, client certificates of this cluster asked for but not demanded.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] when a certificate or key in the folder is none.
    pub fn server_tls(&self) -> Result<Arc<ServerConfig>, PkiError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let path = self.folder.join("server.crt");
        let unusable = |cause: String| PkiError::Unusable {
            path: path.clone(),
            what: "certificate",
            cause,
        };
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca_pem.as_bytes())
            .map_err(|e| unusable(e.to_string()))?;
        roots.add(ca).map_err(|error| unusable(error.to_string()))?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| unusable(error.to_string()))?;
        // The authority goes along: an agent that joins knows it by its fingerprint only.
        let pem = format!("{}{}", self.server.certificate_pem, self.ca_pem);
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(self.server.key_pem.as_bytes())
            .map_err(|e| unusable(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| unusable(error.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS towards other servers of the cluster, as one of them.
    ///
    /// # Errors
    /// [`PkiError::Unusable`] when a certificate or key in the folder is none.
    pub(crate) fn peer_tls(&self) -> Result<Arc<ClientConfig>, PkiError> {
        let path = self.folder.join("peer.crt");
        let unusable = |cause: &dyn std::fmt::Display| PkiError::Unusable {
            path: path.clone(),
            what: "certificate",
            cause: cause.to_string(),
        };
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
        let mut roots = RootCertStore::empty();
        let ca = der(&self.ca_pem).map_err(|error| unusable(&error))?;
        roots.add(ca).map_err(|error| unusable(&error))?;
        let own = der(&self.peer.certificate_pem).map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(self.peer.key_pem.as_bytes())
            .map_err(|error| unusable(&error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)
            .map_err(|error| unusable(&error))?;
        Ok(Arc::new(config))
    }

    /// A kubeconfig for the administrator; `url` is where the API is, `cluster` what contexts call it.
    pub fn kubeconfig(&self, url: &str, cluster: &str) -> String {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let (ca, certificate, key) = (
            encode(&self.ca_pem),
            encode(&self.admin.certificate_pem),
            encode(&self.admin.key_pem),
        );
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {cluster}-admin\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\ncontexts:\n- name: {cluster}\n  \
             context:\n    cluster: {cluster}\n    user: {cluster}-admin\n    namespace: default\ncurrent-context: \
             {cluster}\n"
        )
    }

    /// Writes [`Pki::kubeconfig`] to `path`, readable by its owner only.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn write_kubeconfig(&self, path: &Path, url: &str, cluster: &str) -> Result<(), PkiError> {
        write(path, self.kubeconfig(url, cluster).as_bytes(), 0o600)
    }
}

/// Makes a folder that its owner only may look into.
pub(crate) fn make_folder(folder: &Path) -> Result<(), PkiError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    made.map_err(|cause| PkiError::File {
        operation: "make",
        path: folder.to_owned(),
        cause,
    })
}

/// The text of a file, if there is one.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PkiError::File {
            operation: "read",
            path: path.to_owned(),
            cause,
        }),
    }
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> Result<(), PkiError> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => Err(PkiError::File {
            operation: "remove",
            path: path.to_owned(),
            cause,
        }),
        _ => Ok(()),
    }
}

/// Whole or not at all, also when the power fails.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    written.map_err(|cause| {
        let _ = std::fs::remove_file(&new);
        PkiError::File {
            operation: "write",
            path: path.to_owned(),
            cause,
        }
    })
}

/// The private key at `path`, made if it is not there.
fn key(path: &Path) -> Result<KeyPair, PkiError> {
    let unusable = |cause: rcgen::Error| PkiError::Unusable {
        path: path.to_owned(),
        what: "private key",
        cause: cause.to_string(),
    };
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem).map_err(unusable);
    }
    let key = KeyPair::generate().map_err(unusable)?;
    write(path, key.serialize_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// SHA-256 of a certificate's DER, hex.
fn fingerprint(pem: &str) -> String {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|der| der.to_vec())
        .unwrap_or_default();
    hex(&Sha256::digest(der))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The random token at `path`, made if it is not there: 32 bytes, base64 for URLs, then `suffix`.
fn token(path: &Path, suffix: &str) -> Result<String, PkiError> {
    if let Some(token) = read(path)? {
        let token = token.trim().to_owned();
        if token.is_empty() {
            let cause = "it is empty".to_owned();
            return Err(PkiError::Unusable {
                path: path.to_owned(),
                what: "token",
                cause,
            });
        }
        return Ok(token);
    }
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes) + suffix;
    write(path, format!("{token}\n").as_bytes(), 0o600)?;
    Ok(token)
}

/// Compares digests, so that the time says nothing about how much of a guess was right.
fn same(given: &str, ours: &str) -> bool {
    Sha256::digest(given) == Sha256::digest(ours)
}

fn authority(path: &Path, key: &KeyPair, now: Timestamp) -> Result<String, PkiError> {
    if let Some(pem) = read(path)? {
        let usable = Issuer::from_ca_cert_pem(&pem, key);
        let unusable = |cause: rcgen::Error| PkiError::Unusable {
            path: path.to_owned(),
            what: "certificate",
            cause: cause.to_string(),
        };
        return usable.map(|_| pem).map_err(unusable);
    }
    let mut params = params("waggle-ca", None, AUTHORITY_DAYS, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let made = params
        .self_signed(key)
        .map_err(|error| making("ca", &error))?;
    write(path, made.pem().as_bytes(), 0o644)?;
    Ok(made.pem())
}

fn making(what: &str, error: &rcgen::Error) -> PkiError {
    PkiError::Making {
        what: what.to_owned(),
        cause: error.to_string(),
    }
}

fn signed(
    what: &str,
    params: CertificateParams,
    key: &KeyPair,
    ca_pem: &str,
    ca_key: &KeyPair,
) -> Result<String, PkiError> {
    let issuer = Issuer::from_ca_cert_pem(ca_pem, ca_key).map_err(|error| making(what, &error))?;
    Ok(params
        .signed_by(key, &issuer)
        .map_err(|error| making(what, &error))?
        .pem())
}

fn params(
    name: &str,
    group: Option<&str>,
    days: u32,
    now: Timestamp,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let date = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let part = |value: i8| u8::try_from(value).unwrap_or(1);
    let midnight = rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()));
    let second = u64::try_from(now.as_second().rem_euclid(86_400)).unwrap_or(0);
    params.not_before = midnight + Duration::from_secs(second) - BACKDATED;
    params.not_after = midnight + DAY * days;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    let mut serial = [0; 16];
    rand::rng().fill_bytes(&mut serial);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn client_params(
    name: &str,
    group: Option<&str>,
    now: Timestamp,
) -> Result<CertificateParams, PkiError> {
    let mut params = params(name, group, CERTIFICATE_DAYS, now)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn server_params(names: &[String], now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = params("waggle-server", None, CERTIFICATE_DAYS, now)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for name in names {
        let name = match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .map_err(|error| making(name, &error))?,
            ),
        };
        if !params.subject_alt_names.contains(&name) {
            params.subject_alt_names.push(name);
        }
    }
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::now()
    }

    fn names() -> Vec<String> {
        vec![
            "localhost".into(),
            "127.0.0.1".into(),
            "kubernetes.default.svc".into(),
        ]
    }

    #[test]
    fn a_restart_finds_what_the_first_start_made() {
        let folder = tempfile::tempdir().unwrap();
        let first = Pki::open(&folder.path().join("pki"), &names(), now()).unwrap();
        let again = Pki::open(&folder.path().join("pki"), &names(), now()).unwrap();
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(first.join_token(), again.join_token());
        assert_eq!(first.admin().key_pem, again.admin().key_pem);
        assert!(again.is_join_token(first.join_token()) && !again.is_join_token("x"));
        assert!(!again.is_admin_token(first.join_token()));
        again.server_tls().unwrap();
    }

    #[test]
    fn secrets_are_their_owners_only() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), &names(), now()).unwrap();
        pki.write_kubeconfig(
            &folder.path().join("kubeconfig"),
            "https://127.0.0.1:1",
            "local",
        )
        .unwrap();
        let secrets = [
            "ca.key",
            "server.key",
            "admin.key",
            "service-account.key",
            "join-token",
            "admin-token",
            "kubeconfig",
        ];
        for name in secrets {
            let mode = std::fs::metadata(folder.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_node_gets_the_name_it_joined_with_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), &names(), now()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wish.distinguished_name
            .push(DnType::OrganizationName, ADMINISTRATORS);
        let request = wish.serialize_request(&key).unwrap().pem().unwrap();
        let pem = pki
            .sign_node(&NodeName::try_from("node1").unwrap(), &request, now())
            .unwrap();
        let (_, der) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = der.parse_x509().unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            "CN=system:node:node1, O=system:nodes"
        );
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        assert!(certificate.validity().is_valid());
        let refused = pki
            .sign_node(&NodeName::try_from("node1").unwrap(), "nonsense", now())
            .unwrap_err();
        assert!(refused.to_string().contains("node1"), "{refused}");
    }

    #[test]
    fn a_damaged_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        Pki::open(folder.path(), &names(), now()).unwrap();
        std::fs::write(folder.path().join("ca.key"), "garbage").unwrap();
        let error = Pki::open(folder.path(), &names(), now())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ca.key") && error.contains("private key"),
            "{error}"
        );
    }
}
