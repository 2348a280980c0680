//! What all nodes see together: which generation of the network had which backend first. Each message is the same bytes
//! for every node, so each is read once.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Shared by all nodes.
#[derive(Default)]
pub(crate) struct Sight(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// The newest generation that was read.
    newest: u64,
    /// Pods that were started since the mark.
    started: BTreeSet<IpAddr>,
    /// Backends that came since the mark, and in which generation.
    backends: HashMap<IpAddr, u64>,
    /// Whether anything is noted.
    marked: bool,
}

impl Sight {
    /// From now on notes what starts and what becomes a backend.
    pub(crate) fn mark(&self) {
        let newest = self.lock().newest;
        *self.lock() = Seen {
            newest,
            marked: true,
            ..Seen::default()
        };
    }

    /// Notes nothing more.
    pub(crate) fn unmark(&self) {
        self.lock().marked = false;
    }

    /// A node starts a pod that has this address.
    pub(crate) fn starts(&self, address: &str) {
        let mut seen = self.lock();
        let first = address
            .split(',')
            .next()
            .and_then(|text| text.trim().parse().ok());
        if let Some(address) = first.filter(|_| seen.marked) {
            seen.started.insert(address);
        }
    }

    /// A node got this state.
    pub(crate) fn snapshot(&self, generation: u64, bytes: Bytes) {
        let mut seen = self.lock();
        if seen.marked
            && generation > seen.newest
            && let Ok(state) = waggle_wire::decode_snapshot(bytes)
        {
            let services = state.services.values();
            let ports = services.flat_map(|service| &service.ports);
            let backends = ports.flat_map(|port| port.usable());
            seen.note(generation, backends.map(|one| one.address));
        }
        seen.newest = seen.newest.max(generation);
    }

    /// A node got this change.
    pub(crate) fn delta(&self, generation: u64, bytes: Bytes) {
        let mut seen = self.lock();
        if seen.marked
            && generation > seen.newest
            && let Ok(delta) = waggle_wire::decode_delta(bytes)
        {
            let ports = delta
                .service_upserts
                .iter()
                .flat_map(|service| &service.ports);
            let backends = ports.flat_map(|port| port.usable());
            seen.note(generation, backends.map(|one| one.address));
        }
        seen.newest = seen.newest.max(generation);
    }

    /// How many pods were started since the mark.
    pub(crate) fn started(&self) -> usize {
        self.lock().started.len()
    }

    /// The generation in which all of them were backends, if at least `count` were started.
    pub(crate) fn served(&self, count: usize) -> Option<u64> {
        let seen = self.lock();
        let generations = seen
            .started
            .iter()
            .map(|one| seen.backends.get(one).copied());
        let newest = generations
            .collect::<Option<BTreeSet<u64>>>()?
            .last()
            .copied();
        newest.filter(|_| seen.started.len() >= count)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn note(&mut self, generation: u64, addresses: impl Iterator<Item = IpAddr>) {
        for address in addresses {
            self.backends.entry(address).or_insert(generation);
        }
    }
}
