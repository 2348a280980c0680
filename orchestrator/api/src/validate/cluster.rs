//! Namespaces, Nodes, Tenants, Events, Leases.

use serde_json::Value;
use waggle_model::{SYSTEM_TENANT, TENANT_LABEL, TenantName};

use super::{meta, names, one_of};
use crate::Fault;
use crate::walk::{at, has, list, text};

/// Faults of a Namespace.
pub(crate) fn namespace(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Namespace", value, old, &mut out);
    tenant_label(value, &mut out);
    for (index, one) in list(value, &["spec", "finalizers"]).iter().enumerate() {
        let one = one.as_str().unwrap_or_default();
        if let Some(rule) = names::qualified_name(one) {
            out.push(Fault::invalid(
                format!("spec.finalizers[{index}]"),
                one,
                rule,
            ));
        }
    }
    out
}

/// Namespaces of the cluster itself.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// A namespace names its tenant, and can't slip into the one that everybody may reach.
fn tenant_label(value: &Value, out: &mut Vec<Fault>) {
    let Some(name) = at(value, &["metadata", "labels", TENANT_LABEL]).as_str() else {
        return;
    };
    let path = format!("metadata.labels[{TENANT_LABEL}]");
    if TenantName::try_from(name).is_err() {
        let detail = "must be a tenant's name: 1 to 63 lower case letters, digits or '-', starting and ending with a \
                      letter or digit";
        out.push(Fault::invalid(path, name, detail));
    } else if (name == SYSTEM_TENANT)
        != SYSTEM_NAMESPACES.contains(&text(value, &["metadata", "name"]))
    {
        let detail = format!(
            "tenant {SYSTEM_TENANT:?} is that of {}, and of no other",
            SYSTEM_NAMESPACES.join(", ")
        );
        out.push(Fault::forbidden(path, detail));
    }
}

/// Faults of a Node.
pub(crate) fn node(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Node", value, old, &mut out);
    let mut seen = std::collections::BTreeSet::new();
    for (index, taint) in list(value, &["spec", "taints"]).iter().enumerate() {
        let path = format!("spec.taints[{index}]");
        let (key, effect) = (text(taint, &["key"]), text(taint, &["effect"]));
        if let Some(rule) = names::qualified_name(key) {
            out.push(Fault::invalid(format!("{path}.key"), key, rule));
        }
        if let Some(rule) = names::label_value(text(taint, &["value"])) {
            out.push(Fault::invalid(
                format!("{path}.value"),
                text(taint, &["value"]),
                rule,
            ));
        }
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if effect.is_empty() {
            out.push(Fault::required(format!("{path}.effect"), ""));
        } else {
            one_of(
                &taint["effect"],
                &effects,
                &format!("{path}.effect"),
                &mut out,
            );
        }
        if !seen.insert((key, effect)) {
            out.push(Fault::duplicate(path, format!("{key}:{effect}")));
        }
    }
    if let Some(old) = old
        && has(old, &["spec", "podCIDR"])
    {
        meta::immutable(value, old, &["spec", "podCIDR"], &mut out);
    }
    out
}

/// Faults of a Tenant.
pub(crate) fn tenant(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Tenant", value, old, &mut out);
    for (field, most) in [("displayName", 253), ("description", 4096)] {
        if text(value, &["spec", field]).len() > most {
            out.push(Fault::too_long(format!("spec.{field}"), most));
        }
    }
    out
}

/// Faults of an Event.
pub(crate) fn event(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Event", value, old, &mut out);
    let (own, about) = (
        text(value, &["metadata", "namespace"]),
        text(value, &["involvedObject", "namespace"]),
    );
    // Events about cluster-scoped objects live in `default` or where their reporter does.
    if !about.is_empty() && about != own {
        out.push(Fault::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
    out
}

/// Faults of a Lease.
pub(crate) fn lease(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Lease", value, old, &mut out);
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        super::at_least(
            at(value, &["spec", field]),
            least,
            &format!("spec.{field}"),
            &mut out,
        );
    }
    out
}
