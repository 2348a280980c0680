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
        .find(|&range| !used.contains(&range) && !overlaps(range))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn nodes_get_the_first_free_range() {
        let cluster = range("10.244.0.0/22");
        let mut used = BTreeSet::new();
        for expect in [
            "10.244.0.0/24",
            "10.244.1.0/24",
            "10.244.2.0/24",
            "10.244.3.0/24",
        ] {
            let given = assign_pod_cidr(cluster, 24, &used).unwrap();
            assert_eq!(given.to_string(), expect);
            used.insert(given);
        }
        assert_eq!(
            assign_pod_cidr(cluster, 24, &used),
            Err(IpamError::Exhausted {
                range: cluster,
                used: 4
            })
        );
        used.remove(&range("10.244.1.0/24"));
        assert_eq!(
            assign_pod_cidr(cluster, 24, &used).unwrap().to_string(),
            "10.244.1.0/24"
        );
        let wide = BTreeSet::from([range("10.244.0.0/23")]);
        assert_eq!(
            assign_pod_cidr(cluster, 24, &wide).unwrap().to_string(),
            "10.244.2.0/24"
        );
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let mut addresses = Addresses::new(range("10.244.1.0/29"));
        let given: Vec<String> = (0..5)
            .map(|n| addresses.assign(&format!("p{n}")).unwrap().to_string())
            .collect();
        assert_eq!(
            given,
            [
                "10.244.1.2",
                "10.244.1.3",
                "10.244.1.4",
                "10.244.1.5",
                "10.244.1.6"
            ]
        );
        assert!(matches!(
            addresses.assign("more"),
            Err(IpamError::Exhausted { used: 5, .. })
        ));
        addresses.release("p3");
        addresses.release("p0");
        assert_eq!(addresses.assign("q").unwrap().to_string(), "10.244.1.2");
        assert_eq!(addresses.assign("r").unwrap().to_string(), "10.244.1.5");
    }

    #[test]
    fn what_was_asked_for_is_respected() {
        let mut services = ServiceAddresses::new(range("10.96.0.0/16"));
        let dns: IpAddr = "10.96.0.10".parse().unwrap();
        services.claim("dns", dns).unwrap();
        services.claim("dns", dns).unwrap();
        services.claim("api", "10.96.0.1".parse().unwrap()).unwrap();
        assert_eq!(
            services.claim("x", dns),
            Err(IpamError::Taken {
                address: dns,
                owner: "dns".into()
            })
        );
        for text in ["10.97.0.1", "10.96.0.0", "10.96.255.255", "fd00::1"] {
            let refused = services.claim("x", text.parse().unwrap());
            assert!(matches!(refused, Err(IpamError::Outside { .. })), "{text}");
        }
        assert_eq!(services.of("x"), None);
        assert_eq!(services.owner(dns), Some("dns"));
    }

    proptest! {
        #[test]
        fn no_address_is_given_twice(steps in proptest::collection::vec((0u8..12, any::<bool>()), 0..80)) {
            let mut addresses = Addresses::new(range("10.244.1.0/28"));
            for (owner, release) in steps {
                let owner = format!("p{owner}");
                if release {
                    addresses.release(&owner);
                } else {
                    let given = addresses.assign(&owner).unwrap();
                    prop_assert_eq!(addresses.of(&owner), Some(given));
                }
                let all: Vec<IpAddr> = addresses.iter().map(|(_, address)| address).collect();
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                let usable = |address: &IpAddr| addresses.range().contains(*address) && addresses.owner(*address).is_some();
                prop_assert!(all.iter().all(usable));
            }
        }
    }
}
