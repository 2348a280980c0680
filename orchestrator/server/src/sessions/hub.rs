//! What all sessions share: it follows the cluster, numbers what is new, reserves addresses, publishes the network
//! state and decides when a pod's end may be passed on. Sessions are told to look again after each round.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Notify;
use waggle_api::Status;
use waggle_model::Generation;
use waggle_model::network::{NetworkDelta, NetworkState, PerFamily};
use waggle_plan::identity::{Stirred, Wanted};
use waggle_plan::ipam::IpamError;
use waggle_plan::network::Follower;
use waggle_plan::pod::{self, Pod};
use waggle_plan::pod_addresses::Pool;
use waggle_plan::{EventDraft, Scope, Snapshot, Touched, Write};

use super::farewell::{Ending, Farewells};
use super::feed::{Catchup, Feed};
use super::stirred::{self, Nodes};
use super::{Inner, kind};

/// Changes that come within this time are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(2);
/// Acknowledgements that come within this time are looked at together, and within [`A_NODE`] for each node that sends one.
const TOGETHER: Duration = Duration::from_millis(5);
/// Between two network steps, for each node that is told: it takes some 50 us to tell one and to hear that it has it, and there
/// is other work.
const A_NODE: Duration = Duration::from_micros(60);
/// Numbers that nobody has any more are given up after this time: that looks at everybody.
const SWEEP: Duration = Duration::from_secs(2);
/// After a failure, and when nothing happens, it looks again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// An acknowledgement came in, or a session began or ended.
    nudge: Notify,
    /// First number of this server's generations.
    base: Generation,
}

#[derive(Debug)]
struct State {
    feed: Feed,
    published: bool,
    farewells: Farewells,
    ending: Vec<Ending>,
    pool: Pool,
    /// Pods that were told that they get no address.
    refused: HashSet<String>,
    follower: Follower,
    /// Up to where in the snapshot's changes numbers and addresses are given out, and ends known; `None` for nowhere.
    provided: Option<u64>,
    ends_known: Option<u64>,
    /// Up to where sessions were woken.
    woken: Option<u64>,
    /// When numbers that nobody has any more are given up; `None` when nobody has gone.
    sweep_due: Option<Instant>,
    /// How long somebody may have gone before.
    sweep_pause: Duration,
}

impl Hub {
    /// Nothing published. Generations start after `base`: above any that was reached before, so that their order holds
    /// across restarts and servers.
    pub(crate) fn new(base: Generation) -> Self {
        let state = State {
            feed: Feed::new(base),
            published: false,
            farewells: Farewells::default(),
            ending: Vec::new(),
            pool: Pool::default(),
            refused: HashSet::new(),
            follower: Follower::default(),
            provided: None,
            ends_known: None,
            woken: None,
            sweep_due: None,
            sweep_pause: SWEEP,
        };
        Self {
            state: Mutex::new(state),
            nudge: Notify::new(),
            base,
        }
    }

    /// First number of this server's generations.
    pub(crate) fn base(&self) -> u64 {
        self.base.0
    }

    /// The newest network generation.
    pub(crate) fn generation(&self) -> Generation {
        self.lock().feed.current().state.generation
    }

    /// Has it look at acknowledgements and sessions again.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// What brings a node at `at` to the newest network state; `None` before the first is published.
    pub(crate) fn network_since(&self, at: Generation) -> Option<(Catchup, Generation)> {
        let state = self.lock();
        state
            .published
            .then(|| (state.feed.since(at), state.feed.current().state.generation))
    }

