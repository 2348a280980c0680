//! Stable numbers for tenants, (tenant, namespace) identities and Services. The server keeps the registry as one record.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waggle_model::{IdentityId, SYSTEM_TENANT, ServiceId, TenantId};

use crate::{Snapshot, tenant};

/// Every number that is in use, and where to go on. A number is not used again before all others were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// By tenant name.
    tenants: BTreeMap<String, TenantId>,
    /// By tenant name, then namespace.
    identities: BTreeMap<String, BTreeMap<String, IdentityId>>,
    /// By Service uid.
    services: BTreeMap<String, ServiceId>,
    next_tenant: u32,
    next_identity: u32,
    next_service: u32,
}

/// Who needs a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Tenants, by name.
    pub tenants: BTreeSet<String>,
    /// Namespaces, as (tenant, namespace).
    pub namespaces: BTreeSet<(String, String)>,
    /// Services, by uid.
    pub services: BTreeSet<String>,
}

/// What leads from one registry to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New tenants.
    pub tenants: Vec<(String, TenantId)>,
    /// New identities: (tenant, namespace) and number.
    pub identities: Vec<((String, String), IdentityId)>,
    /// New Services, by uid.
    pub services: Vec<(String, ServiceId)>,
    /// Tenants that are gone.
    pub tenants_gone: Vec<String>,
    /// (tenant, namespace) that are gone.
    pub identities_gone: Vec<(String, String)>,
    /// Uids of Services that are gone.
    pub services_gone: Vec<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::from([(SYSTEM_TENANT.to_owned(), TenantId::SYSTEM)]),
            identities: BTreeMap::new(),
            services: BTreeMap::new(),
            next_tenant: TenantId::SYSTEM.0 + 1,
            next_identity: IdentityId::HOST.0 + 1,
            next_service: 1,
        }
    }
}

impl Registry {
    /// Number of a tenant.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        self.tenants.get(name).copied()
    }

    /// Number of a tenant's namespace.
    pub fn identity(&self, tenant: &str, namespace: &str) -> Option<IdentityId> {
        self.identities.get(tenant)?.get(namespace).copied()
    }

    /// Number of a Service.
    pub fn service(&self, uid: &str) -> Option<ServiceId> {
        self.services.get(uid).copied()
    }

    /// Moves the registry along `changes`.
    pub fn apply(&mut self, changes: Changes) {
        for name in &changes.tenants_gone {
            self.tenants.remove(name);
        }
        for (tenant, namespace) in &changes.identities_gone {
            if let Some(rows) = self.identities.get_mut(tenant) {
                rows.remove(namespace);
                if rows.is_empty() {
                    self.identities.remove(tenant);
                }
            }
        }
        for uid in &changes.services_gone {
            self.services.remove(uid);
        }
        for (name, id) in changes.tenants {
            self.next_tenant = id.0.wrapping_add(1);
            self.tenants.insert(name, id);
        }
        for ((tenant, namespace), id) in changes.identities {
            self.next_identity = id.0.wrapping_add(1);
            self.identities
                .entry(tenant)
                .or_default()
                .insert(namespace, id);
        }
        for (uid, id) in changes.services {
            self.next_service = id.0.wrapping_add(1);
            self.services.insert(uid, id);
        }
    }
}

impl Changes {
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Wanted {
    /// Who needs a number in this cluster: every Tenant object and every tenant that a namespace names, every
    /// namespace, every Service.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut wanted = Self::default();
        wanted.tenants.insert(SYSTEM_TENANT.to_owned());
        let named = snapshot
            .tenants
            .iter()
            .filter_map(|tenant| tenant.metadata.name.clone());
        wanted.tenants.extend(named);
        for namespace in snapshot.namespaces.iter() {
            let name = namespace.metadata.name.clone().unwrap_or_default();
            let tenant = tenant::of_namespace(&name, Some(namespace)).to_owned();
            wanted.tenants.insert(tenant.clone());
            wanted.namespaces.insert((tenant, name));
        }
        let uids = snapshot
            .services
            .iter()
            .filter_map(|service| service.metadata.uid.clone());
        wanted.services.extend(uids);
        wanted
    }
}

