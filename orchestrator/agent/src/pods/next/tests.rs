//! What is wanted, what is seen, what comes next: a table.

use waggle_runtime::spec::ContainerPhase;

use super::*;
use crate::pods::fixture::{container, exited, pod};
use crate::pods::observed::{Hold, Verdict};

const NOW: i64 = 1_000_000 * SECOND;

/// A pod whose sandbox stands and whose images are here.
fn seen(containers: &[(&str, ContainerPhase, u32)]) -> Observed {
    let containers = containers
        .iter()
        .map(|(name, phase, streak)| (name.to_string(), container(name, phase.clone(), *streak)));
    let ready = |name: &str| (name.to_owned(), Prepare::Ready(None));
    Observed {
        sandbox: true,
        attached: true,
        containers: containers.collect(),
        prepare: ["main", "side", "init1", "init2"].map(ready).into(),
        ..Observed::default()
    }
}

fn text(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::CreateSandbox => "sandbox".to_owned(),
        Step::Attach => "attach".to_owned(),
        Step::Pull { container } => format!("pull {container}"),
        Step::Start { container, streak } => format!("start {container} {streak}"),
        Step::Stop {
            container,
            grace,
            why,
        } => format!("stop {container} {grace} {why:?}"),
        Step::Resize { container } => format!("resize {container}"),
        Step::Teardown => "teardown".to_owned(),
        Step::Wake(at) => format!("wake +{}", (at - NOW) / SECOND),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check(pod: &Desired, seen: &Observed, expect: &str) {
    assert_eq!(text(&next_steps(pod, seen, NOW)), expect);
}

#[test]
fn a_new_pod_comes_up_in_order() {
    let pod = pod("{}");
    let mut now = Observed::default();
    check(&pod, &now, "sandbox");
    now.sandbox = true;
    check(&pod, &now, "attach");
    now.attached = true;
    check(&pod, &now, "pull main");
    now.prepare.insert("main".into(), Prepare::Pulling(None));
    check(&pod, &now, "");
    now.prepare.insert("main".into(), Prepare::Ready(None));
    check(&pod, &now, "start main 0");
    now.containers
        .insert("main".into(), container("main", ContainerPhase::Running, 0));
    check(&pod, &now, "");
}

#[test]
fn a_failure_of_the_sandbox_or_image_is_waited_out() {
    let pod = pod("{}");
    let hold = |since: i64| Hold {
        reason: "ErrImagePull",
        message: "no".into(),
        since,
        until: since + 20 * SECOND,
        count: 2,
    };
    let mut now = Observed {
        sandbox_hold: Some(hold(NOW)),
        ..Observed::default()
    };
    check(&pod, &now, "wake +20");
    now = seen(&[]);
    now.prepare.insert("main".into(), Prepare::Held(hold(NOW)));
    check(&pod, &now, "wake +2");
    now.prepare
        .insert("main".into(), Prepare::Held(hold(NOW - 5 * SECOND)));
    check(&pod, &now, "wake +15");
    now.prepare
        .insert("main".into(), Prepare::Held(hold(NOW - 20 * SECOND)));
    check(&pod, &now, "pull main");
}

#[test]
fn ended_containers_follow_the_restart_policy() {
    for (policy, code, streak, ago, expect) in [
        ("Always", 0, 0, 0, "start main 1"),
        ("Always", 1, 1, 3, "wake +7"),
        ("Always", 1, 1, 10, "start main 2"),
        ("Always", 1, 2, 3, "wake +17"),
        ("Always", 1, 9, 3, "wake +297"),
        ("OnFailure", 1, 0, 0, "start main 1"),
        ("OnFailure", 0, 0, 0, ""),
        ("Never", 1, 0, 0, ""),
        ("Never", 0, 0, 0, ""),
    ] {
        let pod = pod(&format!(r#"{{"restartPolicy":"{policy}"}}"#));
        let mut seen = seen(&[("main", exited(code, NOW - ago * SECOND), streak)]);
        seen.containers.get_mut("main").unwrap().started_ns = NOW - (ago + 1) * SECOND;
        assert_eq!(
            text(&next_steps(&pod, &seen, NOW)),
            expect,
            "{policy} {code} {streak} {ago}"
        );
    }
}

#[test]
fn a_container_that_ran_long_starts_its_back_off_anew() {
    let mut seen = seen(&[("main", exited(1, NOW), 6)]);
    seen.containers.get_mut("main").unwrap().started_ns = NOW - 601 * SECOND;
    check(&pod("{}"), &seen, "start main 1");
}

const INITS: &str =
    r#"{"initContainers":[{"name":"init1","image":"web:1"},{"name":"init2","image":"web:1"}]}"#;

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod(INITS);
    check(&pod, &seen(&[]), "start init1 0");
    check(&pod, &seen(&[("init1", ContainerPhase::Running, 0)]), "");
    check(
        &pod,
        &seen(&[("init1", exited(0, NOW), 0)]),
        "start init2 0",
    );
    check(
        &pod,
        &seen(&[("init1", exited(1, NOW), 0)]),
        "start init1 1",
    );
    check(&pod, &seen(&[("init1", exited(1, NOW), 1)]), "wake +10");
    check(
        &pod,
        &seen(&[("init1", exited(0, NOW), 0), ("init2", exited(0, NOW), 0)]),
        "start main 0",
    );
    let begun = [
        ("init1", exited(0, NOW), 0),
        ("main", ContainerPhase::Running, 0),
    ];
    check(&pod, &seen(&begun), "");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut never = pod(INITS);
    never.pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let seen = seen(&[("init1", exited(3, NOW), 0)]);
    check(&never, &seen, "");
    assert_eq!(outcome(&never, &seen), Some(false));
}

#[test]
fn a_container_that_can_not_be_started_fails_a_pod_that_never_restarts() {
    let mut never = pod(INITS);
    never.pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    let mut seen = seen(&[]);
    let hold = Hold::after(None, "RunContainerError", "no such file".into(), NOW);
    seen.prepare.insert("init1".into(), Prepare::Held(hold));
    check(&never, &seen, "");
    assert_eq!(outcome(&never, &seen), Some(false));
    // A later agent knows it from the status.
    let mut later = self::seen(&[]);
    let error = crate::pods::observed::start_error(0, "no such file", NOW);
    later.start_errors.insert("init1".into(), error);
    check(&never, &later, "");
    assert_eq!(outcome(&never, &later), Some(false));
}

#[test]
fn a_hook_holds_up_those_that_follow_and_ends_its_container_when_it_fails() {
    let pod =
        pod(r#"{"containers":[{"name":"main","image":"web:1"},{"name":"side","image":"web:1"}]}"#);
    let mut seen = seen(&[("main", ContainerPhase::Running, 0)]);
    seen.hooks.insert("main".into(), Hook::Runs);
    check(&pod, &seen, "");
    assert!(!seen.verdict(&pod.containers()[0]).started);
    seen.hooks.remove("main");
    check(&pod, &seen, "start side 0");
    seen.hooks.insert("main".into(), Hook::Failed);
    check(&pod, &seen, "stop main 30 PostStart, start side 0");
}

#[test]
fn a_pod_past_its_deadline_is_ended_and_stays_failed() {
    let pod = pod(r#"{"activeDeadlineSeconds":60}"#);
    let mut seen = seen(&[("main", ContainerPhase::Running, 0)]);
    seen.started = NOW - 50 * SECOND;
    check(&pod, &seen, "wake +10");
    assert_eq!(deadline(&pod, &seen), Some(NOW + 10 * SECOND));
    seen.failed = Some(crate::pods::observed::Failure {
        grace: None,
        reason: "DeadlineExceeded".into(),
        message: String::new(),
    });
    check(&pod, &seen, "stop main 30 Failed");
    assert_eq!(outcome(&pod, &seen), Some(false));
    let over = self::seen(&[("main", exited(0, NOW), 0)]);
    let over = Observed {
        failed: seen.failed,
        ..over
    };
    check(&pod, &over, "");
    assert_eq!(outcome(&pod, &over), Some(false));
}

const SIDECAR: &str = r#"{"restartPolicy":"Never","initContainers":[{"name":"side","image":"web:1","restartPolicy":"Always"}]}"#;

#[test]
fn sidecars_start_first_and_end_last() {
    let mut pod = pod(SIDECAR);
    check(&pod, &seen(&[]), "start side 0");
    check(
        &pod,
        &seen(&[("side", ContainerPhase::Running, 0)]),
        "start main 0",
    );
    let done = [
        ("side", ContainerPhase::Running, 0),
        ("main", exited(0, NOW), 0),
    ];
    check(&pod, &seen(&done), "stop side 30 Complete");
    pod.pod.metadata.deletion_timestamp = Some(crate::pods::status::time(NOW));
    let both = [
        ("side", ContainerPhase::Running, 0),
        ("main", ContainerPhase::Running, 0),
    ];
    check(&pod, &seen(&both), "stop main 30 PodEnds");
    check(&pod, &seen(&done), "stop side 30 PodEnds");
}

#[test]
fn a_pod_that_ends_is_stopped_then_torn_down() {
    let mut pod = pod(r#"{"terminationGracePeriodSeconds":5}"#);
    pod.pod.metadata.deletion_timestamp = Some(crate::pods::status::time(NOW));
    let mut now = seen(&[("main", ContainerPhase::Running, 0)]);
    check(&pod, &now, "stop main 5 PodEnds");
    now.stopping.insert("main".into(), NOW + 5 * SECOND);
    check(&pod, &now, "");
    pod.pod.metadata.deletion_grace_period_seconds = Some(0);
    check(&pod, &now, "stop main 0 PodEnds");
    check(&pod, &seen(&[("main", exited(143, NOW), 0)]), "teardown");
    check(&pod, &Observed::default(), "teardown");
}

#[test]
fn a_container_that_the_pod_no_longer_names_is_ended_with_it() {
    let mut pod = pod("{}");
    pod.removed = true;
    check(
        &pod,
        &seen(&[("stray", ContainerPhase::Running, 0)]),
        "stop stray 0 PodEnds",
    );
}

#[test]
fn an_unhealthy_or_outdated_container_is_stopped() {
    let mut now = seen(&[("main", ContainerPhase::Running, 0)]);
    now.verdicts.insert(
        "main".into(),
        Verdict {
            started: true,
            ready: false,
            alive: false,
        },
    );
    check(&pod("{}"), &now, "stop main 30 Unhealthy");
    let newer = pod(r#"{"containers":[{"name":"main","image":"web:2"}]}"#);
    check(
        &newer,
        &seen(&[("main", ContainerPhase::Running, 0)]),
        "stop main 30 Changed",
    );
}

#[test]
fn a_pod_that_was_over_is_not_run_again() {
    let mut pod = pod(r#"{"restartPolicy":"Never"}"#);
    pod.pod.status = serde_json::from_str(r#"{"phase":"Succeeded"}"#).unwrap();
    check(&pod, &Observed::default(), "");
    pod.pod.metadata.deletion_timestamp = Some(crate::pods::status::time(NOW));
    check(&pod, &Observed::default(), "teardown");
}

#[test]
fn resources_that_were_changed_are_given_or_begun_anew_with() {
    let with = |memory: &str, policy: &str| {
        pod(&format!(
            r#"{{"containers":[{{"name":"main","image":"web:1",
                "resources":{{"limits":{{"memory":"{memory}"}}}},
                "resizePolicy":[{{"resourceName":"memory","restartPolicy":"{policy}"}},
                                {{"resourceName":"cpu","restartPolicy":"RestartContainer"}}]}}]}}"#
        ))
    };
    let mut seen = seen(&[("main", ContainerPhase::Running, 0)]);
    let has = limits(&with("64Mi", "").containers()[0]);
    if let Some(state) = seen.containers.get_mut("main") {
        state.spec.resources = has;
    }
    let check = |seen: &Observed, memory: &str, policy: &str, expect: &str| {
        let pod = with(memory, policy);
        assert_eq!(
            text(&next_steps(&pod, seen, NOW)),
            expect,
            "{memory} {policy}"
        );
    };
    check(&seen, "64Mi", "NotRequired", "");
    check(&seen, "65536Ki", "RestartContainer", "");
    check(&seen, "128Mi", "NotRequired", "resize main");
    check(&seen, "128Mi", "RestartContainer", "stop main 30 Resized");
    let hold = Hold::after(None, "Error", "busy".to_owned(), NOW);
    seen.resize_hold.insert("main".to_owned(), hold);
    check(&seen, "128Mi", "NotRequired", "wake +10");
}
