//! The core/v1 PodStatus of a pod: a plain function of what is wanted, what is seen and the status before, which it
//! needs for the times of transitions only.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use waggle_model::network::PerFamily;
use waggle_runtime::spec::{ContainerPhase, ContainerState as Seen};

use super::desired::{Desired, is_sidecar};
use super::next::{is_initialized, outcome, start_failed};
use super::observed::{
    Ended, Hold, Life, Observed, Prepare, SECOND, ended, last_ended, note, restart_at,
};
use super::qos::{limits, qos_class};

/// The status of `pod`, `now` being nanoseconds since the epoch.
pub(crate) fn pod_status(
    pod: &Desired,
    seen: &Observed,
    before: Option<&PodStatus>,
    hosts: PerFamily<IpAddr>,
    now: i64,
) -> PodStatus {
    let initialized = is_initialized(pod, seen);
    let phase = phase(pod, seen, initialized);
    let over = matches!(phase, "Succeeded" | "Failed");
    let of = |list: &[Container]| -> Vec<ContainerStatus> {
        list.iter()
            .map(|c| container_status(pod, c, seen, initialized, now))
            .collect()
    };
    let init_statuses = of(pod.init_containers());
    let statuses = of(pod.containers());
    let added = of(&pod.ephemeral.containers);
    let conditions = conditions(
        pod,
        seen,
        &statuses,
        &init_statuses,
        initialized,
        phase,
        before,
        now,
    );
    let addresses = match pod.host_network() {
        true => Some(hosts),
        false => pod.addresses.filter(|_| seen.attached),
    };
    let kept = before.filter(|_| addresses.is_none() && !pod.ending());
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        container_statuses: Some(statuses),
        init_container_statuses: (!init_statuses.is_empty()).then_some(init_statuses),
        ephemeral_container_statuses: (!added.is_empty()).then_some(added),
        host_ip: Some(hosts.primary().to_string()),
        host_ips: Some(hosts.iter().map(|a| HostIP { ip: a.to_string() }).collect()),
        pod_ip: addresses
            .map(|both| both.primary().to_string())
            .or_else(|| kept?.pod_ip.clone()),
        pod_ips: addresses
            .map(|both| both.iter().map(|a| PodIP { ip: a.to_string() }).collect())
            .or_else(|| kept?.pod_ips.clone()),
        qos_class: Some(qos_class(pod).to_owned()),
        start_time: before
            .and_then(|b| b.start_time.clone())
            .or_else(|| Some(time(seen.started))),
        observed_generation: pod.pod.metadata.generation,
        reason: seen.failed.as_ref().map(|failed| failed.reason.clone()),
        message: match &seen.failed {
            Some(failed) => Some(failed.message.clone()),
            None => seen
                .sandbox_hold
                .as_ref()
                .filter(|_| !over && !seen.attached)
                .map(|hold| hold.message.clone()),
        },
        ..PodStatus::default()
    }
}

/// Nothing has run yet and nothing has gone wrong: what follows says more.
pub(crate) fn is_on_its_way(status: &PodStatus) -> bool {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let mut containers = lists.into_iter().flatten().flatten();
    let waits = |one: &ContainerStatus| {
        let waiting = one.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| waiting.message.is_none())
    };
    status.phase.as_deref() == Some("Pending") && status.message.is_none() && containers.all(waits)
}

