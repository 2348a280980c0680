//! Who asks, and whether they may. A client is known by its certificate, by a ServiceAccount's token or by the
//! administrator's; the join token is no API token. What somebody may do, their roles say (`waggle_api::access`); a node
//! may beside that read what its pods need (`nodes`).

mod action;
mod admission;
mod nodes;
mod signing;
mod tokens;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::Value;
pub use waggle_api::access::User;
use waggle_api::access::{self, AUTHENTICATED, Action, Roles};
use waggle_api::{Status, find};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::objects::Objects;
use crate::pki::{ADMINISTRATORS, NODES, Pki, SERVERS};

pub(crate) use action::action_of;
pub(crate) use admission::{admit_write, advice};
pub(crate) use signing::{admit_part, stamp};
pub use tokens::{Bound, Claims, ISSUER, TokenGrant, Tokens, account_of};

/// The certificate (DER) that a client showed when it connected; verified by then to be of this cluster.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate(pub Option<Vec<u8>>);

/// Who asks; `None` for nobody in particular.
///
/// # Errors
/// 401 when credentials were given and are wrong.
pub fn authenticate(
    pki: &Pki,
    objects: &Objects,
    peer: &PeerCertificate,
    headers: &HeaderMap,
) -> Result<Option<User>, Status> {
    if let Some(der) = &peer.0 {
        if is_server(peer) {
            return Ok(crate::forward::signed_by(headers));
        }
        return user_of(der)
            .map(Some)
            .ok_or_else(|| Status::unauthorized("the client certificate names nobody"));
    }
    let Some(header) = headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("Bearer "))
        .map(str::trim);
    match token {
        Some(token) => user_of_token(pki, objects, token, &[ISSUER.to_owned()])
            .map(Some)
            .map_err(Status::unauthorized),
        None => Err(Status::unauthorized(
            "use a client certificate or a bearer token",
        )),
    }
}

/// Whether another server of the cluster asks.
pub(crate) fn is_server(peer: &PeerCertificate) -> bool {
    let user = peer.0.as_deref().and_then(user_of);
    user.is_some_and(|user| user.groups.iter().any(|group| group == SERVERS))
}

/// Whose bearer token it is; the error says why it is nobody's.
pub(crate) fn user_of_token(
    pki: &Pki,
    objects: &Objects,
    token: &str,
    audiences: &[String],
) -> Result<User, String> {
    if pki.is_admin_token(token) {
        return Ok(User {
            name: "waggle-admin".into(),
            groups: vec![ADMINISTRATORS.into(), AUTHENTICATED.into()],
            ..User::default()
        });
    }
    if pki.is_join_token(token) {
        return Err("this is the token that agents join with, not a token for the API".into());
    }
    if token.split('.').count() != 3 {
        return Err("the bearer token is wrong".into());
    }
    let claims = pki.tokens().verify(token, audiences, objects.now())?;
    account_of(objects, &claims)
}

fn user_of(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .find_map(|one| one.as_str().ok())?
        .to_owned();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|one| one.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push(AUTHENTICATED.to_owned());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}

/// Paths that answer to anybody: whether the server lives, and which it is.
pub fn is_open(path: &str) -> bool {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    matches!(first, "version" | "livez" | "readyz" | "healthz")
}

/// Why `user` may do it.
///
/// # Errors
/// 401 for nobody, 403 when they may not.
pub fn authorize(
    objects: &Objects,
    user: Option<&User>,
    action: &Action,
) -> Result<String, Status> {
    if action.resource.is_empty() && is_open(&action.path) {
        return Ok("open to everybody".to_owned());
    }
    let Some(user) = user else {
        return Err(Status::unauthorized(
            "Unauthorized: use a client certificate or a bearer token",
        ));
    };
    decide(objects, user, action).ok_or_else(|| forbidden(user, action))
}

/// Why `user` may do it; `None` when they may not.
pub(crate) fn decide(objects: &Objects, user: &User, action: &Action) -> Option<String> {
    if user.belongs_to(ADMINISTRATORS) {
        return Some("member of system:masters".to_owned());
    }
    if user.belongs_to(NODES) && nodes::may(objects, user, action) {
        return Some("node".to_owned());
    }
    access::allowed(user, action, &Stored(objects))
}

/// The roles and bindings of this cluster.
pub(crate) struct Stored<'a>(pub(crate) &'a Objects);

const GROUP: &str = "rbac.authorization.k8s.io";

impl Roles for Stored<'_> {
    fn role(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = find(GROUP, "v1", plural)?;
        Some(self.0.get(kind, namespace, name)?.value.clone())
    }

    fn all(&self, plural: &str, namespace: &str) -> Vec<Value> {
        let Some(kind) = find(GROUP, "v1", plural) else {
            return Vec::new();
        };
        let within = kind.namespaced.then_some(namespace);
        let listing = self.0.list(kind, within);
        listing
            .objects
            .iter()
            .map(|one| one.value.clone())
            .collect()
    }
}

/// The refusal, worded as Kubernetes words it.
pub(crate) fn forbidden(user: &User, action: &Action) -> Status {
    if action.resource.is_empty() {
        let message = format!(
            "forbidden: User {:?} cannot {} path {:?}",
            user.name, action.verb, action.path
        );
        return Status::failure(403, "Forbidden", message);
    }
    let slash = if action.subresource.is_empty() {
        ""
    } else {
        "/"
    };
    let scope = if action.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", action.namespace)
    };
    let dot = if action.group.is_empty() { "" } else { "." };
    let quoted = if action.name.is_empty() {
        String::new()
    } else {
        format!(" {:?}", action.name)
    };
    let message = format!(
        "{}{dot}{}{quoted} is forbidden: User {:?} cannot {} resource \"{}{slash}{}\" in API group {:?} {scope}",
        action.resource,
        action.group,
        user.name,
        action.verb,
        action.resource,
        action.subresource,
        action.group
    );
    let mut status = Status::failure(403, "Forbidden", message);
    status.details = Some(Box::new(waggle_api::Details {
        name: action.name.clone(),
        group: action.group.clone(),
        kind: action.resource.clone(),
        ..waggle_api::Details::default()
    }));
    status
}

/// Whom a request is made for: the one who asks, or somebody else whom they may stand in for.
///
/// # Errors
/// 403 when they may not.
pub fn impersonate(
    objects: &Objects,
    user: Option<User>,
    headers: &HeaderMap,
) -> Result<Option<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(name) = text("impersonate-user") else {
        return Ok(user);
    };
    let account = name
        .strip_prefix(access::SERVICE_ACCOUNT_USER)
        .and_then(|rest| rest.split_once(':'));
    let asked = |resource: &str, namespace: &str, name: &str| Action {
        verb: "impersonate".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Action::default()
    };
    let action = match account {
        Some((namespace, name)) => asked("serviceaccounts", namespace, name),
        None => asked("users", "", name),
    };
    authorize(objects, user.as_ref(), &action)?;
    let mut other = match account {
        Some((namespace, name)) => User::service_account(namespace, name, ""),
        None => User {
            name: name.to_owned(),
            ..User::default()
        },
    };
    for group in headers.get_all("impersonate-group") {
        let group = group.to_str().unwrap_or_default();
        authorize(objects, user.as_ref(), &asked("groups", "", group))?;
        other.groups.push(group.to_owned());
    }
    if !other.belongs_to(AUTHENTICATED) {
        other.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(other))
}
