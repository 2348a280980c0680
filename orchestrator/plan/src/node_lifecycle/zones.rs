//! How fast silent nodes are given up: by zone, slower where too many are silent at once, and not at all when every zone
//! is. What many nodes share is more often the fault of a network, or of the server's own, than of each of them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Taint};

use super::{Settings, condition};
use crate::snapshot::{ZoneNodes, place};
use crate::{Plan, Snapshot, taint};

/// Silent nodes of a zone below which nothing is said of the zone.
const FEW: usize = 2;

/// How much of a zone reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Enough of it.
    Normal,
    /// Too little of it.
    PartialDisruption,
    /// Nothing.
    FullDisruption,
}

/// The nodes of one region and zone.
#[derive(Default)]
struct Zone<'a> {
    ready: usize,
    silent: usize,
    /// When a node of it was last given up, as the nodes that are still tainted show.
    last: Option<Timestamp>,
    /// Silent nodes that are not given up yet: since when, and which.
    waiting: BTreeSet<(Option<Timestamp>, &'a str)>,
}

impl<'a> Zone<'a> {
    fn of(snapshot: &'a Snapshot, nodes: &ZoneNodes, given_up: &mut BTreeSet<&'a str>) -> Self {
        let mut zone = Self {
            ready: nodes.count - nodes.unready.len(),
            ..Self::default()
        };
        let unready = nodes.unready.iter();
        for node in unready.filter_map(|name| snapshot.nodes.get("", name)) {
            zone.add_silent(node, given_up);
        }
        zone
    }

    fn add_silent(&mut self, node: &'a Node, given_up: &mut BTreeSet<&'a str>) {
        self.silent += 1;
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match since_given_up(node) {
            Some(since) => {
                self.last = self.last.max(since);
                given_up.insert(name);
            }
            None => {
                let row = condition(node, "Ready");
                let since = row.and_then(|row| row.last_transition_time.as_ref());
                self.waiting.insert((since.map(|time| time.0), name));
            }
        }
    }

    fn state(&self, settings: &Settings) -> State {
        // Counts of nodes are far below what a float holds exactly.
        let part = self.silent as f64 / (self.ready + self.silent) as f64;
        if self.ready == 0 && self.silent > 0 {
            State::FullDisruption
        } else if self.silent > FEW && part >= settings.unhealthy_zone_threshold {
            State::PartialDisruption
        } else {
            State::Normal
        }
    }

    /// Time between two nodes of it that are given up; `None` for none at all.
    fn pause(&self, settings: &Settings) -> Option<SignedDuration> {
        let large = self.ready + self.silent > settings.large_cluster_size_threshold;
        let rate = match self.state(settings) {
            State::Normal | State::FullDisruption => settings.node_eviction_rate,
            State::PartialDisruption if large => settings.secondary_node_eviction_rate,
            State::PartialDisruption => 0.0,
        };
        (rate > 0.0).then(|| SignedDuration::try_from_secs_f64(1.0 / rate).ok())?
    }
}

/// Which nodes are given up.
pub(super) struct Zones<'a> {
    nobody_reports: bool,
    given_up: BTreeSet<&'a str>,
}

impl<'a> Zones<'a> {
    /// Looks at the nodes that are not ready, and at the `lost` ones that are not known to be silent yet; `plan` is asked
    /// to come back when the next may be given up.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        lost: impl Iterator<Item = &'a Node>,
        now: Timestamp,
        settings: &Settings,
        plan: &mut Plan,
    ) -> Self {
        let mut given_up = BTreeSet::new();
        let counted = snapshot.zones().iter();
        let mut zones: BTreeMap<_, Zone<'a>> = counted
            .map(|(place, zone)| (place.clone(), Zone::of(snapshot, zone, &mut given_up)))
            .collect();
        for node in lost {
            if let Some(zone) = zones.get_mut(&place(node)) {
                zone.ready -= 1;
                zone.add_silent(node, &mut given_up);
            }
        }
        let nobody_reports = zones.values().all(|zone| zone.ready == 0);
        if nobody_reports {
            given_up.clear();
        }
        for zone in zones.values().filter(|_| !nobody_reports) {
            let (Some(pause), Some(&(_, next))) = (zone.pause(settings), zone.waiting.first())
            else {
                continue;
            };
            let free = zone.last.map_or(now, |last| {
                last.checked_add(pause).unwrap_or(Timestamp::MAX)
            });
            if free <= now {
                given_up.insert(next);
            } else {
                plan.again_at(free, now);
            }
        }
        Self {
            nobody_reports,
            given_up,
        }
    }

    /// No node reports: the fault is nearer.
    pub(super) fn nobody_reports(&self) -> bool {
        self.nobody_reports
    }

    /// Whether a silent node's pods are to leave it.
    pub(super) fn gives_up(&self, node: &Node) -> bool {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.given_up.contains(name)
    }
}

/// When this controller gave the node up, if it did.
fn since_given_up(node: &Node) -> Option<Option<Timestamp>> {
    let is = |one: &&Taint| {
        one.effect == "NoExecute" && (one.key == taint::NOT_READY || one.key == taint::UNREACHABLE)
    };
    let rows = taint::of(node).iter().filter(is);
    rows.map(|one| one.time_added.as_ref().map(|time| time.0))
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ready: usize, silent: usize, expect: Option<i64>) {
        let zone = Zone {
            ready,
            silent,
            ..Zone::default()
        };
        let pause = zone.pause(&Settings::default());
        assert_eq!(
            pause.map(|pause| pause.as_secs()),
            expect,
            "{silent} of {} are silent",
            ready + silent
        );
    }

    #[test]
    fn the_more_nodes_are_silent_the_slower_they_are_given_up() {
        check(3, 1, Some(10));
        check(1, 2, Some(10));
        check(3, 3, Some(10));
        check(2, 3, None);
        check(20, 30, None);
        check(27, 33, Some(100));
        check(30, 30, Some(10));
        check(0, 3, Some(10));
    }
}
