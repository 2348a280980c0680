//! Whole clusters under random orders and faults: every plan is checked, and when the orders stop the cluster comes to
//! rest as ordered.

use proptest::prelude::*;
use serde_json::json;

use crate::world::{World, deployment, node};
use crate::{Plan, Scope, Write, check, node_lifecycle, pod, pod_gc};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const APPS: [&str; 2] = ["web", "db"];

/// Where the ReplicaSet planner is among the planners.
const REPLICA_SETS: usize = 2;

/// What happens from outside.
#[derive(Debug, Clone)]
enum Order {
    Scale(usize, i32),
    Image(usize, u8),
    Remove(usize),
    Silence(usize),
    Return(usize),
    KillPod(usize),
    Pass(i64),
    Agents,
    Controllers,
}

fn any_order() -> impl Strategy<Value = Order> {
    prop_oneof![
        (0..2usize, 0..6i32).prop_map(|(app, size)| Order::Scale(app, size)),
        (0..2usize, 0..3u8).prop_map(|(app, image)| Order::Image(app, image)),
        (0..2usize).prop_map(Order::Remove),
        (0..3usize).prop_map(Order::Silence),
        (0..3usize).prop_map(Order::Return),
        (0..10usize).prop_map(Order::KillPod),
        (1..20i64).prop_map(Order::Pass),
        Just(Order::Agents),
        Just(Order::Agents),
        Just(Order::Controllers),
        Just(Order::Controllers),
    ]
}

struct Cluster {
    world: World,
    silent: [bool; 3],
}

