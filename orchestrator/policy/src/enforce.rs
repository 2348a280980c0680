//! Which ruleset governs each identity that has pods on this node, and under which number.
//!
//! Numbers go by content: a ruleset whose rows didn't change keeps its number, and with it the flows that passed under
//! it. New content gets a number that was never used, because flows remember numbers. Order is the caller's to keep:
//! rows of new rulesets first, then the rows of endpoints that name them, then the removal of those that nobody names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waggle_abi::{Capacity, RULESET_LOCKED, RULESET_NONE};
use waggle_model::IdentityId;
use waggle_model::network::NetworkState;

use crate::capacity::{CapacityFault, Refusal, check};
use crate::claim::Claimant;
use crate::ruleset::{Direction, Ruleset, compile};
use crate::table::Table;

/// Rulesets of one identity, by number; 0 for a direction that is not governed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Governed {
    /// What may come in.
    pub ingress: u32,
    /// What may go out.
    pub egress: u32,
}

impl Governed {
    /// Nothing may come in or go out, but from and to the node: for whoever is not known yet.
    pub const LOCKED: Self = Self {
        ingress: RULESET_LOCKED,
        egress: RULESET_LOCKED,
    };
}

/// Rulesets that the kernel has, by number, and where numbers go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rulesets {
    contents: BTreeMap<u32, Arc<Ruleset>>,
    by_content: BTreeMap<Arc<Ruleset>, u32>,
    rows: (usize, usize),
    next: u32,
}

impl Rulesets {
    /// Goes on from `next`, which the `CONFIG` row says.
    pub fn resume(&mut self, next: u32) {
        self.next = next;
    }

    /// Where numbers go on.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Rows of `POLICY` and of `BLOCKS`.
    pub fn rows(&self) -> (usize, usize) {
        self.rows
    }

    /// What is there.
    pub fn contents(&self) -> &BTreeMap<u32, Arc<Ruleset>> {
        &self.contents
    }

    /// Notes that all rows of `ruleset` are in the kernel under `number`.
    pub fn adopt(&mut self, number: u32, ruleset: Arc<Ruleset>) {
        self.forget(number);
        let (rules, blocks) = ruleset.len();
        self.rows = (self.rows.0 + rules, self.rows.1 + blocks);
        self.by_content.insert(Arc::clone(&ruleset), number);
        self.contents.insert(number, ruleset);
    }

    /// Notes that `number` has no rows any more.
    pub fn forget(&mut self, number: u32) {
        let Some(ruleset) = self.contents.remove(&number) else {
            return;
        };
        let (rules, blocks) = ruleset.len();
        self.rows = (self.rows.0 - rules, self.rows.1 - blocks);
        if self.by_content.get(&ruleset) == Some(&number) {
            self.by_content.remove(&ruleset);
        }
    }

    /// Numbers that none of `used` names.
    pub fn unused(&self, used: &BTreeSet<u32>) -> Vec<u32> {
        let numbers = self.contents.keys();
        numbers
            .filter(|number| !used.contains(number))
            .copied()
            .collect()
    }

    fn fresh(&mut self) -> u32 {
        loop {
            let number = self.next.max(RULESET_NONE + 1);
            self.next = number.wrapping_add(1);
            if number != RULESET_LOCKED && !self.contents.contains_key(&number) {
                return number;
            }
        }
    }
}

/// What it takes that every identity is governed as it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Enforcement {
    /// Rulesets to write first.
    pub new: Vec<(u32, Arc<Ruleset>)>,
    /// By identity.
    pub governed: BTreeMap<IdentityId, Governed>,
    /// Identities whose rulesets find no room: nothing is let through for them that has to be asked for.
    pub refused: Vec<Refusal>,
}

/// What is asked for of the tables of rulesets, and what they have room for.
struct Room<'a> {
    capacity: &'a Capacity,
    /// Rows of `POLICY` and of `BLOCKS` that are there or will be.
    taken: (usize, usize),
    /// Those, and the ones that find no room.
    needed: (usize, usize),
}

impl Room<'_> {
    /// Takes it for a ruleset; the table that has none.
    fn take(&mut self, (rules, blocks): (usize, usize)) -> Result<(), Table> {
        self.needed = (self.needed.0 + rules, self.needed.1 + blocks);
        let after = (self.taken.0 + rules, self.taken.1 + blocks);
        for (table, rows) in [(Table::Rule, after.0), (Table::Block, after.1)] {
            check(self.capacity, table, rows).map_err(|fault| fault.table)?;
        }
        self.taken = after;
        Ok(())
    }

    fn fault(&self, table: Table) -> CapacityFault {
        CapacityFault {
            table,
            needed: match table {
                Table::Block => self.needed.1,
                _ => self.needed.0,
            },
            limit: table.limit(self.capacity),
        }
    }
}

/// Finds the rulesets of `identities`. One that `state` does not know is locked: its policies can't be known either. So is
/// one whose rules don't fit beside those that are there, old ones included: what a full table can't say is denied.
pub fn enforce(
    state: &NetworkState,
    identities: &BTreeSet<IdentityId>,
    rulesets: &mut Rulesets,
    capacity: &Capacity,
) -> Enforcement {
    let mut enforcement = Enforcement::default();
    let mut room = Room {
        capacity,
        taken: rulesets.rows,
        needed: rulesets.rows,
    };
    let mut homeless: Vec<(IdentityId, Table)> = Vec::new();
    let mut fresh: BTreeMap<Arc<Ruleset>, u32> = BTreeMap::new();
    for identity in identities {
        if !state.identities.contains_key(identity) {
            enforcement.governed.insert(*identity, Governed::LOCKED);
            continue;
        }
        let mut number = |direction| {
            let Some(ruleset) = compile(state, *identity, direction) else {
                return RULESET_NONE;
            };
            if ruleset.is_empty() {
                return RULESET_LOCKED;
            }
            let known = rulesets.by_content.get(&ruleset);
            if let Some(number) = known.or_else(|| fresh.get(&ruleset)) {
                return *number;
            }
            if let Err(table) = room.take(ruleset.len()) {
                homeless.push((*identity, table));
                return RULESET_LOCKED;
            }
            let (number, ruleset) = (rulesets.fresh(), Arc::new(ruleset));
            fresh.insert(Arc::clone(&ruleset), number);
            enforcement.new.push((number, ruleset));
            number
        };
        let governed = Governed {
            ingress: number(Direction::Ingress),
            egress: number(Direction::Egress),
        };
        enforcement.governed.insert(*identity, governed);
    }
    let refused = homeless.into_iter().map(|(identity, table)| Refusal {
        claimant: Claimant::Identity(identity),
        fault: room.fault(table),
    });
    enforcement.refused = refused.collect();
    enforcement
}

#[cfg(test)]
mod tests;
