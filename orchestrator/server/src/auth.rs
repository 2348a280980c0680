//! Who asks, and whether they may. A client is known by its certificate or by a bearer token; the join token is no API
//! token. Administrators may do everything, nodes may read what is no secret, everybody else nothing yet.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use waggle_api::{Resource, Status};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::forward::{REMOTE_GROUP, REMOTE_USER};
use crate::pki::{ADMINISTRATORS, NODES, Pki, SERVERS};

/// Somebody who is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `system:node:node1`.
    pub name: String,
    /// `system:nodes`.
    pub groups: Vec<String>,
}

/// The certificate (DER) that a client showed when it connected; verified by then to be of this cluster.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate(pub Option<Vec<u8>>);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Attributes<'a> {
    /// Objects of a kind.
    Objects {
        /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
        verb: &'a str,
        /// Kind.
        resource: &'static Resource,
        /// `status`, or empty.
        subresource: &'a str,
        /// Empty for all, or for a cluster-scoped kind.
        namespace: &'a str,
        /// Empty for a list.
        name: &'a str,
    },
    /// Anything else: discovery, metrics.
    Path {
        /// HTTP method in lower case.
        verb: &'a str,
        /// Path.
        path: &'a str,
    },
}

/// Who asks; `None` for nobody in particular.
///
/// # Errors
/// 401 when credentials were given and are wrong.
pub fn authenticate(
    pki: &Pki,
    peer: &PeerCertificate,
    headers: &HeaderMap,
) -> Result<Option<User>, Status> {
    if let Some(der) = &peer.0 {
        if is_server(peer) {
            return Ok(spoken_for(headers));
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
        Some(token) if pki.is_admin_token(token) => Ok(Some(User {
            name: "waggle-admin".into(),
            groups: vec![ADMINISTRATORS.into()],
        })),
        Some(token) if pki.is_join_token(token) => Err(Status::unauthorized(
            "this is the token that agents join with, not a token for the API",
        )),
        Some(_) => Err(Status::unauthorized("the bearer token is wrong")),
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

/// In whose name another server of the cluster asks.
fn spoken_for(headers: &HeaderMap) -> Option<User> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Some(User {
        name: headers.get(REMOTE_USER).map(text)?,
        groups: headers.get_all(REMOTE_GROUP).iter().map(text).collect(),
    })
}

fn user_of(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject
        .iter_common_name()
        .find_map(|one| one.as_str().ok())?
        .to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|one| one.as_str().ok())
        .map(str::to_owned)
        .collect();
    Some(User { name, groups })
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

/// Whether `user` may do it.
///
/// # Errors
/// 401 for nobody, 403 otherwise.
pub fn authorize(user: Option<&User>, asked: &Attributes<'_>) -> Result<(), Status> {
    if let Attributes::Path { path, .. } = asked
        && is_open(path)
    {
        return Ok(());
    }
    let Some(user) = user else {
        return Err(Status::unauthorized(
            "Unauthorized: use a client certificate or a bearer token",
        ));
    };
    let belongs = |group: &str| user.groups.iter().any(|one| one == group);
    if belongs(ADMINISTRATORS) || (belongs(NODES) && node_may(asked)) {
        return Ok(());
    }
    Err(forbidden(user, asked))
}

/// Nodes get what they need through their session; beside that they may look, but not at secrets.
fn node_may(asked: &Attributes<'_>) -> bool {
    match asked {
        Attributes::Objects {
            verb,
            resource,
            subresource,
            ..
        } => {
            matches!(*verb, "get" | "list" | "watch")
                && resource.kind != "Secret"
                && subresource.is_empty()
        }
        Attributes::Path { verb, .. } => *verb == "get",
    }
}

fn forbidden(user: &User, asked: &Attributes<'_>) -> Status {
    match *asked {
        Attributes::Objects {
            verb,
            resource,
            subresource,
            namespace,
            name,
        } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            let why = format!(
                "User {:?} cannot {verb} resource \"{}{slash}{subresource}\" in API group {:?} {scope}",
                user.name, resource.plural, resource.group
            );
            Status::forbidden(resource, name, &why)
        }
        Attributes::Path { verb, path } => {
            let message = format!(
                "forbidden: User {:?} cannot {verb} path {path:?}",
                user.name
            );
            Status::failure(403, "Forbidden", message)
        }
    }
}

#[cfg(test)]
mod tests {
    use waggle_api::lookup_name;

    use super::*;

    fn user(group: &str) -> User {
        User {
            name: "somebody".into(),
            groups: vec![group.into()],
        }
    }

    fn objects<'a>(verb: &'a str, kind: &str) -> Attributes<'a> {
        let resource = lookup_name(kind).unwrap();
        Attributes::Objects {
            verb,
            resource,
            subresource: "",
            namespace: "shop",
            name: "",
        }
    }

    #[test]
    fn each_may_what_they_may() {
        let (admin, node, other) = (user(ADMINISTRATORS), user(NODES), user("staff"));
        for (who, asked, code) in [
            (Some(&admin), objects("delete", "secrets"), None),
            (Some(&node), objects("list", "pods"), None),
            (Some(&node), objects("get", "secrets"), Some(403)),
            (Some(&node), objects("create", "pods"), Some(403)),
            (Some(&other), objects("get", "pods"), Some(403)),
            (None, objects("get", "pods"), Some(401)),
            (
                None,
                Attributes::Path {
                    verb: "get",
                    path: "/readyz",
                },
                None,
            ),
            (
                None,
                Attributes::Path {
                    verb: "get",
                    path: "/apis",
                },
                Some(401),
            ),
            (
                Some(&node),
                Attributes::Path {
                    verb: "get",
                    path: "/apis",
                },
                None,
            ),
        ] {
            assert_eq!(
                authorize(who, &asked).err().map(|status| status.code),
                code,
                "{who:?} {asked:?}"
            );
        }
    }

    #[test]
    fn a_refusal_says_who_what_and_where() {
        let status = authorize(Some(&user("staff")), &objects("list", "deployments")).unwrap_err();
        assert_eq!(
            status.message,
            "deployments.apps is forbidden: User \"somebody\" cannot list resource \"deployments\" in API group \
             \"apps\" in the namespace \"shop\""
        );
    }
}
