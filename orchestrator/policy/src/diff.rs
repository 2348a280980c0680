//! The steps that lead from what the tables hold to what they should hold, in an order that is right at every moment.

use std::collections::BTreeMap;

use waggle_abi::{
    Addr, Capacity, Config, EndpointRow, GrantKey, LinkRow, OwnerRow, ServiceKey, ServiceRow, Slot,
};

use crate::capacity::{CapacityFault, Table, check};
use crate::current::Current;
use crate::slab::Slabs;
use crate::tables::{ServicePlan, Tables};

/// One write or removal of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Writes the `CONFIG` row.
    PutConfig(Config),
    /// Adds a pod range: prefix length in 128 bits, first address.
    PutRange(u32, Addr),
    /// Writes what an address is.
    PutEndpoint(Addr, EndpointRow),
    /// Writes who is behind an interface.
    PutLink(u32, LinkRow),
    /// Writes whose sockets are in a network namespace.
    PutOwner(u64, OwnerRow),
    /// Opens the wall for an exported backend.
    PutGrant(GrantKey, u32),
    /// Fills a slot that no row points at.
    PutSlot(u32, Slot),
    /// Flips a service to a slab that is complete.
    PutService(ServiceKey, ServiceRow),
    /// Removes a service.
    RemoveService(ServiceKey),
    /// Closes the wall.
    RemoveGrant(GrantKey),
    /// Forgets an address.
    RemoveEndpoint(Addr),
    /// Forgets a pod range.
    RemoveRange(u32, Addr),
    /// Forgets a network namespace.
    RemoveOwner(u64),
    /// Forgets an interface.
    RemoveLink(u32),
}

/// The steps from `current` to `desired`; none when they agree. `LINKS` and `SOCKET_OWNERS` only get new values here:
/// their rows come and go with the links themselves.
///
/// # Errors
/// [`CapacityFault`] when a table would overflow, in between included.
pub fn diff(
    current: &Current,
    desired: &Tables,
    capacity: &Capacity,
) -> Result<Vec<Step>, CapacityFault> {
    check_unions(current, desired, capacity)?;
    let mut steps = Vec::new();
    if current.config != desired.config {
        steps.push(Step::PutConfig(desired.config));
    }
    steps.extend(
        desired
            .ranges
            .difference(&current.ranges)
            .map(|(prefix, addr)| Step::PutRange(*prefix, *addr)),
    );
    steps.extend(
        changed(&current.endpoints, &desired.endpoints).map(|(k, v)| Step::PutEndpoint(*k, *v)),
    );
    steps.extend(changed(&current.links, &desired.links).map(|(k, v)| Step::PutLink(*k, *v)));
    steps.extend(changed(&current.owners, &desired.owners).map(|(k, v)| Step::PutOwner(*k, *v)));
    steps.extend(changed(&current.grants, &desired.grants).map(|(k, v)| Step::PutGrant(*k, *v)));
    service_steps(current, desired, capacity, &mut steps)?;
    steps.extend(gone(current.services(), &desired.services).map(|key| Step::RemoveService(*key)));
    steps.extend(gone(&current.grants, &desired.grants).map(|key| Step::RemoveGrant(*key)));
    steps.extend(
        gone(&current.endpoints, &desired.endpoints).map(|addr| Step::RemoveEndpoint(*addr)),
    );
    steps.extend(
        current
            .ranges
            .difference(&desired.ranges)
            .map(|(prefix, addr)| Step::RemoveRange(*prefix, *addr)),
    );
    Ok(steps)
}

/// Adds run before removals, so a table holds both for a moment.
fn check_unions(
    current: &Current,
    desired: &Tables,
    capacity: &Capacity,
) -> Result<(), CapacityFault> {
    let endpoints = desired.endpoints.len() + gone(&current.endpoints, &desired.endpoints).count();
    let services = desired.services.len() + gone(current.services(), &desired.services).count();
    let grants = desired.grants.len() + gone(&current.grants, &desired.grants).count();
    let ranges = current.ranges.union(&desired.ranges).count();
    check(capacity, Table::Endpoints, endpoints)?;
    check(capacity, Table::Services, services)?;
    check(capacity, Table::Grants, grants)?;
    check(capacity, Table::Ranges, ranges)
}

fn changed<'a, K: Ord, V: PartialEq>(
    current: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    desired
        .iter()
        .filter(|(key, value)| current.get(key) != Some(value))
}

