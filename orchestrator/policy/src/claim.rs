//! Who wants which row. Several may claim one: the strongest gets it, and the next one when that lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use waggle_abi::Capacity;
use waggle_model::ServiceId;

use crate::capacity::CapacityFault;
use crate::table::Table;

/// Who claims rows, the stronger first: nobody can take a node's or a pod's address by writing it into a Service, and
/// of two Services the older one keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claimant {
    /// This node, by what it knows of itself.
    Here,
    /// A node of the network state, by name.
    Node(String),
    /// A pod that is connected here, by the interface index of its link.
    Pod(u32),
    /// A pod of the network state, by address.
    Endpoint(IpAddr),
    /// The cluster's DNS at this node.
    Dns,
    /// A Service.
    Service(ServiceId),
}

/// One table's claims, and which of its rows may differ from what the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed<K, V> {
    claims: BTreeMap<(K, Claimant), V>,
    keys: usize,
    touched: BTreeSet<K>,
}

impl<K, V> Default for Claimed<K, V> {
    fn default() -> Self {
        Self {
            claims: BTreeMap::new(),
            keys: 0,
            touched: BTreeSet::new(),
        }
    }
}

/// What becomes of the touched rows of one table.
#[derive(Debug)]
pub(crate) struct Found<K, V> {
    pub(crate) puts: Vec<(K, V)>,
    pub(crate) removals: Vec<K>,
    pub(crate) refused: Vec<(K, Claimant, CapacityFault)>,
}

impl<K: Copy + Ord, V> Claimed<K, V> {
    /// Adds a claim; the first of one claimant to one row counts.
    pub(crate) fn claim(&mut self, key: K, claimant: &Claimant, value: V) {
        self.keys += usize::from(self.winner(key).is_none());
        self.claims.entry((key, claimant.clone())).or_insert(value);
        self.touched.insert(key);
    }

    /// Removes a claim, if there is one.
    pub(crate) fn withdraw(&mut self, key: K, claimant: &Claimant) {
        if self.claims.remove(&(key, claimant.clone())).is_some() {
            self.keys -= usize::from(self.winner(key).is_none());
            self.touched.insert(key);
        }
    }

    /// Who gets the row, and what is in it.
    pub(crate) fn winner(&self, key: K) -> Option<(&Claimant, &V)> {
        let ((found, claimant), value) = self.claims.range((key, Claimant::Here)..).next()?;
        (*found == key).then_some((claimant, value))
    }

    /// Rows that are wanted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (K, &V)> {
        let mut last = None;
        self.claims.iter().filter_map(move |((key, _), value)| {
            let first = last != Some(*key);
            last = Some(*key);
            first.then_some((*key, value))
        })
    }

    /// How many rows are wanted.
    pub(crate) fn count(&self) -> usize {
        self.keys
    }

    pub(crate) fn touched(&self) -> &BTreeSet<K> {
        &self.touched
    }

    pub(crate) fn touch(&mut self, key: K) {
        self.touched.insert(key);
    }

    pub(crate) fn touch_all(&mut self, held: impl Iterator<Item = K>) {
        self.touched = self
            .claims
            .keys()
            .map(|(key, _)| *key)
            .chain(held)
            .collect();
    }

    pub(crate) fn settle(&mut self) {
        self.touched.clear();
    }

    /// The fault of a table that can't hold what is wanted of it.
    pub(crate) fn fault(&self, table: Table, held: usize, capacity: &Capacity) -> CapacityFault {
        CapacityFault {
            table,
            needed: self.keys.max(held + 1),
            limit: table.limit(capacity),
        }
    }
}

impl<K: Copy + Ord, V: Copy + PartialEq> Claimed<K, V> {
    /// What to write and what to remove so that the touched rows are as claimed. A new row that does not fit beside
    /// those that are there is refused.
    pub(crate) fn differences(
        &self,
        held: &BTreeMap<K, V>,
        table: Table,
        capacity: &Capacity,
    ) -> Found<K, V> {
        let limit = usize::try_from(table.limit(capacity)).unwrap_or(usize::MAX);
        let mut room = limit.saturating_sub(held.len());
        let mut found = Found {
            puts: Vec::new(),
            removals: Vec::new(),
            refused: Vec::new(),
        };
        for key in &self.touched {
            match (self.winner(*key), held.get(key)) {
                (Some((_, wanted)), Some(there)) if wanted == there => {}
                (Some((_, wanted)), Some(_)) => found.puts.push((*key, *wanted)),
                (Some((_, wanted)), None) if room > 0 => {
                    room -= 1;
                    found.puts.push((*key, *wanted));
                }
                (Some((claimant, _)), None) => {
                    let fault = self.fault(table, held.len(), capacity);
                    found.refused.push((*key, claimant.clone(), fault));
                }
                (None, Some(_)) => found.removals.push(*key),
                (None, None) => {}
            }
        }
        found
    }
}
