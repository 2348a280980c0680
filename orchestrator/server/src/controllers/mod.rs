//! Runs the planners: snapshot -> plan -> commit, again whenever something changed or a planner asked for it. What is
//! decided is in `waggle-plan`; what is written is checked by `Objects`.

mod endless;
mod events;
mod patience;
mod refused;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use waggle_api::find;
use waggle_model::network::AddressPool;
use waggle_plan::{Attention, Ids, Plan, Scope, Snapshot, Write};

use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pki::Pki;
use crate::sessions::{Beats, Enforcement, Numbers};
use crate::usage::UsageRegistry;
use patience::{LONGEST_REST, Patience};
use refused::Purpose;

pub use events::Recorder;
pub use view::View;

/// Changes that come within this time are planned for together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// How planners that find no end slow down; also when a refused write is planned again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a planner that broke is left alone.
const BROKEN_PAUSE: Duration = Duration::from_secs(10);

/// What the planners run on.
#[derive(Debug, Clone)]
pub struct Controllers {
    /// Objects to write to.
    pub objects: Arc<Objects>,
    /// What they look at.
    pub view: Arc<View>,
    /// Numbers of tenants, identities and Services.
    pub numbers: Numbers,
    /// How far the nodes are with each tenant's policies.
    pub enforcement: Enforcement,
    /// When nodes spoke last.
    pub beats: Beats,
    /// Takes the events that planners offer.
    pub recorder: Recorder,
    /// What pods use, for autoscalers.
    pub usage: Arc<UsageRegistry>,
    /// Where bound pods are counted.
    pub metrics: Arc<Metrics>,
    /// Signs what signing requests ask for.
    pub pki: Arc<Pki>,
    /// PEM of the authority that the API's certificate is from.
    pub authority: String,
    /// Addresses of load balancers, if the cluster has any.
    pub pool: Option<AddressPool>,
    /// How pods are placed.
    pub scheduler: Arc<waggle_plan::scheduler::Settings>,
    /// How patient they are with silent nodes.
    pub node_lifecycle: waggle_plan::node_lifecycle::Settings,
}

const TENANT: &str = "tenant";

type Planner = fn(&mut Runner, &Snapshot, Scope, jiff::Timestamp) -> Plan;

/// In the order in which they are asked after a change, so that one pass carries a Deployment's change to its pods'
/// nodes.
const PLANNERS: [(&str, Planner); 24] = [
    ("namespace", |_, snapshot, _, now| {
        waggle_plan::namespace::plan(snapshot, now)
    }),
    ("custom-resource-definition", |_, snapshot, _, now| {
        waggle_plan::custom_resource_definition::plan(snapshot, now)
    }),
    ("flow-schema", |_, snapshot, _, now| {
        waggle_plan::flow_schema::plan(snapshot, now)
    }),
    ("service-account", |runner, snapshot, scope, now| {
        waggle_plan::service_account::plan(snapshot, scope, &runner.parts.authority, now)
    }),
    ("garbage", |_, snapshot, scope, now| {
        waggle_plan::garbage::plan(snapshot, scope, now)
    }),
    ("autoscaler", Runner::autoscaler),
    ("cron-job", |_, snapshot, scope, now| {
        waggle_plan::cron_job::plan(snapshot, scope, now)
    }),
    ("deployment", |_, snapshot, scope, now| {
        waggle_plan::deployment::plan(snapshot, scope, now)
    }),
    ("replica-set", |runner, snapshot, scope, now| {
        waggle_plan::replica_set::plan(snapshot, scope, now, &mut runner.ids)
    }),
    ("replication-controller", |runner, snapshot, scope, now| {
        waggle_plan::replication_controller::plan(snapshot, scope, now, &mut runner.ids)
    }),
    ("stateful-set", |_, snapshot, scope, now| {
        waggle_plan::stateful_set::plan(snapshot, scope, now)
    }),
    ("daemon-set", |runner, snapshot, scope, now| {
        waggle_plan::daemon_set::plan(snapshot, scope, now, &mut runner.ids)
    }),
    ("job", |runner, snapshot, scope, now| {
        waggle_plan::job::plan(snapshot, scope, now, &mut runner.ids)
    }),
    ("storage", |_, snapshot, _, now| {
        waggle_plan::storage::plan(snapshot, now)
    }),
    ("scheduler", |runner, snapshot, _, now| {
        let settings = &runner.parts.scheduler;
        waggle_plan::scheduler::plan(snapshot, settings, &mut runner.queue, now)
    }),
    ("disruption", |_, snapshot, scope, now| {
        waggle_plan::disruption::plan(snapshot, scope, now)
    }),
    ("endpoint-slice", |_, snapshot, scope, now| {
        waggle_plan::endpoint_slice::plan(snapshot, scope, now)
    }),
    ("endpoints", |_, snapshot, scope, now| {
        waggle_plan::endpoints::plan(snapshot, scope, now)
    }),
    ("load-balancer", |runner, snapshot, _, now| {
        waggle_plan::load_balancer::plan(snapshot, runner.parts.pool.as_ref(), now)
    }),
    ("resource-quota", Runner::resource_quota),
    ("signing-request", |runner, snapshot, _, now| {
        let sign = |spec: &CertificateSigningRequestSpec| {
            let seconds = spec
                .expiration_seconds
                .and_then(|one| u64::try_from(one).ok());
            let lasts = seconds.map(Duration::from_secs);
            let signed = runner.parts.pki.sign_client(&spec.request.0, lasts, now);
            signed.map(String::into_bytes)
        };
        waggle_plan::signing_request::plan(snapshot, &sign, now)
    }),
    ("node-lifecycle", Runner::node_lifecycle),
    ("pod-gc", |_, snapshot, scope, now| {
        waggle_plan::pod_gc::plan(snapshot, scope, now, &Default::default())
    }),
    (TENANT, Runner::tenant),
];

