//! The steps that bring the kernel's tables to what they should hold, for the rows that were touched, in an order that is
//! right at every moment.

use std::collections::BTreeMap;

use waggle_abi::{Capacity, ServiceKey, ServiceRow, Slot};

use crate::capacity::{CapacityFault, Refusal};
use crate::claim::Claimant;
use crate::current::Current;
use crate::desired::Desired;
use crate::outside::{maglev_entries, maglev_rows};
use crate::table::{Key, ServicePlan, Step, Table};

/// Steps that can be carried out now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// In this order.
    pub steps: Vec<Step>,
    /// Rows that found their table full.
    pub refused: Vec<(Key, Refusal)>,
    /// The steps make room: rows that were refused may fit in the next round.
    pub frees: bool,
}

/// The steps for the touched rows of `desired`; none when `current` holds them. When they were carried out,
/// [`Desired::settle`] with what was refused; and go on while a round refuses something and frees something.
pub fn round(desired: &Desired, current: &mut Current, capacity: &Capacity) -> Round {
    current.give_back();
    let mut round = Round::default();
    let plain = desired.claims.differences(&current.held, capacity);
    let mut removals = Vec::new();
    for table in plain {
        round.steps.extend(table.puts.into_iter().map(Step::Put));
        removals.push(table.removals);
        round.refused.extend(table.refused.into_iter().map(refusal));
    }
    let gone = service_steps(desired, current, capacity, &mut round);
    round.frees |= !gone.is_empty() || removals.iter().any(|keys| !keys.is_empty());
    round
        .steps
        .extend(gone.into_iter().map(Key::Service).map(Step::Remove));
    let downwards = removals.into_iter().rev().flatten();
    round.steps.extend(downwards.map(Step::Remove));
    round
}

fn refusal((key, claimant, fault): (Key, Claimant, CapacityFault)) -> (Key, Refusal) {
    (key, Refusal { claimant, fault })
}

/// Slots and Maglev tables first, where no row points at, then the rows. Returns the services to remove.
fn service_steps(
    desired: &Desired,
    current: &mut Current,
    capacity: &Capacity,
    round: &mut Round,
) -> Vec<ServiceKey> {
    let services = &desired.claims.services;
    let limit = usize::try_from(capacity.services).unwrap_or(usize::MAX);
    let mut count = current.services().len();
    let (mut rows, mut gone) = (Vec::new(), Vec::new());
    let mut tables = Vec::new();
    let mut wanted = BTreeMap::new();
    let touched = services.touched();
    rows.reserve(touched.len());
    for key in &touched {
        let old = current.services().get(key);
        let Some((claimant, plan)) = services.winner(*key) else {
            gone.extend(old.map(|_| *key));
            continue;
        };
        let refuse = |fault| refusal((Key::Service(*key), claimant.clone(), fault));
        if let Some(old) = old
            && old.backends.as_ref() == Some(&plan.backends)
            && old.row.service == plan.service
            && old.row.maglev_size == maglev_entries(plan)
        {
            let row = row_of(plan, &old.row);
            if old.row != row {
                current.move_to(*key, row, &plan.backends);
                rows.push(Step::PutService(*key, row));
            }
            continue;
        }
        if old.is_none() && count >= limit {
            let fault = services.fault(Table::Service, current.services().len(), capacity);
            round.refused.push(refuse(fault));
            continue;
        }
        count += usize::from(old.is_none());
        let replaces = old.is_some_and(|old| old.row.count > 0);
        match current.place(
            *key,
            row_of(plan, &ServiceRow::default()),
            &plan.backends,
            capacity,
        ) {
            Ok(row) => {
                round.frees |= replaces;
                round.steps.extend(slots(plan, row));
                tables.extend(maglev_steps(plan, row));
                rows.push(Step::PutService(*key, row));
            }
            Err(table) => {
                let wanted = *wanted.entry(table).or_insert_with(|| desired.count(table));
                let own = match table {
                    Table::Maglev => maglev_entries(plan).div_ceil(4) as usize,
                    _ => plan.backends.len(),
                };
                let fault = CapacityFault {
                    table,
                    needed: wanted.max(current.count(table) + own),
                    limit: table.limit(capacity),
                };
                round.refused.push(refuse(fault));
            }
        }
    }
    round.steps.extend(tables);
    round.steps.extend(rows);
    gone
}

fn slots(plan: &ServicePlan, row: ServiceRow) -> impl Iterator<Item = Step> {
    let slot = |(index, (addr, port)): (u32, &_)| {
        let slot = Slot {
            addr: *addr,
            port: *port,
            pad: 0,
            service: plan.service,
        };
        Step::PutSlot(index, slot)
    };
    (row.base..).zip(plan.backends.iter()).map(slot)
}

fn maglev_steps(plan: &ServicePlan, row: ServiceRow) -> impl Iterator<Item = Step> {
    let rows = if plan.maglev {
        maglev_rows(&plan.backends)
    } else {
        Vec::new()
    };
    (row.maglev..)
        .zip(rows)
        .map(|(index, row)| Step::PutMaglev(index, row))
}

/// The row of `plan` at the place that `place` has.
fn row_of(plan: &ServicePlan, place: &ServiceRow) -> ServiceRow {
    ServiceRow {
        base: place.base,
        maglev: place.maglev,
        maglev_size: maglev_entries(plan),
        count: u32::try_from(plan.backends.len()).unwrap_or(u32::MAX),
        service: plan.service,
        tenant: plan.tenant,
        flags: plan.flags,
        affinity: plan.affinity,
    }
}

#[cfg(test)]
mod tests;
