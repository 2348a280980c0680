//! Counts of what happens in a cluster that may help a pod which fits nowhere, so that its scheduler knows without looking
//! whether to try again. Which filter is helped by what is the scheduler's.

use k8s_openapi::api::core::v1::Node;

use crate::pod::{self, Pod};
use crate::scheduler::is_ready;

/// How often each sort of thing has happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stirs {
    /// A node came or went, or its labels, taints, cordon or readiness changed.
    pub nodes: u64,
    /// A node came.
    pub joined: u64,
    /// A node gives another amount of something.
    pub room: u64,
    /// A pod that was on a node went, ended, is to end, or asks for something else.
    pub left: u64,
    /// A pod came to a node, or one there has other labels.
    pub came: u64,
    /// A pod came that has no node.
    pub arrived: u64,
    /// A volume, claim or class changed.
    pub storage: u64,
    /// A group of pods changed.
    pub groups: u64,
    /// A namespace changed.
    pub namespaces: u64,
}

impl Stirs {
    /// Counts a change of an object of this kind; those of pods and nodes are told apart by what they were.
    pub(super) fn other(&mut self, kind: &str) {
        match kind {
            "PersistentVolume" | "PersistentVolumeClaim" | "StorageClass" => self.storage += 1,
            "PodGroup" => self.groups += 1,
            "Namespace" => self.namespaces += 1,
            _ => {}
        }
    }

    /// Counts a change of a pod.
    pub(super) fn pod(&mut self, before: Option<&Pod>, after: Option<&Pod>) {
        let there = |one: &&Pod| pod::node_name(one).is_some() && !pod::is_terminated(one);
        match (before.filter(there), after.filter(there)) {
            (Some(_), None) => self.left += 1,
            (None, Some(_)) => self.came += 1,
            (Some(before), Some(after)) => {
                let changed = before.metadata.generation != after.metadata.generation;
                self.left += u64::from(changed || pod::is_active(before) != pod::is_active(after));
                self.came += u64::from(before.metadata.labels != after.metadata.labels);
            }
            (None, None) => {}
        }
        self.arrived += u64::from(before.is_none() && after.is_some_and(|one| !there(&one)));
    }

    /// Counts a change of a node.
    pub(super) fn node(&mut self, before: Option<&Node>, after: Option<&Node>) {
        let (Some(before), Some(after)) = (before, after) else {
            self.nodes += 1;
            self.joined += u64::from(after.is_some());
            return;
        };
        let place = |node: &Node| {
            let spec = node.spec.as_ref();
            let taints = spec.and_then(|spec| spec.taints.clone());
            let cordoned = spec.and_then(|spec| spec.unschedulable);
            let ready = is_ready(node);
            (node.metadata.labels.clone(), taints, cordoned, ready)
        };
        let gives = |node: &Node| {
            let status = node.status.as_ref();
            status.map(|status| (status.allocatable.clone(), status.capacity.clone()))
        };
        let changed = place(before) != place(after)
            || before.metadata.deletion_timestamp != after.metadata.deletion_timestamp;
        self.nodes += u64::from(changed);
        self.room += u64::from(gives(before) != gives(after));
    }
}
