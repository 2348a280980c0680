//! What to do next for one pod: a plain function from what is wanted and what is seen to a list of steps. The executor
//! (`worker`) has no choices left. On a pod that is as it should be, the list is empty but for a time to look again.

use k8s_openapi::api::core::v1::Container;
use waggle_runtime::spec::ResourceSpec;

use super::desired::{Desired, RestartPolicy, is_sidecar};
use super::observed::{Hold, Hook, Life, Observed, Prepare, SECOND, next_streak, restart_at};
use super::qos::limits;

/// One thing to do. Steps of one answer are done in order; the first failure ends them, and the next look decides anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the namespaces and cgroups.
    CreateSandbox,
    /// Put address, identity and policy into the datapath.
    Attach,
    /// Find or pull a container's image. Goes on in the background.
    Pull { container: String },
    /// Create and start the next attempt of a container.
    Start { container: String, streak: u32 },
    /// Give a container that runs the limits that it is to have now.
    Resize { container: String },
    /// SIGTERM after the preStop hook, SIGKILL `grace` seconds later. Goes on in the background.
    Stop {
        container: String,
        grace: i64,
        why: StopReason,
    },
    /// Remove containers, network, sandbox and volumes, and report that the pod is gone.
    Teardown,
    /// Look again at this time even if nothing was heard.
    Wake(i64),
}

/// Why a container is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The pod ends.
    PodEnds,
    /// Liveness or startup probe failed.
    Unhealthy,
    /// Its image was changed.
    Changed,
    /// Its resources were changed, and it wants to begin anew with them.
    Resized,
    /// Its pod is complete, and it is a sidecar.
    Complete,
    /// Its postStart hook failed.
    PostStart,
    /// The node has ended the pod: its deadline is over, or the node is short of something.
    Failed,
}

/// Steps for `pod`, `now` being nanoseconds since the epoch.
pub(crate) fn next_steps(pod: &Desired, seen: &Observed, now: i64) -> Vec<Step> {
    if pod.ending() {
        return ending(pod, seen, now);
    }
    if over_before(pod, seen) {
        return Vec::new();
    }
    if seen.failed.is_some() {
        return failed(pod, seen, now);
    }
    if outcome(pod, seen).is_some() {
        let helpers = pod
            .init_containers()
            .iter()
            .chain(&pod.ephemeral.containers);
        let grace = pod.grace_seconds();
        return helpers
            .filter_map(|c| stop(&c.name, seen, now, grace, StopReason::Complete))
            .collect();
    }
    let mut steps: Vec<Step> = deadline(pod, seen).map(Step::Wake).into_iter().collect();
    if !(seen.sandbox && seen.attached) {
        if let Some(hold) = seen.sandbox_hold.as_ref().filter(|hold| hold.until > now) {
            steps.push(Step::Wake(hold.until));
            return steps;
        }
        return vec![if seen.sandbox {
            Step::Attach
        } else {
            Step::CreateSandbox
        }];
    }
    let initialized = initialize(pod, seen, now, &mut steps);
    if initialized {
        for container in pod.containers() {
            main_container(pod, container, seen, now, &mut steps);
            // Those that follow may count on what its hook does.
            if seen.hooks.get(&container.name) == Some(&Hook::Runs) {
                break;
            }
        }
    }
    for container in &pod.ephemeral.containers {
        if matches!(seen.life(&container.name), Life::Absent | Life::Created) {
            steps.extend(start(&container.name, seen, now, 0));
        }
    }
    steps
}

/// When the pod's `activeDeadlineSeconds` are over.
pub(crate) fn deadline(pod: &Desired, seen: &Observed) -> Option<i64> {
    let seconds = pod.pod.spec.as_ref()?.active_deadline_seconds?;
    Some(seen.started.saturating_add(seconds.saturating_mul(SECOND)))
}

/// Ends the main containers of a pod that the node has given up, then its sidecars.
fn failed(pod: &Desired, seen: &Observed, now: i64) -> Vec<Step> {
    let own = pod.grace_seconds();
    let most = seen.failed.as_ref().and_then(|failure| failure.grace);
    let grace = most.map_or(own, |most| most.min(own));
    let mains_live = pod.containers().iter().any(|c| seen.has_process(&c.name));
    let which = if mains_live {
        pod.containers()
    } else {
        pod.init_containers()
    };
    let mut steps = stop_all(which, seen, now, grace, StopReason::Failed);
    let added = &pod.ephemeral.containers;
    steps.extend(stop_all(added, seen, now, grace, StopReason::Failed));
    steps
}

