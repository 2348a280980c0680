//! The CronJob controller: a Job at each moment of a schedule, as the concurrency policy and deadlines allow, and no
//! more finished Jobs than are to be kept.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use waggle_api::schedule::{Schedule, time_zone};

use crate::ownership::{controller_reference, delete, json};
use crate::template::{Hand, annotation, put};
use crate::write::{ObjectRef, Propagation};
use crate::{Plan, Scope, Snapshot, Write, job, pod};

const COMPONENT: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed moments after which people are told.
const MANY_MISSED: u32 = 100;

/// Makes the Jobs that are due, removes finished ones beyond the limits, and writes every CronJob's status.
pub fn plan(snapshot: &Snapshot, scope: Scope, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for cron in snapshot.in_scope(scope, &snapshot.cron_jobs, &[]) {
        if cron.metadata.deletion_timestamp.is_none() {
            reconcile(snapshot, cron, now, &mut plan);
        }
    }
    plan
}

/// One CronJob while its plan is made.
struct Work<'a> {
    cron: &'a CronJob,
    owner: ObjectRef,
    now: Timestamp,
    /// Its Jobs, oldest first.
    jobs: Vec<&'a Arc<Job>>,
}

/// The latest moment that is due.
struct Due {
    moment: Timestamp,
    many_missed: bool,
}

fn reconcile(snapshot: &Snapshot, cron: &CronJob, now: Timestamp, plan: &mut Plan) {
    let owner = pod::object("batch/v1", "CronJob", &cron.metadata);
    let owned = snapshot.dependents_of(&owner.uid).filter_map(|meta| {
        let object = &meta.key;
        let mine = meta
            .owners
            .iter()
            .any(|one| one.controller && *one.uid == *owner.uid);
        (mine && *object.kind == *"Job")
            .then(|| snapshot.jobs.get(&object.namespace, &object.name))
            .flatten()
    });
    let mut jobs: Vec<&Arc<Job>> = owned.collect();
    jobs.sort_by_key(|one| {
        (
            one.metadata.creation_timestamp.clone(),
            one.metadata.name.clone(),
        )
    });
    let work = Work {
        cron,
        owner,
        now,
        jobs,
    };
    let mut status = cron.status.clone().unwrap_or_default();
    work.settle(&mut status, plan);
    work.forget(plan);
    work.schedule(snapshot, &mut status, plan);
    if Some(&status) != cron.status.as_ref() {
        let cron = CronJob {
            status: Some(status),
            ..cron.clone()
        };
        plan.writes.push(Write::UpdateStatus(json(&cron)));
    }
}

