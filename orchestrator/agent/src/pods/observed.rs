//! What is seen of a pod on this node, and the readings that steps and status share. No I/O: `worker` fills it in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use serde::{Deserialize, Serialize};
use waggle_runtime::spec::{ContainerPhase, ContainerState};

use super::resize::Pending;

/// One second, in the unit of every time here.
pub(crate) const SECOND: i64 = 1_000_000_000;
/// A container that ran this long starts its back-off anew (kubelet: 10 min).
const SETTLED: i64 = 600 * SECOND;
/// Longest back-off.
const LONGEST: i64 = 300 * SECOND;

/// Annotations that the agent keeps with each container, so that a later agent knows what this one knew.
pub(crate) mod note {
    /// `image` of the pod's container.
    pub(crate) const IMAGE: &str = "waggle.dev/image";
    /// Digest of the image that it runs.
    pub(crate) const IMAGE_ID: &str = "waggle.dev/image-id";
    /// How many times in a row it was started without having settled.
    pub(crate) const STREAK: &str = "waggle.dev/streak";
    /// JSON of [`super::Ended`]: how the attempt before this one ended.
    pub(crate) const LAST: &str = "waggle.dev/last";
}

/// How one attempt of a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) attempt: u32,
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) oom_killed: bool,
    pub(crate) started_ns: i64,
    pub(crate) finished_ns: i64,
    pub(crate) message: String,
}

/// Why a container waits, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    /// `ErrImagePull`, `CreateContainerConfigError`, ...
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When it happened.
    pub(crate) since: i64,
    /// When it is tried again.
    pub(crate) until: i64,
    /// Failures in a row.
    pub(crate) count: u32,
}

impl Hold {
    /// The next hold after `before`: 10 s, doubling to 5 min.
    pub(crate) fn after(
        before: Option<&Self>,
        reason: &'static str,
        message: String,
        now: i64,
    ) -> Self {
        let count = before.map_or(1, |hold| hold.count + 1);
        Self {
            reason,
            message,
            since: now,
            until: now + doubled(count),
            count,
        }
    }

    /// The container was made and could not be started, as when its command does not exist.
    pub(crate) fn is_start(&self) -> bool {
        self.reason == "RunContainerError"
    }

    /// Concerns the image.
    pub(crate) fn is_image(&self) -> bool {
        matches!(
            self.reason,
            "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull"
        )
    }
}

/// 10 s, doubled `count - 1` times, at most 5 min.
fn doubled(count: u32) -> i64 {
    let factor = 1i64 << count.saturating_sub(1).min(10);
    (10 * SECOND * factor).min(LONGEST)
}

/// How far the preparation of a container that is to start has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Prepare {
    /// Its image is being looked for or pulled.
    Pulling(Option<Hold>),
    /// Its image is here.
    Ready(Option<Hold>),
    /// It waits after a failure.
    Held(Hold),
}

impl Prepare {
    /// The failure that it follows or waits for.
    pub(crate) fn hold(&self) -> Option<&Hold> {
        match self {
            Self::Pulling(hold) | Self::Ready(hold) => hold.as_ref(),
            Self::Held(hold) => Some(hold),
        }
    }
}

/// What the probes of a running container say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// The readiness probe succeeds, or there is none.
    pub(crate) ready: bool,
    /// False when the liveness or startup probe has failed for good: to be restarted.
    pub(crate) alive: bool,
}

/// A postStart hook that is not over, or went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    /// The container does not count as started before it has ended.
    Runs,
    /// The container is to be ended.
    Failed,
}

/// Why the node ended a pod by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `DeadlineExceeded`, `Evicted`.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Seconds that its containers have to end, where that is less than the pod's own.
    pub(crate) grace: Option<i64>,
}

