//! The nodes of a batch and how full they are.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::topology::attracts;
use crate::pod::{self, Pod};
use crate::resources::{self, Amounts};
use crate::selector::Labels;
use crate::storage::claims_of;
use crate::{Snapshot, taint};

/// A host port: protocol, port, address.
pub(crate) type HostPort = (String, i32, String);

/// What a pod takes of its node, and whether it keeps others away from there.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    requests: Amounts,
    usual: (i64, i64),
    ports: Vec<HostPort>,
    repels: bool,
    attracts: bool,
}

impl Demand {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            requests: resources::requests(pod),
            usual: resources::usual_requests(pod),
            ports: host_ports(pod),
            repels: repels(pod),
            attracts: attracts(pod),
        }
    }
}

/// No domain: the node lacks the label.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A node, and what is used of it.
pub(super) struct NodeState<'a> {
    pub(super) name: &'a str,
    pub(super) labels: Option<&'a Labels>,
    pub(super) unschedulable: bool,
    /// Its own, and that it is not ready when nobody has tainted it for that yet.
    pub(super) taints: Vec<Taint>,
    pub(super) whole: Amounts,
    pub(super) used: Amounts,
    /// Milli-cores and bytes, with usual amounts for pods that ask for none.
    pub(super) usual: (i64, i64),
    pub(super) ports: BTreeSet<HostPort>,
    /// Bytes of the images that are there, by each of their names.
    pub(super) images: HashMap<&'a str, i64>,
}

impl<'a> NodeState<'a> {
    fn new(node: &'a Node) -> Self {
        let mut taints = taint::of(node).to_vec();
        let told = taints
            .iter()
            .any(|one| one.key == taint::NOT_READY || one.key == taint::UNREACHABLE);
        if !told && !is_ready(node) {
            taints.push(taint::taint(taint::NOT_READY, "NoSchedule"));
        }
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default(),
            labels: node.metadata.labels.as_ref(),
            unschedulable: node
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false),
            taints,
            whole: resources::allocatable(node),
            used: Amounts::default(),
            usual: (0, 0),
            ports: BTreeSet::new(),
            images: images(node),
        }
    }

    /// Counts a pod here.
    pub(super) fn take(&mut self, requests: &Amounts, usual: (i64, i64), ports: &[HostPort]) {
        self.used.add(requests);
        self.usual = (
            self.usual.0.saturating_add(usual.0),
            self.usual.1.saturating_add(usual.1),
        );
        self.ports.extend(ports.iter().cloned());
    }

    /// Counts pods here no longer. Their host ports stay taken until they are gone.
    pub(super) fn give_back(&mut self, requests: &Amounts, usual: (i64, i64)) {
        self.used.subtract(requests);
        self.usual = (
            self.usual.0.saturating_sub(usual.0),
            self.usual.1.saturating_sub(usual.1),
        );
    }

    /// Takes back what [`NodeState::take`] counted, ports and all.
    pub(super) fn untake(&mut self, requests: &Amounts, usual: (i64, i64), ports: &[HostPort]) {
        self.give_back(requests, usual);
        for port in ports {
            self.ports.remove(port);
        }
    }

    /// Whether none of these ports is taken; `0.0.0.0` is every address.
    pub(super) fn has_free(&self, ports: &[HostPort]) -> bool {
        are_free(&self.ports, ports)
    }
}

/// Whether none of the `wanted` ports is among the `taken`; `0.0.0.0` is every address.
pub(super) fn are_free(taken: &BTreeSet<HostPort>, wanted: &[HostPort]) -> bool {
    let everywhere = |address: &str| address == "0.0.0.0" || address == "::";
    wanted.iter().all(|(protocol, port, address)| {
        taken.iter().all(|(other, taken, there)| {
            other != protocol
                || taken != port
                || !(there == address || everywhere(there) || everywhere(address))
        })
    })
}

fn images(node: &Node) -> HashMap<&str, i64> {
    let status = node.status.iter();
    let all = status.flat_map(|status| status.images.iter().flatten());
    all.flat_map(|one| {
        let names = one.names.iter().flatten();
        names.map(|name| (name.as_str(), one.size_bytes.unwrap_or(0)))
    })
    .collect()
}

/// Whether the node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|one| one.type_ == "Ready" && one.status == "True")
}

/// Which part of the cluster each node is in, by one label.
pub(super) struct Topology {
    /// Domain of each node, [`NOWHERE`] without the label.
    pub(super) domain: Vec<u32>,
    pub(super) domains: usize,
}

