//! Statuses as kubectl reads them.

use waggle_runtime::spec::ContainerPhase;

use super::*;
use crate::pods::fixture::{container, exited, pod};
use crate::pods::observed::{Verdict, start_error};
use crate::pods::resize::Pending;

const NOW: i64 = 1_000_000 * SECOND;

fn seen(containers: &[(&str, ContainerPhase, u32)]) -> Observed {
    let containers = containers
        .iter()
        .map(|(name, phase, streak)| (name.to_string(), container(name, phase.clone(), *streak)));
    Observed {
        sandbox: true,
        attached: true,
        containers: containers.collect(),
        ..Observed::default()
    }
}

fn status(pod: &Desired, seen: &Observed) -> PodStatus {
    pod_status(pod, seen, None, "172.30.0.11".parse().unwrap(), NOW)
}

/// `phase ready=bool main:<state>/<last state>/<restarts>`.
fn line(status: &PodStatus) -> String {
    let state = |state: Option<&ContainerState>| match state {
        None => "-".to_owned(),
        Some(ContainerState {
            waiting: Some(w), ..
        }) => w.reason.clone().unwrap(),
        Some(ContainerState {
            running: Some(_), ..
        }) => "running".to_owned(),
        Some(ContainerState {
            terminated: Some(t),
            ..
        }) => {
            format!("{}({})", t.reason.clone().unwrap(), t.exit_code)
        }
        Some(_) => "?".to_owned(),
    };
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready")
        .unwrap();
    let main = &status.container_statuses.as_ref().unwrap()[0];
    format!(
        "{} ready={} {}/{}/{}",
        status.phase.as_ref().unwrap(),
        ready.status,
        state(main.state.as_ref()),
        state(main.last_state.as_ref()),
        main.restart_count
    )
}

#[test]
fn phases_and_states() {
    let plain = pod("{}");
    let never = pod(r#"{"restartPolicy":"Never"}"#);
    let probed = pod(
        r#"{"containers":[{"name":"main","image":"web:1","readinessProbe":{"tcpSocket":{"port":80}}}]}"#,
    );
    let init = pod(r#"{"initContainers":[{"name":"init","image":"web:1"}]}"#);
    let running = seen(&[("main", ContainerPhase::Running, 0)]);
    let crashed = |streak| seen(&[("main", exited(1, NOW - SECOND), streak)]);
    let mut oom = crashed(0);
    if let Some(state) = oom.containers.get_mut("main") {
        state.phase = ContainerPhase::Exited {
            code: 137,
            signal: Some(9),
            oom_killed: true,
            finished_ns: NOW,
        };
    }
    let held = |since| {
        let hold = Hold {
            reason: "ErrImagePull",
            message: "x".into(),
            since,
            until: NOW + SECOND,
            count: 1,
        };
        Observed {
            prepare: [("main".to_owned(), Prepare::Held(hold))].into(),
            ..seen(&[])
        }
    };
    let unready = Observed {
        verdicts: [(
            "main".to_owned(),
            Verdict {
                started: true,
                ready: false,
                alive: true,
            },
        )]
        .into(),
        ..running.clone()
    };
    for (pod, seen, expect) in [
        (
            &plain,
            Observed::default(),
            "Pending ready=False ContainerCreating/-/0",
        ),
        (&init, seen(&[]), "Pending ready=False PodInitializing/-/0"),
        (&plain, running.clone(), "Running ready=True running/-/0"),
        (&probed, running.clone(), "Running ready=False running/-/0"),
        (&probed, unready, "Running ready=False running/-/0"),
        (
            &plain,
            crashed(3),
            "Running ready=False CrashLoopBackOff/Error(1)/3",
        ),
        (&plain, held(NOW), "Pending ready=False ErrImagePull/-/0"),
        (
            &plain,
            held(NOW - 3 * SECOND),
            "Pending ready=False ImagePullBackOff/-/0",
        ),
        (&never, crashed(0), "Failed ready=False Error(1)/-/0"),
        (&never, oom, "Failed ready=False OOMKilled(137)/-/0"),
        (
            &never,
            seen(&[("main", exited(0, NOW), 0)]),
            "Succeeded ready=False Completed(0)/-/0",
        ),
    ] {
        assert_eq!(line(&status(pod, &seen)), expect);
    }
}

#[test]
fn a_pod_that_ends_is_not_ready_once_its_process_is_gone() {
    let mut pod = pod("{}");
    pod.pod.metadata.deletion_timestamp = Some(time(NOW));
    assert_eq!(
        line(&status(
            &pod,
            &seen(&[("main", ContainerPhase::Running, 0)])
        )),
        "Running ready=True running/-/0"
    );
    assert_eq!(
        line(&status(&pod, &seen(&[("main", exited(143, NOW), 0)]))),
        "Failed ready=False Error(143)/-/0"
    );
}

#[test]
fn the_last_state_comes_from_the_attempt_before() {
    let mut now = seen(&[("main", ContainerPhase::Running, 1)]);
    let last = ended(&container("main", exited(2, NOW), 0), "bye").unwrap();
    let state = now.containers.get_mut("main").unwrap();
    state
        .spec
        .annotations
        .insert(note::LAST.into(), serde_json::to_string(&last).unwrap());
    let status = status(&pod("{}"), &now);
    assert_eq!(line(&status), "Running ready=True running/Error(2)/1");
    let last = status.container_statuses.unwrap()[0]
        .last_state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(last.message.as_deref(), Some("bye"));
}

#[test]
fn transition_times_move_only_with_the_status() {
    let (pod, running) = (pod("{}"), seen(&[("main", ContainerPhase::Running, 0)]));
    let host = "172.30.0.11".parse().unwrap();
    let first = pod_status(&pod, &running, None, host, NOW);
    let later = pod_status(&pod, &running, Some(&first), host, NOW + 60 * SECOND);
    assert_eq!(first, later);
    let crashed = seen(&[("main", exited(1, NOW + SECOND), 1)]);
    let after = pod_status(&pod, &crashed, Some(&later), host, NOW + 61 * SECOND);
    let when = |status: &PodStatus, kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind)
            .unwrap()
            .last_transition_time
            .clone()
    };
    assert_ne!(when(&first, "Ready"), when(&after, "Ready"));
    assert_eq!(when(&first, "Initialized"), when(&after, "Initialized"));
}

