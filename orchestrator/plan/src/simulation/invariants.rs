//! What must hold: of every plan, of every write when it reaches the store, at every moment, and at rest.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use super::load::{LAST_SIZE, SCALED};
use super::node::{Machine, Phase};
use super::server::{PLANNERS, Server};
use super::workload::{COMPLETIONS, GANG_SIZE, GANGS, KEPT_RUNS, MEMBERS, NAMESPACE, NODES, OLD};
use crate::pod::{self, Pod};
use crate::resources::{Amounts, allocatable, requests};
use crate::world::{Change, Key, World};
use crate::{Plan, Snapshot, Write, check, deployment};

/// Faults of a plan, by what its planner saw. Its server may die after any of its writes.
pub(super) fn of_plan(planner: usize, view: &Snapshot, plan: &Plan) -> Vec<check::Violation> {
    match PLANNERS[planner].0 {
        "deployment" => {
            let parts = (1..=plan.writes.len()).map(|count| Plan {
                writes: plan.writes[..count].to_vec(),
                ..Plan::default()
            });
            parts.flat_map(|part| check::rollout(view, &part)).collect()
        }
        "replica-set" => check::deletions(view, plan, "Pod", "ReplicaSet"),
        "replication-controller" => check::deletions(view, plan, "Pod", "ReplicationController"),
        "cron-job" => check::deletions(view, plan, "Job", "CronJob"),
        "scheduler" => {
            let mut faults = check::scheduling(view, plan);
            faults.extend(check::gangs(view, plan));
            faults
        }
        _ => Vec::new(),
    }
}

/// What was seen of a cluster.
#[derive(Default)]
pub(super) struct Witness {
    /// Where each pod was first, by uid.
    bound: BTreeMap<String, String>,
    /// The address that each pod had first, by uid.
    addresses: BTreeMap<String, String>,
    /// Uids of the pods that succeeded, as their nodes know.
    pub(super) succeeded: BTreeSet<String>,
    counted: u64,
    complete: bool,
}

impl Witness {
    /// A write of `server` is about to reach the store.
    pub(super) fn before(&mut self, write: &Write, server: &Server, world: &World) {
        match write {
            Write::Create(value) if value["kind"] == "Pod" => new_pod(value, server, world),
            Write::Create(value) | Write::Update(value) if value["kind"] == "ReplicaSet" => {
                new_size(value, server, world);
            }
            _ => {}
        }
    }

    /// What holds at every moment, as far as it hangs on what happened since.
    pub(super) fn look(&mut self, world: &World, since: usize, machines: &[Machine]) {
        look_at_machines(machines);
        let news = |kind: &str| world.log[since..].iter().any(|one| one.key.1 == kind);
        if news("Pod") || news("Node") {
            self.look_at_pods(world);
            look_at_nodes(world);
        }
        if news("Job") {
            self.look_at_job(world);
        }
    }

    fn look_at_pods(&mut self, world: &World) {
        let mut daemons = BTreeSet::new();
        for one in world.snapshot.pods.iter() {
            let uid = one.metadata.uid.clone().unwrap_or_default();
            let name = one.metadata.name.as_deref().unwrap_or_default();
            let Some(node) = pod::node_name(one) else {
                continue;
            };
            let first = self
                .bound
                .entry(uid.clone())
                .or_insert_with(|| node.to_owned());
            assert_eq!(first, node, "{name} was bound twice");
            if let Some(address) = address(one) {
                let first = self
                    .addresses
                    .entry(uid)
                    .or_insert_with(|| address.to_owned());
                assert_eq!(first, address, "{name} changed its address");
            }
            let lonely = app(one) != Some("log") || !pod::is_active(one) || daemons.insert(node);
            assert!(lonely, "two pods of the DaemonSet on {node}");
        }
    }

