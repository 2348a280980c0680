//! Making and ending a Job's pods: how many, of which indexes, how long after failures.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    self as core, Container, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec,
};

use super::tally::{Tally, has_failed};
use super::{FINALIZER, Work, by_index};
use crate::pod::{self, Pod};
use crate::template::{annotation, free_name, put};
use crate::{Ids, Plan, template};

/// Most pods that one plan makes or ends for one Job.
const BURST: usize = 500;
/// Seconds until a pod follows the first failed one; doubled for each further failure.
const FIRST_DELAY: i64 = 10;
const LONGEST_DELAY: i64 = 600;

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// The index that a pod works on.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// How often its index had failed when a pod was made.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    annotation(&pod.metadata, FAILURES)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Brings the number of running pods to what is wanted.
pub(super) fn manage(work: &Work<'_>, tally: &Tally, ids: &mut Ids, plan: &mut Plan) {
    let Some(spec) = &work.job.spec else { return };
    let mut active: Vec<&Arc<Pod>> = work.active().collect();
    if work.is_indexed() {
        drop_unwanted(work, tally, &mut active, plan);
    }
    let parallel = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or(0);
    let wanted = match work.completions() {
        Some(_) if work.is_indexed() => parallel,
        Some(completions) => {
            let left = completions.saturating_sub(tally.succeeded);
            parallel.min(usize::try_from(left).unwrap_or(0))
        }
        // A queue of work: once one succeeded, the others finish and no more come.
        None if tally.succeeded > 0 => parallel.min(active.len()),
        None => parallel,
    };
    if active.len() > wanted {
        active.sort_by_key(|one| {
            (
                pod::node_name(one).is_some(),
                pod::is_ready(one),
                std::cmp::Reverse(one.metadata.creation_timestamp.clone()),
            )
        });
        let surplus = active.len() - wanted;
        let gone = active.into_iter().take(surplus.min(BURST));
        gone.for_each(|one| work.dismiss(one, plan));
        return;
    }
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let beside = if waits { work.terminating() } else { 0 };
    let missing = wanted.saturating_sub(active.len() + beside).min(BURST);
    if work.is_indexed() {
        create_indexed(work, tally, missing, ids, plan);
    } else if missing > 0 {
        match due(work, work.pods.iter().copied()) {
            Some(due) if due > work.now => plan.again_at(due, work.now),
            _ => create(work, missing, ids, plan),
        }
    }
}

/// Ends pods of indexes that are done, given up, out of range or worked on by an older pod.
fn drop_unwanted(work: &Work<'_>, tally: &Tally, active: &mut Vec<&Arc<Pod>>, plan: &mut Plan) {
    let end = work.completions().unwrap_or(0);
    let mut seen = BTreeSet::new();
    active.sort_by_key(|one| one.metadata.creation_timestamp.clone());
    active.retain(|one| {
        let wanted = index_of(one).is_some_and(|index| {
            let open = !tally.completed.contains(index) && !tally.failed_indexes.contains(index);
            index < end && open && seen.insert(index)
        });
        if !wanted {
            work.dismiss(one, plan);
        }
        wanted
    });
}

fn create(work: &Work<'_>, missing: usize, ids: &mut Ids, plan: &mut Plan) {
    let mut made = BTreeSet::new();
    for _ in 0..missing {
        let (namespace, base) = (&work.owner.namespace, &work.owner.name);
        let name = free_name(work.snapshot, namespace, base, &made, ids);
        let pod = new_pod(work, name.clone(), &format!("{}-", work.owner.name));
        work.hand().create(&pod, plan);
        made.insert(name);
    }
}

