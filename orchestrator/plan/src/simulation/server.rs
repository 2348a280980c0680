//! A server: a view of the store that lags and is torn between kinds, planners on it, and writes that are on their way.
//! As the real one does, it plans nothing on a view that doesn't show what it wrote itself.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::load::Decisions;
use super::node::{Assigned, Told};
use crate::autoscaler::{Memories, Usage};
use crate::pod_addresses::{Pool, addresses};
use crate::scheduler::Queue;
use crate::snapshot::Meta;
use crate::world::{Change, World};
use crate::{Attention, Ids, Plan, Scope, Snapshot, Write, node_lifecycle, pod};
use serde_json::json;

type Planner = fn(&mut Server, Scope, Timestamp, i64) -> Plan;

/// In the order in which a server asks them.
pub(super) const PLANNERS: [(&str, Planner); 17] = [
    ("service-account", |one, scope, now, _| {
        crate::service_account::plan(&one.view, scope, "", now)
    }),
    ("garbage", |one, scope, now, _| {
        crate::garbage::plan(&one.view, scope, now)
    }),
    ("cron-job", |one, scope, now, _| {
        crate::cron_job::plan(&one.view, scope, now)
    }),
    ("deployment", |one, scope, now, _| {
        crate::deployment::plan(&one.view, scope, now)
    }),
    ("replica-set", |one, scope, now, _| {
        crate::replica_set::plan(&one.view, scope, now, &mut one.ids)
    }),
    ("replication-controller", |one, scope, now, _| {
        crate::replication_controller::plan(&one.view, scope, now, &mut one.ids)
    }),
    ("stateful-set", |one, scope, now, _| {
        crate::stateful_set::plan(&one.view, scope, now)
    }),
    ("daemon-set", |one, scope, now, _| {
        crate::daemon_set::plan(&one.view, scope, now, &mut one.ids)
    }),
    ("job", |one, scope, now, _| {
        crate::job::plan(&one.view, scope, now, &mut one.ids)
    }),
    ("storage", |one, _, now, _| {
        crate::storage::plan(&one.view, now)
    }),
    ("scheduler", |one, _, now, _| {
        crate::scheduler::plan(&one.view, &Default::default(), &mut one.queue, now)
    }),
    ("disruption", |one, scope, now, _| {
        crate::disruption::plan(&one.view, scope, now)
    }),
    ("endpoint-slice", |one, scope, now, _| {
        crate::endpoint_slice::plan(&one.view, scope, now)
    }),
    ("endpoints", |one, scope, now, _| {
        crate::endpoints::plan(&one.view, scope, now)
    }),
    ("autoscaler", |one, _, now, _| {
        crate::autoscaler::plan(&one.view, now, &one.usage, &mut one.memories)
    }),
    ("node-lifecycle", Server::node_lifecycle),
    ("pod-gc", |one, scope, now, _| {
        crate::pod_gc::plan(&one.view, scope, now, &Default::default())
    }),
];

pub(super) struct Server {
    pub(super) view: Snapshot,
    /// How much of the store's history the view shows of each kind.
    shown: BTreeMap<String, usize>,
    /// How much it shows of every kind.
    whole: usize,
    /// The same when the writes on their way were decided.
    decided: BTreeMap<String, usize>,
    /// What it must show before anything is planned.
    pub(super) must_see: usize,
    ids: Ids,
    attention: [Attention; PLANNERS.len()],
    /// Pods that its scheduler found no node for.
    queue: Queue,
    /// What was measured of pods when it last heard of it.
    pub(super) usage: Usage,
    memories: Memories,
    /// What its autoscaler decided.
    pub(super) decisions: Decisions,
    pool: Pool,
    /// Where its view stood when it reserved addresses last.
    reserved: Option<u64>,
    /// Writes on their way to the store, in order.
    pub(super) flight: VecDeque<Write>,
    /// The election that it believes to have won.
    pub(super) term: Option<u64>,
    /// How wrong its clock is, seconds.
    pub(super) skew: i64,
    /// When it began, by a clock that doesn't jump.
    since: i64,
    turn: usize,
}