fn phase(pod: &Desired, seen: &Observed, initialized: bool) -> &'static str {
    match outcome(pod, seen) {
        Some(true) => return "Succeeded",
        Some(false) => return "Failed",
        None => {}
    }
    let names = || pod.containers().iter().map(|c| c.name.as_str());
    if pod.ending()
        && names().any(|n| seen.life(n) != Life::Absent)
        && !names().any(|n| seen.has_process(n))
    {
        let failed = names().any(|n| {
            matches!(seen.life(n), Life::Exited { code, .. } if code != 0)
                || seen.life(n) == Life::Absent
        });
        return if failed { "Failed" } else { "Succeeded" };
    }
    let begun = |name: &str| match seen.life(name) {
        Life::Running | Life::Exited { .. } => true,
        Life::Created => false,
        Life::Absent => seen
            .prepare
            .get(name)
            .and_then(Prepare::hold)
            .is_some_and(Hold::is_start),
    };
    if initialized && names().all(begun) {
        "Running"
    } else {
        "Pending"
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "every argument is a reading of the same moment"
)]
fn conditions(
    pod: &Desired,
    seen: &Observed,
    statuses: &[ContainerStatus],
    init_statuses: &[ContainerStatus],
    initialized: bool,
    phase: &str,
    before: Option<&PodStatus>,
    now: i64,
) -> Vec<PodCondition> {
    let over = matches!(phase, "Succeeded" | "Failed");
    let sidecars = pod
        .init_containers()
        .iter()
        .zip(init_statuses)
        .filter(|(c, _)| is_sidecar(c))
        .map(|(_, s)| s);
    let unready: Vec<&str> = statuses
        .iter()
        .chain(sidecars)
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    let uninitialized: Vec<&str> = init_statuses
        .iter()
        .filter(|s| !s.ready)
        .map(|s| s.name.as_str())
        .collect();
    let gates = pod
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_deref())
        .unwrap_or_default();
    let given = pod
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_deref())
        .unwrap_or_default();
    let closed = gates.iter().find(|gate| {
        !given
            .iter()
            .any(|c| c.type_ == gate.condition_type && c.status == "True")
    });
    let containers_ready = unready.is_empty() && phase == "Running";
    let (reason, message) = if phase == "Succeeded" {
        (Some("PodCompleted"), None)
    } else if over {
        (Some("PodFailed"), None)
    } else {
        (
            Some("ContainersNotReady"),
            Some(format!(
                "containers with unready status: [{}]",
                unready.join(" ")
            )),
        )
    };
    let ready_message = match closed {
        Some(gate) if containers_ready => (
            Some("ReadinessGatesNotReady"),
            Some(format!(
                "the status of pod readiness gate {:?} is not \"True\"",
                gate.condition_type
            )),
        ),
        _ => (reason, message.clone()),
    };
    let uninit = format!(
        "containers with incomplete status: [{}]",
        uninitialized.join(" ")
    );
    let rows = [
        (
            "PodReadyToStartContainers",
            seen.sandbox && seen.attached,
            (None, None),
        ),
        (
            "Initialized",
            initialized,
            (Some("ContainersNotInitialized"), Some(uninit)),
        ),
        ("Ready", containers_ready && closed.is_none(), ready_message),
        ("ContainersReady", containers_ready, (reason, message)),
        ("PodScheduled", true, (None, None)),
    ];
    let old = before
        .and_then(|b| b.conditions.as_deref())
        .unwrap_or(given);
    let own = rows.map(|(kind, holds, why)| condition(kind, holds, why, old, now));
    // Conditions that others set (readiness gates) are theirs: the server keeps them.
    let mut own = Vec::from(own);
    own.extend(pending(seen, old, now));
    own.extend(resizing(pod, seen, old, now));
    if let Some(failure) = seen.failed.as_ref().filter(|f| f.reason == "Evicted") {
        own.push(PodCondition {
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(failure.message.clone()),
            ..condition("DisruptionTarget", true, (None, None), old, now)
        });
    }
    for one in &mut own {
        one.observed_generation = pod.pod.metadata.generation;
    }
    own
}

/// The condition of a pod that wants resources that the node does not give it.
fn pending(seen: &Observed, old: &[PodCondition], now: i64) -> Option<PodCondition> {
    let pending = seen.resize_pending.as_ref()?;
    Some(PodCondition {
        reason: Some(pending.reason.to_owned()),
        message: Some(pending.message.clone()),
        ..condition("PodResizePending", true, (None, None), old, now)
    })
}

/// The condition of a pod whose containers don't have yet what it was given.
fn resizing(
    pod: &Desired,
    seen: &Observed,
    old: &[PodCondition],
    now: i64,
) -> Option<PodCondition> {
    let lacks = |container: &&Container| {
        seen.life(&container.name) == Life::Running && !has_its_resources(container, seen)
    };
    let container = pod.own_containers().find(lacks)?;
    let hold = seen.resize_hold.get(&container.name);
    Some(PodCondition {
        reason: hold.map(|hold| hold.reason.to_owned()),
        message: hold.map(|hold| hold.message.clone()),
        ..condition("PodResizeInProgress", true, (None, None), old, now)
    })
}

