//! Stable numbers for tenants, identities, Services and NetworkPolicies. The server keeps the registry in parts, each of which
//! fits a record however many there are.
//!
//! An identity is what policy tells pods apart by: tenant, namespace, labels, named ports. Labels that controllers make
//! unique for each pod or revision don't count unless a policy selects by them, so that a rollout keeps its identity.
//! Apart from those labels an identity does not depend on policies: a new policy renumbers nobody.

mod key;
mod part;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use waggle_model::{IdentityId, PolicyId, SYSTEM_TENANT, ServiceId, TenantId};

pub use key::{IdentityKey, Naming};
pub use part::Part;

use crate::snapshot::Touched;
use crate::{Snapshot, tenant};

/// Every number that is in use, and where to go on. A number is not used again before all others were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// By tenant name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tenants: BTreeMap<String, TenantId>,
    #[serde(
        default,
        with = "key::rows",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    identities: BTreeMap<IdentityKey, IdentityId>,
    /// By Service uid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<String, ServiceId>,
    /// By NetworkPolicy uid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    policies: BTreeMap<String, PolicyId>,
    #[serde(default = "one")]
    next_tenant: u32,
    #[serde(default = "one")]
    next_identity: u32,
    #[serde(default = "one")]
    next_service: u32,
    #[serde(default = "one")]
    next_policy: u32,
}

fn one() -> u32 {
    1
}

/// Who needs a number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Tenants, by name.
    pub tenants: BTreeSet<String>,
    /// Identities of pods.
    pub identities: BTreeSet<IdentityKey>,
    /// Services, by uid.
    pub services: BTreeSet<String>,
    /// NetworkPolicies, by uid.
    pub policies: BTreeSet<String>,
}

/// What leads from one registry to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New tenants.
    pub tenants: Vec<(String, TenantId)>,
    /// New identities.
    pub identities: Vec<(IdentityKey, IdentityId)>,
    /// New Services, by uid.
    pub services: Vec<(String, ServiceId)>,
    /// New NetworkPolicies, by uid.
    pub policies: Vec<(String, PolicyId)>,
    /// Tenants that are gone.
    pub tenants_gone: Vec<String>,
    /// Identities that no pod has now.
    pub identities_gone: Vec<IdentityKey>,
    /// Uids of Services that are gone.
    pub services_gone: Vec<String>,
    /// Uids of NetworkPolicies that are gone.
    pub policies_gone: Vec<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::from([(SYSTEM_TENANT.to_owned(), TenantId::SYSTEM)]),
            identities: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            next_tenant: TenantId::SYSTEM.0 + 1,
            next_identity: IdentityId::HOST.0 + 1,
            next_service: 1,
            next_policy: 1,
        }
    }
}

impl Registry {
    /// Number of a tenant.
    pub fn tenant(&self, name: &str) -> Option<TenantId> {
        self.tenants.get(name).copied()
    }

