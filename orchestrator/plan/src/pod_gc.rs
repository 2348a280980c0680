//! Removal of pods that nobody will finish: too many ended ones, those of nodes that don't exist, deleted ones that
//! were never bound, and deleted ones on nodes that were declared out of service.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;

use crate::ownership::delete;
use crate::pod::{self, Pod};
use crate::snapshot::Also;
use crate::write::Propagation;
use crate::{Plan, Scope, Snapshot, taint};

/// Seconds after which ended pods are counted again.
const COUNT_AGAIN: u64 = 60;

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many ended pods are kept, the youngest.
    pub terminated_kept: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            terminated_kept: 12_500,
        }
    }
}

/// Removes pods of missing nodes and deleted pods that no node will report as gone; ended pods beyond the kept ones when
/// it looks at everything, which it asks for once in [`COUNT_AGAIN`].
pub fn plan(snapshot: &Snapshot, scope: Scope, _now: Timestamp, settings: &Settings) -> Plan {
    let mut plan = Plan::default();
    for one in snapshot.in_scope(scope, &snapshot.pods, &[Also::Placement]) {
        let lost = match pod::node_name(one) {
            None => pod::is_deleted(one),
            Some(node) => snapshot
                .nodes
                .get("", node)
                .is_none_or(|node| pod::is_deleted(one) && is_out_of_service(node)),
        };
        if lost {
            force(one, &mut plan);
        }
    }
    if scope != Scope::EVERYTHING {
        return plan;
    }
    plan.again_in(COUNT_AGAIN);
    let mut ended: Vec<&Pod> = snapshot
        .pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|one| pod::is_terminated(one) && !pod::is_deleted(one))
        .filter(|one| pod::node_name(one).is_none_or(|node| snapshot.nodes.get("", node).is_some()))
        .collect();
    if ended.len() > settings.terminated_kept {
        ended.sort_by_key(|one| one.metadata.creation_timestamp.clone());
        let surplus = ended.len() - settings.terminated_kept;
        ended
            .into_iter()
            .take(surplus)
            .for_each(|one| force(one, &mut plan));
    }
    plan
}

fn force(pod: &Pod, plan: &mut Plan) {
    // What still has a finalizer stays until that is taken; asking again would change nothing.
    let held = pod
        .metadata
        .finalizers
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    if held && pod::is_deleted(pod) && pod.metadata.deletion_grace_period_seconds == Some(0) {
        return;
    }
    plan.writes.push(delete(
        pod::reference(pod),
        Some(0),
        Propagation::Background,
    ));
}

fn is_out_of_service(node: &Node) -> bool {
    taint::of(node)
        .iter()
        .any(|one| one.key == taint::OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{World, node, running};
    use serde_json::{Value, json};

    fn bound(name: &str, node: &str) -> Value {
        let mut value = crate::world::pod(name, "0", "0");
        value["spec"]["nodeName"] = json!(node);
        value["status"] = running("10.244.0.2", "2026-01-01T00:00:00Z".parse().unwrap());
        value
    }

    fn settle(world: &mut World, kept: usize) -> Vec<String> {
        let settings = Settings {
            terminated_kept: kept,
        };
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now, &settings));
        world
            .all("Pod")
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn pods_of_missing_nodes_go_at_once() {
        let mut world = World::new();
        world.put(node("here", "1", "1Gi"));
        world.put(bound("a", "here"));
        world.put(bound("b", "gone"));
        world.put(bound("c", "gone"));
        world.delete("Pod", "shop", "c");
        assert_eq!(settle(&mut world, 10), ["a"]);
    }

    #[test]
    fn deleted_pods_without_a_node_and_out_of_service_go() {
        let mut world = World::new();
        let mut dead = node("dead", "1", "1Gi");
        dead["spec"]["taints"] = json!([{"key": taint::OUT_OF_SERVICE, "effect": "NoExecute"}]);
        world.put(dead);
        let mut waiting = crate::world::pod("a", "0", "0");
        waiting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        world.put(waiting);
        world.put(bound("b", "dead"));
        world.delete("Pod", "shop", "b");
        world.put(bound("c", "dead"));
        assert_eq!(settle(&mut world, 10), ["c"]);
    }

    #[test]
    fn the_oldest_ended_pods_go_first() {
        let mut world = World::new();
        world.put(node("here", "1", "1Gi"));
        for name in ["a", "b", "c", "d"] {
            world.put(bound(name, "here"));
            world.pass(1);
        }
        for name in ["a", "b", "c"] {
            world.edit("Pod", "shop", name, |pod| {
                pod["status"]["phase"] = json!("Succeeded")
            });
        }
        assert_eq!(settle(&mut world, 1), ["c", "d"]);
    }
}