    /// Whether a pod's node may be told that it is to end.
    pub(crate) fn may_end(&self, uid: &str) -> bool {
        self.lock().farewells.is_released(uid)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether numbers are to be given up now.
    fn sweeps(&self) -> bool {
        let due = self.lock().sweep_due;
        due.is_some_and(|due| due <= Instant::now())
    }

    fn next_deadline(&self) -> Duration {
        let deadline = self.lock().farewells.next_deadline();
        deadline.map_or(AGAIN, |due| {
            due.saturating_duration_since(Instant::now()).min(AGAIN)
        })
    }
}

/// Follows the cluster for as long as it is polled.
pub(super) async fn keep(inner: Arc<Inner>) {
    let mut changes = inner.view.changes();
    let mut stepped: Option<Instant> = None;
    loop {
        changes.borrow_and_update();
        let settled = provide(&inner).await;
        let ended = Instant::now();
        if let Err(status) = &settled {
            tracing::warn!(error = %status, "the network state is not up to date; trying again");
        }
        let mut waits = settled.is_ok();
        let mut released = ended;
        loop {
            let rest = inner.hub.next_deadline();
            // The first after a silence has nobody to wait for.
            let due = stepped.map_or(ended, |stepped| stepped + A_NODE * inner.links.count());
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.into()), if waits => {
                    waits = false;
                    released = Instant::now();
                    if tell(&inner) {
                        stepped = Some(released);
                    }
                }
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep_until((ended + DEBOUNCE).into()).await;
                    break;
                }
                () = nudged(&inner, released) => {
                    release(&inner);
                    released = Instant::now();
                }
                () = tokio::time::sleep(rest) => {
                    release(&inner);
                    if settled.is_err() || inner.hub.sweeps() {
                        break;
                    }
                }
            }
        }
    }
}

/// Waits until there is something new to release, and a while after it was done last.
async fn nudged(inner: &Inner, last: Instant) {
    let pause = TOGETHER.max(A_NODE * inner.links.count());
    tokio::time::sleep_until((last + pause).into()).await;
    inner.hub.nudge.notified().await;
}

/// Gives out numbers and addresses.
async fn provide(inner: &Inner) -> Result<(), Status> {
    let provided = inner.hub.lock().provided;
    let registry = inner.numbers.registry();
    let (position, stirred, moved) = inner.view.read(|snapshot| {
        let touched = provided.and_then(|from| snapshot.touched_since(from));
        let stirred = touched
            .as_ref()
            .map(|touched| Stirred::by(touched, snapshot, &registry));
        let moved = touched.is_none_or(|touched| touched.into_iter().any(moves_pods));
        (snapshot.position(), stirred, moved)
    });
    {
        let mut state = inner.hub.lock();
        if stirred.as_ref().is_some_and(|stirred| stirred.gone) && state.sweep_due.is_none() {
            state.sweep_due = Some(Instant::now() + state.sweep_pause);
        }
    }
    match stirred {
        Some(stirred) if !stirred.all && !inner.hub.sweeps() => {
            inner.numbers.add(&stirred.new).await?
        }
        _ => {
            let begun = Instant::now();
            let wanted = inner.view.read(Wanted::of);
            inner.numbers.provide(&wanted).await?;
            let mut state = inner.hub.lock();
            state.sweep_due = None;
            state.sweep_pause = SWEEP.max(begun.elapsed() * 20);
        }
    }
    let mut written = Ok(());
    if moved {
        let scope = provided.map_or(Scope::EVERYTHING, Scope::since);
        let found = inner
            .view
            .read(|snapshot| inner.hub.lock().pool.reserve(snapshot, scope));
        for (pod, error) in &found.refused {
            tell_refused(inner, pod, error);
        }
        written = write_addresses(inner, &found.new).await;
    }
    if written.is_ok() {
        inner.hub.lock().provided = Some(position);
    }
    written
}

/// Publishes the network state, wakes the sessions that have something to tell, and passes on ends. True when there is a new
/// network state, which all of them tell.
fn tell(inner: &Inner) -> bool {
    let (nodes, network) = inner.view.read(|snapshot| {
        let network = publish(inner, snapshot);
        let woken = inner.hub.lock().woken.replace(snapshot.position());
        (stirred::since(snapshot, woken), network)
    });
    release(inner);
    inner.links.wake(&nodes, network);
    network
}

/// Whether addresses or ends of pods hang on it.
fn moves_pods(touched: &Touched) -> bool {
    matches!(touched, Touched::Object(key) if key.is("v1", "Pod") || key.is("v1", "Node"))
}