/// All nodes, by name, and the pods on them.
pub(super) struct Cluster<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) nodes: Vec<NodeState<'a>>,
    by_name: HashMap<&'a str, usize>,
    topologies: HashMap<String, Rc<Topology>>,
    /// Pods that are there and keep others away.
    pub(super) repelling: Vec<(&'a Arc<Pod>, usize)>,
    /// Pods that are there and care for who comes near.
    pub(super) attracting: Vec<(&'a Arc<Pod>, usize)>,
    /// Pods of one owner on each node, by group.
    pub(super) siblings: Vec<Vec<u32>>,
    sibling_groups: HashMap<String, usize>,
    /// Volumes that this batch gives to claims.
    pub(super) volumes_taken: BTreeSet<String>,
    /// Pods that use each claim of which one pod alone may, by namespace and name.
    pub(super) exclusive: HashMap<(String, String), usize>,
}

impl<'a> Cluster<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let nodes = snapshot
            .nodes
            .iter()
            .filter(|node| node.metadata.deletion_timestamp.is_none());
        let mut cluster = Self {
            snapshot,
            nodes: nodes.map(|node| NodeState::new(node)).collect(),
            by_name: HashMap::new(),
            topologies: HashMap::new(),
            repelling: Vec::new(),
            attracting: Vec::new(),
            siblings: Vec::new(),
            sibling_groups: HashMap::new(),
            volumes_taken: BTreeSet::new(),
            exclusive: HashMap::new(),
        };
        for index in 0..cluster.nodes.len() {
            let name = cluster.nodes[index].name;
            cluster.by_name.insert(name, index);
            for (pod, demand) in snapshot
                .demands_on(name)
                .filter(|(pod, _)| !pod::is_terminated(pod))
            {
                cluster.nodes[index].take(&demand.requests, demand.usual, &demand.ports);
                if demand.repels {
                    cluster.repelling.push((pod, index));
                }
                if demand.attracts {
                    cluster.attracting.push((pod, index));
                }
            }
        }
        cluster
    }

    pub(super) fn index_of(&self, pod: &Pod) -> Option<usize> {
        self.by_name.get(pod::node_name(pod)?).copied()
    }

    pub(super) fn index_named(&self, node: &str) -> Option<usize> {
        self.by_name.get(node).copied()
    }

    pub(super) fn labels_of(&self, node: &str) -> Option<Option<&'a Labels>> {
        self.index_named(node).map(|index| self.nodes[index].labels)
    }

    /// Begins to count who uses a claim that one pod alone may use.
    pub(super) fn watch_claim(&mut self, namespace: &str, claim: &str) -> (String, String) {
        let key = (namespace.to_owned(), claim.to_owned());
        self.exclusive.entry(key.clone()).or_insert_with(|| {
            let pods = self.snapshot.pods.in_namespace(namespace);
            let there =
                pods.filter(|one| pod::node_name(one).is_some() && !pod::is_terminated(one));
            there.filter(|one| uses(one, claim)).count()
        });
        key
    }

    pub(super) fn known_topology(&self, key: &str) -> Option<Rc<Topology>> {
        self.topologies.get(key).map(Rc::clone)
    }

    pub(super) fn topology(&mut self, key: &str) -> Rc<Topology> {
        if let Some(topology) = self.topologies.get(key) {
            return Rc::clone(topology);
        }
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut domain = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            domain.push(
                node.labels
                    .and_then(|labels| labels.get(key))
                    .map_or(NOWHERE, |value| {
                        let next = u32::try_from(names.len()).unwrap_or(NOWHERE);
                        *names.entry(value).or_insert(next)
                    }),
            );
        }
        let topology = Rc::new(Topology {
            domain,
            domains: names.len(),
        });
        self.topologies.insert(key.to_owned(), Rc::clone(&topology));
        topology
    }

    /// The group of pods that are spread together: those of one owner, or of the same labels without one.
    pub(super) fn sibling_group(&mut self, pod: &Pod) -> usize {
        let owner = pod::controller(&pod.metadata).map(|owner| owner.uid.as_str());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = pod.metadata.labels.as_ref();
        let key = owner.map_or_else(|| format!("{namespace} {labels:?}"), str::to_owned);
        if let Some(&group) = self.sibling_groups.get(&key) {
            return group;
        }
        let mut counts = vec![0; self.nodes.len()];
        let mut note = |other: &Pod| {
            if let Some(index) = self.index_of(other).filter(|_| pod::is_active(other)) {
                counts[index] += 1;
            }
        };
        match (owner, labels) {
            (Some(uid), _) => self.snapshot.pods_of(uid).for_each(|other| note(other)),
            (None, Some(labels)) if !labels.is_empty() => {
                let others = self.snapshot.pods_labelled(namespace, Some(labels));
                others
                    .filter(|other| other.metadata.labels.as_ref() == Some(labels))
                    .for_each(|other| note(other));
            }
            _ => {}
        }
        self.siblings.push(counts);
        self.sibling_groups.insert(key, self.siblings.len() - 1);
        self.siblings.len() - 1
    }
}

/// Whether the pod mounts this claim.
pub(super) fn uses(pod: &Pod, claim: &str) -> bool {
    claims_of(pod).any(|one| one == claim)
}

/// Whether a pod has required anti-affinity.
pub(super) fn repels(pod: &Pod) -> bool {
    !super::topology::anti_affinity(pod).is_empty()
}

/// Ports of the node that a pod takes.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let on_host = spec.host_network == Some(true);
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|one| one.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port
                .host_port
                .or(on_host.then_some(port.container_port))
                .filter(|&number| number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port
                .host_ip
                .clone()
                .filter(|ip| !ip.is_empty())
                .unwrap_or_else(|| "0.0.0.0".to_owned());
            Some((protocol, number, address))
        })
        .collect()
}
