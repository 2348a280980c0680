//! Nodes by region and zone, with those at hand that are not ready: who judges zones need not look at every node.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Node;

use crate::scheduler::is_ready;

/// Region and zone; empty where a node says none.
type Place = (String, String);

/// The nodes of one region and zone that nobody deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ZoneNodes {
    /// All of them.
    pub(crate) count: usize,
    /// Names of those whose Ready condition is not True.
    pub(crate) unready: BTreeSet<String>,
}

/// All zones that have a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zones(BTreeMap<Place, ZoneNodes>);

impl Zones {
    pub(super) fn add(&mut self, node: &Node) {
        if node.metadata.deletion_timestamp.is_some() {
            return;
        }
        let zone = self.0.entry(place(node)).or_default();
        zone.count += 1;
        if !is_ready(node) {
            zone.unready.insert(name(node).to_owned());
        }
    }

    /// Takes out a node that was added as it is.
    pub(super) fn take(&mut self, node: &Node) {
        let place = place(node);
        let there = node.metadata.deletion_timestamp.is_none();
        let Some(zone) = self.0.get_mut(&place).filter(|_| there) else {
            return;
        };
        zone.count -= 1;
        zone.unready.remove(name(node));
        if zone.count == 0 {
            self.0.remove(&place);
        }
    }

    /// By region and zone.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Place, &ZoneNodes)> {
        self.0.iter()
    }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

/// Region and zone of a node.
pub(crate) fn place(node: &Node) -> Place {
    let label = |key: &str| {
        let labels = node.metadata.labels.as_ref();
        let text = labels.and_then(|labels| labels.get(key));
        text.cloned().unwrap_or_default()
    };
    (
        label("topology.kubernetes.io/region"),
        label("topology.kubernetes.io/zone"),
    )
}
