//! Who may do what: role-based access control, evaluated over the roles and bindings as they are. Pure; who somebody
//! is, is found out elsewhere.
//!
//! Semantics: <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>.

mod roles;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use roles::defaults;

use crate::selector::LabelSelector;
use crate::walk::{at, list, text};

/// Group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everybody who isn't.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// What a ServiceAccount's user name starts with; its namespace and name follow.
pub const SERVICE_ACCOUNT_USER: &str = "system:serviceaccount:";

/// Somebody who is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `system:node:node1`, `ann`.
    pub name: String,
    /// Uid, empty when there is none.
    pub uid: String,
    /// `system:nodes`.
    pub groups: Vec<String>,
    /// What else is known, by key.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A ServiceAccount's.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_USER}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra: Vec::new(),
        }
    }

    /// Whoever says nothing of themselves.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// Whether they are in the group.
    pub fn belongs_to(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// As reviews show it.
    pub fn to_value(&self) -> Value {
        let mut value = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.as_str().into();
        }
        for (key, values) in &self.extra {
            value["extra"][key] = json!(values);
        }
        value
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or an HTTP method in lower
    /// case.
    pub verb: String,
    /// API group, empty for core.
    pub group: String,
    /// Plural; empty for a path that is no object.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// Empty for all, or for what lives in none.
    pub namespace: String,
    /// Empty for a list.
    pub name: String,
    /// The path, when it is no object.
    pub path: String,
    /// Of a list or watch: the field selector, as it was given.
    pub field_selector: String,
}

impl Action {
    /// `pods/log`.
    pub(crate) fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// Where roles and bindings are found.
pub trait Roles {
    /// The object of a kind of rbac.authorization.k8s.io (`clusterroles`, `roles`), if it is there.
    fn role(&self, plural: &str, namespace: &str, name: &str) -> Option<Value>;
    /// All objects of a kind: `clusterroles`, `clusterrolebindings`, or the `rolebindings` of a namespace.
    fn all(&self, plural: &str, namespace: &str) -> Vec<Value>;
}

/// Whether `user` may do it, and by what.
pub fn allowed(user: &User, action: &Action, roles: &dyn Roles) -> Option<String> {
    grants(user, &action.namespace, roles)
        .into_iter()
        .find(|grant| grant.rules.iter().any(|rule| covers(rule, action)))
        .map(|grant| grant.why)
}

/// Rules that somebody has, and where from.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// `RBAC: allowed by ...`.
    pub why: String,
    /// The role's rules.
    pub rules: Vec<Value>,
}

/// Everything that `user` was given for the cluster and in the namespace (empty for none).
pub fn grants(user: &User, namespace: &str, roles: &dyn Roles) -> Vec<Grant> {
    let mut all = Vec::new();
    let mut take = |kind: &str, namespace: &str, binding: &Value| {
        let Some(subject) = list(binding, &["subjects"])
            .iter()
            .find(|subject| is_subject(user, subject, namespace))
        else {
            return;
        };
        let (role_kind, role) = (
            text(binding, &["roleRef", "kind"]),
            text(binding, &["roleRef", "name"]),
        );
        let name = text(binding, &["metadata", "name"]);
        let place = if namespace.is_empty() {
            String::new()
        } else {
            format!("/{namespace}")
        };
        all.push(Grant {
            why: format!(
                "RBAC: allowed by {kind} \"{name}{place}\" of {role_kind} {role:?} to {} {:?}",
                text(subject, &["kind"]),
                text(subject, &["name"])
            ),
            rules: rules_of(role_kind, role, namespace, roles),
        });
    };
    for binding in roles.all("clusterrolebindings", "") {
        take("ClusterRoleBinding", "", &binding);
    }
    if !namespace.is_empty() {
        for binding in roles.all("rolebindings", namespace) {
            take("RoleBinding", namespace, &binding);
        }
    }
    all
}

fn is_subject(user: &User, subject: &Value, namespace: &str) -> bool {
    let name = text(subject, &["name"]);
    match text(subject, &["kind"]) {
        "User" => user.name == name,
        "Group" => user.belongs_to(name),
        "ServiceAccount" => {
            let home = match text(subject, &["namespace"]) {
                "" => namespace,
                home => home,
            };
            user.name == format!("{SERVICE_ACCOUNT_USER}{home}:{name}")
        }
        _ => false,
    }
}

