//! The pinned maps: opened, compared with what this build expects, read once into a mirror, and written step by step.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use waggle_abi::{
    Addr, AffinityKey, AffinityRow, BlockKey, Capacity, Config, Counter, EndpointRow, Event, Flow,
    FlowKey, FragmentKey, FragmentRow, GrantKey, LinkRow, MaglevRow, NatRow, ObjectCount,
    ObjectKey, OwnerRow, PeerRow, RangeRow, Reason, RuleKey, STATE, ServiceCount, ServiceKey,
    ServiceRow, Slot, SocketKey, SourceKey, VipRow, limit, map, object_kind,
};
use waggle_model::ServiceId;
use waggle_policy::{Current, Held, Key as RowKey, Row, Ruleset, Step};

use crate::error::{DatapathError, map_error, table_error};
use crate::pin::{Pins, unpin};
use crate::sys::{self, SharedRows};

/// What a map has to look like.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
    /// Its rows come from user space: without them programs must not run.
    filled: bool,
}

fn shape<K, V>(name: &'static str, kind: MapType, entries: u32, filled: bool) -> Shape {
    Shape {
        name,
        kind,
        key: size_of::<K>(),
        value: size_of::<V>(),
        entries,
        filled,
    }
}

fn shapes(capacity: &Capacity) -> Vec<Shape> {
    let reasons = u32::try_from(Reason::ALL.len()).unwrap_or(u32::MAX);
    vec![
        shape::<u32, Config>(map::CONFIG, MapType::Array, 1, true),
        shape::<ServiceKey, ServiceRow>(map::SERVICES, MapType::Hash, capacity.services, true),
        shape::<u32, Slot>(map::SLOTS, MapType::Array, capacity.slots, true),
        shape::<Addr, EndpointRow>(map::ENDPOINTS, MapType::Hash, capacity.endpoints, true),
        shape::<Key<Addr>, RangeRow>(map::RANGES, MapType::LpmTrie, capacity.ranges, true),
        shape::<u32, LinkRow>(map::LINKS, MapType::Hash, capacity.links, true),
        shape::<u64, OwnerRow>(map::SOCKET_OWNERS, MapType::Hash, capacity.links, true),
        shape::<GrantKey, u32>(map::GRANTS, MapType::Hash, capacity.grants, true),
        shape::<Key<RuleKey>, u32>(map::POLICY, MapType::LpmTrie, capacity.policy, true),
        shape::<Key<BlockKey>, u32>(map::BLOCKS, MapType::LpmTrie, capacity.blocks, true),
        shape::<FlowKey, Flow>(map::FLOWS, MapType::LruHash, capacity.flows, false),
        shape::<u32, MaglevRow>(map::MAGLEV, MapType::Array, capacity.maglev, true),
        shape::<FlowKey, NatRow>(map::NAT, MapType::LruHash, capacity.nat, false),
        shape::<FragmentKey, FragmentRow>(
            map::FRAGMENTS,
            MapType::LruHash,
            limit::FRAGMENTS,
            false,
        ),
        shape::<Key<SourceKey>, u32>(map::SOURCES, MapType::LpmTrie, capacity.sources, true),
        shape::<SocketKey, VipRow>(map::SOCK_VIP, MapType::LruHash, capacity.sock_vip, false),
        shape::<AffinityKey, AffinityRow>(
            map::AFFINITY,
            MapType::LruHash,
            capacity.affinity,
            false,
        ),
        shape::<u64, PeerRow>(map::SOCK_PEER, MapType::Hash, capacity.sock_vip, false),
        shape::<u32, Counter>(map::COUNTERS, MapType::PerCpuArray, reasons, false),
        shape::<ObjectKey, ObjectCount>(
            map::OBJECT_COUNTS,
            MapType::Hash,
            limit::OBJECT_COUNTS,
            false,
        ),
        shape::<u32, ServiceCount>(
            map::SERVICE_COUNTS,
            MapType::Array,
            limit::SERVICE_COUNTS,
            false,
        ),
        Shape {
            name: map::EVENTS,
            kind: MapType::RingBuf,
            key: 0,
            value: 0,
            entries: limit::EVENTS,
            filled: false,
        },
    ]
}

