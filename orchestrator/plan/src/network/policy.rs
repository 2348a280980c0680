//! NetworkPolicy objects with their selectors resolved to identities.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use waggle_model::network::{
    Cidr, Identity, IpBlock, Peers, Policy, PolicyPort, PolicyRule, PortMatch,
};
use waggle_model::{IdentityId, PolicyId, TenantId};

use super::protocol;
use crate::Snapshot;
use crate::identity::{IdentityKey, Registry};
use crate::selector::matches;

/// Every identity that has a number.
pub(super) fn identities(registry: &Registry) -> BTreeMap<IdentityId, Identity> {
    let made = |(key, id)| (id, identity(key, id, registry));
    registry.identities().map(made).collect()
}

/// An identity with its number.
pub(super) fn identity(key: &IdentityKey, id: IdentityId, registry: &Registry) -> Identity {
    Identity {
        id,
        tenant: registry.tenant(&key.tenant).unwrap_or(TenantId(0)),
        namespace: key.namespace.clone(),
        labels: key.labels.clone(),
        ports: key.ports.clone(),
    }
}

/// Whether [`identity`] makes `made` of `key`.
pub(super) fn is_identity(made: &Identity, key: &IdentityKey, registry: &Registry) -> bool {
    made.tenant == registry.tenant(&key.tenant).unwrap_or(TenantId(0))
        && made.namespace == key.namespace
        && made.labels == key.labels
        && made.ports == key.ports
}

/// Every NetworkPolicy that has a number.
///
/// Selectors look at the pods of every tenant, as in one cluster without tenants: the tenant wall stands above, and
/// what a policy allows never opens it.
pub(super) fn policies(snapshot: &Snapshot, registry: &Registry) -> BTreeMap<PolicyId, Policy> {
    if snapshot.network_policies.is_empty() {
        return BTreeMap::new();
    }
    let everyone = Everyone::of(snapshot, registry);
    let policies = snapshot.network_policies.iter();
    policies
        .filter_map(|object| policy(&everyone, registry, object))
        .map(|policy| (policy.id, policy))
        .collect()
}

/// Whom selectors may find: identities by namespace.
struct Everyone<'a> {
    snapshot: &'a Snapshot,
    by_namespace: BTreeMap<&'a str, Vec<(IdentityId, &'a crate::selector::Labels)>>,
}

impl<'a> Everyone<'a> {
    fn of(snapshot: &'a Snapshot, registry: &'a Registry) -> Self {
        let mut by_namespace: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (key, id) in registry.identities() {
            let rows = by_namespace.entry(key.namespace.as_str()).or_default();
            rows.push((id, &key.labels));
        }
        Self {
            snapshot,
            by_namespace,
        }
    }

    fn in_namespace(
        &self,
        namespace: &str,
        selector: Option<&LabelSelector>,
    ) -> impl Iterator<Item = IdentityId> {
        let rows = self.by_namespace.get(namespace).into_iter().flatten();
        rows.filter(move |(_, labels)| selector.is_none_or(|one| matches(one, Some(labels))))
            .map(|(id, _)| *id)
    }

    fn peer(&self, namespace: &str, peer: &NetworkPolicyPeer) -> BTreeSet<IdentityId> {
        let pods = peer.pod_selector.as_ref();
        let Some(wanted) = &peer.namespace_selector else {
            return match pods {
                Some(_) => self.in_namespace(namespace, pods).collect(),
                None => BTreeSet::new(),
            };
        };
        let namespaces = self.snapshot.namespaces.iter();
        namespaces
            .filter(|object| matches(wanted, object.metadata.labels.as_ref()))
            .filter_map(|object| object.metadata.name.as_deref())
            .flat_map(|name| self.in_namespace(name, pods))
            .collect()
    }
}

fn policy(everyone: &Everyone<'_>, registry: &Registry, object: &NetworkPolicy) -> Option<Policy> {
    let id = registry.policy(object.metadata.uid.as_deref()?)?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let ingress_rules = spec.ingress.unwrap_or_default();
    let egress_rules = spec.egress.unwrap_or_default();
    // "Ingress always, Egress if there are rules for it" is the default of policyTypes.
    let (ingress, egress) = match spec.policy_types.as_deref() {
        None | Some([]) => (true, !egress_rules.is_empty()),
        Some(types) => (
            types.iter().any(|one| one == "Ingress"),
            types.iter().any(|one| one == "Egress"),
        ),
    };
    let rule =
        |peers: Option<Vec<NetworkPolicyPeer>>, ports: Option<Vec<NetworkPolicyPort>>| PolicyRule {
            peers: peers_of(everyone, &namespace, &peers.unwrap_or_default()),
            ports: ports.unwrap_or_default().iter().filter_map(port).collect(),
        };
    // A port that says nothing understandable allows nothing; a rule that had only such ports must not come to mean all.
    let understood = |ports: &Option<Vec<NetworkPolicyPort>>| {
        let ports = ports.as_deref().unwrap_or_default();
        ports.is_empty() || ports.iter().any(|one| port(one).is_some())
    };
    let ingress = ingress.then(|| {
        let rules = ingress_rules.into_iter();
        let rules = rules.filter(|one| understood(&one.ports));
        rules.map(|one| rule(one.from, one.ports)).collect()
    });
    let egress = egress.then(|| {
        let rules = egress_rules.into_iter();
        let rules = rules.filter(|one| understood(&one.ports));
        rules.map(|one| rule(one.to, one.ports)).collect()
    });
    let subjects = everyone
        .in_namespace(&namespace, spec.pod_selector.as_ref())
        .collect();
    Some(Policy {
        id,
        name: object.metadata.name.clone().unwrap_or_default(),
        subjects,
        ingress,
        egress,
        namespace,
    })
}

fn peers_of(everyone: &Everyone<'_>, namespace: &str, peers: &[NetworkPolicyPeer]) -> Peers {
    if peers.is_empty() {
        return Peers::Everyone;
    }
    let mut identities = BTreeSet::new();
    let mut blocks = Vec::new();
    for peer in peers {
        match &peer.ip_block {
            Some(one) => blocks.extend(block(one)),
            None => identities.extend(everyone.peer(namespace, peer)),
        }
    }
    Peers::Of { identities, blocks }
}

/// A range with what is left out of it; `None` when it can't be read, and then it allows nothing.
fn block(block: &IPBlock) -> Option<IpBlock> {
    let range = Cidr::masked(&block.cidr).ok()?;
    let except = block.except.iter().flatten();
    Some(IpBlock {
        range,
        except: except
            .map(|text| Cidr::masked(text).ok())
            .collect::<Option<_>>()?,
    })
}

fn port(port: &NetworkPolicyPort) -> Option<PolicyPort> {
    let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
    Some(PolicyPort {
        protocol: protocol(port.protocol.as_deref())?,
        port: match &port.port {
            None => PortMatch::Every,
            Some(IntOrString::String(name)) => PortMatch::Named(name.clone()),
            Some(IntOrString::Int(first)) => {
                let first = number(*first)?;
                let last = port.end_port.map_or(Some(first), number)?;
                PortMatch::Range(first, last)
            }
        },
    })
}
