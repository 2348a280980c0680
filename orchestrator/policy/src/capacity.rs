//! Whether rows fit, said before anything is written.

use std::fmt;

use waggle_abi::Capacity;

/// A table with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Service ports.
    Services,
    /// Backend slots, old and new sets side by side while one replaces the other.
    Slots,
    /// Addresses of pods, nodes and services.
    Endpoints,
    /// Pod ranges.
    Ranges,
    /// Pods of this node.
    Links,
    /// Exported backends.
    Grants,
    /// Rules of the policies of this node's pods, old and new ones side by side while one replaces the other.
    Rules,
    /// Address ranges of the policies of this node's pods.
    Blocks,
}

impl Table {
    /// Its limit.
    pub fn limit(self, capacity: &Capacity) -> u32 {
        match self {
            Self::Services => capacity.services,
            Self::Slots => capacity.slots,
            Self::Endpoints => capacity.endpoints,
            Self::Ranges => capacity.ranges,
            Self::Links => capacity.links,
            Self::Grants => capacity.grants,
            Self::Rules => capacity.policy,
            Self::Blocks => capacity.blocks,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "service ports",
            Self::Slots => "backend slots",
            Self::Endpoints => "addresses",
            Self::Ranges => "pod ranges",
            Self::Links => "pods on this node",
            Self::Grants => "exported backends",
            Self::Rules => "policy rules",
            Self::Blocks => "policy address ranges",
        })
    }
}

/// A table would overflow. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{needed} {table} are needed but this node's datapath has room for {limit}")]
pub struct CapacityFault {
    /// Which table.
    pub table: Table,
    /// Rows it would have to hold.
    pub needed: usize,
    /// Rows it can hold.
    pub limit: u32,
}

/// Refuses more rows than fit.
pub(crate) fn check(capacity: &Capacity, table: Table, needed: usize) -> Result<(), CapacityFault> {
    let limit = table.limit(capacity);
    if needed > usize::try_from(limit).unwrap_or(usize::MAX) {
        return Err(CapacityFault {
            table,
            needed,
            limit,
        });
    }
    Ok(())
}
