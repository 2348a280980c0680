//! The task of one pod: looks, asks `next` what to do, does it, and tells the server what it sees. It has no choices
//! of its own; when a step fails it remembers the failure, and `next` says when to try again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use waggle_datapath::PodLink;
use waggle_runtime::images::Image;
use waggle_runtime::spec::{ContainerPhase, ContainerState, Sandbox};
use waggle_wire::v1;

use super::desired::Desired;
use super::next::{Step, StopReason, deadline, next_steps, outcome, over_before};
use super::observed::{Ended, Failure, Hold, Observed, Prepare, SECOND, start_error};
use super::qos::limits;
use super::resize::{Allocation, Amounts, Pending};
use super::status::{is_on_its_way, pod_status};
use super::stop::Stopper;
use super::tokens::Tokens;
use crate::clock;
use crate::node::Node;
use crate::outbox::Hurry;
use crate::probe;

/// What a pod's task hears.
#[derive(Debug)]
pub(crate) enum Mail {
    /// All that the supervisor has of this pod.
    All(Option<Sandbox>, Vec<ContainerState>),
    /// One container changed.
    Changed(Box<ContainerState>),
    /// A container's image is here, or not.
    Image {
        container: String,
        reference: String,
        result: Result<Box<Image>, ImageFault>,
    },
    /// An image was added: who waits for one may look again.
    ImageAdded,
    /// The pod takes more than it may, or the node is short of something: it is given up.
    Evict { message: String, grace: i64 },
    /// The postStart hook of one attempt of a container has ended.
    PostStart {
        container: String,
        attempt: u32,
        result: Result<(), String>,
    },
    /// Probes of one attempt of a container.
    Probe {
        container: String,
        attempt: u32,
        report: probe::Report,
    },
}

/// Why an image is not here.
#[derive(Debug)]
pub(crate) struct ImageFault {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// How a step failed; the pod's containers stay as they are.
pub(crate) struct StepFault {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl StepFault {
    pub(crate) fn new(reason: &'static str, message: impl std::fmt::Display) -> Self {
        Self {
            reason,
            message: message.to_string(),
        }
    }
}

/// The task's state.
pub(crate) struct Worker {
    pub(super) node: Arc<Node>,
    pub(super) pod: Arc<Desired>,
    desired: watch::Receiver<Arc<Desired>>,
    mail: mpsc::UnboundedReceiver<Mail>,
    pub(super) post: mpsc::UnboundedSender<Mail>,
    pub(super) seen: Observed,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) attached_as: Option<PodLink>,
    pub(super) images: BTreeMap<String, Image>,
    pub(super) tokens: Tokens,
    probers: BTreeMap<String, (u32, AbortHandle)>,
    stoppers: BTreeMap<String, Stopper>,
    status: Option<PodStatus>,
    /// Looks at how much the pod takes of the disk.
    meter: Option<AbortHandle>,
    /// What the pod was given; `None` before it is known what runs.
    given: Option<Allocation>,
    /// Other pods gave something back.
    freed: watch::Receiver<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.probers.values().for_each(|(_, prober)| prober.abort());
        if let Some(meter) = &self.meter {
            meter.abort();
        }
        self.node.held.release(&self.pod.key.uid);
    }
}

impl Worker {
    pub(crate) fn new(
        node: Arc<Node>,
        desired: watch::Receiver<Arc<Desired>>,
        mail: mpsc::UnboundedReceiver<Mail>,
        post: mpsc::UnboundedSender<Mail>,
    ) -> Self {
        let pod = desired.borrow().clone();
        let started = pod
            .pod
            .status
            .as_ref()
            .and_then(|s| s.start_time.as_ref())
            .map(|t| t.0.as_second());
        let started = started.map_or_else(clock::now, |seconds| seconds * SECOND);
        let status = pod
            .pod
            .status
            .clone()
            .filter(|status| status.start_time.is_some());
        let folder = node.folder.pod(&pod.key.uid);
        let meter = super::meter::watch(&pod, &folder, &node.folder.runtime(), post.clone());
        Self {
            meter,
            given: None,
            freed: node.held.freed(),
            node,
            pod,
            desired,
            mail,
            post,
            seen: Observed {
                started,
                failed: status.as_ref().and_then(given_up),
                start_errors: start_errors(status.as_ref()),
                ..Observed::default()
            },
            sandbox: None,
            attached_as: None,
            images: BTreeMap::new(),
            tokens: Tokens::default(),
            probers: BTreeMap::new(),
            stoppers: BTreeMap::new(),
            status,
        }
    }