/// Maps of connection state, which are pinned beside the ABI's folder.
pub(crate) fn states(pins: &Pins) -> Vec<(&'static str, PathBuf)> {
    STATE
        .iter()
        .map(|(name, _)| (*name, pins.map(name)))
        .collect()
}

/// Names and entries, for the loader.
pub(crate) fn entries(capacity: &Capacity) -> Vec<(&'static str, u32)> {
    shapes(capacity)
        .into_iter()
        .map(|shape| (shape.name, shape.entries))
        .collect()
}

/// Removes pinned maps that don't have the expected shape, so that the loader makes them anew. Says whether every map
/// that user space fills was kept: otherwise nothing may run on them before they are filled.
pub(crate) fn keep_fitting(pins: &Pins, capacity: &Capacity) -> Result<bool, DatapathError> {
    let mut kept = true;
    for shape in shapes(capacity) {
        let path = pins.map(shape.name);
        if fits(&path, &shape) {
            continue;
        }
        kept &= !shape.filled;
        unpin(&path)?;
    }
    Ok(kept)
}

fn fits(path: &Path, shape: &Shape) -> bool {
    let Ok(info) = MapInfo::from_pin(path) else {
        return false;
    };
    info.map_type().is_ok_and(|kind| kind == shape.kind)
        && info.key_size() as usize == shape.key
        && info.value_size() as usize == shape.value
        && info.max_entries() == shape.entries
}

/// A row's key as the kernel spells it.
trait KernelKey: Copy {
    type Kernel: Pod;
    fn kernel(self) -> Self::Kernel;
}

macro_rules! as_they_are {
    ($($key:ty),*) => { $(impl KernelKey for $key {
        type Kernel = Self;
        fn kernel(self) -> Self {
            self
        }
    })* };
}
as_they_are!(u32, u64, Addr, GrantKey, ServiceKey);

/// The only row of an array.
impl KernelKey for () {
    type Kernel = u32;
    fn kernel(self) -> u32 {
        0
    }
}

/// Prefix length and what it is of.
impl<K: Pod> KernelKey for (u32, K) {
    type Kernel = Key<K>;
    fn kernel(self) -> Key<K> {
        Key::new(self.0, self.1)
    }
}

/// A map that user space writes, by the batch.
struct Table {
    name: &'static str,
    map: OwnedFd,
}

impl Table {
    fn open(pins: &Pins, name: &'static str) -> Result<Self, DatapathError> {
        let map = sys::open_pin(&pins.map(name));
        let map = map.map_err(table_error("open", name))?;
        Ok(Self { name, map })
    }

    /// Says how many rows were written.
    fn put<K: KernelKey, V: Pod>(&self, rows: impl Iterator<Item = (K, V)>) -> Done {
        let rows = rows.map(|(key, value)| (key.kernel(), value));
        let (keys, values): (Vec<K::Kernel>, Vec<V>) = rows.unzip();
        let (done, result) = sys::update_batch(self.map.as_fd(), &keys, &values);
        (done, result.map_err(table_error("write", self.name)))
    }

    /// Says how many rows were removed. One that isn't there counts as removed.
    fn remove<K: KernelKey>(&self, keys: impl Iterator<Item = K>) -> Done {
        let keys: Vec<_> = keys.map(K::kernel).collect();
        let mut done = 0;
        while done < keys.len() {
            let (removed, result) = sys::delete_batch(self.map.as_fd(), &keys[done..]);
            done += removed;
            match result {
                Err(fault) if fault.raw_os_error() == Some(libc::ENOENT) => done += 1,
                Err(fault) => return (done, Err(table_error("remove from", self.name)(fault))),
                Ok(()) => {}
            }
        }
        (done, Ok(()))
    }
}

/// How many steps were carried out, and what stopped the others.
type Done = (usize, Result<(), DatapathError>);

