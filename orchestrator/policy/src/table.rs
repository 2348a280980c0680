//! The tables of one node's datapath, each named once: rows, keys and limits of all of them follow from the list.
//! `SERVICES` and `SLOTS` stand apart, because a service's row points at slots that are placed in `steps`.

use std::collections::BTreeMap;
use std::fmt;

use waggle_abi::{
    Addr, Capacity, Config, EndpointRow, GrantKey, LinkRow, MaglevRow, OwnerRow, RangeRow,
    ServiceKey, ServiceRow, Slot, SourceKey,
};

use crate::capacity::CapacityFault;
use crate::claim::{Claimant, Claimed};

macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident($field:ident): $key:ty => $value:ty, $limit:expr, $words:literal;)*) => {
        /// A table with a limit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table {
            $($(#[$doc])* $name,)*
            /// Service ports.
            Service,
            /// Backend slots, old and new sets side by side while one replaces the other.
            Slot,
            /// Rows of Maglev tables, old and new ones side by side.
            Maglev,
            /// Rules of the policies of this node's pods, old and new ones side by side while one replaces the other.
            Rule,
            /// Address ranges of the policies of this node's pods.
            Block,
        }

        impl Table {
            /// Every table, in the order in which rows are added.
            pub const ALL: &[Self] = &[Self::Block, Self::Rule, $(Self::$name,)* Self::Slot, Self::Maglev, Self::Service];

            /// Rows that it can hold.
            pub fn limit(self, capacity: &Capacity) -> u32 {
                let limit: fn(&Capacity) -> u32 = match self {
                    $(Self::$name => $limit,)*
                    Self::Service => |capacity| capacity.services,
                    Self::Slot => |capacity| capacity.slots,
                    Self::Maglev => |capacity| capacity.maglev,
                    Self::Rule => |capacity| capacity.policy,
                    Self::Block => |capacity| capacity.blocks,
                };
                limit(capacity)
            }
        }

        impl fmt::Display for Table {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $words,)*
                    Self::Service => "service ports",
                    Self::Slot => "backend slots",
                    Self::Maglev => "rows of Maglev tables",
                    Self::Rule => "policy rules",
                    Self::Block => "policy address ranges",
                })
            }
        }

        /// A row as it is in the kernel, of any table but `SERVICES` and `SLOTS`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Row { $($(#[$doc])* $name($key, $value),)* }

        /// What a row is found by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key {
            $($(#[$doc])* $name($key),)*
            /// A service port.
            Service(ServiceKey),
        }

        impl Row {
            /// What it is found by.
            pub fn key(&self) -> Key {
                match *self { $(Self::$name(key, _) => Key::$name(key),)* }
            }
        }

        impl Key {
            /// Where it belongs.
            pub fn table(&self) -> Table {
                match self { $(Self::$name(_) => Table::$name,)* Self::Service(_) => Table::Service }
            }
        }

        /// Who claims which row.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub(crate) struct Claims {
            $(pub(crate) $field: Claimed<$key, $value>,)*
            pub(crate) services: Claimed<ServiceKey, ServicePlan>,
        }

        impl Claims {
            pub(crate) fn claim(&mut self, claimant: &Claimant, row: Row) {
                match row { $(Row::$name(key, value) => self.$field.claim(key, claimant, value),)* }
            }

            pub(crate) fn withdraw(&mut self, claimant: &Claimant, key: Key) {
                match key {
                    $(Key::$name(key) => self.$field.withdraw(key, claimant),)*
                    Key::Service(key) => self.services.withdraw(key, claimant),
                }
            }

            /// Rows that are wanted in a table; `None` for those that are not claimed.
            pub(crate) fn count(&self, table: Table) -> Option<usize> {
                match table {
                    $(Table::$name => Some(self.$field.count()),)*
                    Table::Service => Some(self.services.count()),
                    Table::Slot | Table::Maglev | Table::Rule | Table::Block => None,
                }
            }

            /// Marks a row as one that may not be in the kernel as it should.
            pub(crate) fn touch(&mut self, key: Key) {
                match key {
                    $(Key::$name(key) => self.$field.touch(key),)*
                    Key::Service(key) => self.services.touch(key),
                }
            }

            /// Marks every row that should be or is.
            pub(crate) fn touch_all(&mut self, held: &Held, services: impl Iterator<Item = ServiceKey>) {
                $(self.$field.touch_all(held.$field.keys().copied());)*
                self.services.touch_all(services);
            }

            /// Nothing is marked any more.
            pub(crate) fn settle(&mut self) {
                $(self.$field.settle();)*
                self.services.settle();
            }

            /// Adds and removals for the marked rows, table by table in the order of [`Table::ALL`].
            pub(crate) fn differences(&self, held: &Held, capacity: &Capacity) -> Vec<Difference> {
                vec![$({
                    let found = self.$field.differences(&held.$field, Table::$name, capacity);
                    Difference {
                        puts: found.puts.into_iter().map(|(key, value)| Row::$name(key, value)).collect(),
                        removals: found.removals.into_iter().map(Key::$name).collect(),
                        refused: found.refused.into_iter().map(|(key, claimant, fault)| (Key::$name(key), claimant, fault)).collect(),
                    }
                },)*]
            }
        }

        /// Rows that are in the kernel, but for services.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Held { $($(#[$doc])* pub $field: BTreeMap<$key, $value>,)* }

        impl Held {
            /// Notes that a row was written.
            pub fn put(&mut self, row: Row) {
                match row { $(Row::$name(key, value) => drop(self.$field.insert(key, value)),)* }
            }

            /// Notes that a row was removed.
            pub fn remove(&mut self, key: Key) {
                match key { $(Key::$name(key) => drop(self.$field.remove(&key)),)* Key::Service(_) => {} }
            }

            /// Rows of a table; `None` for one that is not in here.
            pub fn count(&self, table: Table) -> Option<usize> {
                match table {
                    $(Table::$name => Some(self.$field.len()),)*
                    Table::Service | Table::Slot | Table::Maglev | Table::Rule | Table::Block => None,
                }
            }
        }
    };
}