/// How a pod that has run to its end did: `Some(true)` succeeded, `Some(false)` failed, `None` not ended.
pub(crate) fn outcome(pod: &Desired, seen: &Observed) -> Option<bool> {
    if seen.failed.is_some() {
        return Some(false);
    }
    let policy = pod.restart_policy();
    if policy == RestartPolicy::Always {
        return None;
    }
    let failed_init = pod.init_containers().iter().any(|container| {
        let exited = matches!(seen.life(&container.name), Life::Exited { code, .. } if code != 0);
        !is_sidecar(container) && (exited || start_failed(pod, container, seen))
    });
    let mains_begun = pod
        .containers()
        .iter()
        .any(|c| seen.life(&c.name) != Life::Absent);
    if policy == RestartPolicy::Never && failed_init && !mains_begun {
        return Some(false);
    }
    let mut all_well = true;
    for container in pod.containers() {
        match (seen.life(&container.name), policy) {
            (Life::Exited { code: 0, .. }, _) => {}
            (Life::Exited { .. }, RestartPolicy::Never) => all_well = false,
            _ if start_failed(pod, container, seen) => all_well = false,
            _ => return None,
        }
    }
    Some(all_well)
}

/// The pod had run to its end, as the API knows, before this node lost what it had of it. It is not run again.
pub(crate) fn over_before(pod: &Desired, seen: &Observed) -> bool {
    let phase = pod
        .pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !pod.ending() && seen.containers.is_empty() && matches!(phase, Some("Succeeded" | "Failed"))
}

/// The container could not be started, and its pod's policy is not to try again.
pub(crate) fn start_failed(pod: &Desired, container: &Container, seen: &Observed) -> bool {
    let hold = seen.prepare.get(&container.name).and_then(Prepare::hold);
    let failed =
        hold.is_some_and(Hold::is_start) || seen.start_errors.contains_key(&container.name);
    pod.restart_policy() == RestartPolicy::Never && failed
}

/// Every init container has done its work: the pod's condition `Initialized`.
pub(crate) fn is_initialized(pod: &Desired, seen: &Observed) -> bool {
    let begun = pod
        .containers()
        .iter()
        .any(|c| seen.life(&c.name) != Life::Absent);
    begun
        || pod
            .init_containers()
            .iter()
            .all(|container| init_done(container, seen))
}

fn init_done(container: &Container, seen: &Observed) -> bool {
    match seen.life(&container.name) {
        Life::Running => is_sidecar(container) && seen.verdict(container).started,
        Life::Exited { code, .. } => !is_sidecar(container) && code == 0,
        Life::Absent | Life::Created => false,
    }
}

/// Brings the init containers on; true when the main ones may run.
fn initialize(pod: &Desired, seen: &Observed, now: i64, steps: &mut Vec<Step>) -> bool {
    let begun = pod
        .containers()
        .iter()
        .any(|c| seen.life(&c.name) != Life::Absent);
    for container in pod.init_containers() {
        if is_sidecar(container) {
            keep_running(pod, container, seen, now, true, steps);
        } else if !begun {
            let life = seen.life(&container.name);
            let again = pod.restart_policy() != RestartPolicy::Never;
            match life {
                Life::Exited { code: 0, .. } => {}
                Life::Exited { .. } if !again => return false,
                _ => keep_running(pod, container, seen, now, again, steps),
            }
        }
        if !begun && !init_done(container, seen) {
            return false;
        }
    }
    true
}

fn main_container(
    pod: &Desired,
    container: &Container,
    seen: &Observed,
    now: i64,
    steps: &mut Vec<Step>,
) {
    let again = match (pod.restart_policy(), seen.life(&container.name)) {
        (RestartPolicy::Always, _) => true,
        (RestartPolicy::OnFailure, Life::Exited { code, .. }) => code != 0,
        (RestartPolicy::OnFailure, _) => true,
        (RestartPolicy::Never, _) => false,
    };
    keep_running(pod, container, seen, now, again, steps);
}

/// Starts what is absent, starts again what has ended (if `again`), and ends what is unhealthy or outdated.
fn keep_running(
    pod: &Desired,
    container: &Container,
    seen: &Observed,
    now: i64,
    again: bool,
    steps: &mut Vec<Step>,
) {
    let name = &container.name;
    match (seen.containers.get(name), seen.life(name)) {
        (Some(state), Life::Running) => {
            let grace = pod
                .pod
                .spec
                .as_ref()
                .and_then(|s| s.termination_grace_period_seconds)
                .unwrap_or(30);
            let outdated = state.spec.annotations.get(super::observed::note::IMAGE)
                != container.image.as_ref();
            if outdated {
                steps.extend(stop(name, seen, now, grace, StopReason::Changed));
            } else if seen.hooks.get(name) == Some(&Hook::Failed) {
                steps.extend(stop(name, seen, now, grace, StopReason::PostStart));
            } else if !seen.verdict(container).alive {
                let grace = probe_grace(container).unwrap_or(grace);
                steps.extend(stop(name, seen, now, grace, StopReason::Unhealthy));
            } else if restarts_for(container, &state.spec.resources) {
                steps.extend(stop(name, seen, now, grace, StopReason::Resized));
            } else if state.spec.resources != limits(container) {
                steps.push(match seen.resize_hold.get(name) {
                    Some(hold) if hold.until > now => Step::Wake(hold.until),
                    _ => Step::Resize {
                        container: name.clone(),
                    },
                });
            }
        }
        // Created and never started: an agent or supervisor died in between. It is made anew.
        (Some(_), Life::Created) => steps.extend(start(name, seen, now, 1)),
        (Some(state), _) if again => {
            let at = restart_at(state);
            if at > now {
                steps.push(Step::Wake(at));
            } else {
                steps.extend(start(name, seen, now, next_streak(state)));
            }
        }
        (Some(_), _) => {}
        (None, _) if start_failed(pod, container, seen) => {}
        (None, _) => steps.extend(start(name, seen, now, 0)),
    }
}