    /// Every tenant with its number.
    pub fn tenants(&self) -> impl Iterator<Item = (&str, TenantId)> {
        self.tenants.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// Number of an identity.
    pub fn identity(&self, key: &IdentityKey) -> Option<IdentityId> {
        self.identities.get(key).copied()
    }

    /// Every identity with its number.
    pub fn identities(&self) -> impl Iterator<Item = (&IdentityKey, IdentityId)> {
        self.identities.iter().map(|(key, id)| (key, *id))
    }

    /// Number of a Service.
    pub fn service(&self, uid: &str) -> Option<ServiceId> {
        self.services.get(uid).copied()
    }

    /// Number of a NetworkPolicy.
    pub fn policy(&self, uid: &str) -> Option<PolicyId> {
        self.policies.get(uid).copied()
    }

    /// Whether both number the same tenants alike.
    pub fn has_tenants_of(&self, other: &Self) -> bool {
        self.tenants == other.tenants
    }

    /// Moves the registry along `changes`.
    pub fn apply(&mut self, changes: Changes) {
        remove(&mut self.tenants, &changes.tenants_gone);
        remove(&mut self.identities, &changes.identities_gone);
        remove(&mut self.services, &changes.services_gone);
        remove(&mut self.policies, &changes.policies_gone);
        let after = |last: Option<u32>, next: &mut u32| {
            *next = last.map_or(*next, |number| number.wrapping_add(1));
        };
        after(last(&changes.tenants, |id| id.0), &mut self.next_tenant);
        after(
            last(&changes.identities, |id| id.0),
            &mut self.next_identity,
        );
        after(last(&changes.services, |id| id.0), &mut self.next_service);
        after(last(&changes.policies, |id| id.0), &mut self.next_policy);
        self.tenants.extend(changes.tenants);
        self.identities.extend(changes.identities);
        self.services.extend(changes.services);
        self.policies.extend(changes.policies);
    }
}

fn remove<K: Ord, V>(rows: &mut BTreeMap<K, V>, gone: &[K]) {
    for key in gone {
        rows.remove(key);
    }
}

fn last<K, V: Copy>(new: &[(K, V)], number: impl Fn(V) -> u32) -> Option<u32> {
    new.last().map(|(_, id)| number(*id))
}

impl Changes {
    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What of a cluster's changes is about numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stirred {
    /// Who came and has no number.
    pub new: Wanted,
    /// There may be a number that nobody has any more: somebody is gone, or came in another's place.
    pub gone: bool,
    /// Anybody may want another: what identities are made of is different.
    pub all: bool,
}

impl Stirred {
    /// What became of `touched` since it was looked at last, under the numbers that were given out then.
    pub fn by(touched: &BTreeSet<&Touched>, snapshot: &Snapshot, registry: &Registry) -> Self {
        let naming = Naming::of(snapshot);
        let mut found = Self::default();
        for touched in touched {
            let Touched::Object(key) = touched else {
                continue;
            };
            match (&*key.api_version, &*key.kind) {
                ("v1", "Namespace")
                | ("networking.k8s.io/v1", "NetworkPolicy")
                | ("waggle.dev/v1", "Tenant") => found.all = true,
                ("v1", "Pod") => match snapshot.pods.get(&key.namespace, &key.name) {
                    Some(pod) => found.new.identities.extend(
                        (naming.key(snapshot, pod)).filter(|key| registry.identity(key).is_none()),
                    ),
                    None => found.gone = true,
                },
                ("v1", "Service") => match snapshot.services.get(&key.namespace, &key.name) {
                    Some(one) => found.new.services.extend(
                        (one.metadata.uid.clone()).filter(|uid| registry.service(uid).is_none()),
                    ),
                    None => found.gone = true,
                },
                _ => {}
            }
        }
        found.gone |= found.new != Wanted::default();
        found
    }
}

impl Wanted {
    /// Who needs a number in this cluster: every Tenant object and every tenant that a namespace names, the identity
    /// of every pod with a network of its own, every Service, every NetworkPolicy.
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
            wanted.tenants.insert(tenant);
        }
        let naming = Naming::of(snapshot);
        wanted.identities = snapshot
            .pods
            .iter()
            .filter_map(|pod| naming.key(snapshot, pod))
            .collect();
        let services = snapshot.services.iter();
        wanted.services = services
            .filter_map(|one| one.metadata.uid.clone())
            .collect();
        let policies = snapshot.network_policies.iter();
        wanted.policies = policies
            .filter_map(|one| one.metadata.uid.clone())
            .collect();
        wanted
    }
}

/// Numbers for whoever wants one and has none; others keep theirs.
pub fn add(existing: &Registry, wanted: &Wanted) -> Changes {
    Changes {
        tenants: fresh(
            &existing.tenants,
            &wanted.tenants,
            (existing.next_tenant, TenantId::SYSTEM.0),
            |id| id.0,
            TenantId,
        ),
        identities: fresh(
            &existing.identities,
            &wanted.identities,
            (existing.next_identity, IdentityId::HOST.0),
            |id| id.0,
            IdentityId,
        ),
        services: fresh(
            &existing.services,
            &wanted.services,
            (existing.next_service, 0),
            |id| id.0,
            ServiceId,
        ),
        policies: fresh(
            &existing.policies,
            &wanted.policies,
            (existing.next_policy, 0),
            |id| id.0,
            PolicyId,
        ),
        ..Changes::default()
    }
}

/// Numbers for whoever wants one and has none; the end of those that nobody wants.
pub fn assign(existing: &Registry, wanted: &Wanted) -> Changes {
    let mut tenants_gone = gone(&existing.tenants, &wanted.tenants);
    tenants_gone.retain(|name| name != SYSTEM_TENANT);
    Changes {
        tenants_gone,
        identities_gone: gone(&existing.identities, &wanted.identities),
        services_gone: gone(&existing.services, &wanted.services),
        policies_gone: gone(&existing.policies, &wanted.policies),
        ..add(existing, wanted)
    }
}

/// Keys that nobody wants any more.
fn gone<K: Ord + Clone, N>(existing: &BTreeMap<K, N>, wanted: &BTreeSet<K>) -> Vec<K> {
    let gone = existing.keys().filter(|key| !wanted.contains(key));
    gone.cloned().collect()
}

/// Rows of those who want a number and have none. `place` is where numbers go on and the last that is reserved.
fn fresh<K: Ord + Clone, N: Copy>(
    existing: &BTreeMap<K, N>,
    wanted: &BTreeSet<K>,
    place: (u32, u32),
    number: impl Fn(N) -> u32,
    make: impl Fn(u32) -> N,
) -> Vec<(K, N)> {
    let fresh = wanted.iter().filter(|key| !existing.contains_key(key));
    let mut fresh = fresh.peekable();
    if fresh.peek().is_none() {
        return Vec::new();
    }
    let mut numbers = Numbers::new(existing.values().map(|id| number(*id)), place.0, place.1);
    let new = fresh.map(|key| (key.clone(), make(numbers.take())));
    new.collect()
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
