//! Gangs: pods of a PodGroup (scheduling.k8s.io/v1beta1) whose policy is `gang` are bound together, in one write, once
//! `minCount` of them fit at once. A gang that does not fit holds nothing, so two of them never wait for each other. Its
//! members displace nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::{PodGroup, PodGroupStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::batch::Batch;
use super::bind;
use super::queue::Hints;
use crate::ownership::json;
use crate::{Plan, Snapshot, Write, pod};

/// Condition of a PodGroup that had enough of its pods bound once.
const SCHEDULED: &str = "PodGroupInitiallyScheduled";

/// What finds its place as one.
pub(super) enum Unit<'a> {
    One(&'a Arc<Pod>),
    Gang(Gang<'a>),
}

/// Members of a gang that wait for nodes.
pub(super) struct Gang<'a> {
    group: &'a PodGroup,
    pub(super) members: Vec<&'a Arc<Pod>>,
    /// So many of them must find nodes at once.
    needed: usize,
    /// Why they did not, and what may help.
    pub(super) refusal: (String, Hints),
}

/// The group that a pod belongs to.
pub(super) fn group_of(pod: &Pod) -> Option<&str> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?;
    group.pod_group_name.as_deref()
}

/// Namespace and name of a pod's group.
pub(super) fn key_of(pod: &Pod) -> (&str, &str) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    (namespace, group_of(pod).unwrap_or_default())
}

/// How many pods of a gang are to run together; `None` for a group whose pods are placed one by one.
fn least(group: &PodGroup) -> Option<usize> {
    let policy = &group.spec.scheduling_policy;
    policy
        .gang
        .as_ref()
        .map(|gang| usize::try_from(gang.min_count).unwrap_or(0))
}

/// Active pods of a group that have nodes.
fn bound(snapshot: &Snapshot, namespace: &str, group: &str) -> usize {
    let pods = snapshot.pods.in_namespace(namespace);
    let members = pods.filter(|one| group_of(one) == Some(group) && pod::is_active(one));
    members.filter(|one| pod::node_name(one).is_some()).count()
}

/// Waiting pods, in their order, gangs at the place of their first; and those whose gang is not there yet, with why.
pub(super) fn units<'a>(
    snapshot: &'a Snapshot,
    waiting: Vec<&'a Arc<Pod>>,
) -> (Vec<Unit<'a>>, Vec<(&'a Arc<Pod>, String)>) {
    let (mut units, mut held) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for pod in waiting {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(name) = group_of(pod) else {
            units.push(Unit::One(pod));
            continue;
        };
        let Some(group) = snapshot.pod_groups.get(namespace, name) else {
            held.push((pod, format!("waiting for pod group {name:?} to appear")));
            continue;
        };
        let Some(least) = least(group) else {
            units.push(Unit::One(pod));
            continue;
        };
        let index = *known.entry((namespace, name)).or_insert_with(|| {
            units.push(Unit::Gang(Gang {
                group,
                members: Vec::new(),
                needed: least.saturating_sub(bound(snapshot, namespace, name)),
                refusal: (String::new(), Hints::GANG),
            }));
            units.len() - 1
        });
        if let Unit::Gang(gang) = &mut units[index] {
            gang.members.push(pod);
        }
    }
    units.retain(|unit| match unit {
        Unit::Gang(gang) if gang.members.len() < gang.needed => {
            let name = gang.group.metadata.name.as_deref().unwrap_or_default();
            let why = format!("waiting for minCount pods from a gang {name:?} to appear");
            held.extend(gang.members.iter().map(|pod| (*pod, why.clone())));
            false
        }
        _ => true,
    });
    (units, held)
}

impl<'a> Batch<'a> {
    /// Places as many members as must be placed at once, or none. True when some are left.
    pub(super) fn place_gang(
        &mut self,
        gang: &mut Gang<'a>,
        now: Timestamp,
        plan: &mut Plan,
    ) -> bool {
        let refused: Vec<bool> = self.classes.iter().map(|class| class.refused).collect();
        let (start, volumes) = (self.start, self.cluster.volumes_taken.clone());
        let (mut placed, mut left) = (Vec::new(), Vec::new());
        for &pod in &gang.members {
            match self.place(pod) {
                Some(place) => placed.push((pod, place)),
                None => left.push(pod),
            }
        }
        if let Some(pod) = left.first() {
            let index = self.class_of(pod);
            let name = gang.group.metadata.name.as_deref().unwrap_or_default();
            let (mut message, hints) = self.reasons(index);
            if placed.len() < gang.needed {
                let (fit, needed) = (placed.len(), gang.needed);
                let more = format!(
                    " pod group {name:?}: {fit} of {needed} pods that must run together fit."
                );
                message.push_str(&more);
            }
            gang.refusal = (message, hints.and(Hints::GANG));
        }
        if placed.len() < gang.needed {
            for (_, (class, node)) in placed.into_iter().rev() {
                self.shift(class, node, -1);
            }
            for (index, class) in self.classes.iter_mut().enumerate() {
                class.refused = refused.get(index).copied().unwrap_or(false);
            }
            (self.start, self.cluster.volumes_taken) = (start, volumes);
            return true;
        }
        self.placed.extend(placed.iter().map(|(pod, _)| *pod));
        self.bind_gang(gang, &placed, now, plan);
        (gang.members, gang.needed) = (left, 0);
        !gang.members.is_empty()
    }

    /// Binds them, unless one still waits for its volumes: then all do.
    fn bind_gang(
        &mut self,
        gang: &Gang<'a>,
        placed: &[(&'a Arc<Pod>, (usize, usize))],
        now: Timestamp,
        plan: &mut Plan,
    ) {
        let mut told = Vec::new();
        let mut whole = true;
        for &(pod, (_, node)) in placed {
            let node = self.cluster.nodes[node].name;
            if let Some(claims) = self.claims_to_tell(pod, node) {
                whole = false;
                told.extend(claims);
            }
        }
        plan.writes.extend(told);
        if !whole || placed.is_empty() {
            return;
        }
        let binds = placed.iter().map(|&(pod, (_, node))| {
            let node = self.cluster.nodes[node].name;
            bind(pod, node, &mut plan.events)
        });
        let binds = binds.collect();
        plan.writes.push(Write::Gang(binds));
        if let Some(group) = scheduled(gang.group, now) {
            plan.writes.push(Write::UpdateStatus(json(&group)));
        }
    }
}

/// The group with the condition that it was scheduled once, which it keeps.
fn scheduled(group: &PodGroup, now: Timestamp) -> Option<PodGroup> {
    let mut status: PodGroupStatus = group.status.clone().unwrap_or_default();
    let rows = status.conditions.get_or_insert_default();
    if rows
        .iter()
        .any(|row| row.type_ == SCHEDULED && row.status == "True")
    {
        return None;
    }
    rows.retain(|row| row.type_ != SCHEDULED);
    rows.push(Condition {
        type_: SCHEDULED.to_owned(),
        status: "True".to_owned(),
        reason: "Scheduled".to_owned(),
        message: "minCount pods were bound at once".to_owned(),
        last_transition_time: Time(now),
        observed_generation: group.metadata.generation,
    });
    Some(PodGroup {
        status: Some(status),
        ..group.clone()
    })
}