// Rows are added from the first table to the last, and removed from the last to the first: what a row points at is
// there before it and stays until after it.
tables! {
    /// What programs must know about their node.
    Config(config): () => Config, |_| 1, "settings";
    /// Ranges of pods and services, and addresses of nodes behind a tunnel: prefix length in 128 bits, first address.
    Range(ranges): (u32, Addr) => RangeRow, |capacity| capacity.ranges, "pod ranges";
    /// Addresses of pods, nodes and services.
    Endpoint(endpoints): Addr => EndpointRow, |capacity| capacity.endpoints, "addresses";
    /// Pods of this node, by interface index.
    Link(links): u32 => LinkRow, |capacity| capacity.links, "pods on this node";
    /// Whose sockets are in a network namespace, by its cookie.
    Owner(owners): u64 => OwnerRow, |capacity| capacity.links, "pods on this node";
    /// Exported backends, with the number of the service that exports them.
    Grant(grants): GrantKey => u32, |capacity| capacity.grants, "exported backends";
    /// Who may call services that name their callers: prefix length in 160 bits, service and address.
    Source(sources): (u32, SourceKey) => u32, |capacity| capacity.sources, "source ranges of services";
}

/// What becomes of the marked rows of one table.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) puts: Vec<Row>,
    pub(crate) removals: Vec<Key>,
    pub(crate) refused: Vec<(Key, Claimant, CapacityFault)>,
}

/// Backends of a service port: address and port (network byte order), sorted.
pub type Backends = std::sync::Arc<[(Addr, u16)]>;

/// One service port as it should be. Where its slots are is decided when it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    /// Service number.
    pub service: u32,
    /// Owner.
    pub tenant: u32,
    /// Bits of [`waggle_abi::service_flag`].
    pub flags: u32,
    /// Seconds for which a caller keeps its backend; 0 for no affinity.
    pub affinity: u32,
    /// What its slab holds.
    pub backends: Backends,
    /// Callers are spread by a Maglev table, so that every node sends a caller to the same backend.
    pub maglev: bool,
}

/// One write or removal of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Writes a row.
    Put(Row),
    /// Fills a slot that no row points at.
    PutSlot(u32, Slot),
    /// Fills a row of Maglev tables that no service points at.
    PutMaglev(u32, MaglevRow),
    /// Flips a service to a slab that is complete.
    PutService(ServiceKey, ServiceRow),
    /// Removes a row.
    Remove(Key),
}