/// Says where the rows of each plain table go: its name in `waggle-policy`, the field here, the map.
macro_rules! plain_tables {
    ($($row:ident $field:ident $name:expr;)*) => {
        struct Plain { $($field: Table,)* }

        impl Plain {
            fn open(pins: &Pins) -> Result<Self, DatapathError> {
                Ok(Self { $($field: Table::open(pins, $name)?,)* })
            }

            /// Carries out the first steps that are writes or removals of one table.
            fn write(&self, steps: &[Step]) -> Done {
                match steps.first() {
                    $(Some(Step::Put(Row::$row(..))) => self.$field.put(steps.iter().map_while(|step| match step {
                        Step::Put(Row::$row(key, value)) => Some((*key, *value)),
                        _ => None,
                    })),
                    Some(Step::Remove(RowKey::$row(_))) => self.$field.remove(steps.iter().map_while(|step| match step {
                        Step::Remove(RowKey::$row(key)) => Some(*key),
                        _ => None,
                    })),)*
                    _ => (0, Ok(())),
                }
            }
        }
    };
}

plain_tables! {
    Config config map::CONFIG;
    Range ranges map::RANGES;
    Endpoint endpoints map::ENDPOINTS;
    Link links map::LINKS;
    Owner owners map::SOCKET_OWNERS;
    Grant grants map::GRANTS;
    Source sources map::SOURCES;
}

/// A key that is longer than what counts of it.
impl<K: Pod> KernelKey for Key<K> {
    type Kernel = Self;
    fn kernel(self) -> Self {
        self
    }
}

/// The rows of an array, through memory.
fn shared<T: Pod>(
    pins: &Pins,
    name: &'static str,
    count: u32,
) -> Result<SharedRows<T>, DatapathError> {
    let table = Table::open(pins, name)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    SharedRows::map(table.map.as_fd(), count).map_err(table_error("share memory with", name))
}

fn put_shared<T: Pod>(
    into: &mut SharedRows<T>,
    name: &'static str,
    rows: impl Iterator<Item = (u32, T)>,
) -> Done {
    let mut done = 0;
    for (index, row) in rows {
        if !into.set(index, row) {
            let fault = io::Error::from_raw_os_error(libc::E2BIG);
            return (done, Err(table_error("write", name)(fault)));
        }
        done += 1;
    }
    (done, Ok(()))
}

/// The maps that user space writes, and the counters.
pub(crate) struct Maps {
    plain: Plain,
    rules: Table,
    blocks: Table,
    services: Table,
    slots: SharedRows<Slot>,
    maglev: SharedRows<MaglevRow>,
    counters: PerCpuArray<MapData, Counter>,
    object_counts: HashMap<MapData, ObjectKey, ObjectCount>,
    service_counts: SharedRows<ServiceCount>,
}

impl Maps {
    /// Opens them.
    pub(crate) fn open(pins: &Pins, capacity: &Capacity) -> Result<Self, DatapathError> {
        Ok(Self {
            plain: Plain::open(pins)?,
            rules: Table::open(pins, map::POLICY)?,
            blocks: Table::open(pins, map::BLOCKS)?,
            services: Table::open(pins, map::SERVICES)?,
            slots: shared(pins, map::SLOTS, capacity.slots)?,
            maglev: shared(pins, map::MAGLEV, capacity.maglev)?,
            counters: open(pins, map::COUNTERS)?,
            object_counts: open(pins, map::OBJECT_COUNTS)?,
            service_counts: shared(pins, map::SERVICE_COUNTS, limit::SERVICE_COUNTS)?,
        })
    }

