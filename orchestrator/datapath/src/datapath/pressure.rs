//! How full the tables are.

use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use waggle_abi::{Flow, FlowKey, SocketKey, VipRow, map};
use waggle_policy::Table;

use super::Datapath;
use crate::error::{DatapathError, map_error};

/// How full one table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupancy {
    /// A word for it: `service`, `flow`.
    pub table: String,
    /// Rows in it.
    pub rows: usize,
    /// Rows that it can hold.
    pub limit: u32,
}

impl Datapath {
    /// How full each table is that user space writes.
    pub fn occupancy(&self) -> Vec<Occupancy> {
        let tables = self.lock();
        let limited = Table::ALL
            .iter()
            .filter(|table| **table != Table::Config && **table != Table::Owner);
        let of = |table: &Table| Occupancy {
            table: format!("{table:?}").to_lowercase(),
            rows: tables.current().count(*table),
            limit: table.limit(&self.config.capacity),
        };
        limited.map(of).collect()
    }

    /// How full each table is that programs write and where the least recently used row makes room. Reads every key:
    /// some ten milliseconds when they are full.
    ///
    /// # Errors
    /// When the kernel can't be read.
    pub fn recent_occupancy(&self) -> Result<[Occupancy; 2], DatapathError> {
        let capacity = &self.config.capacity;
        Ok([
            Occupancy {
                table: "flow".into(),
                rows: self.rows::<FlowKey, Flow>(map::FLOWS, capacity.flows)?,
                limit: capacity.flows,
            },
            Occupancy {
                table: "socket".into(),
                rows: self.rows::<SocketKey, VipRow>(map::SOCK_VIP, capacity.sock_vip)?,
                limit: capacity.sock_vip,
            },
        ])
    }

    fn rows<K: Pod, V: Pod>(&self, name: &'static str, limit: u32) -> Result<usize, DatapathError> {
        let map: HashMap<MapData, K, V> = MapData::from_pin(self.pins.map(name))
            .and_then(Map::from_map_data)
            .and_then(HashMap::try_from)
            .map_err(map_error("open", name))?;
        // Rows that go while they are counted have the kernel start over: no more than fit.
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(map.keys().take(most).take_while(Result::is_ok).count())
    }
}
