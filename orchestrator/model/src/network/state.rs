//! The whole network state at one generation, and what leads from one to the next.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Endpoint, Identity, NodeNetwork, Policy, Service};
use crate::{Generation, IdentityId, PolicyId, ServiceId};

/// Everything a datapath and a DNS zone are made from, at one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Orders states; 0 before the first.
    pub generation: Generation,
    /// By number.
    pub services: BTreeMap<ServiceId, Service>,
    /// By address.
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// By name.
    pub nodes: BTreeMap<String, NodeNetwork>,
    /// By number; every identity that an endpoint or policy names.
    pub identities: BTreeMap<IdentityId, Identity>,
    /// By number.
    pub policies: BTreeMap<PolicyId, Policy>,
}

/// What leads from one network state to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkDelta {
    /// The generation it applies to.
    pub from: Generation,
    /// The generation it leads to.
    pub to: Generation,
    /// New or changed services.
    pub service_upserts: Vec<Service>,
    /// Services that are gone.
    pub service_removals: Vec<ServiceId>,
    /// New or changed endpoints.
    pub endpoint_upserts: Vec<Endpoint>,
    /// Addresses that belong to nobody now.
    pub endpoint_removals: Vec<IpAddr>,
    /// New or changed nodes.
    pub node_upserts: Vec<NodeNetwork>,
    /// Nodes that are gone.
    pub node_removals: Vec<String>,
    /// New or changed identities.
    pub identity_upserts: Vec<Identity>,
    /// Identities that nobody has now.
    pub identity_removals: Vec<IdentityId>,
    /// New or changed policies.
    pub policy_upserts: Vec<Policy>,
    /// Policies that are gone.
    pub policy_removals: Vec<PolicyId>,
}

/// A delta that does not fit the state it was given; a snapshot is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("network delta applies to generation {expected}, but this node is at {found}")]
pub struct GenerationGap {
    /// What the delta starts from.
    pub expected: Generation,
    /// Where the state is.
    pub found: Generation,
}

impl NetworkState {
    /// The change that leads from `self` to `next`.
    pub fn delta_to(&self, next: &Self) -> NetworkDelta {
        let (service_upserts, service_removals) = changes(&self.services, &next.services);
        let (endpoint_upserts, endpoint_removals) = changes(&self.endpoints, &next.endpoints);
        let (node_upserts, node_removals) = changes(&self.nodes, &next.nodes);
        let (identity_upserts, identity_removals) = changes(&self.identities, &next.identities);
        let (policy_upserts, policy_removals) = changes(&self.policies, &next.policies);
        NetworkDelta {
            from: self.generation,
            to: next.generation,
            service_upserts,
            service_removals,
            endpoint_upserts,
            endpoint_removals,
            node_upserts,
            node_removals,
            identity_upserts,
            identity_removals,
            policy_upserts,
            policy_removals,
        }
    }

    /// Moves this state along `delta`.
    ///
    /// # Errors
    /// [`GenerationGap`] when the delta starts elsewhere; the state is then unchanged.
    pub fn apply(&mut self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        if delta.from != self.generation {
            return Err(GenerationGap {
                expected: delta.from,
                found: self.generation,
            });
        }
        change(
            &mut self.services,
            delta.service_removals,
            delta.service_upserts,
            |one| one.id,
        );
        change(
            &mut self.endpoints,
            delta.endpoint_removals,
            delta.endpoint_upserts,
            |one| one.address,
        );
        change(
            &mut self.nodes,
            delta.node_removals,
            delta.node_upserts,
            |one| one.name.clone(),
        );
        change(
            &mut self.identities,
            delta.identity_removals,
            delta.identity_upserts,
            |one| one.id,
        );
        change(
            &mut self.policies,
            delta.policy_removals,
            delta.policy_upserts,
            |one| one.id,
        );
        self.generation = delta.to;
        Ok(())
    }
}

impl NetworkDelta {
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        self.service_upserts.is_empty()
            && self.service_removals.is_empty()
            && self.endpoint_upserts.is_empty()
            && self.endpoint_removals.is_empty()
            && self.node_upserts.is_empty()
            && self.node_removals.is_empty()
            && self.identity_upserts.is_empty()
            && self.identity_removals.is_empty()
            && self.policy_upserts.is_empty()
            && self.policy_removals.is_empty()
    }
}

fn changes<K: Ord + Clone, V: PartialEq + Clone>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
) -> (Vec<V>, Vec<K>) {
    let upserts = new
        .iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .map(|(_, v)| v.clone());
    let removals = old.keys().filter(|key| !new.contains_key(key)).cloned();
    (upserts.collect(), removals.collect())
}

fn change<K: Ord, V>(
    rows: &mut BTreeMap<K, V>,
    removals: Vec<K>,
    upserts: Vec<V>,
    key: impl Fn(&V) -> K,
) {
    for removed in &removals {
        rows.remove(removed);
    }
    rows.extend(upserts.into_iter().map(|one| (key(&one), one)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TenantId;
    use proptest::prelude::*;

    fn endpoint(last: u8, tenant: u32) -> Endpoint {
        Endpoint {
            address: IpAddr::from([10, 244, 0, last]),
            identity: IdentityId(tenant),
            tenant: TenantId(tenant),
            node: "node1".into(),
            namespace: "shop".into(),
            pod: format!("pod-{last}"),
            host_ports: Vec::new(),
        }
    }

    fn state(generation: u64, rows: Vec<(u8, u32)>) -> NetworkState {
        let endpoints = rows
            .into_iter()
            .map(|(last, tenant)| endpoint(last, tenant));
        NetworkState {
            generation: Generation(generation),
            endpoints: endpoints.map(|e| (e.address, e)).collect(),
            ..NetworkState::default()
        }
    }

    proptest! {
        #[test]
        fn a_delta_leads_to_the_state_it_was_made_for(
            old in proptest::collection::vec((0u8..20, 1u32..4), 0..12),
            new in proptest::collection::vec((0u8..20, 1u32..4), 0..12),
        ) {
            let (mut old, new) = (state(1, old), state(2, new));
            let delta = old.delta_to(&new);
            old.apply(delta).unwrap();
            prop_assert_eq!(&old, &new);
            prop_assert!(old.delta_to(&new).is_empty());
        }
    }

    #[test]
    fn a_gap_is_refused_and_changes_nothing() {
        let (mut old, new) = (state(1, vec![(1, 1)]), state(3, vec![]));
        let delta = state(2, vec![]).delta_to(&new);
        let before = old.clone();
        assert!(old.apply(delta).is_err());
        assert_eq!(old, before);
    }
}