impl Work<'_> {
    fn hand(&self) -> Hand<'_> {
        Hand {
            owner: &self.owner,
            component: COMPONENT,
        }
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Job>> {
        let running =
            |one: &&&Arc<Job>| !job::is_finished(one) && one.metadata.deletion_timestamp.is_none();
        self.jobs.iter().filter(running).copied()
    }

    /// Which Jobs run, and when the last one succeeded.
    fn settle(&self, status: &mut CronJobStatus, plan: &mut Plan) {
        let before = status.active.take().unwrap_or_default();
        let active: Vec<ObjectReference> = self.active().map(|one| reference(one)).collect();
        for gone in before
            .iter()
            .filter(|one| !active.iter().any(|two| two.uid == one.uid))
        {
            let name = gone.name.clone().unwrap_or_default();
            let found = self.jobs.iter().find(|one| one.metadata.uid == gone.uid);
            let (reason, message) = match found {
                Some(one) => {
                    let how = if job::has_succeeded(one) {
                        "Complete"
                    } else {
                        "Failed"
                    };
                    (
                        "SawCompletedJob",
                        format!("Saw completed job: {name}, condition: {how}"),
                    )
                }
                None => ("MissingJob", format!("Active job went missing: {name}")),
            };
            self.hand().say(reason, message, plan);
        }
        status.active = Some(active).filter(|all| !all.is_empty());
        let good = self.jobs.iter().filter(|one| job::has_succeeded(one));
        let last = good.filter_map(|one| {
            let done = one.status.as_ref()?.completion_time.as_ref();
            done.map(|time| time.0).or_else(|| job::finished_at(one))
        });
        let last = last
            .max()
            .into_iter()
            .chain(status.last_successful_time.as_ref().map(|time| time.0))
            .max();
        status.last_successful_time = last.map(Time);
    }

    /// Removes finished Jobs beyond the limits, the oldest first.
    fn forget(&self, plan: &mut Plan) {
        let spec = &self.cron.spec;
        for (good, limit) in [
            (true, spec.successful_jobs_history_limit.unwrap_or(3)),
            (false, spec.failed_jobs_history_limit.unwrap_or(1)),
        ] {
            let ended = self.jobs.iter().filter(|one| {
                job::is_finished(one)
                    && job::has_succeeded(one) == good
                    && one.metadata.deletion_timestamp.is_none()
            });
            let mut ended: Vec<&&Arc<Job>> = ended.collect();
            ended.sort_by_key(|one| Reverse(started(one)));
            let kept = usize::try_from(limit).unwrap_or(0);
            for one in ended.into_iter().skip(kept) {
                let object = pod::object("batch/v1", "Job", &one.metadata);
                self.hand().say(
                    "SuccessfulDelete",
                    format!("Deleted job {}", object.name),
                    plan,
                );
                plan.writes
                    .push(delete(object, None, Propagation::Background));
            }
        }
    }

    fn schedule(&self, snapshot: &Snapshot, status: &mut CronJobStatus, plan: &mut Plan) {
        let spec = &self.cron.spec;
        if spec.suspend == Some(true) {
            return;
        }
        let zone = time_zone(spec.time_zone.as_deref().unwrap_or_default());
        let (Ok(schedule), Ok(zone)) = (Schedule::parse(&spec.schedule), zone) else {
            // Refused when it was written; an object of an earlier rule set is left alone.
            return;
        };
        if let Some(next) = schedule.next_after(self.now, &zone) {
            plan.again_when(next, self.now);
        }
        let Some(due) = self.due(&schedule, &zone, status) else {
            return;
        };
        let name = format!("{}-{}", self.owner.name, due.moment.as_second() / 60);
        if snapshot.jobs.get(&self.owner.namespace, &name).is_some() {
            status.last_schedule_time = Some(Time(due.moment));
            return;
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if self.active().next().is_some() => return,
            Some("Replace") => {
                for one in self.active() {
                    let object = pod::object("batch/v1", "Job", &one.metadata);
                    self.hand().say(
                        "SuccessfulDelete",
                        format!("Deleted job {}", object.name),
                        plan,
                    );
                    plan.writes
                        .push(delete(object, None, Propagation::Background));
                }
            }
            _ => {}
        }
        if due.many_missed {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.hand()
                .warn("TooManyMissedTimes", message.to_owned(), plan);
        }
        plan.writes.push(Write::Create(json(&self.job(
            name.clone(),
            due.moment,
            &zone,
        ))));
        self.hand()
            .say("SuccessfulCreate", format!("Created job {name}"), plan);
        status.last_schedule_time = Some(Time(due.moment));
    }

    /// The latest moment that is past and was not used; moments beyond the starting deadline are missed for good.
    fn due(&self, schedule: &Schedule, zone: &TimeZone, status: &CronJobStatus) -> Option<Due> {
        let made = self.cron.metadata.creation_timestamp.as_ref();
        let used = status.last_schedule_time.as_ref().or(made);
        let mut start = used.map_or(self.now, |time| time.0);
        if let Some(seconds) = self.cron.spec.starting_deadline_seconds {
            start = start.max(pod::after(self.now, -seconds));
        }
        let mut found = None;
        let mut missed = 0;
        // From further and further back, so that a long rest costs no walk through all of it.
        let mut reach = 60i64;
        loop {
            let from = start.max(pod::after(self.now, -reach));
            let mut moment = from;
            while let Some(next) = schedule
                .next_after(moment, zone)
                .filter(|next| *next <= self.now)
            {
                (found, moment) = (Some(next), next);
                missed += 1;
            }
            if found.is_some() || from == start {
                break;
            }
            reach = reach.saturating_mul(4);
        }
        let moment = found?;
        let first = schedule.next_after(start, zone)?;
        let gap = moment.as_second() - first.as_second();
        let step = schedule
            .next_after(moment, zone)
            .map_or(i64::MAX, |next| next.as_second() - moment.as_second());
        let many_missed = missed > MANY_MISSED || gap / step.max(1) > i64::from(MANY_MISSED);
        Some(Due {
            moment,
            many_missed,
        })
    }

    fn job(&self, name: String, moment: Timestamp, zone: &TimeZone) -> Job {
        let template = &self.cron.spec.job_template;
        let meta = template.metadata.clone().unwrap_or_default();
        let mut metadata = ObjectMeta {
            name: Some(name),
            namespace: Some(self.owner.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(&self.owner)]),
            ..ObjectMeta::default()
        };
        let local = moment.to_zoned(zone.clone());
        let text = local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let text = text
            .strip_suffix("+00:00")
            .map_or(text.clone(), |utc| format!("{utc}Z"));
        put(&mut metadata.annotations, SCHEDULED, text);
        Job {
            metadata,
            spec: template.spec.clone(),
            status: None,
        }
    }
}

