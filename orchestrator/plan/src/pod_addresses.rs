//! Which pod has which address. Every node has a range; every pod of it that is not on the host's network gets an
//! address from it, written to the pod's status before anybody is told, so that a restart gives none twice.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use waggle_model::network::{Cidr, PerFamily};

use crate::ipam::{IpamError, PodAddresses};
use crate::pod::{self, Pod};
use crate::{Scope, Snapshot};

/// Addresses in use, by node and family.
#[derive(Debug, Default)]
pub struct Pool {
    nodes: HashMap<String, Vec<PodAddresses>>,
}

/// What became of a look at the snapshot.
#[derive(Debug, Default)]
pub struct Reservations {
    /// To be written into the pods' status.
    pub new: Vec<(Arc<Pod>, PerFamily<IpAddr>)>,
    /// Pods that can't have one now.
    pub refused: Vec<(Arc<Pod>, IpamError)>,
}

impl Pool {
    /// Learns the addresses that pods have, takes back those of pods that are gone, and reserves one for each pod
    /// that is bound and has none. The same pod gets the same address until it is gone, written or not. Nodes are looked at
    /// that `scope` touches; what could not be written is to be asked for by the same scope again.
    pub fn reserve(&mut self, snapshot: &Snapshot, scope: Scope) -> Reservations {
        let mut found = Reservations::default();
        self.nodes
            .retain(|name, _| snapshot.nodes.get("", name).is_some());
        for node in snapshot.in_scope(scope, &snapshot.nodes, &[]) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let Some(ranges) = ranges(node) else {
                continue;
            };
            let books = self.nodes.entry(name.to_owned()).or_default();
            let known = books.iter().map(PodAddresses::range);
            if !known.eq(ranges.iter()) {
                *books = ranges.iter().map(PodAddresses::new).collect();
            }
            level(
                books,
                snapshot.pods_on(name).filter(|pod| !on_host_network(pod)),
                &mut found,
            );
        }
        found
    }

    /// How many pods have addresses.
    #[cfg(test)]
    fn books(&self) -> usize {
        let firsts = self.nodes.values().filter_map(|books| books.first());
        firsts.map(|book| book.iter().count()).sum()
    }

    /// The addresses that a pod has.
    pub fn of(&self, pod: &Pod) -> Option<PerFamily<IpAddr>> {
        let books = self.nodes.get(pod::node_name(pod)?)?;
        of(books, uid(pod))
    }
}

/// What `uid` has of each family.
fn of(books: &[PodAddresses], uid: &str) -> Option<PerFamily<IpAddr>> {
    PerFamily::of(books.iter().filter_map(|book| book.of(uid)))
}

fn ranges(node: &Node) -> Option<PerFamily<Cidr>> {
    let spec = node.spec.as_ref()?;
    let texts = match &spec.pod_cidrs {
        Some(texts) if !texts.is_empty() => texts.clone(),
        _ => vec![spec.pod_cidr.clone()?],
    };
    PerFamily::of(texts.iter().filter_map(|text| text.parse().ok()))
}

fn level<'a>(
    books: &mut [PodAddresses],
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    found: &mut Reservations,
) {
    let pods: Vec<(&str, &Arc<Pod>)> = pods.map(|pod| (uid(pod), pod)).collect();
    let living: HashSet<&str> = pods.iter().map(|(uid, _)| *uid).collect();
    for book in books.iter_mut() {
        let gone: Vec<String> = book
            .iter()
            .map(|(uid, _)| uid.to_owned())
            .filter(|uid| !living.contains(uid.as_str()))
            .collect();
        for uid in gone {
            book.release(&uid);
        }
    }
    let (with, without): (Vec<_>, Vec<_>) = pods
        .into_iter()
        .partition(|(_, pod)| addresses(pod).is_some());
    for (uid, pod) in with {
        for address in addresses(pod).iter().flat_map(PerFamily::iter) {
            let same =
                |book: &&mut PodAddresses| book.range().address().is_ipv4() == address.is_ipv4();
            if let Some(book) = books.iter_mut().find(same)
                && let Err(error) = book.claim(uid, address)
            {
                found.refused.push((Arc::clone(pod), error));
            }
        }
    }
    for (uid, pod) in without
        .into_iter()
        .filter(|(_, pod)| !pod::is_terminated(pod))
    {
        let assigned: Result<Vec<IpAddr>, IpamError> =
            books.iter_mut().map(|book| book.assign(uid)).collect();
        match assigned.map(PerFamily::of) {
            Ok(Some(addresses)) => found.new.push((Arc::clone(pod), addresses)),
            Ok(None) => {}
            Err(error) => {
                for book in books.iter_mut() {
                    book.release(uid);
                }
                found.refused.push((Arc::clone(pod), error));
            }
        }
    }
}