impl Controllers {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let changes = self.view.changes();
        let mut runner = Runner {
            parts: self,
            ids: Ids::new(rand::random()),
            attention: BTreeMap::new(),
            began: Instant::now(),
            patience: Patience::new(Instant::now()),
            queue: Default::default(),
            memories: BTreeMap::new(),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = runner.run(changes) => {}
        }
    }
}

struct Runner {
    parts: Controllers,
    ids: Ids,
    /// What each planner has seen, and when it wants to be asked though nothing changed.
    attention: BTreeMap<&'static str, Attention>,
    /// From when their times are counted.
    began: Instant,
    patience: Patience,
    /// Pods that the scheduler found no node for.
    queue: waggle_plan::scheduler::Queue,
    /// What autoscalers proposed and did lately.
    memories: waggle_plan::autoscaler::Memories,
}

impl Runner {
    async fn run(&mut self, mut changes: watch::Receiver<u64>) {
        let (mut run, mut changed) = (endless::Run::default(), true);
        loop {
            changes.borrow_and_update();
            self.patience.look(Instant::now(), self.grace());
            let mut wrote = 0;
            for (name, planner) in PLANNERS {
                if changed || self.is_due(name) {
                    wrote += self.ask(name, planner).await;
                }
            }
            changed = true;
            if let Some(passes) = run.is_too_long(wrote, self.parts.view.count()) {
                tracing::warn!(passes, "the planners find no end");
                tokio::time::sleep(PAUSE).await;
            }
            if wrote > 0 {
                continue;
            }
            let due = self.attention.values().filter_map(Attention::due).min();
            let rest = due.map_or(LONGEST_REST, |due| {
                due.saturating_sub(self.began.elapsed()).min(LONGEST_REST)
            });
            let woken = tokio::select! {
                result = tokio::time::timeout(rest, changes.changed()) => result,
                // What nodes acknowledge is in no object.
                () = self.parts.enforcement.moved() => {
                    self.insist(TENANT, Duration::ZERO);
                    changed = false;
                    continue;
                }
            };
            match woken {
                Ok(Ok(())) => tokio::time::sleep(DEBOUNCE).await,
                Ok(Err(_)) => return,
                Err(_) => changed = false,
            }
        }
    }

    /// Nothing changed, but it wants to be asked: a time of its own has come.
    fn is_due(&self, name: &'static str) -> bool {
        let now = self.began.elapsed();
        let known = self.attention.get(name);
        known.is_none_or(|known| known.is_due(now))
    }

    /// Has a planner look at everything after `pause`.
    fn insist(&mut self, name: &'static str, pause: Duration) {
        let moment = self.began.elapsed() + pause;
        self.attention.entry(name).or_default().insist(moment);
    }

    /// Asks one planner and commits its plan. How many objects were written: if any was, others may now want something else.
    async fn ask(&mut self, name: &'static str, planner: Planner) -> u64 {
        let view = Arc::clone(&self.parts.view);
        let now = self.parts.objects.now();
        // One object that a planner can't bear must not take the API away, with which it could be mended.
        let asked = AssertUnwindSafe(|| {
            view.read(|snapshot| {
                let clock = self.began.elapsed();
                let attention = self.attention.entry(name).or_default();
                let scope = attention.turn(snapshot, clock, now);
                planner(self, snapshot, scope, now)
            })
        });
        let Ok(plan) = catch_unwind(asked) else {
            tracing::error!(planner = name, "a planner broke; it is asked again later");
            self.insist(name, BROKEN_PAUSE);
            return 0;
        };
        let clock = self.began.elapsed();
        self.attention
            .entry(name)
            .or_default()
            .answered(&plan, clock);
        if plan.writes.is_empty() && plan.events.is_empty() {
            return 0;
        }
        self.commit(name, plan).await
    }