fn started(job: &Job) -> Option<Timestamp> {
    let start = job
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    start
        .or(job.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The moment that a Job was made for, as its annotation says.
pub fn scheduled_for(job: &Job) -> Option<Timestamp> {
    annotation(&job.metadata, SCHEDULED)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn cron(policy: &str) -> Value {
        json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick", "namespace": "shop"},
            "spec": {
                "schedule": "*/5 * * * *", "concurrencyPolicy": policy,
                "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0,
                "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"template": {"spec": {
                    "restartPolicy": "Never", "containers": [{"name": "main", "image": "tick:1"}]}}}},
            },
        })
    }

    fn step(world: &mut World) {
        world.settle(|world| plan(&world.snapshot, Scope::EVERYTHING, world.now));
    }

    fn jobs(world: &World) -> Vec<String> {
        let rows = world.all("Job").into_iter();
        rows.map(|job| {
            job["metadata"]["annotations"][SCHEDULED].as_str().unwrap()[11..16].to_owned()
        })
        .collect()
    }

    fn end(world: &mut World, kind: &str) {
        let names: Vec<String> = world
            .all("Job")
            .iter()
            .filter(|job| job["status"].is_null())
            .map(|job| job["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        for name in names {
            let now = world.now.to_string();
            world.edit("Job", "shop", &name, |job| {
                job["status"] = json!({"startTime": now, "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now}]});
            });
        }
    }

    #[test]
    fn a_job_is_made_at_each_moment() {
        let mut world = World::new();
        world.put(cron("Allow"));
        step(&mut world);
        assert_eq!(jobs(&world), [""; 0]);
        assert_eq!(
            plan(&world.snapshot, Scope::EVERYTHING, world.now).again_after,
            Some(300)
        );
        world.pass(300);
        step(&mut world);
        assert_eq!(jobs(&world), ["00:05"]);
        step(&mut world);
        world.pass(640);
        step(&mut world);
        assert_eq!(
            jobs(&world),
            ["00:05", "00:15"],
            "of missed moments only the last is made up for"
        );
        let cron = world.get("CronJob", "shop", "tick").unwrap();
        assert_eq!(cron["status"]["active"].as_array().unwrap().len(), 2);
        assert_eq!(world.all("Job")[0]["metadata"]["labels"]["app"], "tick");
    }

    #[test]
    fn policies_say_what_happens_to_the_one_before() {
        for (policy, expect) in [
            ("Forbid", vec!["00:05"]),
            ("Replace", vec!["00:10"]),
            ("Allow", vec!["00:05", "00:10"]),
        ] {
            let mut world = World::new();
            world.put(cron(policy));
            for _ in 0..2 {
                world.pass(300);
                step(&mut world);
            }
            assert_eq!(jobs(&world), expect, "{policy}");
        }
    }

    #[test]
    fn finished_jobs_are_kept_up_to_their_limits() {
        let mut world = World::new();
        world.put(cron("Allow"));
        for kind in ["Complete", "Failed", "Complete"] {
            world.pass(300);
            step(&mut world);
            end(&mut world, kind);
            step(&mut world);
        }
        assert_eq!(jobs(&world), ["00:15"]);
        let status = &world.get("CronJob", "shop", "tick").unwrap()["status"];
        assert_eq!(status["lastSuccessfulTime"], "2026-01-01T00:15:00Z");
    }

    #[test]
    fn a_missed_moment_is_forgotten_after_its_deadline() {
        let mut world = World::new();
        let mut strict = cron("Allow");
        strict["spec"]["startingDeadlineSeconds"] = json!(60);
        world.put(strict);
        world.pass(370);
        step(&mut world);
        assert_eq!(jobs(&world), [""; 0]);
        world.pass(270);
        step(&mut world);
        assert_eq!(jobs(&world), ["00:10"]);
    }

    #[test]
    fn suspended_ones_rest_and_zones_count() {
        let mut world = World::new();
        let mut tokyo = cron("Allow");
        tokyo["spec"]["schedule"] = json!("0 10 * * *");
        tokyo["spec"]["timeZone"] = json!("Asia/Tokyo");
        tokyo["spec"]["suspend"] = json!(true);
        world.put(tokyo);
        world.pass(3600);
        step(&mut world);
        assert_eq!(jobs(&world), [""; 0]);
        world.edit("CronJob", "shop", "tick", |cron| {
            cron["spec"]["suspend"] = json!(false)
        });
        step(&mut world);
        assert_eq!(
            world.all("Job")[0]["metadata"]["annotations"][SCHEDULED],
            "2026-01-01T10:00:00+09:00"
        );
    }

    proptest! {
        #[test]
        fn no_moment_is_used_twice(rests in proptest::collection::vec(1..4000i64, 1..20)) {
            let mut world = World::new();
            world.put(cron("Allow"));
            for rest in rests {
                world.pass(rest);
                let before = world.all("Job").len();
                step(&mut world);
                prop_assert!(world.all("Job").len() <= before + 1);
                prop_assert_eq!(plan(&world.snapshot, Scope::EVERYTHING, world.now).writes, []);
            }
        }
    }
}
