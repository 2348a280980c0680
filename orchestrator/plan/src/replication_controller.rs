//! The ReplicationController controller: a ReplicaSet's work for the older kind, whose selector is a plain map.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::ownership::json;
use crate::replica_set::{self, Keeper};
use crate::snapshot::Also;
use crate::{Ids, Plan, Scope, Snapshot, Write, pod};

const COMPONENT: &str = "replication-controller";

/// Creates, removes, adopts and releases the pods of every ReplicationController and writes its status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp, ids: &mut Ids) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for one in snapshot.in_scope(scope, &snapshot.replication_controllers, &[Also::Orphans]) {
        let set = as_set(one);
        let keeper = Keeper {
            owner: pod::object("v1", "ReplicationController", &one.metadata),
            component: COMPONENT,
            set: &set,
        };
        let status = ReplicaSetStatus {
            terminating_replicas: None,
            ..replica_set::keep(snapshot, &keeper, now, ids, &mut claimed, &mut plan)
        };
        if Some(&status) != set.status.as_ref().map(replica_set::normal).as_ref() {
            let one = ReplicationController {
                status: Some(as_status(status)),
                ..ReplicationController::clone(one)
            };
            plan.writes.push(Write::UpdateStatus(json(&one)));
        }
    }
    plan
}

fn as_set(one: &ReplicationController) -> ReplicaSet {
    let spec = one.spec.clone().unwrap_or_default();
    let status = one.status.clone().map(|status| ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        terminating_replicas: None,
        observed_generation: status.observed_generation,
        conditions: status
            .conditions
            .map(|rows| rows.into_iter().map(set_condition).collect()),
    });
    ReplicaSet {
        metadata: one.metadata.clone(),
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: LabelSelector {
                match_labels: spec.selector,
                match_expressions: None,
            },
            template: spec.template,
        },
        status,
    }
}

fn as_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status
            .conditions
            .map(|rows| rows.into_iter().map(own_condition).collect()),
    }
}

fn set_condition(one: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        type_: Some(one.type_),
        status: Some(one.status),
        reason: one.reason,
        message: one.message,
        last_transition_time: one.last_transition_time,
    }
}

fn own_condition(one: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        type_: one.type_.unwrap_or_default(),
        status: one.status.unwrap_or_default(),
        reason: one.reason,
        message: one.message,
        last_transition_time: one.last_transition_time,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::json;

    #[test]
    fn it_keeps_its_number_of_pods() {
        let mut world = World::new();
        world.put(json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old", "namespace": "shop"},
            "spec": {"replicas": 2, "selector": {"app": "old"}, "template": {"metadata": {"labels": {"app": "old"}},
                "spec": {"containers": [{"name": "main", "image": "old:1"}]}}}}));
        world.settle(|world| {
            plan(
                &world.snapshot,
                Scope::EVERYTHING,
                world.now,
                &mut world.ids,
            )
        });
        assert_eq!(world.all("Pod").len(), 2);
        world.bind_all("n1");
        world.agents();
        world.settle(|world| {
            plan(
                &world.snapshot,
                Scope::EVERYTHING,
                world.now,
                &mut world.ids,
            )
        });
        let status = &world.get("ReplicationController", "shop", "old").unwrap()["status"];
        assert_eq!(
            (&status["replicas"], &status["availableReplicas"]),
            (&json!(2), &json!(2))
        );
        world.edit("ReplicationController", "shop", "old", |one| {
            one["spec"]["replicas"] = json!(0)
        });
        world.settle(|world| {
            plan(
                &world.snapshot,
                Scope::EVERYTHING,
                world.now,
                &mut world.ids,
            )
        });
        world.agents();
        assert_eq!(world.all("Pod").len(), 0);
    }
}