    fn look_at_job(&mut self, world: &World) {
        let Some(job) = world.snapshot.jobs.get(NAMESPACE, "sum") else {
            return;
        };
        let status = job.status.clone().unwrap_or_default();
        let counted = u64::try_from(status.succeeded.unwrap_or(0)).unwrap_or(0);
        let really = u64::try_from(self.succeeded.len()).unwrap_or(u64::MAX);
        assert!(counted <= really, "{counted} runs are counted of {really}");
        assert!(counted >= self.counted, "a counted run is forgotten");
        let complete = crate::job::has_succeeded(job);
        assert!(complete || !self.complete, "a Job that ended goes on");
        assert!(!complete || counted >= COMPLETIONS, "ended too early");
        (self.counted, self.complete) = (counted, complete);
    }
}

/// No node gets more than it has.
fn look_at_nodes(world: &World) {
    for node in world.snapshot.nodes.iter() {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut used = Amounts::default();
        let there = world.snapshot.pods_on(name);
        there
            .filter(|one| !pod::is_terminated(one))
            .for_each(|one| used.add(&requests(one)));
        assert!(used.cpu <= allocatable(node).cpu, "{name} is overfull");
    }
}

/// Of what really runs: one pod of a name, one pod of an address.
fn look_at_machines(machines: &[Machine]) {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for machine in machines {
        for one in machine.pods.values() {
            if one.phase == Phase::Running {
                let alone = names.insert(&one.name);
                assert!(alone, "two pods named {} run at once", one.name);
                let own = addresses.insert(&one.address);
                assert!(own, "two pods have {}", one.address);
            }
        }
    }
}

/// A ReplicaSet or ReplicationController has no more pods than it was meant to have at some moment since its server looked.
fn new_pod(value: &Value, server: &Server, world: &World) {
    let owner = &value["metadata"]["ownerReferences"][0];
    let (Some(name), Some(uid)) = (owner["name"].as_str(), owner["uid"].as_str()) else {
        return;
    };
    let (version, kind) = match owner["kind"].as_str() {
        Some("ReplicaSet") => ("apps/v1", "ReplicaSet"),
        Some("ReplicationController") => ("v1", "ReplicationController"),
        _ => return,
    };
    let since = since(server, world, version, kind, name);
    let sizes = since.filter_map(|value| value["spec"]["replicas"].as_i64());
    let most = sizes.max().unwrap_or(0);
    // A pod without the set's label is none of its any more, though giving it up may not be written down yet.
    let own = value["metadata"]["labels"]["app"].as_str();
    let active = world.snapshot.pods_of(uid);
    let active = active.filter(|one| pod::is_active(one) && app(one) == own);
    let active = active.count();
    assert!(
        i64::try_from(active).unwrap_or(i64::MAX) < most,
        "{name} gets another pod beside {active}, and was to have {most}"
    );
}

/// ReplicaSets of a Deployment ask for no more pods together than its size and surge at some moment since its server
/// looked.
fn new_size(value: &Value, server: &Server, world: &World) {
    let owner = &value["metadata"]["ownerReferences"][0];
    let (Some(name), Some(uid)) = (owner["name"].as_str(), owner["uid"].as_str()) else {
        return;
    };
    let allowed = |one: &Deployment| {
        i64::from(one.spec.replicas.unwrap_or(1)) + i64::from(deployment::fenceposts(one).0)
    };
    let since = since(server, world, "apps/v1", "Deployment", name);
    let parsed = since.filter_map(|value| serde_json::from_value::<Deployment>(value).ok());
    let most = parsed.map(|one| allowed(&one)).max().unwrap_or(0);
    let (mut before, mut after) = (0, 0);
    let size = value["spec"]["replicas"].as_i64().unwrap_or(1);
    let mut known = false;
    for set in world.snapshot.replica_sets_of(uid) {
        let there = i64::from(set.spec.replicas.unwrap_or(1));
        let this = set.metadata.name.as_deref() == value["metadata"]["name"].as_str();
        known |= this;
        before += there;
        after += if this { size } else { there };
    }
    after += if known { 0 } else { size };
    assert!(
        after <= most.max(before),
        "{name} would ask for {after} pods, more than {most}"
    );
}

