//! The pinned maps: opened, compared with what this build expects, read once into a mirror, and written step by step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, RingBuf};
use waggle_abi::{
    Addr, BlockKey, Capacity, Config, Counter, EndpointRow, Event, Flow, FlowKey, GrantKey,
    LinkRow, OwnerRow, Reason, RuleKey, ServiceKey, ServiceRow, Slot, SocketKey, VipRow, limit,
    map,
};
use waggle_policy::{Current, Ruleset, Step};

use crate::error::{DatapathError, map_error};
use crate::pin::{Pins, unpin};

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
        shape::<Key<Addr>, u32>(map::RANGES, MapType::LpmTrie, capacity.ranges, true),
        shape::<u32, LinkRow>(map::LINKS, MapType::Hash, capacity.links, true),
        shape::<u64, OwnerRow>(map::SOCKET_OWNERS, MapType::Hash, capacity.links, true),
        shape::<GrantKey, u32>(map::GRANTS, MapType::Hash, capacity.grants, true),
        shape::<Key<RuleKey>, u32>(map::POLICY, MapType::LpmTrie, capacity.policy, true),
        shape::<Key<BlockKey>, u32>(map::BLOCKS, MapType::LpmTrie, capacity.blocks, true),
        shape::<FlowKey, Flow>(map::FLOWS, MapType::LruHash, capacity.flows, false),
        shape::<SocketKey, VipRow>(map::SOCK_VIP, MapType::LruHash, capacity.sock_vip, false),
        shape::<u32, Counter>(map::COUNTERS, MapType::PerCpuArray, reasons, false),
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

/// The maps that user space writes.
pub(crate) struct Maps {
    config: Array<MapData, Config>,
    services: HashMap<MapData, ServiceKey, ServiceRow>,
    slots: Array<MapData, Slot>,
    endpoints: HashMap<MapData, Addr, EndpointRow>,
    ranges: LpmTrie<MapData, Addr, u32>,
    links: HashMap<MapData, u32, LinkRow>,
    owners: HashMap<MapData, u64, OwnerRow>,
    grants: HashMap<MapData, GrantKey, u32>,
    rules: LpmTrie<MapData, RuleKey, u32>,
    blocks: LpmTrie<MapData, BlockKey, u32>,
    counters: PerCpuArray<MapData, Counter>,
}