#[test]
fn addresses_are_told_once_attached() {
    let mut now = seen(&[]);
    let told = status(&pod("{}"), &now);
    assert_eq!(
        (told.pod_ip.as_deref(), told.host_ip.as_deref()),
        (Some("10.244.0.5"), Some("172.30.0.11"))
    );
    now.attached = false;
    assert_eq!(status(&pod("{}"), &now).pod_ip, None);
    assert_eq!(
        status(&pod(r#"{"hostNetwork":true}"#), &now)
            .pod_ip
            .as_deref(),
        Some("172.30.0.11")
    );
}

#[test]
fn a_container_that_cannot_be_started_counts_its_tries() {
    let plain = pod("{}");
    let mut seen = seen(&[]);
    let mut hold = None;
    for attempt in 0..3 {
        let next = Hold::after(
            hold.as_ref(),
            "RunContainerError",
            "no /nothing".into(),
            NOW - SECOND,
        );
        let error = start_error(attempt, &next.message, next.since);
        seen.start_errors.insert("main".into(), error);
        seen.prepare
            .insert("main".into(), Prepare::Held(next.clone()));
        hold = Some(next);
        assert_eq!(
            line(&status(&plain, &seen)),
            format!("Running ready=False RunContainerError/StartError(128)/{attempt}")
        );
    }
    let later = pod_status(
        &plain,
        &seen,
        None,
        "172.30.0.11".parse().unwrap(),
        NOW + 2 * SECOND,
    );
    assert_eq!(
        line(&later),
        "Running ready=False CrashLoopBackOff/StartError(128)/2"
    );
    let main = serde_json::to_value(&later.container_statuses.unwrap()[0]).unwrap();
    assert_eq!(
        main["lastState"]["terminated"]["startedAt"],
        "1970-01-01T00:00:00Z"
    );
    let message = main["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("back-off 40s "), "{message}");
    assert_eq!(main["containerID"], "waggle://u1.main.2");
}

#[test]
fn a_resize_that_waits_is_told_with_its_reason_and_generation() {
    let mut pod = pod("{}");
    pod.pod.metadata.generation = Some(7);
    let mut seen = seen(&[("main", ContainerPhase::Running, 0)]);
    let conditions = |seen: &Observed| {
        let status = status(&pod, seen);
        assert_eq!(status.observed_generation, Some(7));
        let all = status.conditions.unwrap_or_default();
        assert!(all.iter().all(|one| one.observed_generation == Some(7)));
        let about = all.into_iter().filter(|one| one.type_.contains("Resize"));
        about
            .map(|one| {
                let text = |text: Option<String>| text.unwrap_or_default();
                let (reason, message) = (text(one.reason), text(one.message));
                format!("{}={} {reason} {message}", one.type_, one.status)
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(conditions(&seen), [""; 0]);
    seen.resize_pending = Some(Pending {
        reason: "Deferred",
        message: "no room".to_owned(),
    });
    assert_eq!(
        conditions(&seen),
        ["PodResizePending=True Deferred no room"]
    );
    seen.resize_pending = None;
    let state = seen.containers.get_mut("main").unwrap();
    state.spec.resources.memory_limit = Some(1 << 30);
    assert_eq!(conditions(&seen), ["PodResizeInProgress=True  "]);
    let hold = Hold::after(None, "Error", "it uses more".to_owned(), NOW);
    seen.resize_hold.insert("main".to_owned(), hold);
    assert_eq!(
        conditions(&seen),
        ["PodResizeInProgress=True Error it uses more"]
    );
}