fn create_indexed(work: &Work<'_>, tally: &Tally, missing: usize, ids: &mut Ids, plan: &mut Plan) {
    let Some(spec) = &work.job.spec else { return };
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let per_index = spec.backoff_limit_per_index.is_some();
    let all = by_index(work.pods.iter().copied());
    let busy = |index: i32| {
        let pods = all.get(&index).into_iter().flatten();
        pods.into_iter().any(|one| {
            pod::is_active(one) || (waits && !has_failed(work, one) && pod::is_deleted(one))
        })
    };
    let mut pause = if per_index {
        None
    } else {
        due(work, work.pods.iter().copied())
    };
    pause = pause.filter(|due| *due > work.now);
    let mut left = missing;
    for index in 0..work.completions().unwrap_or(0) {
        if left == 0 {
            return;
        }
        if tally.completed.contains(index) || tally.failed_indexes.contains(index) || busy(index) {
            continue;
        }
        let past = all.get(&index).map(Vec::as_slice).unwrap_or_default();
        let own = per_index.then(|| due(work, past.iter().copied())).flatten();
        left -= 1;
        match pause.or(own.filter(|due| *due > work.now)) {
            Some(due) => plan.again_at(due, work.now),
            None => create_index(work, index, past, per_index, ids, plan),
        }
    }
}

fn create_index(
    work: &Work<'_>,
    index: i32,
    past: &[&Arc<Pod>],
    per_index: bool,
    ids: &mut Ids,
    plan: &mut Plan,
) {
    let (namespace, base) = (
        &work.owner.namespace,
        format!("{}-{index}", work.owner.name),
    );
    let name = free_name(work.snapshot, namespace, &base, &BTreeSet::new(), ids);
    let mut pod = new_pod(work, name, &format!("{base}-"));
    put(&mut pod.metadata.annotations, INDEX, index.to_string());
    put(&mut pod.metadata.labels, INDEX, index.to_string());
    if per_index {
        let ended = past.iter().filter(|one| has_failed(work, one));
        let failures = ended.map(|one| failures_before(one) + 1).max().unwrap_or(0);
        put(
            &mut pod.metadata.annotations,
            FAILURES,
            failures.to_string(),
        );
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(base);
    tell_index(spec);
    work.hand().create(&pod, plan);
}

/// Every container learns its index from its environment.
fn tell_index(spec: &mut PodSpec) {
    let containers = spec.containers.iter_mut();
    let all = containers.chain(spec.init_containers.iter_mut().flatten());
    all.for_each(|container: &mut Container| {
        let variables = container.env.get_or_insert_default();
        if variables.iter().any(|one| one.name == INDEX_VARIABLE) {
            return;
        }
        let field = ObjectFieldSelector {
            api_version: None,
            field_path: format!("metadata.annotations['{INDEX}']"),
        };
        let from = EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        };
        variables.push(EnvVar {
            name: INDEX_VARIABLE.to_owned(),
            value: None,
            value_from: Some(from),
        });
    });
}

fn new_pod(work: &Work<'_>, name: String, generate_name: &str) -> core::Pod {
    let template = work.job.spec.as_ref().map(|spec| spec.template.clone());
    let mut pod = template::pod(&work.owner, &template.unwrap_or_default(), name);
    pod.metadata.generate_name = Some(generate_name.to_owned());
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    finalizers.push(FINALIZER.to_owned());
    pod
}

/// When the next pod may come, after the failures since the last success.
fn due<'a>(work: &Work<'_>, pods: impl Iterator<Item = &'a Arc<Pod>> + Clone) -> Option<Timestamp> {
    let good = pods.clone().filter(|one| pod::phase(one) == "Succeeded");
    let good = good.map(|one| ended_at(one)).max();
    let bad = pods
        .filter(|one| has_failed(work, one))
        .map(|one| ended_at(one));
    let (failures, last) = bad
        .filter(|end| good.is_none_or(|good| *end > good))
        .fold((0u32, None), |(count, last), end| {
            (count + 1, last.max(Some(end)))
        });
    let delay = FIRST_DELAY << failures.saturating_sub(1).min(6);
    last.map(|last| pod::after(last, delay.min(LONGEST_DELAY)))
}

/// When a pod ended, as well as it says.
fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    let ends = statuses.filter_map(|one| {
        let end = one.state.as_ref()?.terminated.as_ref()?;
        end.finished_at.as_ref().map(|time| time.0)
    });
    let told = ends
        .max()
        .or(pod.metadata.deletion_timestamp.as_ref().map(|time| time.0));
    let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    told.or(made).unwrap_or(Timestamp::MIN)
}
