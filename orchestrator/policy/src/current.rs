//! What the kernel's tables hold now, mirrored in user space: read once when they are adopted, then kept by noting each
//! step that was carried out.

use std::collections::BTreeMap;

use waggle_abi::{Capacity, ServiceKey, ServiceRow, Slot};

use crate::enforce::Rulesets;
use crate::slab::Slabs;
use crate::table::{Backends, Held, Key, Step, Table};

/// A service port that is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its row.
    pub row: ServiceRow,
    /// What its slab holds; `None` when that is not of this service.
    pub backends: Option<Backends>,
}

/// Rows that are in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// Tables whose rows stand for themselves.
    pub held: Held,
    services: BTreeMap<ServiceKey, Placed>,
    slabs: Slabs,
    /// `POLICY` and `BLOCKS`.
    pub rulesets: Rulesets,
    /// Runs of `MAGLEV` in use.
    maglev: Slabs,
    /// Services with a place that no row points at yet.
    underway: BTreeMap<ServiceKey, Placed>,
}

impl Current {
    /// With the plain tables as found in the kernel.
    pub fn adopt(held: Held) -> Self {
        Self {
            held,
            ..Self::default()
        }
    }

    /// Adds a service row as found in the kernel, with what its slab holds.
    pub fn adopt_service(
        &mut self,
        key: ServiceKey,
        row: ServiceRow,
        slots: impl IntoIterator<Item = Slot>,
    ) {
        self.slabs.take(row.base, row.count);
        self.maglev.take(row.maglev, maglev_rows(&row));
        let own = |slot: Slot| (slot.service == row.service).then_some((slot.addr, slot.port));
        let backends = slots.into_iter().map(own).collect();
        self.services.insert(key, Placed { row, backends });
    }

    /// `SERVICES`.
    pub fn services(&self) -> &BTreeMap<ServiceKey, Placed> {
        &self.services
    }

    /// Runs of slots in use.
    pub fn slabs(&self) -> &Slabs {
        &self.slabs
    }

    /// Runs of rows of Maglev tables in use.
    pub fn maglev(&self) -> &Slabs {
        &self.maglev
    }

    /// Rows of a table.
    pub fn count(&self, table: Table) -> usize {
        self.held.count(table).unwrap_or(match table {
            Table::Slot => self.slabs.slots(),
            Table::Maglev => self.maglev.slots(),
            Table::Rule => self.rulesets.rows().0,
            Table::Block => self.rulesets.rows().1,
            _ => self.services.len(),
        })
    }

    /// Notes a step that was carried out.
    pub fn note(&mut self, step: &Step) {
        match *step {
            Step::Put(row) => self.held.put(row),
            Step::PutSlot(..) | Step::PutMaglev(..) => {}
            Step::PutService(key, row) => {
                let placed = self.underway.remove(&key);
                let placed = placed.unwrap_or(Placed {
                    row,
                    backends: None,
                });
                let old = self.services.insert(key, placed);
                self.release(old.filter(|old| place_of(&old.row) != place_of(&row)));
            }
            Step::Remove(Key::Service(key)) => {
                let old = self.services.remove(&key);
                self.release(old);
            }
            Step::Remove(key) => self.held.remove(key),
        }
    }

    /// A place for a service's backends and its Maglev table; [`note`](Self::note) moves the service there.
    ///
    /// # Errors
    /// The table in which no gap is wide enough.
    pub(crate) fn place(
        &mut self,
        key: ServiceKey,
        mut row: ServiceRow,
        backends: &Backends,
        capacity: &Capacity,
    ) -> Result<ServiceRow, Table> {
        let slots = self.slabs.allocate(row.count, capacity.slots);
        row.base = slots.ok_or(Table::Slot)?;
        let rows = self.maglev.allocate(maglev_rows(&row), capacity.maglev);
        let Some(maglev) = rows else {
            self.slabs.free(row.base, row.count);
            return Err(Table::Maglev);
        };
        row.maglev = maglev;
        self.move_to(key, row, backends);
        Ok(row)
    }

    /// Says what [`note`](Self::note) will find in the row of a service.
    pub(crate) fn move_to(&mut self, key: ServiceKey, row: ServiceRow, backends: &Backends) {
        let backends = Some(backends.clone());
        self.underway.insert(key, Placed { row, backends });
    }

    /// Gives back places that were never moved to, because an earlier list of steps was not carried out to its end.
    pub(crate) fn give_back(&mut self) {
        for (key, placed) in std::mem::take(&mut self.underway) {
            let used = self.services.get(&key).map(|there| place_of(&there.row));
            self.release(Some(placed).filter(|placed| used != Some(place_of(&placed.row))));
        }
    }

    fn release(&mut self, placed: Option<Placed>) {
        if let Some(Placed { row, .. }) = placed {
            self.slabs.free(row.base, row.count);
            self.maglev.free(row.maglev, maglev_rows(&row));
        }
    }
}

/// Where a service's slots and its Maglev table lie.
fn place_of(row: &ServiceRow) -> [u32; 4] {
    [row.base, row.count, row.maglev, row.maglev_size]
}

/// Rows of `MAGLEV` that a service's table takes, of four entries.
fn maglev_rows(row: &ServiceRow) -> u32 {
    row.maglev_size.div_ceil(4)
}
