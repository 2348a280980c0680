//! Roles and bindings.

use serde_json::Value;

use super::{meta, names, one_of};
use crate::Fault;
use crate::walk::{has, list, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Faults of a Role.
pub(crate) fn role(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Role", value, old, &mut out);
    rules(value, true, &mut out);
    out
}

/// Faults of a ClusterRole.
pub(crate) fn cluster_role(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ClusterRole", value, old, &mut out);
    rules(value, false, &mut out);
    if has(value, &["aggregationRule"]) {
        let selectors = list(value, &["aggregationRule", "clusterRoleSelectors"]);
        let path = "aggregationRule.clusterRoleSelectors";
        if selectors.is_empty() {
            out.push(Fault::required(
                path,
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            ));
        }
        for (index, selector) in selectors.iter().enumerate() {
            meta::selector(selector, &format!("{path}[{index}]"), &mut out);
        }
    }
    out
}

fn rules(value: &Value, namespaced: bool, out: &mut Vec<Fault>) {
    for (index, rule) in list(value, &["rules"]).iter().enumerate() {
        let path = format!("rules[{index}]");
        if list(rule, &["verbs"]).is_empty() {
            out.push(Fault::required(
                format!("{path}.verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !list(rule, &["nonResourceURLs"]).is_empty() {
            if namespaced {
                out.push(Fault::invalid(
                    format!("{path}.nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            if ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|field| !list(rule, &[field]).is_empty())
            {
                out.push(Fault::invalid(
                    format!("{path}.nonResourceURLs"),
                    rule["nonResourceURLs"].clone(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        for (field, detail) in [
            (
                "apiGroups",
                "resource rules must supply at least one api group",
            ),
            (
                "resources",
                "resource rules must supply at least one resource",
            ),
        ] {
            if list(rule, &[field]).is_empty() {
                out.push(Fault::required(format!("{path}.{field}"), detail));
            }
        }
    }
}

/// Faults of a RoleBinding.
pub(crate) fn role_binding(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    binding("RoleBinding", &["ClusterRole", "Role"], value, old)
}

/// Faults of a ClusterRoleBinding.
pub(crate) fn cluster_role_binding(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    binding("ClusterRoleBinding", &["ClusterRole"], value, old)
}

fn binding(kind: &str, roles: &[&str], value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check(kind, value, old, &mut out);
    one_of(
        &value["roleRef"]["apiGroup"],
        &[GROUP],
        "roleRef.apiGroup",
        &mut out,
    );
    if text(value, &["roleRef", "kind"]).is_empty() {
        out.push(Fault::required("roleRef.kind", ""));
    } else {
        one_of(&value["roleRef"]["kind"], roles, "roleRef.kind", &mut out);
    }
    let name = text(value, &["roleRef", "name"]);
    if name.is_empty() {
        out.push(Fault::required("roleRef.name", ""));
    } else if let Some(rule) = names::path_segment(name) {
        out.push(Fault::invalid("roleRef.name", name, rule));
    }
    if let Some(old) = old
        && value["roleRef"] != old["roleRef"]
    {
        out.push(Fault::invalid(
            "roleRef",
            value["roleRef"].clone(),
            "cannot change roleRef",
        ));
    }
    for (index, subject) in list(value, &["subjects"]).iter().enumerate() {
        one_subject(subject, kind, &format!("subjects[{index}]"), &mut out);
    }
    out
}

fn one_subject(subject: &Value, kind: &str, path: &str, out: &mut Vec<Fault>) {
    let name = text(subject, &["name"]);
    if name.is_empty() {
        out.push(Fault::required(format!("{path}.name"), ""));
    }
    match text(subject, &["kind"]) {
        "ServiceAccount" => {
            if let Some(rule) = (!name.is_empty()).then(|| names::subdomain(name)).flatten() {
                out.push(Fault::invalid(format!("{path}.name"), name, rule));
            }
            if !text(subject, &["apiGroup"]).is_empty() {
                let path = format!("{path}.apiGroup");
                out.push(Fault::not_supported(
                    path,
                    subject["apiGroup"].clone(),
                    &[""],
                ));
            }
            if text(subject, &["namespace"]).is_empty() && kind == "ClusterRoleBinding" {
                out.push(Fault::required(format!("{path}.namespace"), ""));
            }
        }
        "User" | "Group" => {
            one_of(
                &subject["apiGroup"],
                &[GROUP],
                &format!("{path}.apiGroup"),
                out,
            );
        }
        _ => out.push(Fault::not_supported(
            format!("{path}.kind"),
            subject["kind"].clone(),
            &["Group", "ServiceAccount", "User"],
        )),
    }
}