/// What an object was when the server looked, and since.
fn since<'a>(
    server: &Server,
    world: &'a World,
    version: &str,
    kind: &str,
    name: &str,
) -> impl Iterator<Item = Value> + use<'a> {
    let key: Key = (
        version.to_owned(),
        kind.to_owned(),
        NAMESPACE.to_owned(),
        name.to_owned(),
    );
    let decided_on = server.decided_on(kind);
    let (known, news) = world.log.split_at(decided_on);
    let known = known.iter().rev();
    let known = known.filter(|change| change.key == key).take(1);
    let all: Vec<&Change> = known
        .chain(news.iter().filter(|change| change.key == key))
        .collect();
    all.into_iter()
        .filter_map(|change| change.value.as_deref().cloned())
}

fn app(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get("app").map(String::as_str)
}

fn address(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.pod_ip.as_deref()
}

/// Of the CronJob's runs: none goes on, and no more of them are kept than are wanted.
fn at_rest_runs(snapshot: &Snapshot) {
    let runs = snapshot.jobs.iter();
    let runs: Vec<_> = runs
        .filter(|job| {
            job.metadata
                .name
                .as_deref()
                .is_some_and(|name| name.starts_with("tick-"))
        })
        .collect();
    let well = runs
        .iter()
        .filter(|job| crate::job::has_succeeded(job))
        .count();
    let ended = runs
        .iter()
        .filter(|job| crate::job::is_finished(job))
        .count();
    assert_eq!(ended, runs.len(), "runs that go on");
    let kept = (well, ended - well);
    assert!(
        kept.0 <= KEPT_RUNS && kept.1 <= KEPT_RUNS,
        "{kept:?} runs are kept"
    );
}

/// What holds once nothing happens any more.
pub(super) fn at_rest(world: &World, machines: &[Machine], witness: &Witness) {
    let snapshot = &world.snapshot;
    let ready = |wanted: &str| {
        let pods = snapshot.pods.iter();
        let mine = pods.filter(|one| app(one) == Some(wanted) && pod::is_active(one));
        u64::try_from(mine.filter(|one| pod::is_ready(one)).count()).unwrap_or(0)
    };
    for one in snapshot.deployments.iter() {
        let wanted = one.spec.replicas.unwrap_or(1);
        let name = one.metadata.name.as_deref().unwrap_or_default();
        assert_eq!(ready(name), u64::try_from(wanted).unwrap_or(0), "{name}");
        let status = one.status.clone().unwrap_or_default();
        assert_eq!(status.updated_replicas.unwrap_or(0), wanted, "{name}");
        assert_eq!(status.available_replicas.unwrap_or(0), wanted, "{name}");
    }
    assert_eq!(ready(SCALED), LAST_SIZE, "what the load asks for");
    assert_eq!(ready(GANGS[1]), GANG_SIZE, "of the gang that matters more");
    let daemons = u64::try_from(NODES.len()).unwrap_or(0);
    assert_eq!(
        (ready("db"), ready("log"), ready("old"), ready("sum")),
        (MEMBERS, daemons, OLD, 0)
    );
    at_rest_runs(snapshot);
    for wanted in ["ServiceAccount default", "ConfigMap kube-root-ca.crt"] {
        let (kind, name) = wanted.split_once(' ').unwrap_or_default();
        assert!(
            snapshot.named("v1", kind, NAMESPACE, name).is_some(),
            "{wanted}"
        );
    }
    let job = world.get("Job", NAMESPACE, "sum").map(|job| &job["status"]);
    assert!(witness.complete, "the Job does not end: {job:?}");
    for meta in snapshot.metas() {
        for owner in &meta.owners {
            let there = snapshot.meta(&owner.uid).is_some();
            assert!(there, "{:?} is an orphan of {}", meta.key, owner.name);
        }
    }
    let endpoints = snapshot.endpoint_slices.iter();
    let endpoints = endpoints.flat_map(|slice| slice.endpoints.iter().flatten());
    let endpoints = u64::try_from(endpoints.count()).unwrap_or(0);
    assert_eq!(endpoints, ready("web"), "endpoints of web");
    for machine in machines {
        for (uid, local) in &machine.pods {
            let found = snapshot.pods.get(NAMESPACE, &local.name);
            let same = found.is_some_and(|one| one.metadata.uid.as_ref() == Some(uid));
            assert!(same, "{} runs {} for nobody", machine.name, local.name);
        }
    }
}
