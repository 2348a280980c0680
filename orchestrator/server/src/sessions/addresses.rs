//! Which pod has which address. Every node has a range; every pod of it that is not on the host's network gets an
//! address from it, written to the pod's status before anybody is told, so that a restart gives none twice.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use waggle_model::network::Cidr;
use waggle_plan::ipam::{IpamError, PodAddresses};
use waggle_plan::network::Reserved;
use waggle_plan::{Snapshot, pod};

/// Addresses in use, by node.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    nodes: HashMap<String, PodAddresses>,
}

/// What became of a look at the snapshot.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    /// To be written into the pods' status.
    pub(crate) new: Vec<(Arc<Pod>, IpAddr)>,
    /// Pods that can't have one now.
    pub(crate) refused: Vec<(Arc<Pod>, IpamError)>,
}

impl Pool {
    /// Learns the addresses that pods have, takes back those of pods that are gone, and reserves one for each pod
    /// that is bound and has none. The same pod gets the same address until it is gone, written or not.
    pub(crate) fn reserve(&mut self, snapshot: &Snapshot) -> Reservations {
        let mut found = Reservations::default();
        self.nodes
            .retain(|name, _| snapshot.nodes.get("", name).is_some());
        for node in snapshot.nodes.iter() {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
            let Some(range) = range.and_then(|text| text.parse::<Cidr>().ok()) else {
                continue;
            };
            let addresses = self
                .nodes
                .entry(name.to_owned())
                .or_insert_with(|| PodAddresses::new(range));
            if addresses.range() != range {
                *addresses = PodAddresses::new(range);
            }
            level(
                addresses,
                snapshot.pods_on(name).filter(|pod| !on_host_network(pod)),
                &mut found,
            );
        }
        found
    }

    /// Every address in use, by pod uid.
    pub(crate) fn reserved(&self) -> Reserved {
        let all = self.nodes.values().flat_map(PodAddresses::iter);
        all.map(|(uid, address)| (uid.to_owned(), address))
            .collect()
    }
}

fn level<'a>(
    addresses: &mut PodAddresses,
    pods: impl Iterator<Item = &'a Arc<Pod>>,
    found: &mut Reservations,
) {
    let pods: Vec<(&str, &Arc<Pod>)> = pods.map(|pod| (uid(pod), pod)).collect();
    let living: HashSet<&str> = pods.iter().map(|(uid, _)| *uid).collect();
    let gone: Vec<String> = addresses
        .iter()
        .map(|(uid, _)| uid.to_owned())
        .filter(|uid| !living.contains(uid.as_str()))
        .collect();
    for uid in gone {
        addresses.release(&uid);
    }
    let (with, without): (Vec<_>, Vec<_>) = pods
        .into_iter()
        .partition(|(_, pod)| address(pod).is_some());
    for (uid, pod) in with {
        let Some(address) = address(pod) else {
            continue;
        };
        if let Err(error) = addresses.claim(uid, address) {
            found.refused.push((Arc::clone(pod), error));
        }
    }
    for (uid, pod) in without
        .into_iter()
        .filter(|(_, pod)| !pod::is_terminated(pod))
    {
        match addresses.assign(uid) {
            Ok(address) => found.new.push((Arc::clone(pod), address)),
            Err(error) => found.refused.push((Arc::clone(pod), error)),
        }
    }
}

/// The pod's own address, once it has one.
pub(crate) fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()
}

/// Uses its node's network instead of its own.
pub(crate) fn on_host_network(pod: &Pod) -> bool {
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
        let text = |(pod, address): &(Arc<Pod>, IpAddr)| format!("{}={address}", uid(pod));
        reservations.new.iter().map(text).collect()
    }

    #[test]
    fn an_address_is_kept_while_unwritten_and_learnt_when_written() {
        let mut pool = Pool::default();
        let first = pool.reserve(&snapshot(&[pod("a", None), pod("b", Some("10.244.1.2"))]));
        assert_eq!(
            given(&first),
            ["a=10.244.1.3"],
            "b's was learnt before a got one"
        );
        let again = pool.reserve(&snapshot(&[pod("a", None), pod("b", Some("10.244.1.2"))]));
        assert_eq!(given(&again), ["a=10.244.1.3"]);
        let written = pool.reserve(&snapshot(&[
            pod("a", Some("10.244.1.3")),
            pod("b", Some("10.244.1.2")),
        ]));
        assert!(written.new.is_empty() && written.refused.is_empty());
        assert_eq!(pool.reserved().len(), 2);
    }

    #[test]
    fn a_freed_address_is_the_last_to_be_given_again() {
        let mut pool = Pool::default();
        pool.reserve(&snapshot(&[pod("a", Some("10.244.1.2"))]));
        let next = pool.reserve(&snapshot(&[pod("b", None)]));
        assert_eq!(given(&next), ["b=10.244.1.3"]);
    }

    #[test]
    fn a_full_range_is_said_and_the_host_network_needs_none() {
        let mut pool = Pool::default();
        let mut host = pod("h", None);
        host["spec"]["hostNetwork"] = json!(true);
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let mut pods: Vec<Value> = names.iter().map(|uid| pod(uid, None)).collect();
        pods.push(host);
        let found = pool.reserve(&snapshot(&pods));
        assert_eq!(
            found.new.len(),
            5,
            "8 addresses less the network's, the node's and the last"
        );
        assert_eq!(found.refused.len(), 2);
        assert!(found.refused[0].1.to_string().contains("10.244.1.0/29"));
    }
}