impl Cluster {
    fn new() -> Self {
        let mut world = World::new();
        for name in NODES {
            world.put(node(name, "8", "8Gi"));
        }
        for name in APPS {
            world.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"selector": {"app": name}, "clusterIP": "10.96.0.20", "ports": [{"port": 80}]}}));
        }
        Self {
            world,
            silent: [false; 3],
        }
    }

    fn obey(&mut self, order: &Order) {
        match *order {
            Order::Scale(app, size) => {
                self.change(app, |one| one["spec"]["replicas"] = json!(size))
            }
            Order::Image(app, image) => self.change(app, |one| {
                one["spec"]["template"]["spec"]["containers"][0]["image"] =
                    json!(format!("image:{image}"));
            }),
            Order::Remove(app) => {
                if self.world.get("Deployment", "shop", APPS[app]).is_some() {
                    self.world.delete("Deployment", "shop", APPS[app]);
                }
            }
            Order::Silence(index) => self.silent[index] = true,
            Order::Return(index) => self.silent[index] = false,
            Order::KillPod(index) => {
                let pods = self.world.all("Pod");
                let name = pods
                    .get(index)
                    .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
                if let Some(name) = name {
                    self.world.delete("Pod", "shop", &name);
                }
            }
            Order::Pass(seconds) => self.world.pass(seconds),
            Order::Agents => self.agents(),
            Order::Controllers => drop(self.controllers()),
        }
        self.beat();
    }

    fn change(&mut self, app: usize, change: impl FnOnce(&mut serde_json::Value)) {
        if self.world.get("Deployment", "shop", APPS[app]).is_none() {
            self.world.put(deployment(APPS[app], 2, "image:0"));
        }
        self.world.edit("Deployment", "shop", APPS[app], change);
    }

    /// Nodes in reach renew their Lease and say that they are ready.
    fn beat(&mut self) {
        for (name, _) in NODES.iter().zip(self.silent).filter(|(_, silent)| !silent) {
            let moment = self.world.now.to_string();
            self.world.put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": node_lifecycle::LEASE_NAMESPACE}, "spec": {"renewTime": moment}}));
            if self.world.get("Node", "", name).unwrap()["status"]["conditions"][0]["status"]
                != "True"
            {
                self.world.edit("Node", "", name, |node| {
                    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
                });
            }
        }
    }

    fn agents(&mut self) {
        let silent: Vec<&str> = NODES
            .iter()
            .zip(self.silent)
            .filter(|(_, silent)| *silent)
            .map(|(name, _)| *name)
            .collect();
        self.world.agents_but(&silent);
    }

    /// One round of every planner, each plan checked. Says whether anything was written.
    fn controllers(&mut self) -> bool {
        let planners: [fn(&mut World) -> Plan; 6] = [
            |world| crate::garbage::plan(&world.snapshot, Scope::EVERYTHING, world.now),
            |world| {
                let plan = crate::deployment::plan(&world.snapshot, Scope::EVERYTHING, world.now);
                assert_eq!(check::rollout(&world.snapshot, &plan), []);
                plan
            },
            |world| {
                let plan = crate::replica_set::plan(
                    &world.snapshot,
                    Scope::EVERYTHING,
                    world.now,
                    &mut world.ids,
                );
                assert_eq!(
                    check::deletions(&world.snapshot, &plan, "Pod", "ReplicaSet"),
                    []
                );
                plan
            },
            |world| {
                let plan = crate::scheduler::plan(
                    &world.snapshot,
                    &Default::default(),
                    &mut Default::default(),
                    world.now,
                );
                assert_eq!(check::scheduling(&world.snapshot, &plan), []);
                plan
            },
            |world| crate::endpoint_slice::plan(&world.snapshot, Scope::EVERYTHING, world.now),
            |world| {
                let mut plan = node_lifecycle::plan(
                    &world.snapshot,
                    Scope::EVERYTHING,
                    &|_| None,
                    world.now,
                    &Default::default(),
                );
                plan.writes.extend(
                    pod_gc::plan(
                        &world.snapshot,
                        Scope::EVERYTHING,
                        world.now,
                        &Default::default(),
                    )
                    .writes,
                );
                plan
            },
        ];
        let mut wrote = false;
        for (index, planner) in planners.into_iter().enumerate() {
            let plan = planner(&mut self.world);
            wrote |= !plan.writes.is_empty();
            self.world.apply(&plan);
            if index == REPLICA_SETS {
                let again = planner(&mut self.world);
                assert!(
                    again
                        .writes
                        .iter()
                        .all(|write| matches!(write, Write::UpdateStatus(_))),
                    "{again:?}"
                );
            }
        }
        wrote
    }

    fn rest(&mut self) {
        for round in 0..300 {
            let wrote = self.controllers();
            let before = format!("{:?}", self.world.all("Pod"));
            self.agents();
            if !wrote && before == format!("{:?}", self.world.all("Pod")) {
                return;
            }
            if round % 10 == 9 {
                self.world.pass(1);
                self.beat();
            }
        }
        panic!("does not come to rest");
    }

    fn verify(&self) {
        let snapshot = &self.world.snapshot;
        let mut expected = 0;
        for one in snapshot.deployments.iter() {
            let wanted = one.spec.replicas.unwrap_or(1);
            expected += wanted;
            let status = one.status.clone().unwrap_or_default();
            for count in [
                status.replicas,
                status.updated_replicas,
                status.available_replicas,
                status.ready_replicas,
            ] {
                assert_eq!(count.unwrap_or(0), wanted, "{status:?}");
            }
            assert_eq!(status.observed_generation, one.metadata.generation);
        }
        assert_eq!(i32::try_from(snapshot.pods.len()).unwrap(), expected);
        assert!(
            snapshot
                .pods
                .iter()
                .all(|one| pod::is_ready(one) && pod::is_active(one))
        );
        let endpoints = snapshot
            .endpoint_slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        assert_eq!(i32::try_from(endpoints.count()).unwrap(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_order_is_obeyed_in_the_end(orders in proptest::collection::vec(any_order(), 1..40)) {
        let mut cluster = Cluster::new();
        orders.iter().for_each(|order| cluster.obey(order));
        cluster.silent = [false; 3];
        cluster.beat();
        cluster.rest();
        cluster.verify();
    }
}
