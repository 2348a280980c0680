//! The ServiceAccount `default` of each namespace, which pods run as when they name no other.

use jiff::Timestamp;
use serde_json::json;

use crate::{Plan, Snapshot, Write};

const NAME: &str = "default";

/// Makes the ServiceAccount of every namespace that lacks it. The time decides nothing here.
pub fn plan(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for namespace in snapshot.namespaces.iter() {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let ending = namespace.metadata.deletion_timestamp.is_some();
        let there = snapshot.named("v1", "ServiceAccount", name, NAME).is_some();
        if !ending && !there && snapshot.covers("v1", "ServiceAccount") {
            plan.writes.push(Write::Create(json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": name},
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
        world.settle(|world| plan(&world.snapshot, world.now));
        let made = world.all("ServiceAccount");
        assert_eq!(made.len(), 1);
        assert_eq!(made[0]["metadata"]["namespace"], "a");
    }
}
