//! What a node may read through the API beside its session: itself, its pods, and what those need. Kubernetes' node
//! authorizer, without its graph: the pods of a node say it all.
//!
//! Semantics: <https://kubernetes.io/docs/reference/access-authn-authz/node/>.

use std::sync::Arc;

use serde_json::Value;
use waggle_api::access::{Action, User};
use waggle_api::find;
use waggle_api::selector::FieldSelector;
use waggle_plan::pod::Needs;

use crate::objects::{Object, Objects};
use crate::pki::NODE_USER;

/// What every node may read, all of it.
const OPEN: [(&str, &str); 4] = [
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("node.k8s.io", "runtimeclasses"),
    ("storage.k8s.io", "storageclasses"),
];

/// Whether a node may do it.
pub(super) fn may(objects: &Objects, user: &User, action: &Action) -> bool {
    let Some(node) = user.name.strip_prefix(NODE_USER) else {
        return false;
    };
    if !matches!(action.verb.as_str(), "get" | "list" | "watch") || !action.subresource.is_empty() {
        return false;
    }
    let what = (action.group.as_str(), action.resource.as_str());
    let name = chosen(action, "metadata.name");
    match what {
        _ if OPEN.contains(&what) => true,
        ("", "nodes") => name.as_deref() == Some(node),
        ("coordination.k8s.io", "leases") => {
            action.namespace == "kube-node-lease" && name.as_deref() == Some(node)
        }
        ("", "pods") if action.name.is_empty() => {
            chosen(action, "spec.nodeName").as_deref() == Some(node)
        }
        ("", "pods") => pods_of(objects, node)
            .iter()
            .any(|pod| pod.namespace == action.namespace && pod.name == action.name),
        ("", _) => name.is_some_and(|name| needs(objects, node, action, &name)),
        _ => false,
    }
}

/// What a field must be of everything that is asked for: by the path, or by the field selector.
fn chosen(action: &Action, path: &str) -> Option<String> {
    if path == "metadata.name" && !action.name.is_empty() {
        return Some(action.name.clone());
    }
    let row = find(&action.group, "v1", &action.resource)?;
    let selector = FieldSelector::parse(row, &action.field_selector).ok()?;
    selector.value_of(path).map(str::to_owned)
}

fn pods_of(objects: &Objects, node: &str) -> Vec<Arc<Object>> {
    let Some(pods) = find("", "v1", "pods") else {
        return Vec::new();
    };
    let Ok(here) = FieldSelector::parse(pods, &format!("spec.nodeName={node}")) else {
        return Vec::new();
    };
    let mut found = objects.list(pods, None).objects;
    found.retain(|pod| here.matches_values(pod.resource, &pod.namespace, &pod.name, pod.fields()));
    found
}

/// Whether a pod of the node names the object.
fn needs(objects: &Objects, node: &str, action: &Action, name: &str) -> bool {
    let pods = pods_of(objects, node);
    let mut here = pods.iter().filter(|pod| pod.namespace == action.namespace);
    match action.resource.as_str() {
        "secrets" | "configmaps" => here.any(|pod| {
            let needs = Needs::of(&pod.value["spec"]);
            let all = if action.resource == "secrets" {
                needs.secrets
            } else {
                needs.config_maps
            };
            all.contains(name)
        }),
        "serviceaccounts" => here.any(|pod| pod.value["spec"]["serviceAccountName"] == name),
        "persistentvolumeclaims" => here.any(|pod| claims(pod).any(|claim| claim == name)),
        "persistentvolumes" => {
            let row = find("", "v1", "persistentvolumes");
            let volume = row.and_then(|row| objects.get(row, "", name));
            volume.is_some_and(|volume| {
                let claim = &volume.value["spec"]["claimRef"];
                pods.iter().any(|pod| {
                    claim["namespace"] == pod.namespace.as_str()
                        && claims(pod).any(|name| claim["name"] == name)
                })
            })
        }
        _ => false,
    }
}

/// Names of the claims that a pod's volumes are.
fn claims(pod: &Object) -> impl Iterator<Item = String> {
    let volumes = pod.value["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten();
    volumes.filter_map(|volume| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if volume["ephemeral"].is_object() {
            return Some(format!("{}-{}", pod.name, text(&volume["name"])?));
        }
        text(&volume["persistentVolumeClaim"]["claimName"])
    })
}
