//! Counting ends exactly. A pod that ended is first named in the status, then its finalizer is taken, then it is
//! counted and its name struck out: whatever happens in between, the next plan goes on from there.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{JobStatus, UncountedTerminatedPods};

use super::indexes::Indexes;
use super::pods::{failures_before, index_of};
use super::policy::{self, Verdict};
use super::{Work, is_tracked, untrack};
use crate::Plan;
use crate::pod::{self, Pod};
use crate::replica_set::{count, nonzero};

/// What is known of a Job's pods.
pub(super) struct Tally {
    /// The status with everything counted that can be; active pods and conditions as they were.
    pub(super) status: JobStatus,
    /// Pods that succeeded, those that are named but not yet counted included.
    pub(super) succeeded: i32,
    /// Pods that failed, likewise.
    pub(super) failed: i32,
    /// Indexes that are done.
    pub(super) completed: Indexes,
    /// Indexes that are given up.
    pub(super) failed_indexes: Indexes,
    /// A failure that ends the Job, and why.
    pub(super) fail_job: Option<String>,
}

impl Tally {
    pub(super) fn of(work: &Work<'_>, plan: &mut Plan) -> Self {
        let before = work.job.status.clone().unwrap_or_default();
        let end = work.completions().unwrap_or(0);
        let read = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), end);
        let mut tally = Self {
            completed: read(&before.completed_indexes),
            failed_indexes: read(&before.failed_indexes),
            succeeded: before.succeeded.unwrap_or(0),
            failed: before.failed.unwrap_or(0),
            status: before,
            fail_job: None,
        };
        let named = tally.strike_out(work, plan);
        tally.name_new(work, named, plan);
        tally.write_down(work);
        tally
    }

    /// Counts named pods whose finalizer is gone, and takes it from the others. Answers the names that stay.
    fn strike_out(&mut self, work: &Work<'_>, plan: &mut Plan) -> UncountedTerminatedPods {
        let mut left = self
            .status
            .uncounted_terminated_pods
            .take()
            .unwrap_or_default();
        let stored = self.completed.clone();
        let mut keep = |uid: &String, counted: &mut i32| {
            let found = work
                .pods
                .iter()
                .find(|one| one.metadata.uid.as_ref() == Some(uid));
            match found.filter(|one| is_tracked(one)) {
                None => {
                    *counted += 1;
                    false
                }
                Some(one) => {
                    if self.may_release(work, one) {
                        plan.writes.push(untrack(one));
                    }
                    true
                }
            }
        };
        let (mut succeeded, mut failed) = (0, 0);
        left.succeeded
            .iter_mut()
            .for_each(|all| all.retain(|uid| keep(uid, &mut succeeded)));
        left.failed
            .iter_mut()
            .for_each(|all| all.retain(|uid| keep(uid, &mut failed)));
        self.succeeded += succeeded;
        self.failed += failed;
        // A success of an index is written down as the index itself.
        let done = work
            .pods
            .iter()
            .filter(|one| is_tracked(one) && pod::phase(one) == "Succeeded");
        for one in done.filter(|_| work.is_indexed()) {
            if index_of(one).is_none_or(|index| stored.contains(index)) {
                plan.writes.push(untrack(one));
            }
        }
        left
    }

    /// A failed pod of an index tells how often that failed, until its successor does.
    fn may_release(&self, work: &Work<'_>, one: &Pod) -> bool {
        let spec = work.job.spec.as_ref();
        if spec.and_then(|spec| spec.backoff_limit_per_index).is_none() {
            return true;
        }
        let Some(index) = index_of(one) else {
            return true;
        };
        let known = failures_before(one);
        let over = self.completed.contains(index) || self.failed_indexes.contains(index);
        let followed = work
            .pods
            .iter()
            .any(|other| index_of(other) == Some(index) && failures_before(other) > known);
        over || followed
    }

    /// Names the pods that ended and are not written down yet.
    fn name_new(&mut self, work: &Work<'_>, mut named: UncountedTerminatedPods, plan: &mut Plan) {
        let known: BTreeSet<String> = named
            .succeeded
            .iter()
            .chain(&named.failed)
            .flatten()
            .cloned()
            .collect();
        let end = work.completions().unwrap_or(0);
        for one in work.pods.iter().filter(|one| is_tracked(one)) {
            let uid = one.metadata.uid.clone().unwrap_or_default();
            if known.contains(&uid) {
                continue;
            }
            if pod::phase(one) == "Succeeded" {
                match index_of(one).filter(|_| work.is_indexed()) {
                    Some(index) if index < end => drop(self.completed.insert(index)),
                    Some(_) => {}
                    None => named.succeeded.get_or_insert_default().push(uid),
                }
            } else if has_failed(work, one) {
                self.judge(work, one, uid, &mut named, plan);
            }
        }
        let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
        if empty(&named.succeeded) {
            named.succeeded = None;
        }
        if empty(&named.failed) {
            named.failed = None;
        }
        self.status.uncounted_terminated_pods = Some(named);
    }

    fn judge(
        &mut self,
        work: &Work<'_>,
        one: &Pod,
        uid: String,
        named: &mut UncountedTerminatedPods,
        plan: &mut Plan,
    ) {
        let Some(spec) = work.job.spec.as_ref() else {
            return;
        };
        let index = index_of(one);
        match policy::failure(spec, one) {
            Verdict::Ignore => return plan.writes.push(untrack(one)),
            Verdict::FailJob(why) => drop(self.fail_job.get_or_insert(why)),
            Verdict::FailIndex => drop(index.map(|index| self.failed_indexes.insert(index))),
            Verdict::Count => {}
        }
        let limit = spec.backoff_limit_per_index;
        if let (Some(limit), Some(index)) = (limit, index)
            && failures_before(one) >= limit
            && !self.completed.contains(index)
        {
            self.failed_indexes.insert(index);
        }
        named.failed.get_or_insert_default().push(uid);
    }

    fn write_down(&mut self, work: &Work<'_>) {
        let named = self
            .status
            .uncounted_terminated_pods
            .clone()
            .unwrap_or_default();
        let length = |list: &Option<Vec<String>>| count(list.as_ref().map_or(0, Vec::len));
        if work.is_indexed() {
            self.succeeded = count(self.completed.len());
            let text = self.completed.to_string();
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
            let per_index = work.job.spec.as_ref();
            let per_index = per_index.and_then(|spec| spec.backoff_limit_per_index);
            if per_index.is_some() {
                self.status.failed_indexes = Some(self.failed_indexes.to_string());
            }
        }
        self.status.succeeded = nonzero(self.succeeded);
        self.status.failed = nonzero(self.failed);
        self.succeeded += length(&named.succeeded);
        self.failed += length(&named.failed);
    }
}

/// Whether a pod counts as failed: it says so, or it was asked to end and nobody waits for what it says then.
pub(super) fn has_failed(work: &Work<'_>, one: &Pod) -> bool {
    let waits = work
        .job
        .spec
        .as_ref()
        .is_some_and(|spec| spec.pod_replacement_policy.as_deref() == Some("Failed"));
    match pod::phase(one) {
        "Failed" => true,
        "Succeeded" => false,
        _ if !pod::is_deleted(one) => false,
        _ => !waits || one.metadata.deletion_grace_period_seconds == Some(0),
    }
}
