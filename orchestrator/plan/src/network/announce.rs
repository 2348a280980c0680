//! Which node answers ARP and neighbour solicitations for a load balancer's address. By rendezvous hashing (Thaler and
//! Ravishankar, 1998) over the nodes that may: each address has one, addresses spread over nodes, and when a node comes
//! or goes only the addresses move that it wins or leaves. No state is kept.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node;
use waggle_model::network::NodeNetwork;

use crate::ids::fnv32;
use crate::{Ids, Snapshot, load_balancer};

/// Label of a node that load balancers leave out.
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The nodes that may announce: ready, staying, with a network, not left out by label.
#[derive(Debug)]
pub(super) struct Announcers<'a> {
    nodes: Vec<&'a NodeNetwork>,
    /// Addresses that load balancers have.
    balanced: BTreeSet<IpAddr>,
}

impl<'a> Announcers<'a> {
    pub(super) fn of(snapshot: &Snapshot, networks: &'a BTreeMap<String, NodeNetwork>) -> Self {
        let may = |name: &str| {
            snapshot
                .nodes
                .get("", name)
                .is_some_and(|node| may_announce(node))
        };
        let nodes = networks.values().filter(|node| may(&node.name)).collect();
        let balanced = snapshot.services.iter();
        Self {
            nodes,
            balanced: balanced
                .flat_map(|one| load_balancer::addresses(one))
                .collect(),
        }
    }

    /// None, for Services that have no address to announce.
    pub(super) fn nobody() -> Self {
        Self {
            nodes: Vec::new(),
            balanced: BTreeSet::new(),
        }
    }

    /// Whether a load balancer has `address`: no other Service can have it by naming it.
    pub(super) fn is_balanced(&self, address: IpAddr) -> bool {
        self.balanced.contains(&address)
    }

    /// The node that announces `address` when every one of them may.
    pub(super) fn anywhere(&self, address: IpAddr) -> Option<&'a str> {
        self.choose(address, |_| true)
    }

    /// The node that announces `address` when only those of `serving` may.
    pub(super) fn among(&self, serving: &BTreeSet<&str>, address: IpAddr) -> Option<&'a str> {
        self.choose(address, |name| serving.contains(name))
    }

    fn choose(&self, address: IpAddr, may: impl Fn(&str) -> bool) -> Option<&'a str> {
        let able = self.nodes.iter().map(|node| (*node, node.name.as_str()));
        let able = able.filter(|(node, name)| node.address_like(address).is_some() && may(name));
        let best = able.max_by_key(|(_, name)| (weight(name, address), Reverse(*name)));
        best.map(|(_, name)| name)
    }
}

/// Evenly spread, the same on every server.
fn weight(node: &str, address: IpAddr) -> u64 {
    let text = address.to_string();
    let seed = fnv32(&[node.as_bytes(), b"/", text.as_bytes()]);
    Ids::new(u64::from(seed)).number()
}

pub(super) fn may_announce(node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let conditions = node
        .status
        .iter()
        .flat_map(|one| one.conditions.iter().flatten());
    let mut ready = conditions.filter(|one| one.type_ == "Ready");
    ready.any(|one| one.status == "True")
        && node.metadata.deletion_timestamp.is_none()
        && !labels.is_some_and(|labels| labels.contains_key(EXCLUDED_LABEL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(count: usize) -> BTreeMap<String, NodeNetwork> {
        let node = |index: usize| NodeNetwork {
            name: format!("node{index}"),
            addresses: vec![[172, 30, 0, 10].into()],
            ..NodeNetwork::default()
        };
        (0..count)
            .map(node)
            .map(|node| (node.name.clone(), node))
            .collect()
    }

    fn chosen(nodes: &[&NodeNetwork]) -> Vec<String> {
        let announcers = Announcers {
            nodes: nodes.to_vec(),
            balanced: BTreeSet::new(),
        };
        let address = |last: u8| IpAddr::from([172, 30, 1, last]);
        let of = |last| announcers.anywhere(address(last)).unwrap().to_owned();
        (0..=255).map(of).collect()
    }

    #[test]
    fn addresses_spread_and_move_only_with_their_node() {
        let networks = networks(8);
        let all: Vec<&NodeNetwork> = networks.values().collect();
        let before = chosen(&all);
        for node in networks.keys() {
            let count = before.iter().filter(|one| *one == node).count();
            assert!((10..=60).contains(&count), "{node} has {count} of 256");
        }
        let after = chosen(&all[1..]);
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == all[0].name);
            assert_ne!(*after, all[0].name);
        }
    }

    #[test]
    fn nobody_announces_what_nobody_may() {
        let networks = networks(2);
        let announcers = Announcers {
            nodes: networks.values().collect(),
            balanced: BTreeSet::new(),
        };
        assert_eq!(announcers.anywhere("fd00::1".parse().unwrap()), None);
        let address = [172, 30, 1, 1].into();
        assert_eq!(announcers.among(&BTreeSet::new(), address), None);
        assert_eq!(
            announcers.among(&BTreeSet::from(["node1", "gone"]), address),
            Some("node1")
        );
    }
}