fn has_its_resources(container: &Container, seen: &Observed) -> bool {
    let state = seen.containers.get(&container.name);
    state.is_some_and(|state| state.spec.resources == limits(container))
}

fn condition(
    kind: &str,
    holds: bool,
    (reason, message): (Option<&str>, Option<String>),
    old: &[PodCondition],
    now: i64,
) -> PodCondition {
    let status = if holds { "True" } else { "False" };
    let same = old.iter().find(|c| c.type_ == kind && c.status == status);
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.filter(|_| !holds).map(str::to_owned),
        message: message.filter(|_| !holds),
        last_transition_time: same
            .and_then(|c| c.last_transition_time.clone())
            .or_else(|| Some(time(now))),
        ..PodCondition::default()
    }
}

fn container_status(
    pod: &Desired,
    container: &Container,
    seen: &Observed,
    initialized: bool,
    now: i64,
) -> ContainerStatus {
    let name = &container.name;
    let state = seen.containers.get(name);
    let verdict = seen.verdict(container);
    let running = seen.life(name) == Life::Running;
    let init = pod.init_containers().iter().any(|c| c.name == *name) && !is_sidecar(container);
    let message = seen.messages.get(name).map_or("", String::as_str);
    let now_ended = state.and_then(|state| ended(state, message));
    let holding = waiting(pod, container, seen, initialized, now);
    let last = state.and_then(last_ended);
    let start_error = seen.start_errors.get(name).filter(|_| !running);
    let (current, last) = match (&now_ended, holding) {
        _ if running => (running_state(state), last),
        (_, Some(waiting)) if start_error.is_some() => (waiting, start_error.cloned()),
        (Some(ended), Some(waiting)) => (waiting, Some(ended.clone())),
        (Some(ended), None) => (terminated(pod, name, ended), last),
        (None, _) if start_failed(pod, container, seen) => (cannot_start(seen, name, now), last),
        (None, waiting) => (
            waiting.unwrap_or_else(|| waiting_for("ContainerCreating", None)),
            last,
        ),
    };
    let attempt = start_error
        .map(|error| error.attempt)
        .or_else(|| state.map(|state| state.spec.attempt));
    let done = matches!(&now_ended, Some(ended) if ended.code == 0);
    ContainerStatus {
        name: name.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: state
            .and_then(|s| s.spec.annotations.get(note::IMAGE_ID).cloned())
            .unwrap_or_default(),
        container_id: attempt.map(|attempt| container_id(&pod.key.uid, name, attempt)),
        restart_count: attempt.map_or_else(|| known_restarts(pod, name), u32::cast_signed),
        ready: if init {
            done
        } else {
            running && verdict.started && verdict.ready
        },
        started: Some(running && verdict.started),
        state: Some(current),
        last_state: last.map(|ended| terminated(pod, name, &ended)),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.clone()),
        allocated_resources: container
            .resources
            .as_ref()
            .and_then(|r| r.requests.clone()),
        resources: match running && !has_its_resources(container, seen) {
            false => container.resources.clone(),
            true => known_resources(pod, name),
        },
        ..ContainerStatus::default()
    }
}

/// The resources that a container had when the API last heard of it.
fn known_resources(pod: &Desired, name: &str) -> Option<ResourceRequirements> {
    let status = pod.pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|one| one.name == name)?.resources.clone()
}

/// Restarts that the API knows of, for a container that has to be made anew after its host was.
pub(crate) fn known_restarts(pod: &Desired, name: &str) -> i32 {
    let status = pod.pod.status.as_ref();
    let lists = [
        status.and_then(|s| s.container_statuses.as_deref()),
        status.and_then(|s| s.init_container_statuses.as_deref()),
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == name)
        .map_or(0, |s| s.restart_count)
}

/// `waggle://<pod uid>.<container>.<attempt>`.
pub(crate) fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    format!("waggle://{uid}.{name}.{attempt}")
}

