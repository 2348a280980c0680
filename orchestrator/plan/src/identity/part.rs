//! The registry in parts: rows by their numbers, a thousand and some in each, so that a new number costs one small record and no
//! record outgrows what a store takes (etcd: 1.5 MiB).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Changes, Registry};

/// Numbers in one part.
const NUMBERS: u32 = 1024;

/// Rows that are kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Identities with the numbers of a run.
    Identities(u32),
    /// Services with the numbers of a run.
    Services(u32),
    /// NetworkPolicies with the numbers of a run.
    Policies(u32),
    /// Tenants, and where numbers go on: the last to be written, so that it never promises what is not there.
    Rest,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identities(run) => write!(f, "identities-{run}"),
            Self::Services(run) => write!(f, "services-{run}"),
            Self::Policies(run) => write!(f, "policies-{run}"),
            Self::Rest => f.write_str("rest"),
        }
    }
}

impl Registry {
    /// Every part that has rows, in the order in which they are to be written.
    pub fn parts(&self) -> BTreeSet<Part> {
        let identities = self.identities.values().map(|id| id.0 / NUMBERS);
        let services = self.services.values().map(|id| id.0 / NUMBERS);
        let policies = self.policies.values().map(|id| id.0 / NUMBERS);
        (identities.map(Part::Identities))
            .chain(services.map(Part::Services))
            .chain(policies.map(Part::Policies))
            .chain([Part::Rest])
            .collect()
    }

    /// The parts in which something is different once [`apply`](Self::apply) moved the registry along `changes`.
    pub fn changed_parts(&self, changes: &Changes) -> BTreeSet<Part> {
        let gone = Self {
            identities: rows(&self.identities, &changes.identities_gone),
            services: rows(&self.services, &changes.services_gone),
            policies: rows(&self.policies, &changes.policies_gone),
            ..Self::default()
        };
        let new = Self {
            identities: changes.identities.iter().cloned().collect(),
            services: changes.services.iter().cloned().collect(),
            policies: changes.policies.iter().cloned().collect(),
            ..Self::default()
        };
        let mut parts = gone.parts();
        parts.append(&mut new.parts());
        parts
    }

    /// The rows of a part, as a registry of their own.
    pub fn part(&self, part: Part) -> Self {
        let nothing = Self {
            tenants: BTreeMap::new(),
            ..Self::default()
        };
        match part {
            Part::Identities(run) => Self {
                identities: run_of(&self.identities, run, |id| id.0),
                ..nothing
            },
            Part::Services(run) => Self {
                services: run_of(&self.services, run, |id| id.0),
                ..nothing
            },
            Part::Policies(run) => Self {
                policies: run_of(&self.policies, run, |id| id.0),
                ..nothing
            },
            Part::Rest => Self {
                identities: BTreeMap::new(),
                services: BTreeMap::new(),
                policies: BTreeMap::new(),
                ..self.clone()
            },
        }
    }

    /// Puts the rows of a part into place.
    pub fn add(&mut self, part: Self) {
        self.tenants.extend(part.tenants);
        self.identities.extend(part.identities);
        self.services.extend(part.services);
        self.policies.extend(part.policies);
        let later = |own: &mut u32, other: u32| *own = (*own).max(other);
        later(&mut self.next_tenant, part.next_tenant);
        later(&mut self.next_identity, part.next_identity);
        later(&mut self.next_service, part.next_service);
        later(&mut self.next_policy, part.next_policy);
    }
}

fn rows<K: Ord + Clone, N: Copy>(from: &BTreeMap<K, N>, keys: &[K]) -> BTreeMap<K, N> {
    let row = |key: &K| Some((key.clone(), *from.get(key)?));
    keys.iter().filter_map(row).collect()
}

fn run_of<K: Ord + Clone, N: Copy>(
    from: &BTreeMap<K, N>,
    run: u32,
    number: impl Fn(N) -> u32,
) -> BTreeMap<K, N> {
    let own = |(_, id): &(&K, &N)| number(**id) / NUMBERS == run;
    let rows = from.iter().filter(own);
    rows.map(|(key, id)| (key.clone(), *id)).collect()
}
