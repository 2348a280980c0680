//! How many nodes have the newest policies of each tenant in their kernels, told by their acknowledgements.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use waggle_model::network::NetworkState;
use waggle_model::{Generation, IdentityId, TenantId};
use waggle_plan::tenant::Enforced;

/// What is known of each tenant. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Enforcement {
    tenants: Arc<Mutex<BTreeMap<TenantId, Enforced>>>,
    moved: Arc<Notify>,
}

impl Enforcement {
    /// What is known now.
    pub fn of_tenants(&self) -> BTreeMap<TenantId, Enforced> {
        self.lock().clone()
    }

    /// Waits until it is otherwise than when this was asked last. For one waiter.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Notes that `after` was published after `before`; `None` for the first of this server.
    pub(super) fn published(&self, before: Option<&NetworkState>, after: &NetworkState) {
        let mut tenants = self.lock();
        let present: BTreeSet<TenantId> = tenants_of(after);
        tenants.retain(|tenant, _| present.contains(tenant));
        let changed = before.map_or_else(|| present.clone(), |before| changed(before, after));
        for tenant in present {
            let known = tenants.contains_key(&tenant);
            if !known || changed.contains(&tenant) {
                let entry = tenants.entry(tenant).or_default();
                entry.generation = after.generation;
                entry.nodes = 0;
                self.moved.notify_one();
            }
        }
    }

    /// Notes how far the connected nodes are.
    pub(super) fn acknowledged(&self, nodes: &[Generation]) {
        let count = |nodes: usize| u32::try_from(nodes).unwrap_or(u32::MAX);
        for entry in self.lock().values_mut() {
            let there = nodes.iter().filter(|node| **node >= entry.generation);
            let now = count(there.count());
            if now != entry.nodes {
                entry.nodes = now;
                self.moved.notify_one();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TenantId, Enforced>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tenants_of(state: &NetworkState) -> BTreeSet<TenantId> {
    state.identities.values().map(|one| one.tenant).collect()
}

/// Tenants whose pods are governed otherwise than before.
fn changed(before: &NetworkState, after: &NetworkState) -> BTreeSet<TenantId> {
    let mut found = BTreeSet::new();
    let mut note = |state: &NetworkState, subjects: &BTreeSet<IdentityId>| {
        let identities = subjects.iter().filter_map(|id| state.identities.get(id));
        found.extend(identities.map(|identity| identity.tenant));
    };
    for (id, policy) in &before.policies {
        if after.policies.get(id) != Some(policy) {
            note(before, &policy.subjects);
        }
    }
    for (id, policy) in &after.policies {
        if before.policies.get(id) != Some(policy) {
            note(after, &policy.subjects);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_model::PolicyId;
    use waggle_model::network::{Identity, Policy};

    fn state(generation: u64, governed: bool) -> NetworkState {
        let identity = |id: u32, tenant: u32| Identity {
            id: IdentityId(id),
            tenant: TenantId(tenant),
            ..Identity::default()
        };
        let mut state = NetworkState {
            generation: Generation(generation),
            ..NetworkState::default()
        };
        for one in [identity(10, 2), identity(11, 3)] {
            state.identities.insert(one.id, one);
        }
        if governed {
            let policy = Policy {
                id: PolicyId(1),
                subjects: [IdentityId(11)].into(),
                ingress: Some(vec![]),
                ..Policy::default()
            };
            state.policies.insert(policy.id, policy);
        }
        state
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_a_change_that_came_before() {
        let enforcement = Enforcement::default();
        let quiet = || tokio::time::timeout(std::time::Duration::ZERO, enforcement.moved());
        enforcement.published(None, &state(5, false));
        enforcement.moved().await;
        enforcement.acknowledged(&[Generation(5)]);
        enforcement.moved().await;
        enforcement.acknowledged(&[Generation(5)]);
        assert!(quiet().await.is_err(), "nothing changed");
        enforcement.published(Some(&state(5, false)), &state(6, true));
        enforcement.moved().await;
    }

    #[test]
    fn a_tenant_is_enforced_where_its_own_newest_change_is() {
        let enforcement = Enforcement::default();
        let (first, second) = (state(5, false), state(6, true));
        enforcement.published(None, &first);
        enforcement.acknowledged(&[Generation(5), Generation(4)]);
        let nodes = |tenant: u32| {
            let all = enforcement.of_tenants();
            let one = all[&TenantId(tenant)];
            (one.generation.0, one.nodes)
        };
        assert_eq!((nodes(2), nodes(3)), ((5, 1), (5, 1)));
        enforcement.published(Some(&first), &second);
        enforcement.acknowledged(&[Generation(5), Generation(6)]);
        assert_eq!((nodes(2), nodes(3)), ((5, 2), (6, 1)));
        enforcement.published(Some(&second), &state(7, false));
        enforcement.acknowledged(&[Generation(6)]);
        assert_eq!(nodes(3), (7, 0), "a policy that went is a change too");
    }
}