/// The pod's own addresses, once it has them, the primary first.
pub fn addresses(pod: &Pod) -> Option<PerFamily<IpAddr>> {
    let status = pod.status.as_ref()?;
    let primary: IpAddr = status.pod_ip.as_deref()?.parse().ok()?;
    let listed = status.pod_ips.iter().flatten();
    let other = listed
        .filter_map(|one| one.ip.parse::<IpAddr>().ok())
        .find(|address| address.is_ipv4() != primary.is_ipv4());
    PerFamily::of([primary].into_iter().chain(other))
}

/// Uses its node's network instead of its own.
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true))
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn snapshot(pods: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::new([("v1", "Pod")]);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": "n"},
                          "spec": {"podCIDR": "10.244.1.0/29"}});
        snapshot.upsert(&node).unwrap();
        pods.iter().for_each(|pod| snapshot.upsert(pod).unwrap());
        snapshot
    }

    fn pod(uid: &str, ip: Option<&str>) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": uid, "uid": uid},
               "spec": {"nodeName": "node1", "containers": []}, "status": {"podIP": ip}})
    }

    fn given(reservations: &Reservations) -> Vec<String> {
        let text =
            |(pod, addresses): &(Arc<Pod>, PerFamily<IpAddr>)| format!("{}={addresses}", uid(pod));
        reservations.new.iter().map(text).collect()
    }

    #[test]
    fn an_address_is_kept_while_unwritten_and_learnt_when_written() {
        let mut pool = Pool::default();
        let first = pool.reserve(
            &snapshot(&[pod("a", None), pod("b", Some("10.244.1.2"))]),
            Scope::EVERYTHING,
        );
        assert_eq!(
            given(&first),
            ["a=10.244.1.3"],
            "b's was learnt before a got one"
        );
        let again = pool.reserve(
            &snapshot(&[pod("a", None), pod("b", Some("10.244.1.2"))]),
            Scope::EVERYTHING,
        );
        assert_eq!(given(&again), ["a=10.244.1.3"]);
        let written = pool.reserve(
            &snapshot(&[pod("a", Some("10.244.1.3")), pod("b", Some("10.244.1.2"))]),
            Scope::EVERYTHING,
        );
        assert!(written.new.is_empty() && written.refused.is_empty());
        assert_eq!(pool.books(), 2);
    }

    #[test]
    fn pods_that_come_go_and_change_touch_their_node() {
        let mut pool = Pool::default();
        let mut snapshot = snapshot(&[]);
        let mut turn = |snapshot: &mut Snapshot, change: &dyn Fn(&mut Snapshot)| {
            let seen = snapshot.position();
            change(snapshot);
            given(&pool.reserve(snapshot, Scope::since(seen)))
        };
        let put = |pod: Value| move |snapshot: &mut Snapshot| snapshot.upsert(&pod).unwrap();
        assert_eq!(turn(&mut snapshot, &put(pod("a", None))), ["a=10.244.1.2"]);
        assert!(turn(&mut snapshot, &|_| {}).is_empty());
        let mut labelled = pod("a", None);
        labelled["metadata"]["labels"] = json!({"app": "web"});
        assert_eq!(
            turn(&mut snapshot, &put(labelled)),
            ["a=10.244.1.2"],
            "its address was not written"
        );
        turn(&mut snapshot, &put(pod("a", Some("10.244.1.2"))));
        turn(&mut snapshot, &|snapshot| {
            snapshot.remove("v1", "Pod", "shop", "a")
        });
        turn(&mut snapshot, &put(pod("b", Some("10.244.1.2"))));
        assert_eq!(pool.books(), 1);
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let mut pool = Pool::default();
        pool.reserve(
            &snapshot(&[pod("a", Some("10.244.1.2"))]),
            Scope::EVERYTHING,
        );
        let next = pool.reserve(&snapshot(&[pod("b", None)]), Scope::EVERYTHING);
        assert_eq!(given(&next), ["b=10.244.1.3"]);
    }

    #[test]
    fn a_dual_stack_pod_has_one_address_of_each_family_or_none() {
        let mut pool = Pool::default();
        let mut snapshot = snapshot(&[pod("a", None), pod("b", None)]);
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "uid": "n"},
                          "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00::/126"]}});
        snapshot.upsert(&node).unwrap();
        let found = pool.reserve(&snapshot, Scope::EVERYTHING);
        assert_eq!(given(&found), ["a=10.244.1.2,fd00::2"]);
        assert_eq!(found.refused.len(), 1, "the IPv6 range is full");
        assert_eq!(pool.books(), 1);
    }

    #[test]
    fn a_full_range_is_said_and_the_host_network_needs_none() {
        let mut pool = Pool::default();
        let mut host = pod("h", None);
        host["spec"]["hostNetwork"] = json!(true);
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let mut pods: Vec<Value> = names.iter().map(|uid| pod(uid, None)).collect();
        pods.push(host);
        let found = pool.reserve(&snapshot(&pods), Scope::EVERYTHING);
        assert_eq!(
            found.new.len(),
            5,
            "8 addresses less the network's, the node's and the last"
        );
        assert_eq!(found.refused.len(), 2);
        assert!(found.refused[0].1.to_string().contains("10.244.1.0/29"));
    }
}
