//! Pods that fit nowhere, and when they are tried again: once something happened that may help against the filters which
//! kept them away, and not sooner than a while after the last time, longer each time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::config::Settings;
use super::plugin::Plugin;
use super::preempt;
use crate::pod::Pod;
use crate::snapshot::Stirs;
use crate::{Plan, Snapshot};

/// After so many seconds a pod is tried whatever happened or not.
const LONGEST_WAIT: i64 = 300;

/// What may help a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Hints(u16);

const NODES: Hints = Hints(1);
const ROOM: Hints = Hints(2);
const LEFT: Hints = Hints(4);
const CAME: Hints = Hints(8);
const ARRIVED: Hints = Hints(16);
const STORAGE: Hints = Hints(32);
const GROUPS: Hints = Hints(64);
const NAMESPACES: Hints = Hints(128);
const JOINED: Hints = Hints(256);

impl Hints {
    /// Helps everybody.
    pub(super) const ALWAYS: Self = JOINED;
    /// For members of a gang that is not all there.
    pub(super) const GANG: Self = Self(ARRIVED.0 | GROUPS.0 | LEFT.0 | CAME.0);

    /// What helps against this filter.
    pub(super) fn of(plugin: Plugin) -> Self {
        match plugin {
            Plugin::NodeUnschedulable | Plugin::TaintToleration | Plugin::NodeAffinity => NODES,
            Plugin::NodePorts | Plugin::NodeResourcesFit => Self(ROOM.0 | LEFT.0),
            Plugin::VolumeRestrictions => Self(STORAGE.0 | LEFT.0),
            Plugin::VolumeBinding | Plugin::VolumeZone => Self(STORAGE.0 | NODES.0),
            Plugin::PodTopologySpread => Self(NODES.0 | LEFT.0 | CAME.0),
            Plugin::InterPodAffinity => Self(NODES.0 | LEFT.0 | CAME.0 | NAMESPACES.0),
            Plugin::NodeResourcesBalancedAllocation
            | Plugin::ImageLocality
            | Plugin::DefaultPreemption => Self(0),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of it happened between the two counts.
    fn happened(self, before: &Stirs, after: &Stirs) -> bool {
        let counts = |all: &Stirs| {
            [
                (NODES, all.nodes),
                (ROOM, all.room),
                (LEFT, all.left),
                (CAME, all.came),
                (ARRIVED, all.arrived),
                (STORAGE, all.storage),
                (GROUPS, all.groups),
                (NAMESPACES, all.namespaces),
                (JOINED, all.joined),
            ]
        };
        let pairs = counts(before).into_iter().zip(counts(after));
        pairs
            .filter(|((hint, _), _)| self.0 & hint.0 != 0)
            .any(|((_, before), (_, after))| before != after)
    }
}

/// The last try of a pod.
#[derive(Debug, Clone)]
struct Tried {
    pod: Arc<Pod>,
    times: u32,
    at: Timestamp,
    stirs: Stirs,
    hints: Hints,
}

/// What a scheduler remembers of pods that it found no node for. One that remembers nothing tries all of them.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    tried: HashMap<String, Tried>,
    /// Gangs that the last plan did not get to, by namespace and name.
    put_off: BTreeSet<(String, String)>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Queue {
    /// Forgets pods that wait no longer.
    pub(super) fn keep(&mut self, waiting: &[&Arc<Pod>]) {
        if self.tried.is_empty() {
            return;
        }
        let uids: std::collections::HashSet<&str> = waiting.iter().map(|pod| uid(pod)).collect();
        self.tried.retain(|uid, _| uids.contains(uid.as_str()));
    }

    /// Whether a pod is to be tried now; if not, `plan` may be asked to come back for it.
    pub(super) fn is_due(
        &self,
        pod: &Pod,
        snapshot: &Snapshot,
        settings: &Settings,
        now: Timestamp,
        plan: &mut Plan,
    ) -> bool {
        let Some(last) = self.tried.get(uid(pod)) else {
            return true;
        };
        // Who was promised a node keeps others off it with every try; and a pod that was changed is another.
        let own = |pod: &Pod| (pod.spec.clone(), pod.metadata.labels.clone());
        if preempt::nominated(pod).is_some()
            || (pod.metadata.resource_version != last.pod.metadata.resource_version
                && own(pod) != own(&last.pod))
        {
            return true;
        }
        let helped = last.hints.happened(&last.stirs, &snapshot.stirs());
        let pause = if helped {
            settings.backoff(last.times)
        } else {
            LONGEST_WAIT
        };
        let due = last.at.checked_add(SignedDuration::from_secs(pause));
        // A clock that was set back must not hold a pod up.
        let due = due.unwrap_or(now);
        if due <= now || last.at > now {
            return true;
        }
        plan.again_at(due, now);
        false
    }

    /// Takes note of a pod that found no node.
    pub(super) fn failed(
        &mut self,
        pod: &Arc<Pod>,
        hints: Hints,
        snapshot: &Snapshot,
        now: Timestamp,
    ) {
        let before = self.tried.get(uid(pod)).map_or(0, |last| last.times);
        let tried = Tried {
            pod: Arc::clone(pod),
            times: before.saturating_add(1),
            at: now,
            stirs: snapshot.stirs(),
            hints,
        };
        self.tried.insert(uid(pod).to_owned(), tried);
    }

    /// Gangs that the last plan did not get to: it is their turn, if they still wait.
    pub(super) fn turns(&mut self) -> BTreeSet<(String, String)> {
        std::mem::take(&mut self.put_off)
    }

    /// Takes note of gangs that were not tried.
    pub(super) fn put_off(&mut self, gangs: BTreeSet<(String, String)>) {
        self.put_off = gangs;
    }

    /// Forgets a pod that found a node.
    pub(super) fn placed(&mut self, pod: &Pod) {
        self.tried.remove(uid(pod));
    }
}