impl Server {
    /// One that has just listed everything.
    pub(super) fn new(world: &World, seed: u64, elapsed: i64) -> Self {
        Self {
            view: world.snapshot.clone(),
            shown: BTreeMap::new(),
            whole: world.log.len(),
            decided: BTreeMap::new(),
            must_see: 0,
            ids: Ids::new(seed),
            attention: Default::default(),
            queue: Queue::default(),
            usage: Usage::new(),
            memories: Memories::new(),
            decisions: Decisions::default(),
            pool: Pool::default(),
            reserved: None,
            flight: VecDeque::new(),
            term: None,
            skew: 0,
            since: elapsed,
            turn: 0,
        }
    }

    /// What its clock shows.
    pub(super) fn now(&self, truth: Timestamp) -> Timestamp {
        truth
            .checked_add(SignedDuration::from_secs(self.skew))
            .unwrap_or(truth)
    }

    /// Has nothing on its way, and sees what it wrote.
    pub(super) fn is_idle(&self) -> bool {
        self.flight.is_empty() && self.whole >= self.must_see
    }

    /// The part of history that is seen of every kind.
    pub(super) fn seen(&self) -> usize {
        self.whole
    }

    /// The part of history that is seen of `kind`.
    fn seen_of(&self, kind: &str) -> usize {
        self.shown.get(kind).copied().unwrap_or(0).max(self.whole)
    }

    /// The part of history of `kind` on which the writes on their way were decided.
    pub(super) fn decided_on(&self, kind: &str) -> usize {
        self.decided[kind]
    }

    pub(super) fn next(&mut self) -> usize {
        self.turn = (self.turn + 1) % PLANNERS.len();
        self.turn
    }

    pub(super) fn ask(&mut self, planner: usize, truth: Timestamp, elapsed: i64) -> Plan {
        let now = self.now(truth);
        let kinds = ["Deployment", "ReplicaSet", "ReplicationController"];
        self.decided = kinds
            .map(|kind| (kind.to_owned(), self.seen_of(kind)))
            .into();
        let clock = Duration::from_secs(elapsed.unsigned_abs());
        let mut attention = std::mem::take(&mut self.attention[planner]);
        let scope = attention.turn(&self.view, clock, now);
        // Both are told the same, and remember the same.
        let (ids, queue) = (self.ids.clone(), self.queue.clone());
        let memories = self.memories.clone();
        let plan = PLANNERS[planner].1(self, scope, now, elapsed);
        let after = std::mem::replace(&mut self.ids, ids);
        (self.queue, self.memories) = (queue, memories);
        let whole = PLANNERS[planner].1(self, Scope::EVERYTHING, now, elapsed);
        assert_eq!(
            plan.writes, whole.writes,
            "{}: what was touched, and everything",
            PLANNERS[planner].0
        );
        self.ids = after;
        attention.answered(&plan, clock);
        if let Some(seconds) = whole.again_after {
            let wanted = clock + Duration::from_secs(seconds.max(1));
            let due = attention.due();
            assert!(
                due.is_some_and(|due| due <= wanted),
                "{}: asked again at {due:?}, and everything at {wanted:?}",
                PLANNERS[planner].0
            );
        }
        self.attention[planner] = attention;
        plan
    }

    /// Has every planner look at everything, as one does whose writes were refused.
    pub(super) fn look_again(&mut self) {
        self.attention = Default::default();
        self.reserved = None;
    }

    /// Nodes are not judged before their heartbeats could come in.
    fn node_lifecycle(&mut self, scope: Scope, now: Timestamp, elapsed: i64) -> Plan {
        let settings = node_lifecycle::Settings::default();
        let patience = i64::try_from(settings.grace_seconds).unwrap_or(i64::MAX);
        if elapsed - self.since < patience {
            return Plan {
                again_after: Some(1),
                ..Plan::default()
            };
        }
        node_lifecycle::plan(&self.view, scope, &|_| None, now, &settings)
    }

