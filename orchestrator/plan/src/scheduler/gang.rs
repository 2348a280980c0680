//! Gangs: pods of a PodGroup (scheduling.k8s.io/v1beta1) whose policy is `gang` are bound together, in one write, once
//! `minCount` of them fit at once. A gang that does not fit holds nothing, so two of them never wait for each other. Less
//! important pods go for it when that makes room for enough members, and nobody goes otherwise.
//!
//! What gangs that find no room cost is bounded: those that a plan does not get to are the first in the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1beta1::{PodGroup, PodGroupStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::batch::Batch;
use super::cluster::host_ports;
use super::preempt::{self, Choice, Search};
use super::queue::Hints;
use super::{bind, displace};
use crate::ownership::json;
use crate::pod::{self, Pod};
use crate::{Plan, Snapshot, Write};

/// So many times a node is judged in vain for members of gangs, before the other gangs are put off to the next plan.
const PATIENCE: usize = if cfg!(test) { 10_000 } else { 1_000_000 };
/// A gang is tried so often in one plan, as others find their places.
const TRIES: usize = 3;

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
    tries: usize,
}

impl Gang<'_> {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        self.group.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its namespace and name.
    pub(super) fn key(&self) -> (String, String) {
        let namespace = self.group.metadata.namespace.clone();
        (namespace.unwrap_or_default(), self.name().to_owned())
    }

    /// Whether it is to be tried once more in this plan.
    pub(super) fn tries(&mut self) -> bool {
        self.tries += 1;
        self.tries <= TRIES
    }
}

/// What gangs that found no room cost so far in a plan.
#[derive(Default)]
pub(super) struct Cost(usize);

impl Cost {
    /// Whether the others are put off.
    pub(super) fn is_too_high(&self) -> bool {
        self.0 >= PATIENCE
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

/// Whether two pods are of one group.
pub(super) fn are_one(one: &Pod, other: &Pod) -> bool {
    group_of(one).is_some() && key_of(one) == key_of(other)
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
    let pods = snapshot.pods_in_group(namespace, group);
    let there = pods.filter(|one| pod::is_active(one) && pod::node_name(one).is_some());
    there.count()
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
                tries: 0,
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
        cost: &mut Cost,
    ) -> bool {
        let judged = self.judged;
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
            cost.0 += self.judged - judged;
            return true;
        }
        self.placed.extend(placed.iter().map(|(pod, _)| *pod));
        self.bind_gang(gang, &placed, now, plan);
        (gang.members, gang.needed) = (left, 0);
        !gang.members.is_empty()
    }

    /// Whether less important pods are on their way out for it, and every node that was promised to it may still be had.
    pub(super) fn is_under_way(&mut self, gang: &Gang<'a>) -> bool {
        let members = gang.members.iter().copied();
        let promised: Vec<&'a Arc<Pod>> = members
            .filter(|pod| preempt::nominated(pod).is_some())
            .collect();
        promised.iter().all(|&pod| self.promised(pod).is_some())
            && promised.iter().any(|&pod| self.awaited(pod).is_some())
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
        cost: &mut Cost,
    ) -> Result<Vec<(&'a Arc<Pod>, String)>, String> {
        let policy = gang.group.spec.preemption_policy.as_deref();
        if policy == Some("Never") || gang.members.iter().any(|pod| preempt::is_polite(pod)) {
            return Err("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let judged = self.judged;
        let refused: Vec<bool> = self.classes.iter().map(|class| class.refused).collect();
        let (start, volumes) = (self.start, self.cluster.volumes_taken.clone());
        let ledger = self.ledger.clone();
        let mut seats = Vec::new();
        let mut patience = PATIENCE;
        let outcome = self.seat(gang, &mut seats, &mut patience);
        cost.0 += self.judged - judged + PATIENCE - patience;
        if let Err(why) = outcome {
            for seat in seats.into_iter().rev() {
                self.shift(seat.class, seat.node, -1);
                for victim in seat.victims {
                    let Some(node) = self.cluster.index_of(victim) else {
                        continue;
                    };
                    let (freed, usual) = preempt::together(&[victim]);
                    self.cluster.nodes[node].take(&freed, usual, &host_ports(victim));
                }
            }
            for (index, class) in self.classes.iter_mut().enumerate() {
                class.refused = refused.get(index).copied().unwrap_or(false);
            }
            (self.start, self.cluster.volumes_taken) = (start, volumes);
            self.ledger = ledger;
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

    /// Seats as many members as must run together, whoever has to go for it; why not, when that is not possible. Where
    /// others leave for a member already, it stays.
    fn seat(
        &mut self,
        gang: &Gang<'a>,
        seats: &mut Vec<Seat<'a>>,
        patience: &mut usize,
    ) -> Result<(), String> {
        let own = gang.members.iter().map(|pod| preempt::priority(pod)).min();
        let own = own.unwrap_or(0);
        let (mut moved, mut left) = (Vec::new(), Vec::new());
        let seat = |pod, (class, node), victims| Seat {
            pod,
            class,
            node,
            victims,
        };
        for &pod in &gang.members {
            match self.keep_seat(pod) {
                Some(place) => seats.push(seat(pod, place, Vec::new())),
                None => moved.push(pod),
            }
        }
        for pod in moved {
            match self.place(pod) {
                Some(place) => seats.push(seat(pod, place, Vec::new())),
                None => left.push(pod),
            }
        }
        let mut searches: BTreeMap<usize, Search> = BTreeMap::new();
        let mut freed = BTreeSet::new();
        for pod in left {
            if seats.len() >= gang.needed {
                break;
            }
            let class = self.class_of(pod);
            if !self.classes[class].profile.preempts() {
                return Err("not asked for by the scheduler's profile.".to_owned());
            }
            self.classes[class].prepare();
            // Who went for another member may have left room for this one too.
            while let Some(&node) = freed.first() {
                if self.classes[class].judge(&self.cluster, node).is_none() {
                    break;
                }
                freed.pop_first();
            }
            if let Some(&node) = freed.first() {
                self.shift(class, node, 1);
                seats.push(seat(pod, (class, node), Vec::new()));
                continue;
            }
            let search = searches.entry(class).or_default();
            let (cluster, one) = (&self.cluster, &self.classes[class]);
            let Choice { node, victims } =
                search.next(cluster, one, (pod, own), &self.ledger, patience)?;
            self.vacate(&victims);
            let nodes = victims.iter().filter_map(|one| self.cluster.index_of(one));
            freed.extend(nodes);
            self.shift(class, node, 1);
            seats.push(seat(pod, (class, node), victims));
        }
        Ok(())
    }

    /// Class and node of a member for which less important pods leave a node already, with the member counted there.
    fn keep_seat(&mut self, pod: &'a Arc<Pod>) -> Option<(usize, usize)> {
        let node = self.awaited(pod)?;
        let class = self.class_of(pod);
        self.classes[class].prepare();
        let (cluster, own) = (&self.cluster, preempt::priority(pod));
        let leaving = preempt::leaving(cluster.snapshot, cluster.nodes[node].name, own);
        let why_not = self.classes[class].judge_without(cluster, node, &leaving);
        why_not.is_none().then(|| {
            self.shift(class, node, 1);
            (class, node)
        })
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