fn gone<'a, K: Ord, V, W>(
    current: &'a BTreeMap<K, V>,
    desired: &'a BTreeMap<K, W>,
) -> impl Iterator<Item = &'a K> {
    current.keys().filter(|key| !desired.contains_key(key))
}

/// Slots first, into slabs that no row uses, then the rows.
fn service_steps(
    current: &Current,
    desired: &Tables,
    capacity: &Capacity,
    steps: &mut Vec<Step>,
) -> Result<(), CapacityFault> {
    let mut slabs: Option<Slabs> = None;
    let mut rows = Vec::new();
    for (key, plan) in &desired.services {
        let old = current.services().get(key);
        if old.is_some_and(|row| holds(current, row, plan)) {
            let row = old.map_or_else(ServiceRow::default, |old| row_of(plan, old.base));
            if old != Some(&row) {
                rows.push(Step::PutService(*key, row));
            }
            continue;
        }
        let count = u32::try_from(plan.backends.len()).unwrap_or(u32::MAX);
        let slabs = slabs.get_or_insert_with(|| current.slabs().clone());
        let base = slabs
            .allocate(count, capacity.slots)
            .ok_or_else(|| CapacityFault {
                table: Table::Slots,
                needed: slabs.slots() + plan.backends.len(),
                limit: capacity.slots,
            })?;
        steps.extend((base..).zip(&plan.backends).map(|(index, (addr, port))| {
            Step::PutSlot(
                index,
                Slot {
                    addr: *addr,
                    port: *port,
                    pad: 0,
                    service: plan.service,
                },
            )
        }));
        rows.push(Step::PutService(*key, row_of(plan, base)));
    }
    steps.extend(rows);
    Ok(())
}

fn row_of(plan: &ServicePlan, base: u32) -> ServiceRow {
    let count = u32::try_from(plan.backends.len()).unwrap_or(u32::MAX);
    ServiceRow {
        base,
        count,
        service: plan.service,
        tenant: plan.tenant,
        flags: plan.flags,
    }
}