    /// Takes in history up to `until`; with `torn`, of some kinds only, so that the view shows no single moment.
    pub(super) fn follow(&mut self, log: &[Change], until: usize, torn: Option<u64>) {
        let mut chance = torn.map(Ids::new);
        let mut chosen: BTreeMap<&str, bool> = BTreeMap::new();
        for (index, change) in log.iter().enumerate().take(until).skip(self.whole) {
            let kind = change.key.1.as_str();
            let take = *chosen.entry(kind).or_insert_with(|| {
                chance
                    .as_mut()
                    .is_none_or(|chance| chance.number().is_multiple_of(2))
            });
            let shown = self.shown.entry(kind.to_owned()).or_default();
            if !take || index < *shown {
                continue;
            }
            *shown = index + 1;
            match &change.object {
                // Read once, by the store.
                Some(object) => self.view.take_in(&mut object.clone()),
                None => {
                    let (version, kind, namespace, name) = &change.key;
                    self.view.remove(version, kind, namespace, name);
                }
            }
        }
        if torn.is_none() {
            self.whole = self.whole.max(until);
        }
    }

    /// Reserves an address for every pod that has none, and sends that to the store.
    pub(super) fn reserve(&mut self) {
        let seen = self.reserved.replace(self.view.position());
        let scope = seen.map_or(Scope::EVERYTHING, Scope::since);
        let found = self.pool.reserve(&self.view, scope);
        assert!(
            found.refused.is_empty(),
            "an address is refused: {:?}",
            found.refused[0].1
        );
        for (pod, ips) in found.new {
            let ips: Vec<String> = ips.iter().map(|one| one.to_string()).collect();
            let status = json!({"podIP": ips[0], "podIPs": [{ "ip": ips[0] }]});
            self.flight
                .push_back(pod::patch(&pod, json!({ "status": status })));
        }
    }

    /// What a node is told: its pods that have addresses.
    pub(super) fn assignment(&self, node: &str) -> Told {
        let pods = self.view.pods_on(node).filter_map(|one| {
            let address = addresses(one)?.iter().next()?.to_string();
            let spec = one.spec.as_ref()?;
            let assigned = Assigned {
                name: one.metadata.name.clone()?,
                address,
                deleted: pod::is_deleted(one),
                ended: pod::is_terminated(one),
                ends: spec.restart_policy.as_deref() == Some("Never"),
            };
            Some((one.metadata.uid.clone()?, assigned))
        });
        Told {
            number: self.seen_of("Pod"),
            pods: pods.collect(),
        }
    }
}

/// A write in a few words.
pub(super) fn shown(write: &Write) -> String {
    let named = |value: &serde_json::Value| {
        let object = Meta::of(value).object();
        format!("{} {}", object.kind, object.name)
    };
    match write {
        Write::Create(value) => format!("create {}", named(value)),
        Write::Update(value) => format!("update {} {}", named(value), value["spec"]["replicas"]),
        Write::UpdateStatus(value) => format!("status of {}", named(value)),
        Write::Patch { object, patch, .. } => {
            format!("patch {} {}: {patch}", object.kind, object.name)
        }
        Write::Gang(binds) => {
            let binds: Vec<String> = binds.iter().map(shown).collect();
            format!("together: {}", binds.join(", "))
        }
        Write::Bind { name, node, .. } => format!("bind {name} to {node}"),
        Write::Delete {
            kind,
            name,
            grace_seconds,
            ..
        } => format!("delete {kind} {name} {grace_seconds:?}"),
        Write::RemoveFinalizer { object, finalizer } => {
            format!("take {finalizer} from {}", object.name)
        }
        Write::RemoveOwner { object, .. } => format!("take an owner from {}", object.name),
    }
}
