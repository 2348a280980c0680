//! Columns of Pods, with the STATUS and RESTARTS that kubectl users know.

use jiff::Timestamp;
use serde_json::Value;

use super::cluster::condition;
use super::{Cell, Column, age, name};
use crate::walk::{at, has, list, number, text};

/// Columns.
pub const POD: &[Column] = &[
    Column::NAME,
    Column::text("Ready", "Ready containers of all."),
    Column::text("Status", "What the pod is doing."),
    Column::text(
        "Restarts",
        "How often its containers were started again, and when last.",
    ),
    Column::AGE,
    Column::text("IP", "Its address.").wide(),
    Column::text("Node", "Where it runs.").wide(),
    Column::text("Nominated Node", "Where room is being made for it.").wide(),
    Column::text("Readiness Gates", "Satisfied readiness gates of all.").wide(),
];

/// Cells.
pub fn pod(object: &Value, now: i64) -> Vec<Cell> {
    let summary = Summary::of(object);
    vec![
        name(object),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.status.clone().into(),
        summary.restarts(now).into(),
        age(object, now),
        Cell::or_none(text(object, &["status", "podIP"])),
        Cell::or_none(text(object, &["spec", "nodeName"])),
        Cell::or_none(text(object, &["status", "nominatedNodeName"])),
        gates(object),
    ]
}

/// What a pod is doing, in one word, as kubectl prints it: `Running`, `Init:0/1`, `CrashLoopBackOff`, `Terminating`.
pub fn status(object: &Value) -> String {
    Summary::of(object).status
}

struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let phase = text(pod, &["status", "phase"]);
        let reason = text(pod, &["status", "reason"]);
        let sidecars = list(pod, &["spec", "initContainers"])
            .iter()
            .filter(|one| is_sidecar(one))
            .count();
        let mut summary = Self {
            status: if reason.is_empty() { phase } else { reason }.to_owned(),
            ready: 0,
            total: list(pod, &["spec", "containers"]).len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let initializing = summary.add_init_containers(pod);
        if !initializing || condition(pod, "Initialized") == "True" {
            summary.add_containers(pod);
        }
        let gated = list(pod, &["status", "conditions"]).iter().any(|one| {
            text(one, &["type"]) == "PodScheduled" && text(one, &["reason"]) == "SchedulingGated"
        });
        if gated {
            summary.status = "SchedulingGated".to_owned();
        }
        let ended = matches!(phase, "Succeeded" | "Failed");
        if has(pod, &["metadata", "deletionTimestamp"]) && !ended {
            summary.status = if reason == "NodeLost" {
                "Unknown"
            } else {
                "Terminating"
            }
            .to_owned();
        }
        summary
    }

    /// Answers whether init containers are still at work.
    fn add_init_containers(&mut self, pod: &Value) -> bool {
        let specs = list(pod, &["spec", "initContainers"]);
        let mut all = Restarts::default();
        let mut sidecars = Restarts::default();
        let mut at_work = None;
        for (index, state) in list(pod, &["status", "initContainerStatuses"])
            .iter()
            .enumerate()
        {
            let spec = specs
                .iter()
                .find(|one| one["name"] == state["name"])
                .unwrap_or(&Value::Null);
            all.add(state);
            if is_sidecar(spec) {
                sidecars.add(state);
                if state["started"] == true {
                    self.ready += usize::from(state["ready"] == true);
                    continue;
                }
            }
            let ended = at(state, &["state", "terminated"]);
            let waiting = text(state, &["state", "waiting", "reason"]);
            if !ended.is_null() && ended["exitCode"] == 0 {
                continue;
            }
            at_work = Some(if !ended.is_null() {
                format!("Init:{}", exit_words(ended))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", specs.len())
            });
            break;
        }
        let counted = if at_work.is_some() { all } else { sidecars };
        self.restarts = counted.count;
        self.last_restart = counted.last;
        if let Some(words) = &at_work {
            self.status.clone_from(words);
        }
        at_work.is_some()
    }

    fn add_containers(&mut self, pod: &Value) {
        let mut restarts = Restarts {
            count: self.restarts,
            last: self.last_restart,
        };
        let mut any_running = false;
        for state in list(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(state);
            let ended = at(state, &["state", "terminated"]);
            let waiting = text(state, &["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                self.status = waiting.to_owned();
            } else if !ended.is_null() {
                self.status = exit_words(ended);
            } else if state["ready"] == true && has(state, &["state", "running"]) {
                any_running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && any_running {
            let ready = condition(pod, "Ready") == "True";
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
        self.restarts = restarts.count;
        self.last_restart = restarts.last;
    }

    /// `3 (2m ago)`.
    fn restarts(&self, now: i64) -> String {
        match self.last_restart.filter(|_| self.restarts > 0) {
            Some(last) => format!(
                "{} ({} ago)",
                self.restarts,
                super::age::duration(now - last.as_second())
            ),
            None => self.restarts.to_string(),
        }
    }
}

#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, state: &Value) {
        self.count += number(state, &["restartCount"]).unwrap_or(0);
        let ended = text(state, &["lastState", "terminated", "finishedAt"])
            .parse()
            .ok();
        self.last = self.last.max(ended);
    }
}

fn is_sidecar(spec: &Value) -> bool {
    text(spec, &["restartPolicy"]) == "Always"
}

fn exit_words(ended: &Value) -> String {
    let reason = text(ended, &["reason"]);
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match number(ended, &["signal"]).filter(|signal| *signal != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", number(ended, &["exitCode"]).unwrap_or(0)),
    }
}

fn gates(pod: &Value) -> Cell {
    let all = list(pod, &["spec", "readinessGates"]);
    if all.is_empty() {
        return "<none>".into();
    }
    let satisfied = all
        .iter()
        .filter(|gate| condition(pod, text(gate, &["conditionType"])) == "True")
        .count();
    format!("{satisfied}/{}", all.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: i64 = 1_000;

    fn check(status: Value, spec: Value, expect: [&str; 3]) {
        let mut spec = spec;
        if spec["containers"].is_null() {
            spec["containers"] = json!([{"name": "a"}]);
        }
        let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let cells: Vec<String> = pod_cells(&pod);
        assert_eq!([&cells[1], &cells[2], &cells[3]], expect, "{pod}");
    }

    fn pod_cells(pod: &Value) -> Vec<String> {
        super::pod(pod, NOW)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn status_ready_and_restarts_are_kubectls() {
        let running =
            json!({"name": "a", "ready": true, "restartCount": 0, "state": {"running": {}}});
        check(
            json!({"phase": "Pending"}),
            json!({}),
            ["0/1", "Pending", "0"],
        );
        check(
            json!({"phase": "Running", "containerStatuses": [running]}),
            json!({}),
            ["1/1", "Running", "0"],
        );
        check(
            json!({"phase": "Running", "containerStatuses": [{"name": "a", "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"finishedAt": "1970-01-01T00:14:00Z"}}}]}),
            json!({}),
            ["0/1", "CrashLoopBackOff", "3 (2m40s ago)"],
        );
        check(
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}),
            json!({}),
            ["0/1", "Completed", "0"],
        );
        check(
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
            json!({}),
            ["0/1", "ExitCode:3", "0"],
        );
        check(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}, running]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}]}),
            ["1/2", "Running", "0"],
        );
        check(
            json!({"phase": "Failed", "reason": "Evicted"}),
            json!({}),
            ["0/1", "Evicted", "0"],
        );
        check(
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            json!({}),
            ["0/1", "SchedulingGated", "0"],
        );
    }

    #[test]
    fn init_containers_and_sidecars_are_counted() {
        let two =
            json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let init = |states: Value| json!({"phase": "Pending", "initContainerStatuses": states});
        check(
            init(json!([{"name": "i", "state": {"running": {}}}])),
            two.clone(),
            ["0/2", "Init:0/2", "0"],
        );
        check(
            init(
                json!([{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]),
            ),
            two.clone(),
            ["0/2", "Init:ImagePullBackOff", "2"],
        );
        check(
            init(json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "signal": 9}}}])),
            two.clone(),
            ["0/2", "Init:Signal:9", "0"],
        );
        check(
            json!({"phase": "Running",
                "initContainerStatuses": [
                    {"name": "i", "restartCount": 5, "state": {"terminated": {"exitCode": 0}}},
                    {"name": "s", "restartCount": 1, "started": true, "ready": true, "state": {"running": {}}}],
                "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}),
            two,
            ["2/2", "Running", "1"],
        );
    }

    #[test]
    fn a_pod_that_is_being_deleted_says_so_unless_it_has_ended() {
        for (phase, expect) in [
            ("Running", "Terminating"),
            ("Pending", "Terminating"),
            ("Failed", "Failed"),
        ] {
            let pod = json!({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": phase}});
            assert_eq!(status(&pod), expect);
        }
    }
}
