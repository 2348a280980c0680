//! The status of a Deployment: counts, Available and Progressing. `kubectl rollout status` reads nothing else.

use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Rollout, Set};
use crate::replica_set::nonzero;
use crate::{Plan, pod};

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const DONE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What a condition is to say.
struct Saying {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl Rollout<'_> {
    pub(super) fn status(&self, plan: &mut Plan) -> DeploymentStatus {
        let before = self.deployment.status.clone().unwrap_or_default();
        let sum = |count: fn(&Set<'_>) -> i32| self.sum(count);
        let (total, available) = (sum(|row| row.active), sum(|row| row.available));
        let missing = (self.total() - available).max(0);
        let mut status = DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(total),
            updated_replicas: nonzero(self.new.as_ref().map_or(0, |row| row.active)),
            ready_replicas: nonzero(sum(|row| row.ready)),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero(missing),
            terminating_replicas: nonzero(sum(|row| row.terminating)),
            collision_count: before.collision_count,
            conditions: before.conditions.clone(),
        };
        if self.deployment.metadata.deletion_timestamp.is_none() {
            self.say(&mut status, self.availability(available));
            self.progress(&before, &mut status, plan);
            self.wake_for_readiness(plan);
        }
        status
    }

    fn availability(&self, available: i32) -> Saying {
        let (status, reason, message) = if available >= self.replicas - self.unavailable {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        Saying {
            kind: AVAILABLE,
            status,
            reason,
            message: message.to_owned(),
        }
    }

    fn progress(&self, before: &DeploymentStatus, status: &mut DeploymentStatus, plan: &mut Plan) {
        let deadline = self
            .deployment
            .spec
            .progress_deadline_seconds
            .filter(|&seconds| seconds != i32::MAX);
        let Some(deadline) = deadline else {
            let rows = status.conditions.iter_mut();
            rows.for_each(|rows| rows.retain(|row| row.type_.as_deref() != Some(PROGRESSING)));
            return;
        };
        let current = condition(before, PROGRESSING).cloned();
        let reason = current
            .as_ref()
            .and_then(|row| row.reason.clone())
            .unwrap_or_default();
        let message = current
            .as_ref()
            .and_then(|row| row.message.clone())
            .unwrap_or_default();
        if let Some(saying) = self.pause_change(&reason) {
            return self.say(status, saying);
        }
        let Some(new) = &self.new else { return };
        let subject = format!("{:?}", new.name());
        let about_other = !message.contains(&subject);
        if reason == DONE && !about_other && status.replicas == status.updated_replicas {
            return;
        }
        if current.is_none() || (about_other && reason == DONE) {
            let message = format!("Created new replica set {subject}");
            return self.say(status, progressing("True", "NewReplicaSetCreated", message));
        }
        if self.complete(status) {
            let message = format!("ReplicaSet {subject} has successfully progressed.");
            return self.say(status, progressing("True", DONE, message));
        }
        if advanced(before, status) {
            forget_update_time(status);
            let message = format!("ReplicaSet {subject} is progressing.");
            return self.say(status, progressing("True", "ReplicaSetUpdated", message));
        }
        if self.is_paused() || matches!(reason.as_str(), DONE | LATE) {
            return;
        }
        let since = current
            .and_then(|row| row.last_update_time)
            .map_or(self.now, |time| time.0);
        let due = pod::after(since, i64::from(deadline));
        if due < self.now {
            let message = format!("ReplicaSet {subject} has timed out progressing.");
            self.say(status, progressing("False", LATE, message));
        } else {
            plan.again_at(due, self.now);
        }
    }

    fn pause_change(&self, reason: &str) -> Option<Saying> {
        match (self.is_paused(), reason) {
            (_, LATE) | (true, PAUSED) => None,
            (true, _) => Some(progressing(
                "Unknown",
                PAUSED,
                "Deployment is paused".to_owned(),
            )),
            (false, PAUSED) => Some(progressing(
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".to_owned(),
            )),
            (false, _) => None,
        }
    }

    /// Every wanted pod is of the new template and available, and no other is left.
    pub(super) fn complete(&self, status: &DeploymentStatus) -> bool {
        let whole = nonzero(self.replicas);
        status.updated_replicas == whole
            && status.replicas == whole
            && status.available_replicas == whole
    }

    /// Sets a condition; one that already says the same keeps its times and its words.
    fn say(&self, status: &mut DeploymentStatus, saying: Saying) {
        let rows = status.conditions.get_or_insert_default();
        let found = rows
            .iter()
            .position(|row| row.type_.as_deref() == Some(saying.kind));
        let before = found.map(|index| rows[index].clone());
        let same_status = before
            .as_ref()
            .is_some_and(|row| row.status.as_deref() == Some(saying.status));
        let same_reason = before
            .as_ref()
            .is_some_and(|row| row.reason.as_deref() == Some(saying.reason));
        if same_status
            && same_reason
            && before
                .as_ref()
                .is_some_and(|row| row.last_update_time.is_some())
        {
            return;
        }
        let moment = Time(self.now);
        let transition = before
            .filter(|_| same_status)
            .and_then(|row| row.last_transition_time);
        let row = DeploymentCondition {
            type_: Some(saying.kind.to_owned()),
            status: Some(saying.status.to_owned()),
            reason: Some(saying.reason.to_owned()),
            message: Some(saying.message),
            last_update_time: Some(moment.clone()),
            last_transition_time: Some(transition.unwrap_or(moment)),
        };
        match found {
            Some(index) => rows[index] = row,
            None => rows.push(row),
        }
    }

    /// Asks for another plan when the next ready pod becomes available.
    fn wake_for_readiness(&self, plan: &mut Plan) {
        let patience = self.deployment.spec.min_ready_seconds.unwrap_or(0);
        if patience <= 0 {
            return;
        }
        let uids = self
            .sets()
            .filter_map(|row| row.set.metadata.uid.as_deref());
        for one in uids
            .flat_map(|uid| self.snapshot.pods_of(uid))
            .filter(|one| pod::is_active(one))
        {
            if let Err(Some(due)) = pod::available(one, patience, self.now) {
                plan.again_at(due, self.now);
            }
        }
    }
}

fn progressing(status: &'static str, reason: &'static str, message: String) -> Saying {
    Saying {
        kind: PROGRESSING,
        status,
        reason,
        message,
    }
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status
        .conditions
        .iter()
        .flatten()
        .find(|row| row.type_.as_deref() == Some(kind))
}

/// Makes the next saying refresh `lastUpdateTime`: progress restarts the deadline.
fn forget_update_time(status: &mut DeploymentStatus) {
    let rows = status.conditions.iter_mut().flatten();
    rows.filter(|row| row.type_.as_deref() == Some(PROGRESSING))
        .for_each(|row| row.last_update_time = None);
}

/// More pods are updated, ready or available than before, or fewer old ones are left.
fn advanced(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(now.updated_replicas) > number(before.updated_replicas)
        || old(now) < old(before)
        || number(now.ready_replicas) > number(before.ready_replicas)
        || number(now.available_replicas) > number(before.available_replicas)
}

/// The same status with absent for 0, as it is written here.
pub(super) fn normal(status: &DeploymentStatus) -> DeploymentStatus {
    DeploymentStatus {
        replicas: status.replicas.and_then(nonzero),
        updated_replicas: status.updated_replicas.and_then(nonzero),
        ready_replicas: status.ready_replicas.and_then(nonzero),
        available_replicas: status.available_replicas.and_then(nonzero),
        unavailable_replicas: status.unavailable_replicas.and_then(nonzero),
        terminating_replicas: status.terminating_replicas.and_then(nonzero),
        ..status.clone()
    }
}
