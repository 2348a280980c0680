//! Taints of nodes and what pods tolerate.

use k8s_openapi::api::core::v1::{Node, Taint, Toleration};

use crate::pod::Pod;

pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
pub(crate) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub(crate) fn taint(key: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        value: None,
        time_added: None,
    }
}

/// A node's own taints.
pub(crate) fn of(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

/// A pod's tolerations.
pub(crate) fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default()
}

/// Whether this toleration is for this taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let value = match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty()
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    };
    value && (key.is_empty() || key == taint.key) && (effect.is_empty() || effect == taint.effect)
}

/// Whether any of them is.
pub(crate) fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations
        .iter()
        .any(|toleration| tolerates(toleration, taint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(toleration: Value, expect: bool) {
        let typed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        let mut dedicated = taint("dedicated", "NoSchedule");
        dedicated.value = Some("db".into());
        assert_eq!(tolerates(&typed, &dedicated), expect, "{toleration}");
    }

    #[test]
    fn tolerations_match_as_in_kubernetes() {
        check(json!({"operator": "Exists"}), true);
        check(json!({}), false);
        check(json!({"key": "dedicated", "value": "db"}), true);
        check(json!({"key": "dedicated", "value": "web"}), false);
        check(
            json!({"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}),
            true,
        );
        check(
            json!({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}),
            false,
        );
        check(json!({"key": "other", "operator": "Exists"}), false);
    }
}