/// Everything that is seen of one pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// The sandbox stands.
    pub(crate) sandbox: bool,
    /// Its address, identity and policy are in the datapath.
    pub(crate) attached: bool,
    /// The last failure of sandbox or network.
    pub(crate) sandbox_hold: Option<Hold>,
    /// By name.
    pub(crate) containers: BTreeMap<String, ContainerState>,
    /// By container name.
    pub(crate) prepare: BTreeMap<String, Prepare>,
    /// By container name; of running ones.
    pub(crate) verdicts: BTreeMap<String, Verdict>,
    /// By container name: when the container that is being ended gets SIGKILL.
    pub(crate) stopping: BTreeMap<String, i64>,
    /// By container name: what it left at `terminationMessagePath` when it ended.
    pub(crate) messages: BTreeMap<String, String>,
    /// By container name: its last attempt, when that could not be started at all.
    pub(crate) start_errors: BTreeMap<String, Ended>,
    /// By container name: postStart hooks.
    pub(crate) hooks: BTreeMap<String, Hook>,
    /// By container name: limits that could not be changed, and when that is tried again.
    pub(crate) resize_hold: BTreeMap<String, Hold>,
    /// It wants resources that it does not get here, or not yet.
    pub(crate) resize_pending: Option<Pending>,
    /// The pod has failed by the node's decision, whatever its containers do.
    pub(crate) failed: Option<Failure>,
    /// When the pod was first seen here.
    pub(crate) started: i64,
}

/// Where a container is, as decisions see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    /// None exists.
    Absent,
    /// Exists, its process has not been started.
    Created,
    Running,
    Exited {
        code: i32,
        finished: i64,
    },
}

impl Observed {
    pub(crate) fn life(&self, name: &str) -> Life {
        match self.containers.get(name).map(|state| &state.phase) {
            None => Life::Absent,
            Some(ContainerPhase::Created) => Life::Created,
            Some(ContainerPhase::Running) => Life::Running,
            Some(ContainerPhase::Exited {
                code, finished_ns, ..
            }) => Life::Exited {
                code: *code,
                finished: *finished_ns,
            },
        }
    }

    /// The container has a process.
    pub(crate) fn has_process(&self, name: &str) -> bool {
        matches!(self.life(name), Life::Created | Life::Running)
    }

    /// What probes say; a container whose probes have not been heard yet counts as `unheard`.
    pub(crate) fn verdict(&self, container: &Container) -> Verdict {
        let unheard = Verdict {
            started: container.startup_probe.is_none(),
            ready: container.startup_probe.is_none() && container.readiness_probe.is_none(),
            alive: true,
        };
        match self.hooks.get(&container.name) {
            None => self
                .verdicts
                .get(&container.name)
                .copied()
                .unwrap_or(unheard),
            Some(_) => Verdict {
                started: false,
                ready: false,
                alive: true,
            },
        }
    }
}

/// How many unsettled starts in a row the next start of `state` makes.
pub(crate) fn next_streak(state: &ContainerState) -> u32 {
    let before = state
        .spec
        .annotations
        .get(note::STREAK)
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    match state.phase {
        ContainerPhase::Exited { finished_ns, .. } if finished_ns - state.started_ns >= SETTLED => {
            1
        }
        _ => before + 1,
    }
}

/// When an ended container may start again: at once the first time, then 10 s after its end, doubling to 5 min.
pub(crate) fn restart_at(state: &ContainerState) -> i64 {
    let ContainerPhase::Exited { finished_ns, .. } = state.phase else {
        return 0;
    };
    match next_streak(state) {
        0 | 1 => finished_ns,
        streak => finished_ns + doubled(streak - 1),
    }
}

/// How an attempt ended that could not be started: as kubelet has it, with code 128 and without a start.
pub(crate) fn start_error(attempt: u32, message: &str, now: i64) -> Ended {
    Ended {
        attempt,
        code: 128,
        signal: None,
        oom_killed: false,
        started_ns: 0,
        finished_ns: now,
        message: message.to_owned(),
    }
}

/// How `state` ended, for the attempt after it.
pub(crate) fn ended(state: &ContainerState, message: &str) -> Option<Ended> {
    let ContainerPhase::Exited {
        code,
        signal,
        oom_killed,
        finished_ns,
    } = state.phase
    else {
        return None;
    };
    Some(Ended {
        attempt: state.spec.attempt,
        code,
        signal,
        oom_killed,
        started_ns: state.started_ns,
        finished_ns,
        message: message.to_owned(),
    })
}

/// How the attempt before `state` ended.
pub(crate) fn last_ended(state: &ContainerState) -> Option<Ended> {
    serde_json::from_str(state.spec.annotations.get(note::LAST)?).ok()
}
