//! The Job controller: pods that run to their end, counted exactly. Every pod carries a finalizer until its end is
//! written down, so that no end is lost or counted twice, whoever removes pods and whenever this process dies. Counting
//! is in `tally`, sets of indexes in `indexes`, policies in `policy`, making pods in `pods`.

pub(crate) mod indexes;
mod pods;
mod policy;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ownership::{delete, json};
use crate::pod::{self, Pod};
use crate::replica_set::count;
use crate::snapshot::Also;
use crate::template::{Hand, claim};
use crate::write::{ObjectRef, Propagation};
use crate::{Ids, Plan, Scope, Snapshot, Write};

use tally::Tally;

/// Finalizer of a pod whose end is not yet written down.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

const COMPONENT: &str = "job-controller";
/// Who runs a Job that doesn't say.
const CONTROLLER: &str = "kubernetes.io/job-controller";
const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const SUSPENDED: &str = "Suspended";
const WILL_FAIL: &str = "FailureTarget";
const WILL_SUCCEED: &str = "SuccessCriteriaMet";

/// Runs the pods of every Job, counts their ends, writes its status, and removes Jobs whose time to live is over.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp, ids: &mut Ids) -> Plan {
    let mut plan = Plan::default();
    let mut claimed = BTreeSet::new();
    for job in snapshot.in_scope(scope, &snapshot.jobs, &[Also::Orphans]) {
        reconcile(snapshot, job, now, ids, &mut claimed, &mut plan);
    }
    release_orphans(snapshot, scope, &mut plan);
    plan
}

/// Whether a condition of the Job is True.
pub(crate) fn is(job: &Job, kind: &str) -> bool {
    condition(job.status.as_ref(), kind).is_some_and(|one| one.status == "True")
}

/// Has ended, well or not.
pub fn is_finished(job: &Job) -> bool {
    is(job, COMPLETE) || is(job, FAILED)
}

/// Has ended well.
pub(crate) fn has_succeeded(job: &Job) -> bool {
    is(job, COMPLETE)
}

/// When it ended.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref();
    let ended = [COMPLETE, FAILED]
        .into_iter()
        .find_map(|kind| condition(status, kind).filter(|one| one.status == "True"));
    ended?.last_transition_time.as_ref().map(|time| time.0)
}

fn condition<'a>(status: Option<&'a JobStatus>, kind: &str) -> Option<&'a JobCondition> {
    let rows = status?.conditions.as_ref()?;
    rows.iter().find(|one| one.type_ == kind)
}

/// What is to become of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fate {
    good: bool,
    reason: String,
    message: String,
}

impl Fate {
    fn new(good: bool, reason: &str, message: impl Into<String>) -> Self {
        Self {
            good,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// One Job while its plan is made.
struct Work<'a> {
    snapshot: &'a Snapshot,
    job: &'a Job,
    owner: ObjectRef,
    now: Timestamp,
    pods: Vec<&'a Arc<Pod>>,
}

fn reconcile(
    snapshot: &Snapshot,
    job: &Job,
    now: Timestamp,
    ids: &mut Ids,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) {
    let Some(spec) = &job.spec else { return };
    if spec
        .managed_by
        .as_deref()
        .is_some_and(|name| name != CONTROLLER)
    {
        return;
    }
    let owner = pod::object("batch/v1", "Job", &job.metadata);
    let ending = job.metadata.deletion_timestamp.is_some();
    let selector = spec.selector.clone().unwrap_or_default();
    let finished = is_finished(job);
    let pods = claim(
        snapshot,
        &selector,
        &owner,
        ending || finished,
        claimed,
        plan,
    );
    let work = Work {
        snapshot,
        job,
        owner,
        now,
        pods,
    };
    if ending || finished {
        work.wind_down(ending, plan);
        return;
    }
    let tally = Tally::of(&work, plan);
    let status = work.act(&tally, ids, plan);
    if Some(&status) != job.status.as_ref() {
        work.announce(&status, plan);
        let job = Job {
            status: Some(status),
            ..job.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&job)));
    }
}

/// Pods whose Job is gone are let go.
fn release_orphans(snapshot: &Snapshot, scope: Scope, plan: &mut Plan) {
    for one in snapshot
        .in_scope(scope, &snapshot.pods, &[])
        .into_iter()
        .filter(|one| is_tracked(one))
    {
        let owner = pod::controller(&one.metadata).filter(|owner| owner.kind == "Job");
        if owner.is_none_or(|owner| snapshot.meta(&owner.uid).is_none()) {
            plan.writes.push(untrack(one));
        }
    }
}

fn is_tracked(pod: &Pod) -> bool {
    let all = pod.metadata.finalizers.as_ref();
    all.is_some_and(|all| all.iter().any(|one| one == FINALIZER))
}

fn untrack(pod: &Pod) -> Write {
    Write::RemoveFinalizer {
        object: pod::reference(pod),
        finalizer: FINALIZER.to_owned(),
    }
}