impl Maps {
    /// Opens them.
    pub(crate) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            config: open(pins, map::CONFIG)?,
            services: open(pins, map::SERVICES)?,
            slots: open(pins, map::SLOTS)?,
            endpoints: open(pins, map::ENDPOINTS)?,
            ranges: open(pins, map::RANGES)?,
            links: open(pins, map::LINKS)?,
            owners: open(pins, map::SOCKET_OWNERS)?,
            grants: open(pins, map::GRANTS)?,
            rules: open(pins, map::POLICY)?,
            blocks: open(pins, map::BLOCKS)?,
            counters: open(pins, map::COUNTERS)?,
        })
    }

    /// Reads everything that is in the kernel.
    pub(crate) fn read(&self) -> Result<Current, DatapathError> {
        let mut current = Current::default();
        current.config = self
            .config
            .get(&0, 0)
            .map_err(map_error("read", map::CONFIG))?;
        current.endpoints = rows(&self.endpoints, map::ENDPOINTS)?;
        current.grants = rows(&self.grants, map::GRANTS)?;
        current.links = rows(&self.links, map::LINKS)?;
        current.owners = rows(&self.owners, map::SOCKET_OWNERS)?;
        for key in self.ranges.keys() {
            let key = key.map_err(map_error("read", map::RANGES))?;
            current.ranges.insert((key.prefix_len(), key.data()));
        }
        for service in self.services.iter() {
            let (key, row) = service.map_err(map_error("read", map::SERVICES))?;
            let slots: Result<Vec<_>, _> = (row.base..row.base.saturating_add(row.count))
                .map(|index| {
                    self.slots
                        .get(&index, 0)
                        .map_err(map_error("read", map::SLOTS))
                })
                .collect();
            current.adopt_service(key, row, slots?);
        }
        current.rulesets.resume(current.config.next_ruleset);
        for (number, ruleset) in self.rulesets()? {
            current.rulesets.adopt(number, Arc::new(ruleset));
        }
        Ok(current)
    }

    fn rulesets(&self) -> Result<BTreeMap<u32, Ruleset>, DatapathError> {
        let mut found: BTreeMap<u32, Ruleset> = BTreeMap::new();
        for row in self.rules.iter() {
            let (key, policy) = row.map_err(map_error("read", map::POLICY))?;
            let (bits, key) = (key.prefix_len(), key.data());
            let ruleset = found.entry(key.ruleset).or_default();
            ruleset.adopt_rule(bits, key, policy);
        }
        for row in self.blocks.iter() {
            let (key, class) = row.map_err(map_error("read", map::BLOCKS))?;
            let (bits, key) = (key.prefix_len(), key.data());
            let ruleset = found.entry(key.ruleset).or_default();
            ruleset.adopt_block(bits, key, class);
        }
        Ok(found)
    }

    /// Writes every row of a ruleset that nothing names yet.
    pub(crate) fn write_ruleset(
        &mut self,
        number: u32,
        ruleset: &Ruleset,
    ) -> Result<(), DatapathError> {
        for (bits, key, class) in ruleset.block_rows(number) {
            let written = self.blocks.insert(&Key::new(bits, key), class, 0);
            written.map_err(map_error("write", map::BLOCKS))?;
        }
        for (bits, key, policy) in ruleset.rule_rows(number) {
            let written = self.rules.insert(&Key::new(bits, key), policy, 0);
            written.map_err(map_error("write", map::POLICY))?;
        }
        Ok(())
    }

    /// Removes every row of a ruleset that nothing names any more.
    pub(crate) fn remove_ruleset(
        &mut self,
        number: u32,
        ruleset: &Ruleset,
    ) -> Result<(), DatapathError> {
        for (bits, key, _) in ruleset.rule_rows(number) {
            absent_is_fine(self.rules.remove(&Key::new(bits, key)), map::POLICY)?;
        }
        for (bits, key, _) in ruleset.block_rows(number) {
            absent_is_fine(self.blocks.remove(&Key::new(bits, key)), map::BLOCKS)?;
        }
        Ok(())
    }

    /// Carries out one step.
    pub(crate) fn write(&mut self, step: &Step) -> Result<(), DatapathError> {
        match *step {
            Step::PutConfig(row) => self
                .config
                .set(0, row, 0)
                .map_err(map_error("write", map::CONFIG)),
            Step::PutRange(prefix, addr) => self
                .ranges
                .insert(&Key::new(prefix, addr), 0, 0)
                .map_err(map_error("write", map::RANGES)),
            Step::PutEndpoint(addr, row) => put(&mut self.endpoints, map::ENDPOINTS, addr, row),
            Step::PutLink(ifindex, row) => put(&mut self.links, map::LINKS, ifindex, row),
            Step::PutOwner(netns, row) => put(&mut self.owners, map::SOCKET_OWNERS, netns, row),
            Step::PutGrant(key, service) => put(&mut self.grants, map::GRANTS, key, service),
            Step::PutSlot(index, slot) => self
                .slots
                .set(index, slot, 0)
                .map_err(map_error("write", map::SLOTS)),
            Step::PutService(key, row) => put(&mut self.services, map::SERVICES, key, row),
            Step::RemoveService(key) => remove(&mut self.services, map::SERVICES, &key),
            Step::RemoveGrant(key) => remove(&mut self.grants, map::GRANTS, &key),
            Step::RemoveEndpoint(addr) => remove(&mut self.endpoints, map::ENDPOINTS, &addr),
            Step::RemoveRange(prefix, addr) => {
                absent_is_fine(self.ranges.remove(&Key::new(prefix, addr)), map::RANGES)
            }
            Step::RemoveOwner(netns) => remove(&mut self.owners, map::SOCKET_OWNERS, &netns),
            Step::RemoveLink(ifindex) => remove(&mut self.links, map::LINKS, &ifindex),
        }
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

fn open<M: TryFrom<Map, Error = MapError>>(
    pins: &Pins,
    name: &'static str,
) -> Result<M, DatapathError> {
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(map_error("open", name))
}

fn rows<K: Pod + Ord, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<std::collections::BTreeMap<K, V>, DatapathError> {
    map.iter()
        .collect::<Result<_, _>>()
        .map_err(map_error("read", name))
}

fn put<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), DatapathError> {
    map.insert(key, value, 0).map_err(map_error("write", name))
}

fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    key: &K,
) -> Result<(), DatapathError> {
    absent_is_fine(map.remove(key), name)
}

fn absent_is_fine(result: Result<(), MapError>, name: &'static str) -> Result<(), DatapathError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other.map_err(map_error("remove from", name)),
    }
}
