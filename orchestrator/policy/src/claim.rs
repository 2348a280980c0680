//! Who wants which row. Several may claim one: the strongest gets it, and the next one when that lets go.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

use waggle_abi::Capacity;
use waggle_model::{IdentityId, ServiceId};

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
    /// The policies of pods with this identity; their rows are rulesets.
    Identity(IdentityId),
}

/// One table's claims, and which of its rows may differ from what the kernel holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed<K, V> {
    rows: BTreeMap<K, Contest<V>>,
    /// In no order, some more than once: far more is touched than looked at when a whole state comes.
    touched: Vec<K>,
}

/// Everybody who wants one row; nearly always one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contest<V> {
    winner: (Claimant, V),
    /// The others, the stronger first.
    losers: Vec<(Claimant, V)>,
}

impl<V> Contest<V> {
    /// Adds a claim; the first of one claimant counts.
    fn enter(&mut self, claimant: &Claimant, value: V) {
        let claim = (claimant.clone(), value);
        match claimant.cmp(&self.winner.0) {
            Ordering::Less => {
                let loser = std::mem::replace(&mut self.winner, claim);
                self.losers.insert(0, loser);
            }
            Ordering::Equal => {}
            Ordering::Greater => {
                let place = self
                    .losers
                    .binary_search_by(|(known, _)| known.cmp(claimant));
                if let Err(place) = place {
                    self.losers.insert(place, claim);
                }
            }
        }
    }

    /// Takes a claim back: whether there was one, unless nobody is left.
    fn leave(&mut self, claimant: &Claimant) -> Option<bool> {
        if self.winner.0 != *claimant {
            let before = self.losers.len();
            self.losers.retain(|(known, _)| known != claimant);
            return Some(self.losers.len() < before);
        }
        if self.losers.is_empty() {
            return None;
        }
        self.winner = self.losers.remove(0);
        Some(true)
    }
}

impl<K, V> Default for Claimed<K, V> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            touched: Vec::new(),
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
        match self.rows.entry(key) {
            Entry::Occupied(mut row) => row.get_mut().enter(claimant, value),
            Entry::Vacant(row) => {
                let winner = (claimant.clone(), value);
                let losers = Vec::new();
                row.insert(Contest { winner, losers });
            }
        }
        self.touch(key);
    }

    /// Removes a claim, if there is one.
    pub(crate) fn withdraw(&mut self, key: K, claimant: &Claimant) {
        let Entry::Occupied(mut row) = self.rows.entry(key) else {
            return;
        };
        match row.get_mut().leave(claimant) {
            Some(false) => return,
            Some(true) => {}
            None => drop(row.remove()),
        }
        self.touch(key);
    }

    /// Who gets the row, and what is in it.
    pub(crate) fn winner(&self, key: K) -> Option<(&Claimant, &V)> {
        let (claimant, value) = &self.rows.get(&key)?.winner;
        Some((claimant, value))
    }

    /// Rows that are wanted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (K, &V)> {
        self.rows.iter().map(|(key, row)| (*key, &row.winner.1))
    }

    /// How many rows are wanted.
    pub(crate) fn count(&self) -> usize {
        self.rows.len()
    }

    /// In order, each once.
    pub(crate) fn touched(&self) -> Vec<K> {
        let mut touched = self.touched.clone();
        put_in_order(&mut touched);
        touched
    }

    pub(crate) fn touch(&mut self, key: K) {
        // Whatever is touched again and again while nothing can be written takes room once.
        if self.touched.len() == self.touched.capacity() {
            put_in_order(&mut self.touched);
        }
        self.touched.push(key);
    }

    pub(crate) fn touch_all(&mut self, held: impl Iterator<Item = K>) {
        self.touched.clear();
        self.touched.extend(self.rows.keys().copied().chain(held));
    }

    pub(crate) fn settle(&mut self) {
        self.touched.clear();
    }

    /// The fault of a table that can't hold what is wanted of it.
    pub(crate) fn fault(&self, table: Table, held: usize, capacity: &Capacity) -> CapacityFault {
        CapacityFault {
            table,
            needed: self.rows.len().max(held + 1),
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
        let touched = self.touched();
        found.puts.reserve(touched.len());
        for key in &touched {
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

fn put_in_order<K: Ord>(keys: &mut Vec<K>) {
    keys.sort_unstable();
    keys.dedup();
}
