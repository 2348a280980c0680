//! Signs of life: when nodes spoke last, which is what they are judged by. Their Leases say it to others and to the next
//! leader; they are renewed together, each in good time before it runs out, not at every word.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use waggle_api::{Part, Status};
use waggle_plan::Write;
use waggle_plan::node_lifecycle::LEASE_NAMESPACE;

use super::cadence::Cadence;
use super::{Inner, kind};
use crate::objects::{Object, WriteOptions};

/// A Lease is renewed again after this time.
const PAUSE: Duration = Duration::from_secs(20);
/// Leases that are renewed in a second, at most; with more nodes the pause is longer.
const RENEWALS: u32 = 50;
/// How often it is looked which Leases are to be renewed, and which nodes are silent.
const TICK: Duration = Duration::from_secs(1);

/// The nodes that spoke. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Beats {
    cadence: Arc<Cadence>,
    nodes: Arc<Mutex<HashMap<String, Beat>>>,
}

#[derive(Debug)]
struct Beat {
    /// When the node spoke last.
    heard: Timestamp,
    /// What of that is in its Lease; `None` when that is to be written at its next word.
    written: Option<Timestamp>,
    /// When the Lease was renewed.
    renewed: Instant,
}

impl Beats {
    /// Of nodes that are to speak as `cadence` says.
    pub(crate) fn new(cadence: Arc<Cadence>) -> Self {
        let nodes = Arc::default();
        Self { cadence, nodes }
    }

    /// How long a node may be silent, at least.
    pub(crate) fn grace(&self) -> Duration {
        self.cadence.grace()
    }

    /// The pause between two renewals of a Lease.
    fn pause(&self) -> Duration {
        let nodes = u32::try_from(self.lock().len()).unwrap_or(u32::MAX);
        PAUSE.max(Duration::from_secs((nodes / RENEWALS).into()))
    }

    /// When a node spoke last to this server.
    pub(crate) fn last(&self, node: &str) -> Option<Timestamp> {
        self.lock().get(node).map(|beat| beat.heard)
    }

    /// A node speaks. True when its Lease is to be renewed at once.
    fn heard(&self, node: &str, now: Timestamp) -> bool {
        let mut nodes = self.lock();
        if let Some(beat) = nodes.get_mut(node) {
            beat.heard = now;
            return beat.written.is_none();
        }
        let beat = Beat {
            heard: now,
            written: None,
            renewed: Instant::now(),
        };
        nodes.insert(node.to_owned(), beat);
        true
    }

    /// A node's Lease says `written`.
    fn renewed(&self, node: &str, written: Timestamp) {
        if let Some(beat) = self.lock().get_mut(node) {
            beat.written = Some(written);
            beat.renewed = Instant::now();
        }
    }

    /// The session of a node ended, or its Lease is not what it was: the next word is written at once.
    pub(crate) fn doubt(&self, node: &str) {
        if let Some(beat) = self.lock().get_mut(node) {
            beat.written = None;
        }
    }

    /// Forgets nodes that do not exist any more.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.lock().retain(|node, _| exists(node));
    }

    /// Nodes whose Leases were renewed `pause` ago and that spoke since, and when.
    fn due(&self, pause: Duration) -> Vec<(String, Timestamp)> {
        let nodes = self.lock();
        let news = |beat: &Beat| beat.written.is_some_and(|written| written != beat.heard);
        let due = nodes
            .iter()
            .filter(|(_, beat)| news(beat) && beat.renewed.elapsed() >= pause);
        due.map(|(node, beat)| (node.clone(), beat.heard)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Beat>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in that a node is there.
pub(super) async fn take_in(inner: &Inner, node: &str) -> Result<(), Status> {
    let now = inner.objects.now();
    if inner.beats.heard(node, now) {
        renew(inner, node, now).await?;
        inner.beats.renewed(node, now);
    }
    Ok(())
}

/// Renews Leases for as long as it is polled.
pub(super) async fn keep(inner: &Inner) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        inner
            .links
            .end_silent(inner.beats.grace().as_secs() / TICK.as_secs());
        let pause = inner.beats.pause();
        let due = inner.beats.due(pause);
        if due.is_empty() {
            continue;
        }
        if let Err(status) = renew_all(inner, due, pause).await {
            tracing::warn!(error = %status, "Leases of nodes can't be renewed");
        }
    }
}