impl<'a> Work<'a> {
    fn hand(&self) -> Hand<'_> {
        Hand {
            owner: &self.owner,
            component: COMPONENT,
        }
    }

    fn is_indexed(&self) -> bool {
        let spec = self.job.spec.as_ref();
        spec.and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
    }

    fn completions(&self) -> Option<i32> {
        self.job.spec.as_ref()?.completions
    }

    /// Pods that run, or are about to.
    fn active(&self) -> impl Iterator<Item = &'a Arc<Pod>> + '_ {
        self.pods.iter().copied().filter(|one| pod::is_active(one))
    }

    /// Pods whose end was asked for and who may still run.
    fn terminating(&self) -> usize {
        let ending = |one: &&&Arc<Pod>| {
            let over = one.metadata.deletion_grace_period_seconds == Some(0);
            pod::is_deleted(one) && !pod::is_terminated(one) && !over
        };
        self.pods.iter().filter(ending).count()
    }

    /// A Job that has ended or is to be removed keeps no pod running and holds none back.
    fn wind_down(&self, ending: bool, plan: &mut Plan) {
        for one in self.pods.iter().filter(|one| is_tracked(one)) {
            plan.writes.push(untrack(one));
        }
        if ending {
            return;
        }
        self.active().for_each(|one| self.hand().delete(one, plan));
        let lives = self
            .job
            .spec
            .as_ref()
            .and_then(|spec| spec.ttl_seconds_after_finished);
        if let (Some(lives), Some(end)) = (lives, finished_at(self.job)) {
            let due = pod::after(end, i64::from(lives));
            if due > self.now {
                plan.again_at(due, self.now);
            } else {
                let object = self.owner.clone();
                plan.writes
                    .push(delete(object, None, Propagation::Foreground));
            }
        }
    }

    /// Ends a pod without counting its end.
    fn dismiss(&self, one: &Pod, plan: &mut Plan) {
        if is_tracked(one) {
            plan.writes.push(untrack(one));
        }
        self.hand().delete(one, plan);
    }

    fn act(&self, tally: &Tally, ids: &mut Ids, plan: &mut Plan) -> JobStatus {
        let mut status = tally.status.clone();
        let suspended = self.job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
        let fate = self.standing_fate().or_else(|| self.fate(tally));
        if let Some(fate) = fate {
            self.finish(&fate, &mut status, plan);
        } else if suspended {
            self.active().for_each(|one| self.dismiss(one, plan));
            let message = "Job suspended";
            self.set(&mut status, SUSPENDED, "True", "JobSuspended", message);
        } else {
            if condition(Some(&status), SUSPENDED).is_some_and(|one| one.status == "True") {
                self.set(&mut status, SUSPENDED, "False", "JobResumed", "Job resumed");
                status.start_time = None;
            }
            status.start_time.get_or_insert(Time(self.now));
            self.wake_for_deadline(&status, plan);
            pods::manage(self, tally, ids, plan);
        }
        self.count(&mut status);
        status
    }

    /// What was decided before.
    fn standing_fate(&self) -> Option<Fate> {
        let status = self.job.status.as_ref();
        [(WILL_FAIL, false), (WILL_SUCCEED, true)]
            .into_iter()
            .find_map(|(kind, good)| {
                let one = condition(status, kind).filter(|one| one.status == "True")?;
                let reason = one.reason.clone().unwrap_or_default();
                let message = one.message.clone().unwrap_or_default();
                Some(Fate {
                    good,
                    reason,
                    message,
                })
            })
    }

    fn fate(&self, tally: &Tally) -> Option<Fate> {
        let spec = self.job.spec.as_ref()?;
        if let Some(message) = &tally.fail_job {
            return Some(Fate::new(false, "PodFailurePolicy", message.clone()));
        }
        let limit = spec.backoff_limit.unwrap_or(6);
        if tally.failed > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(Fate::new(false, "BackoffLimitExceeded", message));
        }
        let suspended = spec.suspend == Some(true);
        if !suspended && self.deadline().is_some_and(|due| due <= self.now) {
            let message = "Job was active longer than specified deadline";
            return Some(Fate::new(false, "DeadlineExceeded", message));
        }
        if self.is_indexed() {
            return self.indexed_fate(tally);
        }
        let done = match self.completions() {
            Some(wanted) => tally.succeeded >= wanted,
            None => tally.succeeded > 0 && self.active().next().is_none(),
        };
        done.then(|| {
            Fate::new(
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            )
        })
    }

    fn indexed_fate(&self, tally: &Tally) -> Option<Fate> {
        let spec = self.job.spec.as_ref()?;
        if let Some(rule) = policy::success(spec, &tally.completed) {
            let message = format!("Matched rules at index {rule}");
            return Some(Fate::new(true, "SuccessPolicy", message));
        }
        let failed = tally.failed_indexes.len();
        if spec
            .max_failed_indexes
            .is_some_and(|most| count(failed) > most)
        {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Fate::new(false, "MaxFailedIndexesExceeded", message));
        }
        let wanted = usize::try_from(self.completions().unwrap_or(0)).unwrap_or(0);
        if tally.completed.len() + failed < wanted {
            return None;
        }
        Some(if failed > 0 {
            Fate::new(false, "FailedIndexes", "Job has failed indexes")
        } else {
            Fate::new(
                true,
                "CompletionsReached",
                "Reached expected number of succeeded pods",
            )
        })
    }

    /// Containers that are restarted in place count as failures too.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let spec = self
            .job
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        if spec.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let statuses = self.active().filter_map(|one| one.status.as_ref());
        let restarts: i32 = statuses
            .flat_map(|status| {
                let init = status.init_container_statuses.iter().flatten();
                init.chain(status.container_statuses.iter().flatten())
            })
            .map(|one| one.restart_count)
            .fold(0, i32::saturating_add);
        if limit == 0 {
            restarts > 0
        } else {
            restarts >= limit
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.job.spec.as_ref()?.active_deadline_seconds?;
        // The time before a suspension does not count.
        if is(self.job, SUSPENDED) {
            return None;
        }
        let start = self.job.status.as_ref()?.start_time.as_ref()?.0;
        Some(pod::after(start, seconds))
    }

    fn wake_for_deadline(&self, status: &JobStatus, plan: &mut Plan) {
        let seconds = self
            .job
            .spec
            .as_ref()
            .and_then(|spec| spec.active_deadline_seconds);
        if let (Some(seconds), Some(start)) = (seconds, &status.start_time) {
            plan.again_at(pod::after(start.0, seconds), self.now);
        }
    }

    /// Ends what runs; once nothing does and everything is counted, says how the Job ended.
    fn finish(&self, fate: &Fate, status: &mut JobStatus, plan: &mut Plan) {
        let early = if fate.good { WILL_SUCCEED } else { WILL_FAIL };
        self.set(status, early, "True", &fate.reason, &fate.message);
        let mut running = false;
        for one in self.active() {
            self.dismiss(one, plan);
            running = true;
        }
        let counted = status
            .uncounted_terminated_pods
            .as_ref()
            .is_none_or(|left| {
                let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
                empty(&left.succeeded) && empty(&left.failed)
            });
        if running || !counted || self.terminating() > 0 {
            return;
        }
        let kind = if fate.good { COMPLETE } else { FAILED };
        self.set(status, kind, "True", &fate.reason, &fate.message);
        if fate.good {
            status.completion_time = Some(Time(self.now));
        }
        status.start_time.get_or_insert(Time(self.now));
        status.uncounted_terminated_pods = None;
    }

    fn count(&self, status: &mut JobStatus) {
        let number = |amount: usize| (amount > 0).then(|| count(amount));
        let ended = [COMPLETE, FAILED]
            .into_iter()
            .any(|kind| condition(Some(status), kind).is_some());
        status.active = number(if ended { 0 } else { self.active().count() });
        let ready = self.active().filter(|one| pod::is_ready(one)).count();
        status.ready = Some(if ended { 0 } else { count(ready) });
        status.terminating = Some(count(self.terminating()));
    }

    fn set(&self, status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str) {
        let rows = status.conditions.get_or_insert_default();
        let found = rows.iter_mut().find(|one| one.type_ == kind);
        let row = JobCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match found {
            Some(one) if one.status == value => {}
            Some(one) => *one = row,
            None => rows.push(row),
        }
    }

    /// Tells of what this plan makes true.
    fn announce(&self, status: &JobStatus, plan: &mut Plan) {
        let before = self.job.status.as_ref();
        let new = |kind: &str| {
            let row = condition(Some(status), kind)?;
            (condition(before, kind).map(|one| &one.status) != Some(&row.status)).then_some(row)
        };
        let text = |row: &JobCondition| row.message.clone().unwrap_or_default();
        if new(COMPLETE).is_some() {
            self.hand()
                .say("Completed", "Job completed".to_owned(), plan);
        }
        if let Some(row) = new(FAILED) {
            let known = [
                "BackoffLimitExceeded",
                "DeadlineExceeded",
                "PodFailurePolicy",
                "MaxFailedIndexesExceeded",
                "FailedIndexes",
            ];
            let reason = known
                .into_iter()
                .find(|one| row.reason.as_deref() == Some(one));
            self.hand()
                .warn(reason.unwrap_or("Failed"), text(row), plan);
        }
        if let Some(row) = new(SUSPENDED) {
            let reason = if row.status == "True" {
                "Suspended"
            } else {
                "Resumed"
            };
            self.hand().say(reason, text(row), plan);
        }
    }
}

/// Pods by the index that they work on.
fn by_index<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> BTreeMap<i32, Vec<&'a Arc<Pod>>> {
    let mut all: BTreeMap<i32, Vec<&Arc<Pod>>> = BTreeMap::new();
    for one in pods {
        if let Some(index) = pods::index_of(one) {
            all.entry(index).or_default().push(one);
        }
    }
    all
}
