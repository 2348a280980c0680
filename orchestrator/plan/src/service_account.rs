//! What each namespace has for its pods to reach the API: the ServiceAccount `default`, which they run as when they name no
//! other, and the ConfigMap with the certificate of the cluster's authority.

use jiff::Timestamp;
use serde_json::json;

use crate::{Plan, Scope, Snapshot, Write};

const NAME: &str = "default";
/// The ConfigMap by which pods know the API's certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";

/// Makes what a namespace lacks. `authority` is the PEM of the cluster's own certificate. The time decides nothing here.
pub fn plan(snapshot: &Snapshot, scope: Scope, authority: &str, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let touched = snapshot.namespaces_in_scope(scope);
    for namespace in snapshot.namespaces.iter() {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        if touched.as_ref().is_some_and(|all| !all.contains(name)) {
            continue;
        }
        let ending = namespace.metadata.deletion_timestamp.is_some();
        let lacks = |kind: &str, object: &str| {
            !ending
                && snapshot.covers("v1", kind)
                && snapshot.named("v1", kind, name, object).is_none()
        };
        if lacks("ServiceAccount", NAME) {
            plan.writes.push(Write::Create(json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": name},
            })));
        }
        if lacks("ConfigMap", ROOT_CA) {
            plan.writes.push(Write::Create(json!({
                "apiVersion": "v1", "kind": "ConfigMap", "data": {"ca.crt": authority},
                "metadata": {"name": ROOT_CA, "namespace": name, "annotations": {"kubernetes.io/description":
                    "Contains a CA bundle that can be used to verify the API server of this cluster."}},
            })));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn every_namespace_has_one_until_it_ends() {
        let mut world = World::new();
        for (name, deleted) in [("a", None), ("b", Some("2026-01-01T00:00:00Z"))] {
            world.put(json!({"apiVersion": "v1", "kind": "Namespace", "spec": {"finalizers": ["kubernetes"]},
                "metadata": {"name": name, "deletionTimestamp": deleted}}));
        }
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, "PEM", world.now));
        for kind in ["ServiceAccount", "ConfigMap"] {
            let made = world.all(kind);
            assert_eq!(made.len(), 1);
            assert_eq!(made[0]["metadata"]["namespace"], "a");
        }
        assert_eq!(world.all("ConfigMap")[0]["data"]["ca.crt"], "PEM");
    }
}