async fn renew_all(
    inner: &Inner,
    due: Vec<(String, Timestamp)>,
    pause: Duration,
) -> Result<(), Status> {
    let leases = kind("coordination.k8s.io/v1", "Lease")?;
    let (mut writes, mut nodes) = (Vec::with_capacity(due.len()), Vec::with_capacity(due.len()));
    for (node, heard) in due {
        let Some(lease) = inner.objects.get(leases, LEASE_NAMESPACE, &node) else {
            inner.beats.doubt(&node);
            continue;
        };
        let lease = lease
            .value
            .glance(|lease| renewed(lease, &node, heard, pause));
        writes.push(Write::Update(lease));
        nodes.push((node, heard));
    }
    let outcomes = inner.objects.apply_plan(writes).await;
    for (outcome, (node, heard)) in outcomes.into_iter().zip(nodes) {
        match outcome {
            Ok(()) => inner.beats.renewed(&node, heard),
            Err(status) => {
                tracing::debug!(node, error = %status, "a Lease can't be renewed");
                inner.beats.doubt(&node);
            }
        }
    }
    Ok(())
}

/// Good until the next renewal may be late by a whole pause.
fn renewed(lease: &Value, node: &str, heard: Timestamp, pause: Duration) -> Value {
    let mut lease = lease.clone();
    lease["spec"]["leaseDurationSeconds"] = json!(2 * pause.as_secs());
    lease["spec"]["holderIdentity"] = json!(node);
    lease["spec"]["renewTime"] = json!(micro(heard));
    lease
}

/// Renews a node's Lease, or makes it.
async fn renew(inner: &Inner, node: &str, now: Timestamp) -> Result<(), Status> {
    let leases = kind("coordination.k8s.io/v1", "Lease")?;
    let options = WriteOptions::default();
    let pause = inner.beats.pause();
    if inner.objects.get(leases, LEASE_NAMESPACE, node).is_none() {
        let owner = inner.objects.get(kind("v1", "Node")?, "", node);
        let owner = owner.map(|node| json!([{"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}]));
        let mut lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": LEASE_NAMESPACE, "name": node},
            "spec": {},
        });
        lease = renewed(&lease, node, now, pause);
        if let Some(owner) = owner {
            lease["metadata"]["ownerReferences"] = owner;
        }
        let made = inner.objects.create(leases, lease, &options).await;
        return made.map(drop);
    }
    let change = |lease: &Object| Ok(renewed(&lease.value, node, now, pause));
    let changed = inner
        .objects
        .modify(leases, LEASE_NAMESPACE, node, Part::Main, &options, change);
    changed.await.map(drop)
}

/// As `metav1.MicroTime` prints it.
fn micro(moment: Timestamp) -> String {
    format!("{moment:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn times_are_printed_as_kubernetes_prints_them() {
        assert_eq!(micro(at(0)), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn a_lease_is_renewed_once_for_several_words_and_catches_up_with_the_last() {
        let beats = Beats::new(Arc::new(Cadence::new(Duration::from_secs(3))));
        assert_eq!(beats.last("a"), None);
        assert!(beats.heard("a", at(1)), "the first is written at once");
        beats.renewed("a", at(1));
        assert_eq!(beats.due(Duration::ZERO), [], "it says what was heard");
        assert!(!beats.heard("a", at(4)));
        assert!(!beats.heard("a", at(7)));
        assert_eq!(beats.due(Duration::from_secs(60)), [], "not yet");
        assert_eq!(beats.due(Duration::ZERO), [("a".to_owned(), at(7))]);
        beats.renewed("a", at(7));
        assert_eq!(beats.due(Duration::ZERO), []);
        beats.doubt("a");
        assert_eq!(beats.last("a"), Some(at(7)), "it is judged by what it said");
        assert!(beats.heard("a", at(9)));
        beats.retain(|_| false);
        assert_eq!(beats.last("a"), None);
    }
}
