//! How a machine becomes a node: a join token buys a certificate, a certificate buys the next one.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waggle_model::NodeName;
use waggle_wire::v1;
use waggle_wire::v1::enrolment_server::Enrolment;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Inner;
use crate::auth::PeerCertificate;
use crate::pki::{NODE_USER, NODES};

/// The service that is answered without a certificate.
#[derive(Debug)]
pub(super) struct Desk(pub(super) Arc<Inner>);

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinReply>, Status> {
        let request = request.into_inner();
        if !self.0.pki.is_join_token(&request.token) {
            tracing::warn!(
                node = request.node,
                "a machine asked to join with a wrong token"
            );
            return Err(Status::unauthenticated(
                "the join token is wrong or no longer valid: use the token of this cluster (--token)",
            ));
        }
        let reply = issue(&self.0, &request.node, &request.csr_pem)?;
        tracing::info!(node = request.node, "a node joins");
        Ok(Response::new(reply))
    }
}

/// A certificate for the key of a signing request.
pub(super) fn issue(inner: &Inner, node: &str, csr_pem: &str) -> Result<v1::JoinReply, Status> {
    let node =
        NodeName::try_from(node).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let certificate_pem = inner
        .pki
        .sign_node(&node, csr_pem, inner.objects.now())
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(v1::JoinReply {
        certificate_pem,
        ca_pem: inner.pki.ca_pem().to_owned(),
    })
}

/// The node that a request's certificate names.
pub(super) fn caller<T>(request: &Request<T>) -> Result<String, Status> {
    let peer = request.extensions().get::<PeerCertificate>();
    let certificate = peer.and_then(|peer| peer.0.as_deref()).ok_or_else(|| {
        Status::unauthenticated("a node certificate is needed: join with a token first")
    })?;
    node_of(certificate).ok_or_else(|| Status::permission_denied("the certificate is not a node's"))
}

fn node_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let organization = subject
        .iter_organization()
        .find_map(|one| one.as_str().ok());
    let name = subject
        .iter_common_name()
        .find_map(|one| one.as_str().ok())?
        .strip_prefix(NODE_USER)?;
    (organization == Some(NODES) && NodeName::try_from(name).is_ok()).then(|| name.to_owned())
}