async fn write_addresses(
    inner: &Inner,
    new: &[(Arc<Pod>, PerFamily<IpAddr>)],
) -> Result<(), Status> {
    if new.is_empty() {
        return Ok(());
    }
    let pods = kind("v1", "Pod")?;
    let mut writes = Vec::with_capacity(new.len());
    for (pod, addresses) in new {
        let (namespace, name) = (
            pod.metadata.namespace.as_deref(),
            pod.metadata.name.as_deref(),
        );
        let object = inner.objects.get(
            pods,
            namespace.unwrap_or_default(),
            name.unwrap_or_default(),
        );
        let Some(object) = object.filter(|object| Some(&object.uid) == pod.metadata.uid.as_ref())
        else {
            continue;
        };
        let mut value = object.value.clone();
        let texts = addresses.iter().map(|one| json!({"ip": one.to_string()}));
        value["status"]["podIP"] = json!(addresses.primary().to_string());
        value["status"]["podIPs"] = texts.collect();
        writes.push(Write::UpdateStatus(value));
    }
    for outcome in inner.objects.apply_plan(writes).await {
        match outcome {
            Err(status) if !status.is_conflict() && !status.is_not_found() => return Err(status),
            _ => {}
        }
    }
    let written = *inner.objects.changed().borrow();
    inner.view.reach(written).await;
    Ok(())
}

/// True when there is a new network state.
fn publish(inner: &Inner, snapshot: &Snapshot) -> bool {
    let registry = inner.numbers.registry();
    let mut guard = inner.hub.lock();
    let state = &mut *guard;
    let first = !state.published;
    let pool = &state.pool;
    let before = &state.feed.current().state;
    let delta = state
        .follower
        .advance(before, snapshot, &registry, &|pod| pool.of(pod));
    let governed = (first || moves_policy(&delta)).then(|| policy_of(before));
    let published = state.feed.publish(delta, first);
    if published {
        state.published = true;
        if let Some(before) = governed {
            let before = (!first).then_some(&before);
            let after = &state.feed.current().state;
            inner.enforcement.published(before, after);
        }
    }
    let touched = state
        .ends_known
        .replace(snapshot.position())
        .and_then(|from| snapshot.touched_since(from));
    if touched.is_some_and(|touched| !touched.into_iter().any(moves_pods)) {
        return published;
    }
    let now = inner.objects.now();
    let deleted = snapshot
        .deleted_pods()
        .filter(|pod| pod::node_name(pod).is_some());
    state.ending = deleted.filter_map(|pod| Ending::of(pod, now)).collect();
    let pool_pods: HashSet<String> = state
        .refused
        .iter()
        .filter(|uid| snapshot.meta(uid).is_some())
        .cloned()
        .collect();
    state.refused = pool_pods;
    drop(guard);
    let exists = |node: &str| snapshot.nodes.get("", node).is_some();
    inner.links.retain(exists);
    inner.beats.retain(exists);
    published
}

fn moves_policy(delta: &NetworkDelta) -> bool {
    !delta.identity_upserts.is_empty()
        || !delta.identity_removals.is_empty()
        || !delta.policy_upserts.is_empty()
        || !delta.policy_removals.is_empty()
}

/// What of a state says who is governed how.
fn policy_of(state: &NetworkState) -> NetworkState {
    NetworkState {
        identities: state.identities.clone(),
        policies: state.policies.clone(),
        ..NetworkState::default()
    }
}

/// Passes on the ends that nobody needs to wait for any longer.
fn release(inner: &Inner) {
    inner.enforcement.acknowledged(&inner.links.acknowledged());
    let mut state = inner.hub.lock();
    if state.farewells.holds(&state.ending) {
        drop(state);
        let acknowledged = inner.view.read(|snapshot| {
            let links = &inner.links;
            links.lowest_acknowledged(|node| is_ready(snapshot, node))
        });
        state = inner.hub.lock();
        let State {
            feed,
            farewells,
            ending,
            ..
        } = &mut *state;
        let newest = &feed.current().state;
        let released = farewells.advance(ending, newest, acknowledged, Instant::now());
        drop(state);
        inner.links.wake(&Nodes::Some(released), false);
    }
}

pub(super) fn is_ready(snapshot: &Snapshot, node: &str) -> bool {
    let node = snapshot.nodes.get("", node);
    let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

fn tell_refused(inner: &Inner, pod: &Pod, error: &IpamError) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    if inner.hub.lock().refused.insert(uid) {
        inner.recorder.record(EventDraft {
            object: pod::reference(pod),
            warning: true,
            reason: "FailedAddress",
            message: format!("no address for the pod: {error}"),
            component: "waggle-server",
        });
    }
}