    /// Commits a plan; how many objects were written.
    async fn commit(&mut self, name: &'static str, plan: Plan) -> u64 {
        let purposes: Vec<Purpose> = plan.writes.iter().map(Purpose::of).collect();
        let objects: Vec<u64> = plan
            .writes
            .iter()
            .map(|write| write.parts().len() as u64)
            .collect();
        let (mut wrote, mut failed) = (0, false);
        let binds = |write: &Write| {
            let parts = write.parts().iter();
            parts
                .filter(|one| matches!(one, Write::Bind { .. }))
                .count()
        };
        let binds: Vec<usize> = plan.writes.iter().map(binds).collect();
        let outcomes = self.parts.objects.apply_plan(plan.writes).await;
        let bound = outcomes.iter().zip(binds);
        let bound = bound.filter(|(outcome, _)| outcome.is_ok());
        let bound: usize = bound.map(|(_, binds)| binds).sum();
        self.parts.metrics.bound(bound as u64);
        for ((outcome, purpose), objects) in outcomes.into_iter().zip(purposes).zip(objects) {
            let Err(status) = outcome else {
                wrote += objects;
                continue;
            };
            failed = true;
            // A conflict says that somebody was faster; the next snapshot shows it.
            if !status.is_conflict() && !status.is_not_found() {
                tracing::warn!(planner = name, error = %status, "a planned write was refused");
                self.parts.recorder.record(purpose.event(&status));
            }
        }
        if failed {
            self.insist(name, PAUSE);
        }
        for event in plan.events {
            self.parts.recorder.record(event);
        }
        // Never plan on a snapshot that doesn't show what was just written.
        let written = *self.parts.objects.changed().borrow();
        if !self.parts.view.reach(written).await {
            tracing::error!(
                planner = name,
                revision = written,
                "the snapshot does not follow the store"
            );
        }
        wrote
    }

    /// How long nodes may be silent: longer than set while so many have to speak less often.
    fn grace(&self) -> Duration {
        let set = Duration::from_secs(self.parts.node_lifecycle.grace_seconds);
        set.max(self.parts.beats.grace())
    }

    fn node_lifecycle(&mut self, snapshot: &Snapshot, scope: Scope, now: jiff::Timestamp) -> Plan {
        let mut settings = self.parts.node_lifecycle;
        settings.grace_seconds = self.grace().as_secs();
        if self.patience.is_over(Instant::now(), self.grace()) {
            let heard = |node: &str| self.parts.beats.last(node);
            waggle_plan::node_lifecycle::plan(snapshot, scope, &heard, now, &settings)
        } else {
            Plan {
                again_after: Some(1),
                ..Plan::default()
            }
        }
    }

    fn autoscaler(&mut self, snapshot: &Snapshot, _: Scope, now: jiff::Timestamp) -> Plan {
        // Gathering the figures is work: not before somebody asks for them.
        if snapshot.horizontal_pod_autoscalers.is_empty() {
            return Plan::default();
        }
        let usage = self.parts.usage.by_pod();
        waggle_plan::autoscaler::plan(snapshot, now, &usage, &mut self.memories)
    }

    fn resource_quota(&mut self, snapshot: &Snapshot, _: Scope, now: jiff::Timestamp) -> Plan {
        let Some(kind) = find("", "v1", "resourcequotas") else {
            return Plan::default();
        };
        let objects = &self.parts.objects;
        let quotas = snapshot.resource_quotas.iter();
        let known = quotas.filter_map(|quota| {
            let (namespace, name) = (
                quota.metadata.namespace.clone()?,
                quota.metadata.name.clone()?,
            );
            let quota = objects.get(kind, &namespace, &name)?;
            let used = objects.used_of(&quota.value).into_iter();
            let used = used
                .map(|(what, amount)| (what, amount.to_string()))
                .collect();
            Some(((namespace, name), used))
        });
        waggle_plan::resource_quota::plan(snapshot, &known.collect(), now)
    }

    fn tenant(&mut self, snapshot: &Snapshot, _: Scope, now: jiff::Timestamp) -> Plan {
        let enforced = self.parts.enforcement.of_tenants();
        waggle_plan::tenant::plan(snapshot, &self.parts.numbers.registry(), &enforced, now)
    }
}
