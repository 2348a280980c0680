//! What the tables of one node should hold, kept as the facts change: a change costs as much as it touches, however many
//! services there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use waggle_model::network::{Cidr, GenerationGap, NetworkDelta, NetworkState};
use waggle_model::{IdentityId, ServiceId};

use crate::claim::Claimant;
use crate::current::Current;
use crate::enforce::Enforcement;
use crate::facts::{DnsRedirect, Fact, Facts, LocalNode, LocalPod, changed};
use crate::outside::maglev_entries;
use crate::rows::{Made, make};
use crate::table::{Claims, Key, ServicePlan, Table};

/// Every row that a node should have, who claims it, and which of them may not be in the kernel yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    facts: Facts,
    pub(crate) claims: Claims,
    /// What each claimant claims.
    keys: BTreeMap<Claimant, Vec<Key>>,
    /// Who looked at which fact.
    lookers: BTreeSet<(Fact, Claimant)>,
    /// The rulesets of connected pods may have changed.
    ungoverned: bool,
    /// Addresses of connected pods whose ingress is governed.
    closed: BTreeSet<IpAddr>,
    /// Facts each claimant looked at.
    looked_at: BTreeMap<Claimant, Vec<Fact>>,
    /// Services that deltas spoke of since somebody asked.
    moved: BTreeSet<ServiceId>,
}

impl Desired {
    /// Of a node that knows only itself.
    pub fn new(local: LocalNode) -> Self {
        let facts = Facts {
            local,
            ..Facts::default()
        };
        let mut desired = Self {
            facts,
            ..Self::default()
        };
        desired.remake(&Claimant::Here);
        desired
    }

    /// The network state that it is made from.
    pub fn state(&self) -> &NetworkState {
        &self.facts.state
    }

    /// Pods that are connected, by interface index.
    pub fn pods(&self) -> &BTreeMap<u32, LocalPod> {
        &self.facts.pods
    }

    /// Moves along a change of the network state.
    ///
    /// # Errors
    /// [`GenerationGap`] when the delta starts elsewhere; nothing is changed then.
    pub fn apply(&mut self, delta: NetworkDelta) -> Result<(), GenerationGap> {
        if delta.from != self.facts.state.generation {
            return Err(GenerationGap {
                expected: delta.from,
                found: self.facts.state.generation,
            });
        }
        let (mut claimants, facts) = changed(&self.facts.state, &delta);
        let services = delta.service_upserts.iter().map(|one| one.id);
        self.moved.extend(services);
        self.moved.extend(&delta.service_removals);
        // Selectors are resolved to identities, and a pod's identity is its endpoint's.
        self.ungoverned |= !delta.identity_upserts.is_empty()
            || !delta.identity_removals.is_empty()
            || !delta.policy_upserts.is_empty()
            || !delta.policy_removals.is_empty();
        self.facts.state.apply(delta)?;
        for fact in facts {
            claimants.extend(self.lookers_at(fact));
        }
        let moved = |claimant: &Claimant| matches!(claimant, Claimant::Pod(_));
        self.ungoverned |= claimants.iter().any(moved);
        for claimant in &claimants {
            self.remake(claimant);
        }
        Ok(())
    }

    /// Goes to another network state, by way of what differs.
    pub fn set_state(&mut self, state: &NetworkState) {
        let delta = self.facts.state.delta_to(state);
        // A delta made from the state that it applies to has no gap.
        let _: Result<(), GenerationGap> = self.apply(delta);
    }

    /// Services that were changed, added or removed since the last time.
    pub fn take_moved_services(&mut self) -> BTreeSet<ServiceId> {
        std::mem::take(&mut self.moved)
    }

    /// Where the DNS VIP goes.
    pub fn dns(&self) -> Option<DnsRedirect> {
        self.facts.dns
    }

    /// Sends the DNS VIP somewhere else.
    pub fn set_dns(&mut self, dns: Option<DnsRedirect>) {
        if self.facts.dns != dns {
            self.facts.dns = dns;
            self.remake(&Claimant::Here);
            self.remake(&Claimant::Dns);
        }
    }

    /// Notes where services' addresses are from, a range a family.
    pub fn set_service_ranges(&mut self, ranges: Vec<Cidr>) {
        if self.facts.service_ranges != ranges {
            self.facts.service_ranges = ranges;
            self.remake(&Claimant::Here);
        }
    }

    /// Notes a pod that is being connected.
    pub fn put_pod(&mut self, pod: LocalPod) {
        self.facts.pods.insert(pod.ifindex, pod);
        self.ungoverned = true;
        self.remake(&Claimant::Pod(pod.ifindex));
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, ifindex: u32) {
        self.facts.pods.remove(&ifindex);
        self.ungoverned = true;
        self.remake(&Claimant::Pod(ifindex));
    }

    /// Rows that a table should hold.
    pub fn count(&self, table: Table) -> usize {
        let rows_of = |plan: &ServicePlan| match table {
            Table::Maglev => maglev_entries(plan).div_ceil(4) as usize,
            _ => plan.backends.len(),
        };
        let rows = || self.claims.services.rows().map(|(_, plan)| rows_of(plan));
        self.claims.count(table).unwrap_or_else(|| rows().sum())
    }

