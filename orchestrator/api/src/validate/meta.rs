//! Metadata: names, labels, annotations, finalizers, owners.

use serde_json::Value;

use super::names;
use crate::Fault;
use crate::walk::{has, list, members, text};

/// How the pods of a workload are placed.
/// Annotation of a pod that stands for one in a file of its node.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation of a pod: whether nodes are filled up (`pack`) or the emptiest taken (`spread`).
pub const PLACEMENT: &str = "waggle.dev/placement";
/// All annotations together.
const ANNOTATION_BYTES: usize = 256 * 1024;
/// Finalizers that need no domain.
const KNOWN_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Faults of a name for a new object of this kind.
fn name(kind: &str, name: &str) -> Vec<Fault> {
    let rule = match kind {
        "Namespace" | "Tenant" => names::label,
        "Service" => names::dns_1035,
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => names::path_segment,
        _ => names::subdomain,
    };
    rule(name)
        .map(|rule| Fault::invalid("metadata.name", name, rule))
        .into_iter()
        .collect()
}

/// Faults of `metadata`.
pub(super) fn check(kind: &str, value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let own_name = text(value, &["metadata", "name"]);
    if own_name.is_empty() {
        out.push(Fault::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if old.is_none() {
        out.extend(name(kind, own_name));
    }
    let namespace = text(value, &["metadata", "namespace"]);
    if !namespace.is_empty()
        && let Some(rule) = names::label(namespace)
    {
        out.push(Fault::invalid("metadata.namespace", namespace, rule));
    }
    labels_and_annotations(value, "metadata", out);
    finalizers(value, old, out);
    owners(value, out);
}

/// Faults of the labels and annotations of an object or template.
pub(crate) fn labels_and_annotations(value: &Value, path: &str, out: &mut Vec<Fault>) {
    labels(&value["metadata"]["labels"], &format!("{path}.labels"), out);
    let path = format!("{path}.annotations");
    let mut bytes = 0;
    for (key, content) in members(value, &["metadata", "annotations"]) {
        if let Some(rule) = names::qualified_name(&key.to_lowercase()) {
            out.push(Fault::invalid(path.clone(), key.as_str(), rule));
        }
        if key == PLACEMENT {
            let place = format!("{path}[{PLACEMENT}]");
            super::one_of(content, &["pack", "spread"], &place, out);
        }
        bytes += key.len() + content.as_str().map_or(0, str::len);
    }
    if bytes > ANNOTATION_BYTES {
        out.push(Fault::too_long(path, ANNOTATION_BYTES));
    }
}

/// Faults of a map of labels.
pub(super) fn labels(map: &Value, path: &str, out: &mut Vec<Fault>) {
    for (key, value) in members(map, &[]) {
        if let Some(rule) = names::qualified_name(key) {
            out.push(Fault::invalid(path, key.as_str(), rule));
        }
        let value = value.as_str().unwrap_or_default();
        if let Some(rule) = names::label_value(value) {
            out.push(Fault::invalid(path, value, rule));
        }
    }
}

fn finalizers(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    let all = || {
        list(value, &["metadata", "finalizers"])
            .iter()
            .filter_map(Value::as_str)
    };
    for (index, one) in all().enumerate() {
        let path = format!("metadata.finalizers[{index}]");
        if let Some(rule) = names::qualified_name(one) {
            out.push(Fault::invalid(path, one, rule));
        } else if !one.contains('/') && !KNOWN_FINALIZERS.contains(&one) {
            out.push(Fault::invalid(
                path,
                one,
                "name is neither a standard finalizer name nor is it fully qualified",
            ));
        }
    }
    if all().any(|one| one == "orphan") && all().any(|one| one == "foregroundDeletion") {
        let detail = "orphan and foregroundDeletion cannot be both set";
        out.push(Fault::invalid(
            "metadata.finalizers",
            value["metadata"]["finalizers"].clone(),
            detail,
        ));
    }
    let Some(old) = old.filter(|old| has(old, &["metadata", "deletionTimestamp"])) else {
        return;
    };
    let before = list(old, &["metadata", "finalizers"]);
    let added: Vec<&str> = all()
        .filter(|one| !before.iter().any(|old| old == one))
        .collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        );
        out.push(Fault::forbidden("metadata.finalizers", detail));
    }
}

fn owners(value: &Value, out: &mut Vec<Fault>) {
    let mut controllers = 0;
    for (index, owner) in list(value, &["metadata", "ownerReferences"])
        .iter()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, &[field]).is_empty() {
                out.push(Fault::required(
                    format!("metadata.ownerReferences[{index}].{field}"),
                    "must not be empty",
                ));
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        let detail = "only one reference can have controller set to true";
        out.push(Fault::invalid(
            "metadata.ownerReferences",
            value["metadata"]["ownerReferences"].clone(),
            detail,
        ));
    }
}

/// Faults of a LabelSelector object.
pub(super) fn selector(selector: &Value, path: &str, out: &mut Vec<Fault>) {
    labels(
        &selector["matchLabels"],
        &format!("{path}.matchLabels"),
        out,
    );
    for (index, one) in list(selector, &["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = text(one, &["key"]);
        if let Some(rule) = names::qualified_name(key) {
            out.push(Fault::invalid(format!("{path}.key"), key, rule));
        }
        let values = list(one, &["values"]);
        match text(one, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                out.push(Fault::required(format!("{path}.values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                out.push(Fault::forbidden(format!("{path}.values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                out.push(Fault::invalid(format!("{path}.operator"), other, detail));
            }
        }
    }
}

/// A fault when `new` differs from `old` at `path`, whose steps are joined by dots.
pub(super) fn immutable(new: &Value, old: &Value, path: &[&str], out: &mut Vec<Fault>) {
    let (new, old) = (crate::walk::at(new, path), crate::walk::at(old, path));
    if new != old {
        out.push(Fault::invalid(
            path.join("."),
            new.clone(),
            "field is immutable",
        ));
    }
}