    /// Reads everything that is in the kernel.
    pub(crate) fn read(&self, pins: &Pins) -> Result<Current, DatapathError> {
        let mut held = Held::default();
        let config: Array<MapData, Config> = open(pins, map::CONFIG)?;
        let config = config.get(&0, 0);
        held.config
            .insert((), config.map_err(map_error("read", map::CONFIG))?);
        held.endpoints = rows(pins, map::ENDPOINTS)?;
        held.grants = rows(pins, map::GRANTS)?;
        held.links = rows(pins, map::LINKS)?;
        held.owners = rows(pins, map::SOCKET_OWNERS)?;
        let ranges: LpmTrie<MapData, Addr, RangeRow> = open(pins, map::RANGES)?;
        for range in ranges.iter() {
            let (key, value) = range.map_err(map_error("read", map::RANGES))?;
            held.ranges.insert((key.prefix_len(), key.data()), value);
        }
        let sources: LpmTrie<MapData, SourceKey, u32> = open(pins, map::SOURCES)?;
        for source in sources.iter() {
            let (key, value) = source.map_err(map_error("read", map::SOURCES))?;
            held.sources.insert((key.prefix_len(), key.data()), value);
        }
        let mut current = Current::adopt(held);
        let services: BTreeMap<ServiceKey, ServiceRow> = rows(pins, map::SERVICES)?;
        for (key, row) in services {
            let slots = row.base..row.base.saturating_add(row.count);
            let slots = slots.map(|index| self.slots.get(index).unwrap_or_default());
            current.adopt_service(key, row, slots);
        }
        let config = current.held.config.get(&()).copied().unwrap_or_default();
        current.rulesets.resume(config.next_ruleset);
        for (number, ruleset) in rulesets(pins)? {
            current.rulesets.adopt(number, Arc::new(ruleset));
        }
        Ok(current)
    }

    /// Writes every row of a ruleset that nothing names yet.
    pub(crate) fn write_ruleset(
        &self,
        number: u32,
        ruleset: &Ruleset,
    ) -> Result<(), DatapathError> {
        let blocks = ruleset.block_rows(number);
        let blocks = blocks.map(|(bits, key, class)| (Key::new(bits, key), class));
        self.blocks.put(blocks).1?;
        let rules = ruleset.rule_rows(number);
        let rules = rules.map(|(bits, key, policy)| (Key::new(bits, key), policy));
        self.rules.put(rules).1
    }

    /// Removes every row of a ruleset that nothing names any more.
    pub(crate) fn remove_ruleset(
        &self,
        number: u32,
        ruleset: &Ruleset,
    ) -> Result<(), DatapathError> {
        let rules = ruleset.rule_rows(number);
        let rules = rules.map(|(bits, key, _)| Key::new(bits, key));
        self.rules.remove(rules).1?;
        let blocks = ruleset.block_rows(number);
        self.blocks
            .remove(blocks.map(|(bits, key, _)| Key::new(bits, key)))
            .1
    }

    /// Carries out the first steps, as many as one call to the kernel takes.
    pub(crate) fn write(&mut self, steps: &[Step]) -> Done {
        match steps.first() {
            Some(Step::PutSlot(..)) => {
                let rows = steps.iter().map_while(|step| match step {
                    Step::PutSlot(index, slot) => Some((*index, *slot)),
                    _ => None,
                });
                put_shared(&mut self.slots, map::SLOTS, rows)
            }
            Some(Step::PutMaglev(..)) => {
                let rows = steps.iter().map_while(|step| match step {
                    Step::PutMaglev(index, row) => Some((*index, *row)),
                    _ => None,
                });
                put_shared(&mut self.maglev, map::MAGLEV, rows)
            }
            Some(Step::PutService(..)) => {
                let rows = steps.iter().map_while(|step| match step {
                    Step::PutService(key, row) => Some((*key, *row)),
                    _ => None,
                });
                for (_, row) in rows.clone() {
                    self.provide_count(row.service);
                }
                self.slots.publish();
                self.services.put(rows)
            }
            Some(Step::Remove(RowKey::Service(_))) => {
                let keys = steps.iter().map_while(|step| match step {
                    Step::Remove(RowKey::Service(key)) => Some(*key),
                    _ => None,
                });
                self.services.remove(keys)
            }
            _ => self.plain.write(steps),
        }
    }

    /// Gives a service its row in `SERVICE_COUNTS`, unless another one has it.
    fn provide_count(&mut self, service: u32) {
        let index = service % limit::SERVICE_COUNTS;
        let there = self.service_counts.get(index).unwrap_or_default();
        if there.service == 0 && service != 0 {
            let row = ServiceCount {
                service,
                ..ServiceCount::default()
            };
            self.service_counts.set(index, row);
        }
    }

    /// Takes rows of `SERVICE_COUNTS` back in which nothing is counted, from services that `is_there` does not know.
    pub(crate) fn take_back_counts(&mut self, is_there: impl Fn(ServiceId) -> bool) {
        for index in 0..limit::SERVICE_COUNTS {
            let row = self.service_counts.get(index).unwrap_or_default();
            let unused = row.service != 0 && row.passed | row.refused == 0;
            if unused && !is_there(ServiceId(row.service)) {
                self.service_counts.set(index, ServiceCount::default());
            }
        }
    }

