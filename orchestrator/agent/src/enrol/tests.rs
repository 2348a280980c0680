//! Tokens, and a real join over TLS on loopback.

use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use v1::enrolment_server::{Enrolment as Desk, EnrolmentServer};

use super::*;

#[test]
fn tokens_have_two_parts() {
    let hash = "ab".repeat(32);
    let token: JoinToken = format!("secret.{hash}").parse().unwrap();
    assert_eq!(token.authority, [0xab; 32]);
    for text in [
        "",
        "secret",
        "secret.",
        "secret.ab",
        &format!("secret.{}", "zz".repeat(32)),
    ] {
        assert!(text.parse::<JoinToken>().is_err(), "{text}");
    }
}

/// An authority that signs whoever shows `secret.HASH`.
struct Office {
    ca_pem: String,
    ca_key: String,
    token: String,
}

#[tonic::async_trait]
impl Desk for Office {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        let request = request.into_inner();
        if request.token != self.token {
            return Err(Status::unauthenticated("the join token is wrong"));
        }
        let key = KeyPair::from_pem(&self.ca_key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.ca_pem, &key).unwrap();
        let csr = CertificateSigningRequestParams::from_pem(&request.csr_pem).unwrap();
        let certificate_pem = csr.signed_by(&issuer).unwrap().pem();
        Ok(Response::new(v1::JoinReply {
            certificate_pem,
            ca_pem: self.ca_pem.clone(),
        }))
    }
}

/// Starts an office; its URL and token.
async fn office() -> (String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test authority");
    let ca = params.self_signed(&ca_key).unwrap();
    let hash: String = digest(ca.der())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let token = format!("secret.{hash}");
    let issuer = Issuer::from_params(&params, &ca_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    leaf.distinguished_name
        .push(rcgen::DnType::CommonName, "server");
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let chain = format!("{}{}", leaf.pem(), ca.pem());
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(chain, key.serialize_pem()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let desk = Office {
        ca_pem: ca.pem(),
        ca_key: ca_key.serialize_pem(),
        token: token.clone(),
    };
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .add_service(EnrolmentServer::new(desk));
    tokio::spawn(
        server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    (url, token)
}

fn enrolment(folder: &Path, server: &str, token: &str) -> Enrolment {
    Enrolment {
        node: "node1".parse().unwrap(),
        folder: folder.to_owned(),
        servers: vec!["https://127.0.0.1:1".into(), server.to_owned()],
        token: Some(token.to_owned()),
    }
}

#[tokio::test]
async fn a_token_buys_a_certificate_that_is_kept() {
    let (url, token) = office().await;
    let folder = tempfile::tempdir().unwrap();
    let enrolment = enrolment(folder.path(), &url, &token);
    assert!(enrolment.kept(0).unwrap().is_none());
    let identity = enrolment.join().await.unwrap();
    let kept = enrolment.kept(0).unwrap().unwrap();
    assert_eq!(kept.certificate_pem, identity.certificate_pem);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.path().join("node.key"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let (from, to) = kept.validity().unwrap();
    assert!(kept.renew_in(from).as_secs() > 0 && kept.renew_in(to).is_zero());
    assert!(enrolment.kept(to + 1).unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_token_is_one_clear_error() {
    let (url, token) = office().await;
    let folder = tempfile::tempdir().unwrap();
    let (_, hash) = token.split_once('.').unwrap();
    let wrong_secret = format!("other.{hash}");
    let wrong_cluster = format!("secret.{}", "ab".repeat(32));
    for (token, part) in [
        (wrong_secret.as_str(), "the join token is wrong"),
        (wrong_cluster.as_str(), "another cluster"),
        ("secret", "SECRET.HASH"),
    ] {
        match enrolment(folder.path(), &url, token).join().await {
            Err(JoinFault::Refused(why)) => assert!(why.contains(part), "{why}"),
            Err(JoinFault::Later(why)) => panic!("should not be tried again: {why}"),
            Ok(_) => panic!("{token} was accepted"),
        }
    }
    assert!(NodeIdentity::load(folder.path()).unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let token = format!("secret.{}", "ab".repeat(32));
    let fault = enrolment(folder.path(), "https://127.0.0.1:2", &token)
        .join()
        .await
        .err()
        .unwrap();
    assert!(matches!(fault, JoinFault::Later(_)), "{fault:?}");
}

#[test]
fn without_certificate_and_token_the_token_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut enrolment = enrolment(folder.path(), "https://127.0.0.1:2", "");
    enrolment.token = None;
    let error = enrolment.kept(0).err().unwrap().to_string();
    assert!(error.contains("--token"), "{error}");
}
