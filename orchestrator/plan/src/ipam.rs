//! Addresses: pod ranges of nodes, pods of a node, virtual addresses of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use waggle_model::network::Cidr;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All in use.
    #[error("no free address left in {range}: {used} in use")]
    Exhausted {
        /// The range.
        range: Cidr,
        /// How many are in use.
        used: usize,
    },
    /// Asked for one that somebody else has.
    #[error("address {address} is already used by {owner}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
    /// Asked for one that can't be given.
    #[error("address {address} is not one of the assignable addresses of {range}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The range.
        range: Cidr,
    },
}

/// The first range of `prefix` bits in `cluster` that is not in `used`.
///
/// # Errors
/// [`IpamError::Exhausted`].
pub fn assign_pod_cidr(
    cluster: Cidr,
    prefix: u8,
    used: &BTreeSet<Cidr>,
) -> Result<Cidr, IpamError> {
    let overlaps = |range: Cidr| {
        used.iter()
            .any(|one| one.contains(range.address()) || range.contains(one.address()))
    };
    (0..)
        .map_while(|index| cluster.subnet(prefix, index))
        .find(|&range| !overlaps(range))
        .ok_or(IpamError::Exhausted {
            range: cluster,
            used: used.len(),
        })
}

/// Addresses of one range and who has them. An address is never given twice while in use, and one that was given back
/// is the last to be given again (next fit).
///
/// The range's first two addresses (its network and the node's own) and its last are never given.
#[derive(Debug, Clone)]
pub struct Addresses {
    range: Cidr,
    owners: BTreeMap<String, IpAddr>,
    used: BTreeMap<IpAddr, String>,
    next: u64,
}

/// Addresses of a node's pods, by pod uid.
pub type PodAddresses = Addresses;
/// Virtual addresses of Services, by Service uid (or namespace/name before it has one).
pub type ServiceAddresses = Addresses;

const RESERVED_FIRST: u64 = 2;

impl Addresses {
    /// All free.
    pub fn new(range: Cidr) -> Self {
        Self {
            range,
            owners: BTreeMap::new(),
            used: BTreeMap::new(),
            next: RESERVED_FIRST,
        }
    }

    /// The range.
    pub fn range(&self) -> Cidr {
        self.range
    }

    /// The address of `owner`.
    pub fn of(&self, owner: &str) -> Option<IpAddr> {
        self.owners.get(owner).copied()
    }

    /// Who has `address`.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        self.used.get(&address).map(String::as_str)
    }

    /// Everybody who has an address.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.owners
            .iter()
            .map(|(owner, &address)| (owner.as_str(), address))
    }

    /// The address of `owner`, a new one if it has none.
    ///
    /// # Errors
    /// [`IpamError::Exhausted`].
    pub fn assign(&mut self, owner: &str) -> Result<IpAddr, IpamError> {
        if let Some(address) = self.of(owner) {
            return Ok(address);
        }
        let end = self.end();
        let candidates = (self.next..end).chain(RESERVED_FIRST..self.next.min(end));
        let free = candidates
            .filter_map(|index| self.range.nth(index).map(|address| (index, address)))
            .find(|(_, address)| !self.used.contains_key(address));
        let Some((index, address)) = free else {
            return Err(IpamError::Exhausted {
                range: self.range,
                used: self.used.len(),
            });
        };
        self.next = index + 1;
        self.record(owner, address);
        Ok(address)
    }

    /// Gives `owner` this very address: one it asked for, or one it had before a restart.
    ///
    /// # Errors
    /// [`IpamError::Taken`] when somebody else has it, [`IpamError::Outside`] when it is not assignable.
    pub fn claim(&mut self, owner: &str, address: IpAddr) -> Result<(), IpamError> {
        match self.used.get(&address) {
            Some(other) if other != owner => {
                return Err(IpamError::Taken {
                    address,
                    owner: other.clone(),
                });
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let index = self
            .index(address)
            .filter(|&index| index >= 1 && index < self.end());
        let Some(index) = index else {
            return Err(IpamError::Outside {
                address,
                range: self.range,
            });
        };
        self.release(owner);
        self.record(owner, address);
        self.next = self.next.max(index + 1);
        Ok(())
    }

    /// Takes back what `owner` has.
    pub fn release(&mut self, owner: &str) -> Option<IpAddr> {
        let address = self.owners.remove(owner)?;
        self.used.remove(&address);
        Some(address)
    }

    fn record(&mut self, owner: &str, address: IpAddr) {
        self.owners.insert(owner.to_owned(), address);
        self.used.insert(address, owner.to_owned());
    }

    /// One past the last assignable index.
    fn end(&self) -> u64 {
        self.range.size().saturating_sub(1)
    }

    fn index(&self, address: IpAddr) -> Option<u64> {
        if !self.range.contains(address) {
            return None;
        }
        match (self.range.address(), address) {
            (IpAddr::V4(first), IpAddr::V4(one)) => {
                Some(u64::from(one.to_bits() - first.to_bits()))
            }
            (IpAddr::V6(first), IpAddr::V6(one)) => {
                u64::try_from(one.to_bits() - first.to_bits()).ok()
            }
            _ => None,
        }
    }
}