/// Rules of a role, with those of the roles that it gathers.
fn rules_of(kind: &str, name: &str, namespace: &str, roles: &dyn Roles) -> Vec<Value> {
    let found = match kind {
        "ClusterRole" => roles.role("clusterroles", "", name),
        _ => roles.role("roles", namespace, name),
    };
    let Some(role) = found else {
        return Vec::new();
    };
    let mut rules = list(&role, &["rules"]).to_vec();
    let selectors: Vec<LabelSelector> = list(&role, &["aggregationRule", "clusterRoleSelectors"])
        .iter()
        .filter_map(|selector| LabelSelector::from_object(selector).ok())
        .collect();
    if !selectors.is_empty() {
        for other in roles.all("clusterroles", "") {
            if selectors
                .iter()
                .any(|selector| selector.matches_object(&other))
            {
                rules.extend(list(&other, &["rules"]).iter().cloned());
            }
        }
    }
    rules
}

/// Whether a rule allows the action.
pub fn covers(rule: &Value, action: &Action) -> bool {
    if !names(rule, "verbs", &action.verb) {
        return false;
    }
    if action.resource.is_empty() {
        return list(rule, &["nonResourceURLs"])
            .iter()
            .filter_map(Value::as_str)
            .any(|pattern| path_matches(pattern, &action.path));
    }
    names(rule, "apiGroups", &action.group)
        && names_resource(rule, action)
        && names_object(rule, action)
}

/// Whether the list holds the word or a star.
fn names(rule: &Value, field: &str, word: &str) -> bool {
    list(rule, &[field])
        .iter()
        .any(|one| one == "*" || one == word)
}

fn names_resource(rule: &Value, action: &Action) -> bool {
    let full = action.full_resource();
    list(rule, &["resources"])
        .iter()
        .filter_map(Value::as_str)
        .any(|one| {
            one == "*"
                || one == full
                || one.strip_prefix("*/").is_some_and(|subresource| {
                    !subresource.is_empty() && subresource == action.subresource
                })
        })
}

fn names_object(rule: &Value, action: &Action) -> bool {
    let only = list(rule, &["resourceNames"]);
    only.is_empty() || only.iter().any(|one| one == action.name.as_str())
}

/// Whether a path is meant by a rule's: the same, or one that begins so where that ends in a star.
pub(crate) fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => pattern == path,
    }
}

/// What the rules of a role allow that `user` may not do: nobody gives away more than they have. One text a rule.
pub fn escalation(user: &User, rules: &[Value], namespace: &str, roles: &dyn Roles) -> Vec<String> {
    let own = grants(user, namespace, roles);
    let held = |action: &Action| {
        own.iter()
            .any(|grant| grant.rules.iter().any(|rule| covers(rule, action)))
    };
    rules
        .iter()
        .filter(|rule| !actions_of(rule, namespace).iter().all(held))
        .map(ToString::to_string)
        .collect()
}

/// Every single action of a rule; a star stands for itself, so that only a star allows it.
fn actions_of(rule: &Value, namespace: &str) -> Vec<Action> {
    let words = |field: &str| -> Vec<String> {
        let all = at(rule, &[field])
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        all.iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut names = words("resourceNames");
    if names.is_empty() {
        names.push(String::new());
    }
    let mut all = Vec::new();
    for verb in words("verbs") {
        for path in words("nonResourceURLs") {
            all.push(Action {
                verb: verb.clone(),
                path,
                ..Action::default()
            });
        }
        for group in words("apiGroups") {
            for resource in words("resources") {
                let (resource, subresource) = match resource.split_once('/') {
                    Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
                    None => (resource, String::new()),
                };
                all.extend(names.iter().map(|name| Action {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.clone(),
                    subresource: subresource.clone(),
                    namespace: namespace.to_owned(),
                    name: name.clone(),
                    ..Action::default()
                }));
            }
        }
    }
    all
}