    /// What was counted for services, policies and identities.
    pub(crate) fn object_counts(&self) -> Result<Vec<(ObjectKey, ObjectCount)>, DatapathError> {
        let rows: Result<Vec<_>, _> = self.object_counts.iter().collect();
        let mut counts: BTreeMap<ObjectKey, ObjectCount> = rows
            .map_err(map_error("read", map::OBJECT_COUNTS))?
            .into_iter()
            .collect();
        let own = (0..limit::SERVICE_COUNTS).filter_map(|index| self.service_counts.get(index));
        for row in own.filter(|row| row.passed | row.refused != 0) {
            let key = ObjectKey {
                kind: object_kind::SERVICE,
                number: row.service,
            };
            // It was counted there before it got a row of its own.
            let sum = counts.entry(key).or_default();
            sum.passed += row.passed;
            sum.refused += row.refused;
        }
        Ok(counts.into_iter().collect())
    }

    /// Begins to count for these anew.
    pub(crate) fn forget_counts(&mut self, keys: &[ObjectKey]) -> Result<(), DatapathError> {
        for key in keys {
            let index = key.number % limit::SERVICE_COUNTS;
            let own = self.service_counts.get(index).unwrap_or_default();
            if key.kind == object_kind::SERVICE && own.service == key.number {
                self.service_counts.set(index, ServiceCount::default());
            }
            match self.object_counts.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                // Only in its own row.
                Err(MapError::SyscallError(fault))
                    if fault.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(fault) => return Err(map_error("remove from", map::OBJECT_COUNTS)(fault)),
            }
        }
        Ok(())
    }

    /// Sums of all CPUs, by reason.
    pub(crate) fn counters(&self) -> Result<Vec<(Reason, Counter)>, DatapathError> {
        let sum = |reason: &Reason| {
            let values = self
                .counters
                .get(&reason.number(), 0)
                .map_err(map_error("read", map::COUNTERS))?;
            let total = values.iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets.wrapping_add(one.packets),
                bytes: sum.bytes.wrapping_add(one.bytes),
            });
            Ok((*reason, total))
        };
        Reason::ALL.iter().map(sum).collect()
    }
}

/// The ring of drop events. One reader at a time: the position is the map's own.
pub(crate) fn events(pins: &Pins) -> Result<RingBuf<MapData>, DatapathError> {
    const _: () = assert!(size_of::<Event>() < limit::EVENTS as usize);
    open(pins, map::EVENTS)
}

pub(crate) fn open<M: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<M, DatapathError> {
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(map_error("open", name))
}

fn rulesets(pins: &Pins) -> Result<BTreeMap<u32, Ruleset>, DatapathError> {
    let rules: LpmTrie<MapData, RuleKey, u32> = open(pins, map::POLICY)?;
    let blocks: LpmTrie<MapData, BlockKey, u32> = open(pins, map::BLOCKS)?;
    let mut found: BTreeMap<u32, Ruleset> = BTreeMap::new();
    for row in rules.iter() {
        let (key, policy) = row.map_err(map_error("read", map::POLICY))?;
        let (bits, key) = (key.prefix_len(), key.data());
        let ruleset = found.entry(key.ruleset).or_default();
        ruleset.adopt_rule(bits, key, policy);
    }
    for row in blocks.iter() {
        let (key, class) = row.map_err(map_error("read", map::BLOCKS))?;
        let (bits, key) = (key.prefix_len(), key.data());
        let ruleset = found.entry(key.ruleset).or_default();
        ruleset.adopt_block(bits, key, class);
    }
    Ok(found)
}

fn rows<K: Pod + Ord, V: Pod>(
    pins: &Pins,
    name: &'static str,
) -> Result<BTreeMap<K, V>, DatapathError> {
    let map: HashMap<MapData, K, V> = open(pins, name)?;
    map.iter()
        .collect::<Result<_, _>>()
        .map_err(map_error("read", name))
}
