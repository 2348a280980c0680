//! Probes of one running container: when to ask, what to ask, and what the answers add up to. Restarting and status
//! are the pod's business; it hears a [`Verdict`] whenever that changes.

mod ask;
mod health;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::time::Instant;

pub(crate) use ask::{Asker, http_get};

use crate::pods::observed::Verdict;

/// What a pod hears from the probes of one of its containers.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// Why a probe failed, for an event.
    pub(crate) failure: Option<String>,
}

/// Answers of one probe, counted against its thresholds.
#[derive(Debug, Clone, Copy)]
struct Tally {
    success_threshold: i32,
    failure_threshold: i32,
    successes: i32,
    failures: i32,
    healthy: bool,
}

impl Tally {
    fn new(probe: &Probe, healthy: bool) -> Self {
        Self {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            successes: 0,
            failures: 0,
            healthy,
        }
    }

    /// Counts one answer; true when it changed what the probe says.
    fn count(&mut self, success: bool) -> bool {
        let before = self.healthy;
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.healthy |= self.successes >= self.success_threshold;
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            self.healthy &= self.failures < self.failure_threshold;
        }
        before != self.healthy
    }

    /// The failure threshold is reached.
    fn exhausted(&self) -> bool {
        self.failures >= self.failure_threshold
    }
}

fn seconds(value: Option<i32>, default: u64, least: u64) -> Duration {
    let given = value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default);
    Duration::from_secs(given.max(least))
}

/// Runs the probes of `container` until the returned handle is dropped; nothing when it has none.
pub(crate) fn watch(
    container: &Container,
    address: IpAddr,
    asker: Arc<dyn Asker>,
    report: impl Fn(Report) + Send + Sync + 'static,
) -> Option<tokio::task::AbortHandle> {
    let probes = [
        &container.startup_probe,
        &container.liveness_probe,
        &container.readiness_probe,
    ];
    if probes.iter().all(|probe| probe.is_none()) {
        return None;
    }
    let container = container.clone();
    let run = Run {
        container,
        address,
        asker,
        report: Box::new(report),
        started: Instant::now(),
    };
    Some(tokio::spawn(run.all()).abort_handle())
}

struct Run {
    container: Container,
    address: IpAddr,
    asker: Arc<dyn Asker>,
    report: Box<dyn Fn(Report) + Send + Sync>,
    started: Instant,
}

impl Run {
    async fn all(self) {
        let mut verdict = Verdict {
            started: false,
            ready: false,
            alive: true,
        };
        if let Some(probe) = &self.container.startup_probe
            && !self.startup(probe, verdict).await
        {
            return;
        }
        verdict.started = true;
        verdict.ready = self.container.readiness_probe.is_none();
        (self.report)(Report {
            verdict,
            failure: None,
        });
        let verdict = std::sync::Mutex::new(verdict);
        tokio::join!(self.liveness(&verdict), self.readiness(&verdict));
    }

    /// True once the startup probe has succeeded, false when it has failed for good.
    async fn startup(&self, probe: &Probe, verdict: Verdict) -> bool {
        let mut tally = Tally::new(probe, false);
        self.wait_initially(probe).await;
        loop {
            let answer = self.ask(probe).await;
            tally.count(answer.is_ok());
            if let Err(why) = answer {
                let alive = !tally.exhausted();
                let failure = Some(format!("Startup probe failed: {why}"));
                (self.report)(Report {
                    verdict: Verdict { alive, ..verdict },
                    failure,
                });
                if !alive {
                    return false;
                }
            } else if tally.healthy {
                return true;
            }
            tokio::time::sleep(seconds(probe.period_seconds, 10, 1)).await;
        }
    }

    async fn liveness(&self, verdict: &std::sync::Mutex<Verdict>) {
        let Some(probe) = &self.container.liveness_probe else {
            return;
        };
        let set = |verdict: &mut Verdict, healthy| verdict.alive = healthy;
        self.repeat(probe, "Liveness", true, verdict, set).await;
    }

    async fn readiness(&self, verdict: &std::sync::Mutex<Verdict>) {
        let Some(probe) = &self.container.readiness_probe else {
            return;
        };
        let set = |verdict: &mut Verdict, healthy| verdict.ready = healthy;
        self.repeat(probe, "Readiness", false, verdict, set).await;
    }

    async fn repeat(
        &self,
        probe: &Probe,
        kind: &str,
        healthy: bool,
        shared: &std::sync::Mutex<Verdict>,
        set: impl Fn(&mut Verdict, bool),
    ) {
        let mut tally = Tally::new(probe, healthy);
        self.wait_initially(probe).await;
        loop {
            let answer = self.ask(probe).await;
            let changed = tally.count(answer.is_ok());
            let failure = answer
                .err()
                .map(|why| format!("{kind} probe failed: {why}"));
            if changed || failure.is_some() {
                let mut verdict = shared
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                set(&mut verdict, tally.healthy);
                (self.report)(Report {
                    verdict: *verdict,
                    failure,
                });
            }
            tokio::time::sleep(seconds(probe.period_seconds, 10, 1)).await;
        }
    }

    async fn wait_initially(&self, probe: &Probe) {
        tokio::time::sleep_until(self.started + seconds(probe.initial_delay_seconds, 0, 0)).await;
    }

    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        let timeout = seconds(probe.timeout_seconds, 1, 1);
        let asked = ask::ask(
            probe,
            &self.container,
            self.address,
            self.asker.as_ref(),
            timeout,
        );
        match tokio::time::timeout(timeout, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests;