/// A resource was changed whose `resizePolicy` is `RestartContainer`.
fn restarts_for(container: &Container, has: &ResourceSpec) -> bool {
    let wanted = limits(container);
    let cpu = (wanted.cpu_request_milli, wanted.cpu_limit_milli)
        != (has.cpu_request_milli, has.cpu_limit_milli);
    let memory = wanted.memory_limit != has.memory_limit;
    let policies = container.resize_policy.as_deref().unwrap_or_default();
    policies.iter().any(|policy| {
        let changed = match policy.resource_name.as_str() {
            "cpu" => cpu,
            "memory" => memory,
            _ => false,
        };
        changed && policy.restart_policy == "RestartContainer"
    })
}

fn probe_grace(container: &Container) -> Option<i64> {
    let probes = [&container.startup_probe, &container.liveness_probe];
    probes
        .into_iter()
        .flatten()
        .find_map(|probe| probe.termination_grace_period_seconds)
}

/// The next step towards a running container: its image, then itself.
fn start(name: &str, seen: &Observed, now: i64, streak: u32) -> Option<Step> {
    match seen.prepare.get(name) {
        Some(Prepare::Pulling(_)) => None,
        Some(Prepare::Ready(_)) => Some(Step::Start {
            container: name.to_owned(),
            streak,
        }),
        Some(Prepare::Held(hold)) if hold.until > now => {
            // The status changes from ErrImagePull to ImagePullBackOff a moment after the failure, and from
            // RunContainerError to CrashLoopBackOff.
            let turn = hold.since + 2 * SECOND;
            Some(Step::Wake(
                if (hold.is_image() || hold.is_start()) && turn > now {
                    turn
                } else {
                    hold.until
                },
            ))
        }
        Some(Prepare::Held(_)) | None => Some(Step::Pull {
            container: name.to_owned(),
        }),
    }
}

fn stop(name: &str, seen: &Observed, now: i64, grace: i64, why: StopReason) -> Option<Step> {
    let deadline = now + grace * SECOND;
    let sooner = seen
        .stopping
        .get(name)
        .is_none_or(|&known| deadline < known - SECOND);
    (seen.has_process(name) && sooner).then(|| Step::Stop {
        container: name.to_owned(),
        grace,
        why,
    })
}

fn stop_all(
    containers: &[Container],
    seen: &Observed,
    now: i64,
    grace: i64,
    why: StopReason,
) -> Vec<Step> {
    containers
        .iter()
        .filter_map(|c| stop(&c.name, seen, now, grace, why))
        .collect()
}

/// Main containers end first, then sidecars in reverse order of their start, then everything goes.
fn ending(pod: &Desired, seen: &Observed, now: i64) -> Vec<Step> {
    let grace = pod.grace_seconds();
    let mains_live = pod.containers().iter().any(|c| seen.has_process(&c.name));
    if mains_live {
        let mut steps = stop_all(pod.containers(), seen, now, grace, StopReason::PodEnds);
        if grace == 0 {
            steps.extend(stop_all(
                pod.init_containers(),
                seen,
                now,
                grace,
                StopReason::PodEnds,
            ));
        }
        return steps;
    }
    let mut sidecars = pod
        .init_containers()
        .iter()
        .rev()
        .filter(|c| seen.has_process(&c.name));
    if let Some(container) = sidecars.next() {
        return stop(&container.name, seen, now, grace, StopReason::PodEnds)
            .into_iter()
            .collect();
    }
    // A container that the pod no longer names can't be left running either.
    let strays = seen.containers.keys().filter(|name| seen.has_process(name));
    let strays: Vec<Step> = strays
        .filter_map(|name| stop(name, seen, now, grace, StopReason::PodEnds))
        .collect();
    if !strays.is_empty() || seen.containers.keys().any(|name| seen.has_process(name)) {
        return strays;
    }
    match seen.sandbox_hold.as_ref().filter(|hold| hold.until > now) {
        Some(hold) => vec![Step::Wake(hold.until)],
        None => vec![Step::Teardown],
    }
}

#[cfg(test)]
mod tests;