/// Numbers for whoever wants one and has none; the end of those that nobody wants.
pub fn assign(existing: &Registry, wanted: &Wanted) -> Changes {
    let mut changes = Changes::default();
    let mut tenants = Numbers::new(
        existing.tenants.values().map(|id| id.0),
        existing.next_tenant,
        TenantId::SYSTEM.0,
    );
    for name in wanted
        .tenants
        .iter()
        .filter(|name| existing.tenant(name).is_none())
    {
        changes
            .tenants
            .push((name.clone(), TenantId(tenants.take())));
    }
    let used = existing
        .identities
        .values()
        .flat_map(|rows| rows.values().map(|id| id.0));
    let mut identities = Numbers::new(used, existing.next_identity, IdentityId::HOST.0);
    for key in wanted
        .namespaces
        .iter()
        .filter(|key| existing.identity(&key.0, &key.1).is_none())
    {
        changes
            .identities
            .push((key.clone(), IdentityId(identities.take())));
    }
    let mut services = Numbers::new(
        existing.services.values().map(|id| id.0),
        existing.next_service,
        0,
    );
    for uid in wanted
        .services
        .iter()
        .filter(|uid| existing.service(uid).is_none())
    {
        changes
            .services
            .push((uid.clone(), ServiceId(services.take())));
    }
    let gone = existing
        .tenants
        .keys()
        .filter(|&name| name != SYSTEM_TENANT && !wanted.tenants.contains(name));
    changes.tenants_gone = gone.cloned().collect();
    let rows = existing.identities.iter();
    let keys = rows.flat_map(|(tenant, rows)| {
        rows.keys()
            .map(|namespace| (tenant.clone(), namespace.clone()))
    });
    changes.identities_gone = keys
        .filter(|key| !wanted.namespaces.contains(key))
        .collect();
    changes.services_gone = existing
        .services
        .keys()
        .filter(|&uid| !wanted.services.contains(uid))
        .cloned()
        .collect();
    changes
}

/// Free numbers above `reserved`, from `next` upwards and around.
struct Numbers {
    used: BTreeSet<u32>,
    next: u32,
    reserved: u32,
}

impl Numbers {
    fn new(used: impl Iterator<Item = u32>, next: u32, reserved: u32) -> Self {
        Self {
            used: used.collect(),
            next,
            reserved,
        }
    }

    fn take(&mut self) -> u32 {
        loop {
            let number = self.next.max(self.reserved + 1);
            self.next = number.wrapping_add(1);
            if self.used.insert(number) {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wanted(names: &BTreeSet<u8>) -> Wanted {
        let text = |number: &u8| format!("n{number}");
        Wanted {
            tenants: names
                .iter()
                .map(|n| format!("t{}", n % 4))
                .chain([SYSTEM_TENANT.to_owned()])
                .collect(),
            namespaces: names
                .iter()
                .map(|n| (format!("t{}", n % 4), text(n)))
                .collect(),
            services: names.iter().map(text).collect(),
        }
    }

    #[test]
    fn the_system_and_the_host_have_their_own_numbers() {
        let mut registry = Registry::default();
        registry.apply(assign(&registry, &wanted(&[1, 2].into())));
        assert_eq!(registry.tenant(SYSTEM_TENANT), Some(TenantId::SYSTEM));
        assert!(
            registry
                .tenant("t1")
                .is_some_and(|id| id.0 > TenantId::SYSTEM.0)
        );
        assert!(
            registry
                .identity("t1", "n1")
                .is_some_and(|id| id.0 > IdentityId::HOST.0)
        );
        assert!(registry.service("n1").is_some_and(|id| id.0 > 0));
        let text = serde_json::to_string(&registry).unwrap();
        assert_eq!(serde_json::from_str::<Registry>(&text).unwrap(), registry);
    }

    #[test]
    fn a_number_that_was_given_back_is_not_the_next() {
        let mut registry = Registry::default();
        registry.apply(assign(&registry, &wanted(&[1].into())));
        let first = registry.service("n1").unwrap();
        registry.apply(assign(&registry, &wanted(&[].into())));
        assert_eq!(registry.service("n1"), None);
        registry.apply(assign(&registry, &wanted(&[2].into())));
        assert_ne!(registry.service("n2"), Some(first));
    }

    #[test]
    fn numbers_go_around_without_touching_the_reserved_or_used() {
        let mut numbers = Numbers::new([u32::MAX, 2].into_iter(), u32::MAX, 1);
        assert_eq!((numbers.take(), numbers.take()), (3, 4));
    }

    proptest! {
        #[test]
        fn numbers_are_unique_and_stable(rounds in proptest::collection::vec(proptest::collection::btree_set(0u8..20, 0..10), 1..8)) {
            let mut registry = Registry::default();
            for names in rounds {
                let before = registry.clone();
                let wanted = wanted(&names);
                registry.apply(assign(&registry, &wanted));
                prop_assert!(assign(&registry, &wanted).is_empty());
                prop_assert_eq!(registry.tenants.keys().cloned().collect::<BTreeSet<_>>(), wanted.tenants.clone());
                prop_assert_eq!(registry.services.keys().cloned().collect::<BTreeSet<_>>(), wanted.services.clone());
                for (uid, id) in &registry.services {
                    prop_assert!(before.service(uid).is_none_or(|old| old == *id));
                }
                let numbers: BTreeSet<_> = registry.services.values().collect();
                prop_assert_eq!(numbers.len(), registry.services.len());
                let rows: Vec<_> = registry.identities.values().flat_map(BTreeMap::values).collect();
                prop_assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len());
            }
        }
    }
}