    /// Runs until the pod is gone.
    pub(crate) async fn run(mut self) {
        // Nothing is decided before it is known what is there already.
        while let Some(mail) = self.mail.recv().await {
            let all = matches!(mail, Mail::All(..));
            self.hear(mail);
            if all {
                break;
            }
        }
        loop {
            self.pod = self.refreshed();
            self.refresh_attachment();
            self.keep_probers();
            self.keep_deadline();
            self.publish();
            let steps = next_steps(&self.pod, &self.seen, clock::now());
            let mut wake = self.keep_tokens().await;
            let mut done = false;
            for step in steps {
                match step {
                    Step::Wake(at) => wake = Some(wake.map_or(at, |known: i64| known.min(at))),
                    Step::Teardown => {
                        done = true;
                        if self.teardown().await {
                            return;
                        }
                    }
                    step => {
                        done = true;
                        self.carry_out(step).await;
                    }
                }
            }
            if done {
                // Look again at once, with what has been heard meanwhile.
                while let Ok(mail) = self.mail.try_recv() {
                    self.hear(mail);
                }
                continue;
            }
            if !self.wait(wake).await {
                return;
            }
        }
    }

    /// False when nobody is left who could say anything.
    async fn wait(&mut self, wake: Option<i64>) -> bool {
        let pause = wake.map_or(Duration::from_secs(3600), |at| {
            Duration::from_nanos(u64::try_from(at - clock::now()).unwrap_or(0))
        });
        let pending = self.seen.resize_pending.as_ref();
        let deferred = pending.is_some_and(Pending::is_deferred);
        tokio::select! {
            changed = self.desired.changed() => {
                if changed.is_ok() {
                    self.refresh_volumes().await;
                }
                changed.is_ok()
            }
            mail = self.mail.recv() => {
                mail.map(|mail| self.hear(mail)).is_some()
            }
            // The node outlives its pods' tasks.
            _ = self.freed.changed(), if deferred => true,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// The pod as it is wanted now, but for resources that the node can't give it.
    pub(super) fn refreshed(&mut self) -> Arc<Desired> {
        let wanted = self.desired.borrow_and_update().clone();
        let uid = &wanted.key.uid;
        self.freed.mark_unchanged();
        if outcome(&wanted, &self.seen).is_some() {
            // What is over holds nothing.
            self.node.held.release(uid);
            self.seen.resize_pending = None;
            return wanted;
        }
        let given = self.given.get_or_insert_with(|| {
            let given = Allocation::known(&wanted, &self.seen.containers);
            let amounts = Amounts::of(&given.apply(&wanted));
            self.node.held.set(uid, amounts);
            given
        });
        let wants = Allocation::wanted(&wanted);
        if *given == wants {
            self.seen.resize_pending = None;
            return wanted;
        }
        if wanted.ending() {
            return given.apply(&wanted);
        }
        let amounts = Amounts::of(&wanted);
        match self.node.held.change(uid, amounts, self.node.allocatable) {
            Ok(()) => {
                *given = wants;
                self.seen.resize_pending = None;
                wanted
            }
            Err(pending) => {
                if self.seen.resize_pending.as_ref() != Some(&pending) {
                    let reason = format!("Resize{}", pending.reason);
                    let message = pending.message.clone();
                    self.node.recorder.warning(&wanted, "", &reason, message);
                }
                self.seen.resize_pending = Some(pending);
                given.apply(&wanted)
            }
        }
    }

    fn hear(&mut self, mail: Mail) {
        match mail {
            Mail::All(sandbox, containers) => {
                self.seen.sandbox = sandbox.is_some();
                self.sandbox = sandbox;
                let here = |name: &String| containers.iter().any(|state| state.spec.name == *name);
                self.seen.containers.retain(|name, _| here(name));
                containers.into_iter().for_each(|state| self.see(state));
                let gone: Vec<String> = self
                    .stoppers
                    .keys()
                    .filter(|name| !self.seen.has_process(name))
                    .cloned()
                    .collect();
                gone.iter().for_each(|name| self.forget_stopper(name));
            }
            Mail::Changed(state) => {
                self.see(*state);
            }
            Mail::Image {
                container,
                reference,
                result,
            } => self.image_came(container, &reference, result),
            Mail::ImageAdded => {
                let waits =
                    |prepare: &Prepare| matches!(prepare, Prepare::Held(hold) if hold.is_image());
                self.seen.prepare.retain(|_, prepare| !waits(prepare));
            }
            Mail::Evict { message, grace } => {
                if outcome(&self.pod, &self.seen).is_none() && !self.pod.ending() {
                    self.give_up("Evicted", message, Some(grace));
                }
            }
            Mail::PostStart {
                container,
                attempt,
                result,
            } => {
                if self.is_current(&container, attempt) && self.seen.has_process(&container) {
                    self.post_started(&container, result);
                }
            }
            Mail::Probe {
                container,
                attempt,
                report,
            } => {
                if self.is_current(&container, attempt) {
                    self.probe_said(&container, report);
                }
            }
        }
    }

    fn is_current(&self, container: &str, attempt: u32) -> bool {
        let state = self.seen.containers.get(container);
        state.is_some_and(|s| s.spec.attempt == attempt)
    }

    /// Renews the tokens of a pod that runs; when to do it next.
    async fn keep_tokens(&mut self) -> Option<i64> {
        let runs = self
            .seen
            .containers
            .keys()
            .any(|name| self.seen.has_process(name));
        if !runs || self.pod.ending() {
            return None;
        }
        if self.tokens.due(&self.pod)? <= clock::now() {
            self.refresh_volumes().await;
        }
        self.tokens.due(&self.pod)
    }

    /// Gives the pod up when its `activeDeadlineSeconds` are over.
    fn keep_deadline(&mut self) {
        let late = deadline(&self.pod, &self.seen).is_some_and(|at| at <= clock::now());
        if !late || self.pod.ending() || outcome(&self.pod, &self.seen).is_some() {
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.give_up("DeadlineExceeded", message.to_owned(), None);
    }

    /// Ends the pod as failed: it stays so, and is not run again.
    pub(super) fn give_up(&mut self, reason: &str, message: String, grace: Option<i64>) {
        self.node
            .recorder
            .warning(&self.pod, "", reason, message.clone());
        self.seen.failed = Some(Failure {
            reason: reason.to_owned(),
            message,
            grace,
        });
    }

    fn see(&mut self, state: ContainerState) {
        let name = state.spec.name.clone();
        let before = self.seen.containers.get(&name);
        // What was said before a call may be heard after it: a container never goes back.
        if before.is_some_and(|before| progress(before) > progress(&state)) {
            return;
        }
        let new_exit = state.exited()
            && before.is_none_or(|b| !b.exited() || b.spec.attempt < state.spec.attempt);
        for note in state
            .notes
            .iter()
            .filter(|note| before.is_none_or(|b| !b.notes.contains(note)))
        {
            self.node
                .recorder
                .warning(&self.pod, &name, "Adjusted", note.clone());
        }
        if new_exit {
            self.forget_stopper(&name);
            self.seen.verdicts.remove(&name);
            self.seen.hooks.remove(&name);
            let message = self.termination_message(&state);
            self.seen.messages.insert(name.clone(), message);
        }
        self.seen.containers.insert(name, state);
    }

    fn forget_stopper(&mut self, name: &str) {
        self.seen.stopping.remove(name);
        if let Some(stopper) = self.stoppers.remove(name) {
            stopper.abort();
        }
    }

    fn image_came(
        &mut self,
        container: String,
        reference: &str,
        result: Result<Box<Image>, ImageFault>,
    ) {
        let before = self
            .seen
            .prepare
            .get(&container)
            .and_then(Prepare::hold)
            .cloned();
        match result {
            Ok(image) => {
                self.images.insert(container.clone(), *image);
                self.seen.prepare.insert(
                    container,
                    Prepare::Ready(before.filter(|hold| !hold.is_image())),
                );
            }
            Err(fault) => {
                let text = format!("Failed to pull image {reference:?}: {}", fault.message);
                self.node
                    .recorder
                    .warning(&self.pod, &container, "Failed", text);
                let before = before.filter(Hold::is_image);
                let hold = Hold::after(before.as_ref(), fault.reason, fault.message, clock::now());
                self.seen.prepare.insert(container, Prepare::Held(hold));
            }
        }
    }

    fn probe_said(&mut self, container: &str, report: probe::Report) {
        if let Some(failure) = report.failure {
            self.node
                .recorder
                .warning(&self.pod, container, "Unhealthy", failure);
        }
        self.seen
            .verdicts
            .insert(container.to_owned(), report.verdict);
    }

    /// Probes run exactly while their container does.
    fn keep_probers(&mut self) {
        let seen = &self.seen;
        self.probers.retain(|name, (attempt, prober)| {
            let same = seen
                .containers
                .get(name)
                .is_some_and(|s| s.spec.attempt == *attempt && s.pid.is_some());
            let keep = same && seen.has_process(name) && !seen.stopping.contains_key(name);
            if !keep {
                prober.abort();
            }
            keep
        });
        let pod = Arc::clone(&self.pod);
        let own = if pod.host_network() {
            Some(self.node.address)
        } else {
            pod.address()
        };
        let Some(address) = own else { return };
        for container in pod.all_containers() {
            let Some(state) = self.seen.containers.get(&container.name) else {
                continue;
            };
            let running = self.seen.life(&container.name) == super::observed::Life::Running;
            if !running
                || self.seen.hooks.contains_key(&container.name)
                || self.probers.contains_key(&container.name)
                || self.seen.stopping.contains_key(&container.name)
            {
                continue;
            }
            let (name, attempt, post) = (
                container.name.clone(),
                state.spec.attempt,
                self.post.clone(),
            );
            let asker = Arc::new(super::exec::ProbeExec::new(
                Arc::clone(&self.node.containers),
                &pod.key.uid,
            ));
            let report = move |report| {
                drop(post.send(Mail::Probe {
                    container: name.clone(),
                    attempt,
                    report,
                }));
            };
            if let Some(handle) = probe::watch(container, address, asker, report) {
                self.probers
                    .insert(container.name.clone(), (attempt, handle));
            }
        }
    }

    fn publish(&mut self) {
        // A pod that is no longer bound here has no status of ours, and the last word on one that was over before
        // this node lost it has been said.
        if self.pod.removed || over_before(&self.pod, &self.seen) {
            return;
        }
        let status = pod_status(
            &self.pod,
            &self.seen,
            self.status.as_ref(),
            self.node.addresses,
            clock::now(),
        );
        if self.status.as_ref() == Some(&status) {
            return;
        }
        let hurry = match is_on_its_way(&status) && !self.pod.ending() {
            true => Hurry::Soon,
            false => Hurry::Now,
        };
        match serde_json::to_vec(&status) {
            Ok(json) => {
                let said = v1::PodStatus {
                    namespace: self.pod.key.namespace.clone(),
                    name: self.pod.key.name.clone(),
                    uid: self.pod.key.uid.clone(),
                    status_json: json.into(),
                };
                self.node.outbox.pod_status(said, hurry);
            }
            Err(error) => tracing::error!(pod = %self.pod.key, %error, "a status can't be encoded"),
        }
        self.status = Some(status);
    }

    async fn carry_out(&mut self, step: Step) {
        tracing::debug!(pod = %self.pod.key, ?step, "step");
        match step {
            Step::CreateSandbox => {
                let result = self.create_sandbox().await;
                self.sandbox_step("create the sandbox", result);
            }
            Step::Attach => {
                let result = self.attach().await;
                self.sandbox_step("set up the network", result);
            }
            Step::Pull { container } => self.pull(&container),
            Step::Start { container, streak } => self.start_step(&container, streak).await,
            Step::Resize { container } => self.resize(&container).await,
            Step::Stop {
                container,
                grace,
                why,
            } => self.stop(&container, grace, why),
            Step::Teardown | Step::Wake(_) => {}
        }
    }

    /// Gives a container the limits that the pod wants it to have.
    async fn resize(&mut self, name: &str) {
        let Some(container) = self.pod.all_containers().find(|c| c.name == *name) else {
            return;
        };
        let wanted = limits(container);
        let client = self.node.containers.client().await;
        let uid = &self.pod.key.uid;
        match client.resize_container(uid, name, wanted.clone()).await {
            Ok(()) => {
                self.seen.resize_hold.remove(name);
                // The report of it may come later.
                if let Some(state) = self.seen.containers.get_mut(name) {
                    state.spec.resources = wanted;
                }
            }
            Err(error) => {
                let message = format!("container {name} can't be resized: {error}");
                self.node
                    .recorder
                    .warning(&self.pod, name, "ResizeError", message.clone());
                let before = self.seen.resize_hold.remove(name);
                let hold = Hold::after(before.as_ref(), "Error", message, clock::now());
                self.seen.resize_hold.insert(name.to_owned(), hold);
            }
        }
    }

    fn stop(&mut self, name: &str, grace: i64, why: StopReason) {
        let container = self.pod.all_containers().find(|c| c.name == *name).cloned();
        let container = container.unwrap_or_else(|| Container {
            name: name.to_owned(),
            ..Container::default()
        });
        let message = match why {
            StopReason::PodEnds => format!("Stopping container {name}"),
            StopReason::Complete => format!("Stopping sidecar {name}: its pod is complete"),
            StopReason::PostStart => {
                format!("FailedPostStartHook: container {name} is ended")
            }
            StopReason::Failed => format!("Stopping container {name}: its pod has failed"),
            StopReason::Unhealthy => {
                format!("Container {name} failed its probe, will be restarted")
            }
            StopReason::Resized => {
                format!("Container {name} resources changed, will be restarted")
            }
            StopReason::Changed => {
                format!("Container {name} definition changed, will be restarted")
            }
        };
        let stopped_before = self
            .stoppers
            .remove(name)
            .map(|stopper| stopper.abort())
            .is_some();
        if !stopped_before {
            self.node
                .recorder
                .normal(&self.pod, name, "Killing", message);
        }
        let own = container.lifecycle.as_ref();
        let own = own.and_then(|lifecycle| lifecycle.stop_signal.clone());
        let image = self.images.get(name);
        let signal = own.or_else(|| image?.config.stop_signal.clone());
        let stopper = Stopper::start(
            &self.node,
            &self.pod,
            container,
            grace,
            signal,
            !stopped_before,
        );
        self.seen
            .stopping
            .insert(name.to_owned(), clock::now() + grace * SECOND);
        self.stoppers.insert(name.to_owned(), stopper);
    }
}

/// The node gave the pod up before, as the API knows.
fn given_up(status: &PodStatus) -> Option<Failure> {
    let reason = status.reason.as_deref()?;
    let own = matches!(reason, "DeadlineExceeded" | "Evicted");
    (own && status.phase.as_deref() == Some("Failed")).then(|| Failure {
        reason: reason.to_owned(),
        message: status.message.clone().unwrap_or_default(),
        grace: None,
    })
}

/// Attempts that could not be started, as the API knows: nothing on this node tells of them.
fn start_errors(status: Option<&PodStatus>) -> BTreeMap<String, Ended> {
    let lists = status.map(|s| [&s.container_statuses, &s.init_container_statuses]);
    let all = lists.into_iter().flatten().flatten().flatten();
    all.filter_map(|of| {
        let states = [of.state.as_ref(), of.last_state.as_ref()];
        let mut ended = states.into_iter().flatten();
        let ended = ended.find_map(|state| state.terminated.as_ref())?;
        let waits = of
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_none());
        let error = ended.reason.as_deref() == Some("StartError") && waits;
        let attempt = u32::try_from(of.restart_count).unwrap_or(0);
        let finished = ended.finished_at.as_ref();
        let at = finished.map_or(0, |time| time.0.as_second() * SECOND);
        let message = ended.message.as_deref().unwrap_or_default();
        error.then(|| (of.name.clone(), start_error(attempt, message, at)))
    })
    .collect()
}

/// How far a container has come; grows with every attempt and phase.
fn progress(state: &ContainerState) -> (u32, u8) {
    let phase = match state.phase {
        ContainerPhase::Created => 0,
        ContainerPhase::Running => 1,
        ContainerPhase::Exited { .. } => 2,
    };
    (state.spec.attempt, phase)
}