/// What the container waits for, if it is to start and does not run.
fn waiting(
    pod: &Desired,
    container: &Container,
    seen: &Observed,
    initialized: bool,
    now: i64,
) -> Option<ContainerState> {
    let name = &container.name;
    if seen.life(name) == Life::Running || pod.ending() || outcome(pod, seen).is_some() {
        return None;
    }
    if let Some(hold) = seen.prepare.get(name).and_then(Prepare::hold) {
        return Some(waiting_on(pod, hold, container, now));
    }
    let init = pod.init_containers().iter().any(|c| c.name == *name);
    match (seen.containers.get(name), seen.life(name)) {
        (Some(state), Life::Exited { code, .. }) => {
            let again = match pod.restart_policy() {
                _ if is_sidecar(container) => true,
                super::desired::RestartPolicy::Always => !init || code != 0,
                super::desired::RestartPolicy::OnFailure => code != 0,
                super::desired::RestartPolicy::Never => false,
            };
            (again && restart_at(state) > now).then(|| crash_loop(pod, state))
        }
        _ if init && !pod.init_containers().is_empty() => {
            Some(waiting_for("PodInitializing", None))
        }
        _ if !initialized => Some(waiting_for("PodInitializing", None)),
        _ => Some(waiting_for("ContainerCreating", None)),
    }
}

fn waiting_on(pod: &Desired, hold: &Hold, container: &Container, now: i64) -> ContainerState {
    let image = container.image.as_deref().unwrap_or_default();
    if hold.reason == "ErrImagePull" && now >= hold.since + 2 * SECOND {
        let message = format!("Back-off pulling image {image:?}: {}", hold.message);
        return waiting_for("ImagePullBackOff", Some(message));
    }
    let again = pod.restart_policy() != super::desired::RestartPolicy::Never;
    if hold.is_start() && again && now >= hold.since + 2 * SECOND {
        return back_off(pod, &container.name, hold.until - hold.since);
    }
    waiting_for(hold.reason, Some(hold.message.clone()))
}

fn crash_loop(pod: &Desired, state: &Seen) -> ContainerState {
    let ContainerPhase::Exited {
        finished_ns: finished,
        ..
    } = state.phase
    else {
        return waiting_for("CrashLoopBackOff", None);
    };
    back_off(pod, &state.spec.name, restart_at(state) - finished)
}

fn back_off(pod: &Desired, container: &str, pause: i64) -> ContainerState {
    let message = format!(
        "back-off {}s restarting failed container={container} pod={}",
        pause / SECOND,
        pod.key
    );
    waiting_for("CrashLoopBackOff", Some(message))
}

fn waiting_for(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn running_state(state: Option<&Seen>) -> ContainerState {
    let running = ContainerStateRunning {
        started_at: state.map(|s| time(s.started_ns)),
    };
    ContainerState {
        running: Some(running),
        ..ContainerState::default()
    }
}

fn terminated(pod: &Desired, name: &str, ended: &Ended) -> ContainerState {
    let never_started = ended.code == 128 && ended.started_ns == 0;
    let reason = match ended {
        Ended {
            oom_killed: true, ..
        } => "OOMKilled",
        Ended { code: 0, .. } => "Completed",
        _ if never_started => "StartError",
        _ => "Error",
    };
    let terminated = ContainerStateTerminated {
        exit_code: ended.code,
        signal: ended.signal,
        reason: Some(reason.to_owned()),
        message: (!ended.message.is_empty()).then(|| ended.message.clone()),
        started_at: (ended.started_ns > 0 || never_started).then(|| time(ended.started_ns)),
        finished_at: Some(time(ended.finished_ns)),
        container_id: Some(container_id(&pod.key.uid, name, ended.attempt)),
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn cannot_start(seen: &Observed, name: &str, now: i64) -> ContainerState {
    let hold = seen.prepare.get(name).and_then(Prepare::hold);
    let hold = hold.map(|hold| (&hold.message, hold.since));
    let known = seen.start_errors.get(name);
    let known = hold.or_else(|| known.map(|error| (&error.message, error.finished_ns)));
    let terminated = ContainerStateTerminated {
        exit_code: 128,
        reason: Some("StartError".to_owned()),
        message: known.map(|(message, _)| message.clone()),
        started_at: Some(time(0)),
        finished_at: Some(time(known.map_or(now, |(_, since)| since))),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// Whole seconds, as Kubernetes writes times.
pub(crate) fn time(ns: i64) -> Time {
    Time(jiff::Timestamp::from_second(ns.div_euclid(SECOND)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