    /// Whether [`govern`](Self::govern) has to be called before steps are made.
    pub fn is_ungoverned(&self) -> bool {
        self.ungoverned
    }

    /// Identities of the connected pods: the state's, once it knows their address.
    pub fn identities(&self) -> BTreeSet<IdentityId> {
        let pods = self.facts.pods.values();
        pods.map(|pod| IdentityId(self.facts.placed(pod).identity))
            .collect()
    }

    /// Has programs report new calls and flows, or not.
    pub fn tell_new(&mut self, tell: bool) {
        if self.facts.tell_new != tell {
            self.facts.tell_new = tell;
            self.remake(&Claimant::Here);
        }
    }

    /// Where numbers of rulesets go on.
    pub fn set_next_ruleset(&mut self, next: u32) {
        if self.facts.next_ruleset != next {
            self.facts.next_ruleset = next;
            self.remake(&Claimant::Here);
        }
    }

    /// Puts the connected pods under what was found for them; the rows of new rulesets are in the kernel already. Where some
    /// found no room, it is tried again.
    pub fn govern(&mut self, enforcement: Enforcement) {
        self.ungoverned = !enforcement.refused.is_empty();
        let before = std::mem::replace(&mut self.facts.governed, enforcement.governed);
        let mut claimants = BTreeSet::new();
        for (ifindex, pod) in &self.facts.pods {
            let identity = IdentityId(self.facts.placed(pod).identity);
            if before.get(&identity) != self.facts.governed.get(&identity) {
                claimants.insert(Claimant::Pod(*ifindex));
                for address in pod.addresses() {
                    claimants.extend(self.lookers_at(Fact::Endpoint(address.into())));
                }
            }
        }
        claimants.extend(self.services_closed());
        for claimant in &claimants {
            self.remake(claimant);
        }
    }

    /// Services with backends whose ingress is governed from now on.
    fn services_closed(&mut self) -> Vec<Claimant> {
        let pods = self.facts.pods.values();
        let closed = pods.filter(|pod| {
            let identity = self.facts.placed(pod).identity;
            !self.facts.is_open(IdentityId(identity))
        });
        let closed: BTreeSet<IpAddr> = closed
            .flat_map(|pod| pod.addresses().map(IpAddr::from))
            .collect();
        let before = std::mem::replace(&mut self.closed, closed);
        let new: BTreeSet<&IpAddr> = self.closed.difference(&before).collect();
        if new.is_empty() {
            return Vec::new();
        }
        let services = self.facts.state.services.values();
        let concerned = services.filter(|service| {
            let mut backends = service.ports.iter().flat_map(|port| &port.backends);
            backends.any(|backend| new.contains(&backend.address))
        });
        concerned.map(|one| Claimant::Service(one.id)).collect()
    }

    /// From now on every row counts as one that may not be in the kernel as it should, and so does every row that is
    /// there: for an agent that starts, or one that no longer trusts its mirror.
    pub fn touch_all(&mut self, current: &Current) {
        self.ungoverned = true;
        let services = current.services().keys().copied();
        self.claims.touch_all(&current.held, services);
    }

    /// Notes that a list of steps was carried out to its end: nothing differs but the rows that it left out.
    pub fn settle(&mut self, left_out: impl IntoIterator<Item = Key>) {
        self.claims.settle();
        for key in left_out {
            self.claims.touch(key);
        }
    }

    fn lookers_at(&self, fact: Fact) -> Vec<Claimant> {
        let from = Bound::Included((fact, Claimant::Here));
        self.lookers
            .range((from, Bound::Unbounded))
            .take_while(|(found, _)| *found == fact)
            .map(|(_, claimant)| claimant.clone())
            .collect()
    }

    /// Makes a claimant's rows anew.
    fn remake(&mut self, claimant: &Claimant) {
        self.withdraw(claimant);
        let Made {
            rows,
            services,
            looked_at,
        } = make(&self.facts, claimant);
        let mut keys: Vec<Key> = rows.iter().map(crate::table::Row::key).collect();
        keys.extend(services.iter().map(|(key, _)| Key::Service(*key)));
        keys.sort_unstable();
        keys.dedup();
        for row in rows {
            self.claims.claim(claimant, row);
        }
        for (key, plan) in services {
            self.claims.services.claim(key, claimant, plan);
        }
        if !keys.is_empty() {
            self.keys.insert(claimant.clone(), keys);
        }
        for fact in &looked_at {
            self.lookers.insert((*fact, claimant.clone()));
        }
        if !looked_at.is_empty() {
            self.looked_at.insert(claimant.clone(), looked_at);
        }
    }

    fn withdraw(&mut self, claimant: &Claimant) {
        for key in self.keys.remove(claimant).into_iter().flatten() {
            self.claims.withdraw(claimant, key);
        }
        for fact in self.looked_at.remove(claimant).into_iter().flatten() {
            self.lookers.remove(&(fact, claimant.clone()));
        }
    }
}
