//! Gangs: pods of a PodGroup (scheduling.k8s.io/v1beta1) whose policy is `gang` are bound together, in one write, once
//! `minCount` of them fit at once. A gang that does not fit holds nothing, so two of them never wait for each other. Less
//! important pods go for it when that makes room for enough members, and nobody goes otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1beta1::{PodGroup, PodGroupStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::batch::Batch;
use super::cluster::host_ports;
use super::preempt::{self, Choice};
use super::queue::Hints;
use super::{bind, displace};
use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::{Plan, Snapshot, Write};

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

impl Gang<'_> {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.group.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether less important pods are on their way out for it already.
    pub(super) fn is_under_way(&self, snapshot: &Snapshot) -> bool {
        let mut members = self.members.iter();
        members.any(|pod| preempt::is_under_way(snapshot, pod))
    }
}

/// A member of a gang, as a preemption places it.
struct Seat<'a> {
    pod: &'a Arc<Pod>,
    class: usize,
    node: usize,
    /// Who goes for it.
    victims: Vec<&'a Arc<Pod>>,
}

/// The group that a pod belongs to.
pub(crate) fn group_of(pod: &Pod) -> Option<&str> {
    let group = pod.spec.as_ref()?.scheduling_group.as_ref()?;
    group.pod_group_name.as_deref()
}

/// Namespace and name of a pod's group.
pub(super) fn key_of(pod: &Pod) -> (&str, &str) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    (namespace, group_of(pod).unwrap_or_default())
}

/// How many pods of a gang are to run together; `None` for a group whose pods are placed one by one.
pub(crate) fn least(group: &PodGroup) -> Option<usize> {
    let policy = &group.spec.scheduling_policy;
    policy
        .gang
        .as_ref()
        .map(|gang| usize::try_from(gang.min_count).unwrap_or(0))
}

/// Active pods of a group that have nodes.
pub(crate) fn bound(snapshot: &Snapshot, namespace: &str, group: &str) -> usize {
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
            let name = gang.name();
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
            let name = gang.name();
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

    /// Keeps room for the members where it was promised to them, until those who leave are gone.
    pub(super) fn keep_promises(&mut self, gang: &Gang<'a>) {
        for &pod in &gang.members {
            self.keep_promise(pod);
        }
    }

    /// Ends less important pods where that makes room for as many members as must run together; answers where each of
    /// these is to be, or why nobody goes. Those who would go for one member on one node are chosen as for a single pod,
    /// and members that fit without come first.
    pub(super) fn preempt_gang(
        &mut self,
        gang: &Gang<'a>,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<Vec<(&'a Arc<Pod>, String)>, String> {
        if gang.members.iter().any(|pod| preempt::is_polite(pod)) {
            return Err("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let refused: Vec<bool> = self.classes.iter().map(|class| class.refused).collect();
        let (start, volumes) = (self.start, self.cluster.volumes_taken.clone());
        let doomed = self.doomed.clone();
        let mut seats = Vec::new();
        let outcome = self.seat(gang, &mut seats);
        if let Err(why) = outcome {
            for seat in seats.into_iter().rev() {
                self.shift(seat.class, seat.node, -1);
                let (freed, usual) = preempt::together(&seat.victims);
                let victims = seat.victims.iter();
                let ports: Vec<_> = victims.flat_map(|victim| host_ports(victim)).collect();
                self.cluster.nodes[seat.node].take(&freed, usual, &ports);
            }
            for (index, class) in self.classes.iter_mut().enumerate() {
                class.refused = refused.get(index).copied().unwrap_or(false);
            }
            (self.start, self.cluster.volumes_taken) = (start, volumes);
            self.doomed = doomed;
            return Err(why);
        }
        let promises = seats.into_iter().map(|seat| {
            let node = self.cluster.nodes[seat.node].name;
            for victim in seat.victims {
                displace(victim, seat.pod, node, now, plan);
            }
            (seat.pod, node.to_owned())
        });
        Ok(promises.collect())
    }

    /// Seats as many members as must run together, whoever has to go for it; why not, when that is not possible.
    fn seat(&mut self, gang: &Gang<'a>, seats: &mut Vec<Seat<'a>>) -> Result<(), String> {
        let own = gang.members.iter().map(|pod| preempt::priority(pod)).min();
        let own = own.unwrap_or(0);
        let mut left = Vec::new();
        for &pod in &gang.members {
            match self.place(pod) {
                Some((class, node)) => seats.push(Seat {
                    pod,
                    class,
                    node,
                    victims: Vec::new(),
                }),
                None => left.push(pod),
            }
        }
        for pod in left {
            if seats.len() >= gang.needed {
                break;
            }
            let class = self.class_of(pod);
            if !self.classes[class].profile.preempts() {
                return Err("not asked for by the scheduler's profile.".to_owned());
            }
            self.classes[class].prepare();
            let chosen = preempt::choose(&self.cluster, &self.classes[class], own, &self.doomed);
            let Choice { node, victims } = chosen?;
            let (freed, usual) = preempt::together(&victims);
            self.cluster.nodes[node].give_back(&freed, usual);
            let uids = victims.iter().filter_map(|one| one.metadata.uid.clone());
            self.doomed.extend(uids);
            self.shift(class, node, 1);
            seats.push(Seat {
                pod,
                class,
                node,
                victims,
            });
        }
        Ok(())
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
