//! Rows that don't fit, said before they are written.

use waggle_abi::Capacity;

use crate::claim::Claimant;
use crate::table::Table;

/// A table would overflow.
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

/// A row that was not written because its table is full. What it would have allowed stays denied; everything else goes
/// on, and it is tried again with every change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whose row.
    pub claimant: Claimant,
    /// Why not.
    pub fault: CapacityFault,
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
