//! What a writer may put into an object beyond being allowed to write it: nobody gives away rights that they lack, or
//! moves a namespace to a tenant that they may not use. And what they should hear though it is allowed.

use serde_json::Value;
use waggle_api::access::{Action, User, escalation};
use waggle_api::admission::pod_security::Mode;
use waggle_api::{Resource, Status, find};
use waggle_model::TENANT_LABEL;

use super::{Stored, decide};
use crate::objects::Objects;

const ACCESS: &str = "rbac.authorization.k8s.io";

/// Whether `user` may write `new` in place of `old`.
///
/// # Errors
/// 403 naming what they lack.
pub(crate) fn admit_write(
    objects: &Objects,
    user: Option<&User>,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let Some(user) = user else {
        return Ok(());
    };
    match (resource.group, resource.kind) {
        (ACCESS, _) => no_escalation(objects, user, resource, new),
        ("", "Namespace") => tenant(objects, user, resource, old, new),
        _ => Ok(()),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn no_escalation(
    objects: &Objects,
    user: &User,
    resource: &Resource,
    new: &Value,
) -> Result<(), Status> {
    let namespace = if resource.namespaced {
        text(new, "/metadata/namespace")
    } else {
        ""
    };
    let may = |verb: &str, plural: &str, name: &str| {
        let action = Action {
            verb: verb.into(),
            group: ACCESS.into(),
            resource: plural.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Action::default()
        };
        decide(objects, user, &action).is_some()
    };
    let name = text(new, "/metadata/name");
    let rules = if resource.kind.ends_with("Binding") {
        let (kind, role) = (text(new, "/roleRef/kind"), text(new, "/roleRef/name"));
        let plural = if kind == "Role" {
            "roles"
        } else {
            "clusterroles"
        };
        if may("bind", plural, role) {
            return Ok(());
        }
        let home = if kind == "Role" { namespace } else { "" };
        let found = find(ACCESS, "v1", plural).and_then(|kind| objects.get(kind, home, role));
        match found {
            Some(found) => found.value["rules"].clone(),
            None => {
                let why = format!(
                    "{kind} {role:?} is not there, and only who may bind it may name it before it is"
                );
                return Err(Status::forbidden(resource, name, &why));
            }
        }
    } else {
        if may("escalate", resource.plural, name) {
            return Ok(());
        }
        new["rules"].clone()
    };
    let rules = rules.as_array().cloned().unwrap_or_default();
    let lacking = escalation(user, &rules, namespace, &Stored(objects));
    if lacking.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user {:?} is attempting to grant RBAC permissions not currently held: {}",
        user.name,
        lacking.join(", ")
    );
    Err(Status::forbidden(resource, name, &why))
}

/// A namespace goes from one tenant to another only by who may use both.
fn tenant(
    objects: &Objects,
    user: &User,
    resource: &Resource,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let of = |value: &Value| {
        value["metadata"]["labels"][TENANT_LABEL]
            .as_str()
            .map(str::to_owned)
    };
    let (before, after) = (old.and_then(of), of(new));
    if before == after {
        return Ok(());
    }
    for tenant in [before, after].into_iter().flatten() {
        let action = Action {
            verb: "use".into(),
            group: "waggle.dev".into(),
            resource: "tenants".into(),
            name: tenant.clone(),
            ..Action::default()
        };
        if decide(objects, user, &action).is_none() {
            let why = format!(
                "label {TENANT_LABEL}: User {:?} may not use tenant {tenant:?}: a role with verb \"use\" on \
                 tenants.waggle.dev gives that right",
                user.name
            );
            return Err(Status::forbidden(
                resource,
                text(new, "/metadata/name"),
                &why,
            ));
        }
    }
    Ok(())
}

/// What the writer of an object should hear.
pub(crate) fn advice(objects: &Objects, resource: &Resource, value: &Value) -> Vec<String> {
    let insecure = objects.insecurities(Mode::Warn, resource, value);
    let insecure = insecure.filter(|_| !resource.is_custom());
    if let Some(broken) = insecure {
        return vec![format!("would violate {broken}")];
    }
    match resource.kind {
        "Namespace" => {
            let Some(name) = value["metadata"]["labels"][TENANT_LABEL].as_str() else {
                return Vec::new();
            };
            let there =
                find("waggle.dev", "v1", "tenants").and_then(|kind| objects.get(kind, "", name));
            match there {
                Some(_) => Vec::new(),
                None => vec![format!(
                    "metadata.labels[{TENANT_LABEL}]: there is no Tenant {name:?}: create it, or correct the label"
                )],
            }
        }
        _ => Vec::new(),
    }
}
