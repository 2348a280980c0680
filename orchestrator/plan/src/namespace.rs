//! The end of a namespace: first what is in it, then itself.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceStatus};

use crate::ownership::{delete, json};
use crate::write::Propagation;
use crate::{Plan, Snapshot, Write, pod};

/// Finalizer in `spec.finalizers` of a Namespace.
pub const FINALIZER: &str = "kubernetes";
const TERMINATING: &str = "Terminating";

/// Empties deleted namespaces and lets them go. The time decides nothing here.
pub fn plan(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for namespace in snapshot
        .namespaces
        .iter()
        .filter(|one| one.metadata.deletion_timestamp.is_some())
    {
        end(snapshot, namespace, &mut plan);
    }
    plan
}

fn end(snapshot: &Snapshot, namespace: &Namespace, plan: &mut Plan) {
    let object = pod::object("v1", "Namespace", &namespace.metadata);
    let phase = namespace
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if phase != Some(TERMINATING) {
        let before = namespace.status.clone().unwrap_or_default();
        let status = NamespaceStatus {
            phase: Some(TERMINATING.to_owned()),
            ..before
        };
        plan.writes.push(Write::UpdateStatus(json(&Namespace {
            status: Some(status),
            ..namespace.clone()
        })));
        return;
    }
    let mut content = snapshot.metas_in(&object.name).peekable();
    if content.peek().is_none() {
        let held = namespace
            .spec
            .iter()
            .flat_map(|spec| spec.finalizers.iter().flatten());
        if held.into_iter().any(|one| one == FINALIZER) {
            plan.writes.push(Write::RemoveFinalizer {
                object: object.clone(),
                finalizer: FINALIZER.to_owned(),
            });
        }
        return;
    }
    for meta in content.filter(|meta| meta.deleted.is_none()) {
        plan.writes
            .push(delete(meta.object(), None, Propagation::Background));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn a_namespace_goes_after_its_content() {
        let mut world = World::new();
        for name in ["shop", "other"] {
            world.put(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
                "spec": {"finalizers": [FINALIZER]}}),
            );
            world.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": name}}));
        }
        let mut running = crate::world::pod("p", "0", "0");
        running["spec"]["nodeName"] = json!("node1");
        world.put(running);
        world.delete("Namespace", "", "shop");
        let settle = |world: &mut World| world.settle(|world| plan(&world.snapshot, world.now));
        settle(&mut world);
        let namespace = world.get("Namespace", "", "shop").unwrap();
        assert_eq!(namespace["status"]["phase"], TERMINATING);
        assert!(world.get("ConfigMap", "shop", "c").is_none());
        world.agents();
        settle(&mut world);
        assert!(world.get("Namespace", "", "shop").is_none());
        assert_eq!(world.all("ConfigMap").len(), 1);
        assert_eq!(world.refused, 0);
    }
}
