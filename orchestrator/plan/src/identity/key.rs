//! What makes an identity, and how it is written down.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use waggle_model::network::{NamedPort, Protocol};

use crate::pod::{Container, Pod};
use crate::selector::Labels;
use crate::{Snapshot, tenant};

/// Labels that controllers make different for each pod or revision.
const VOLATILE: [&str; 11] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "controller-uid",
    "batch.kubernetes.io/controller-uid",
    "job-name",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/cronjob-scheduled-timestamp",
];

/// What an identity number stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey {
    /// Tenant.
    pub tenant: String,
    /// Namespace.
    pub namespace: String,
    /// Labels that count.
    pub labels: Labels,
    /// Named ports, sorted; of one name and transport only the first is there.
    pub ports: Vec<NamedPort>,
}

/// Which labels count for identities in one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naming {
    /// Volatile labels that count all the same, because a policy selects by them.
    selected: BTreeSet<&'static str>,
}

impl Naming {
    /// As the policies of this cluster want it.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut selected = BTreeSet::new();
        for policy in snapshot.network_policies.iter() {
            for key in selectors(policy).flat_map(keys) {
                selected.extend(VOLATILE.iter().find(|volatile| **volatile == key));
            }
        }
        Self { selected }
    }

    /// Identity of a pod; `None` for one in its node's network, whose identity is the host's.
    pub fn key(&self, snapshot: &Snapshot, pod: &Pod) -> Option<IdentityKey> {
        let spec = pod.spec.as_ref();
        if spec.is_some_and(|spec| spec.host_network == Some(true)) {
            return None;
        }
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let object = snapshot.namespaces.get("", &namespace).map(AsRef::as_ref);
        let labels = pod.metadata.labels.iter().flatten();
        Some(IdentityKey {
            tenant: tenant::of_namespace(&namespace, object).to_owned(),
            namespace,
            labels: labels
                .filter(|(name, _)| self.counts(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            ports: named_ports(pod),
        })
    }

    fn counts(&self, label: &str) -> bool {
        !VOLATILE.contains(&label) || self.selected.contains(label)
    }
}

/// Every selector for pods in a policy.
fn selectors(policy: &NetworkPolicy) -> impl Iterator<Item = &LabelSelector> {
    let spec = policy.spec.as_ref();
    let from = spec.into_iter().flat_map(|spec| {
        let rules = spec.ingress.iter().flatten();
        rules.flat_map(|rule| rule.from.iter().flatten())
    });
    let to = spec.into_iter().flat_map(|spec| {
        let rules = spec.egress.iter().flatten();
        rules.flat_map(|rule| rule.to.iter().flatten())
    });
    let peers = from.chain(to).filter_map(|peer| peer.pod_selector.as_ref());
    spec.and_then(|spec| spec.pod_selector.as_ref())
        .into_iter()
        .chain(peers)
}

fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let exact = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    exact
        .map(|(key, _)| key.as_str())
        .chain(expressions.map(|one| one.key.as_str()))
}

/// Ports with names, of containers and of sidecars.
fn named_ports(pod: &Pod) -> Vec<NamedPort> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let mut found: BTreeMap<(String, Protocol), u16> = BTreeMap::new();
    for port in spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
    {
        let protocol = crate::network::protocol(port.protocol.as_deref());
        let number = u16::try_from(port.container_port).ok();
        if let (Some(name), Some(protocol), Some(number)) = (&port.name, protocol, number) {
            found.entry((name.clone(), protocol)).or_insert(number);
        }
    }
    found
        .into_iter()
        .map(|((name, protocol), port)| NamedPort {
            name,
            protocol,
            port,
        })
        .collect()
}

/// Identities as rows, because JSON has texts for keys only. Reads the older form too: numbers of (tenant, namespace).
pub(super) mod rows {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use waggle_model::IdentityId;
    use waggle_model::network::{NamedPort, Protocol};

    use super::{IdentityKey, Labels};

    #[derive(Serialize, Deserialize)]
    struct Row {
        id: IdentityId,
        tenant: String,
        namespace: String,
        #[serde(default, skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
        /// Name, IANA number of the transport, port.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<(String, u8, u16)>,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Rows {
        Keys(Vec<Row>),
        Namespaces(BTreeMap<String, BTreeMap<String, IdentityId>>),
    }

    pub(crate) fn serialize<S: Serializer>(
        identities: &BTreeMap<IdentityKey, IdentityId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(identities.iter().map(|(key, id)| {
            Row {
                id: *id,
                tenant: key.tenant.clone(),
                namespace: key.namespace.clone(),
                labels: key.labels.clone(),
                ports: key
                    .ports
                    .iter()
                    .map(|port| (port.name.clone(), port.protocol.number(), port.port))
                    .collect(),
            }
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<IdentityKey, IdentityId>, D::Error> {
        let rows = Rows::deserialize(deserializer)?;
        Ok(match rows {
            Rows::Keys(rows) => rows.into_iter().map(of_row).collect(),
            Rows::Namespaces(tenants) => tenants
                .into_iter()
                .flat_map(|(tenant, rows)| {
                    rows.into_iter().map(move |(namespace, id)| {
                        let key = IdentityKey {
                            tenant: tenant.clone(),
                            namespace,
                            ..IdentityKey::default()
                        };
                        (key, id)
                    })
                })
                .collect(),
        })
    }

    fn of_row(row: Row) -> (IdentityKey, IdentityId) {
        let protocol = |number: u8| match number {
            17 => Protocol::Udp,
            132 => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        let ports = row.ports.into_iter();
        let key = IdentityKey {
            tenant: row.tenant,
            namespace: row.namespace,
            labels: row.labels,
            ports: ports
                .map(|(name, number, port)| NamedPort {
                    name,
                    protocol: protocol(number),
                    port,
                })
                .collect(),
        };
        (key, row.id)
    }
}
