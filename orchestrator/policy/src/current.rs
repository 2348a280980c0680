//! What the kernel's tables hold now, mirrored in user space: read once when they are adopted, then kept by noting each
//! step that was carried out.

use std::collections::{BTreeMap, BTreeSet};

use waggle_abi::{
    Addr, Config, EndpointRow, GrantKey, LinkRow, OwnerRow, ServiceKey, ServiceRow, Slot,
};

use crate::diff::Step;
use crate::enforce::Rulesets;
use crate::slab::Slabs;

/// Rows that are in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// The `CONFIG` row.
    pub config: Config,
    services: BTreeMap<ServiceKey, ServiceRow>,
    slots: BTreeMap<u32, Slot>,
    /// `ENDPOINTS`.
    pub endpoints: BTreeMap<Addr, EndpointRow>,
    /// `RANGES`.
    pub ranges: BTreeSet<(u32, Addr)>,
    /// `GRANTS`.
    pub grants: BTreeMap<GrantKey, u32>,
    /// `LINKS`.
    pub links: BTreeMap<u32, LinkRow>,
    /// `SOCKET_OWNERS`.
    pub owners: BTreeMap<u64, OwnerRow>,
    slabs: Slabs,
    /// `POLICY` and `BLOCKS`.
    pub rulesets: Rulesets,
}

impl Current {
    /// Adds a service row as found in the kernel, with what its slab holds.
    pub fn adopt_service(
        &mut self,
        key: ServiceKey,
        row: ServiceRow,
        slots: impl IntoIterator<Item = Slot>,
    ) {
        self.slabs.take(row.base, row.count);
        self.slots.extend((row.base..).zip(slots));
        self.services.insert(key, row);
    }

    /// `SERVICES`.
    pub fn services(&self) -> &BTreeMap<ServiceKey, ServiceRow> {
        &self.services
    }

    /// Runs of slots in use.
    pub fn slabs(&self) -> &Slabs {
        &self.slabs
    }

    /// What the slab of `row` holds; `None` for a slot that was never written.
    pub fn slots_of(&self, row: &ServiceRow) -> impl Iterator<Item = Option<&Slot>> {
        (row.base..row.base.saturating_add(row.count)).map(|index| self.slots.get(&index))
    }

    /// Notes a step that was carried out.
    pub fn note(&mut self, step: &Step) {
        match *step {
            Step::PutConfig(row) => self.config = row,
            Step::PutRange(prefix, addr) => drop(self.ranges.insert((prefix, addr))),
            Step::PutEndpoint(addr, row) => drop(self.endpoints.insert(addr, row)),
            Step::PutLink(ifindex, row) => drop(self.links.insert(ifindex, row)),
            Step::PutOwner(netns, row) => drop(self.owners.insert(netns, row)),
            Step::PutGrant(key, service) => drop(self.grants.insert(key, service)),
            Step::PutSlot(index, slot) => drop(self.slots.insert(index, slot)),
            Step::PutService(key, row) => {
                self.slabs.take(row.base, row.count);
                let old = self.services.insert(key, row);
                self.release(old.filter(|old| (old.base, old.count) != (row.base, row.count)));
            }
            Step::RemoveService(key) => {
                let old = self.services.remove(&key);
                self.release(old);
            }
            Step::RemoveGrant(key) => drop(self.grants.remove(&key)),
            Step::RemoveEndpoint(addr) => drop(self.endpoints.remove(&addr)),
            Step::RemoveRange(prefix, addr) => drop(self.ranges.remove(&(prefix, addr))),
            Step::RemoveOwner(netns) => drop(self.owners.remove(&netns)),
            Step::RemoveLink(ifindex) => drop(self.links.remove(&ifindex)),
        }
    }

    fn release(&mut self, row: Option<ServiceRow>) {
        if let Some(row) = row {
            self.slabs.free(row.base, row.count);
            for index in row.base..row.base.saturating_add(row.count) {
                self.slots.remove(&index);
            }
        }
    }
}