/// Whether the slab of `row` already holds the backends of `plan`.
fn holds(current: &Current, row: &ServiceRow, plan: &ServicePlan) -> bool {
    row.count as usize == plan.backends.len()
        && current
            .slots_of(row)
            .zip(&plan.backends)
            .all(|(slot, (addr, port))| {
                slot.is_some_and(|slot| {
                    (slot.addr, slot.port, slot.service) == (*addr, *port, plan.service)
                })
            })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn key(number: u8) -> ServiceKey {
        ServiceKey {
            vip: IpAddr::from([10, 96, 0, number]).into(),
            port: 80,
            protocol: 6,
            pad: 0,
        }
    }

    fn tables_of(services: &BTreeMap<u8, (u32, Vec<u8>)>) -> Tables {
        let plan = |service: u32, backends: &[u8]| ServicePlan {
            service,
            tenant: 2,
            flags: 0,
            backends: backends
                .iter()
                .map(|b| (IpAddr::from([10, 244, 0, *b]).into(), 80))
                .collect(),
        };
        Tables {
            services: services
                .iter()
                .map(|(k, (id, backends))| (key(*k), plan(*id, backends)))
                .collect(),
            ..Tables::default()
        }
    }

    fn small(slots: u32) -> Capacity {
        Capacity {
            slots,
            ..Capacity::default()
        }
    }

    fn carry_out(current: &mut Current, steps: &[Step]) {
        steps.iter().for_each(|step| current.note(step));
    }

    /// What a program would see: backends by way of the row, `None` without a row. A slot of another service is an
    /// error.
    fn seen(current: &Current, key: &ServiceKey) -> Option<Vec<(Addr, u16)>> {
        let row = current.services().get(key)?;
        let slots: Vec<_> = current
            .slots_of(row)
            .map(|slot| *slot.expect("a row points at written slots"))
            .collect();
        assert!(slots.iter().all(|slot| slot.service == row.service));
        Some(slots.iter().map(|slot| (slot.addr, slot.port)).collect())
    }

    fn services() -> impl Strategy<Value = BTreeMap<u8, (u32, Vec<u8>)>> {
        let backends = proptest::collection::btree_set(0u8..12, 0..6)
            .prop_map(|set| set.into_iter().collect());
        proptest::collection::btree_map(0u8..8, (1u32..4, backends), 0..8)
    }

    proptest! {
        #[test]
        fn every_prefix_shows_each_service_old_or_new(first in services(), second in services(), third in services()) {
            let capacity = small(128);
            let mut current = Current::default();
            for services in [&first, &second, &third] {
                let desired = tables_of(services);
                let before = current.clone();
                let steps = diff(&current, &desired, &capacity).unwrap();
                for step in &steps {
                    current.note(step);
                    for key in (0u8..8).map(key) {
                        let now = seen(&current, &key);
                        let new = desired.services.get(&key).map(|plan| plan.backends.clone());
                        prop_assert!(now == seen(&before, &key) || now == new);
                    }
                }
                for key in (0u8..8).map(key) {
                    prop_assert_eq!(seen(&current, &key), desired.services.get(&key).map(|p| p.backends.clone()));
                }
                prop_assert_eq!(diff(&current, &desired, &capacity).unwrap(), vec![]);
                let slots: usize = desired.services.values().map(|plan| plan.backends.len()).sum();
                prop_assert_eq!(current.slabs().slots(), slots);
            }
        }

        #[test]
        fn whatever_fits_twice_is_never_refused(first in services(), second in services()) {
            let count = |s: &BTreeMap<u8, (u32, Vec<u8>)>| s.values().map(|(_, b)| b.len()).sum::<usize>();
            let capacity = small(u32::try_from(2 * count(&first) + 6 * count(&second) + 6).unwrap());
            let mut current = Current::default();
            let steps = diff(&current, &tables_of(&first), &capacity).unwrap();
            carry_out(&mut current, &steps);
            prop_assert!(diff(&current, &tables_of(&second), &capacity).is_ok());
        }
    }

    #[test]
    fn order_is_adds_upwards_and_removals_downwards() {
        let mut current = Current::default();
        let mut old = tables_of(&[(1, (1, vec![1]))].into());
        let addr: Addr = IpAddr::from([10, 244, 0, 1]).into();
        old.endpoints.insert(addr, EndpointRow::default());
        let grant = GrantKey {
            addr,
            tenant: 3,
            ..GrantKey::default()
        };
        old.grants.insert(grant, 1);
        old.ranges.insert((120, addr));
        let steps = diff(&current, &old, &Capacity::default()).unwrap();
        let rank = |step: &Step| match step {
            Step::PutConfig(_) | Step::PutRange(..) => 0,
            Step::PutEndpoint(..) => 1,
            Step::PutLink(..) | Step::PutOwner(..) => 2,
            Step::PutGrant(..) => 3,
            Step::PutSlot(..) => 4,
            Step::PutService(..) => 5,
            Step::RemoveService(_) => 6,
            Step::RemoveGrant(_) => 7,
            Step::RemoveEndpoint(_) => 8,
            Step::RemoveRange(..) | Step::RemoveOwner(_) | Step::RemoveLink(_) => 9,
        };
        assert_eq!(steps.len(), 5);
        assert!(steps.is_sorted_by_key(rank));
        carry_out(&mut current, &steps);
        let steps = diff(&current, &Tables::default(), &Capacity::default()).unwrap();
        assert_eq!(steps.len(), 4);
        assert!(steps.is_sorted_by_key(rank));
    }

    #[test]
    fn a_change_of_the_owner_alone_keeps_the_slab() {
        let mut current = Current::default();
        let mut desired = tables_of(&[(1, (1, vec![1, 2]))].into());
        let steps = diff(&current, &desired, &Capacity::default()).unwrap();
        carry_out(&mut current, &steps);
        desired.services.get_mut(&key(1)).unwrap().flags = 1;
        let steps = diff(&current, &desired, &Capacity::default()).unwrap();
        assert!(matches!(
            steps[..],
            [Step::PutService(
                _,
                ServiceRow {
                    base: 0,
                    count: 2,
                    flags: 1,
                    ..
                }
            )]
        ));
        carry_out(&mut current, &steps);
        assert_eq!(current.slabs().slots(), 2);
    }

    #[test]
    fn old_and_new_sets_must_fit_side_by_side() {
        let mut current = Current::default();
        let capacity = small(5);
        let first = tables_of(&[(1, (1, vec![1, 2, 3]))].into());
        let steps = diff(&current, &first, &capacity).unwrap();
        carry_out(&mut current, &steps);
        let fault = diff(
            &current,
            &tables_of(&[(1, (1, vec![4, 5, 6]))].into()),
            &capacity,
        )
        .unwrap_err();
        assert_eq!(
            fault,
            CapacityFault {
                table: Table::Slots,
                needed: 6,
                limit: 5
            }
        );
    }
}
