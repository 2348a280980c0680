//! Address ranges.

use std::net::IpAddr;

/// An address range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid address range {text:?}: write ADDRESS/PREFIX such as 10.244.0.0/16, with no bits set after the prefix"
)]
pub struct InvalidCidr {
    /// The text as given.
    pub text: String,
}

impl Cidr {
    /// Reads a range as people write it in policies, where bits after the prefix are allowed and mean nothing.
    ///
    /// # Errors
    /// [`InvalidCidr`] for a text that is no address with a prefix.
    pub fn masked(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let address = match address {
            IpAddr::V4(v4) if prefix <= 32 => {
                let mask = u32::MAX.checked_shl(u32::from(32 - prefix)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) if prefix <= 128 => {
                let mask = u128::MAX.checked_shl(u32::from(128 - prefix)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
            _ => return Err(invalid()),
        };
        Ok(Self { address, prefix })
    }
    /// First address.
    pub fn address(self) -> IpAddr {
        self.address
    }
    /// Bits that all its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
    /// Bits of the family.
    fn width(self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }
    /// Whether `address` lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && (self.prefix == 0
                || bits(address) >> (self.width() - self.prefix)
                    == bits(self.address) >> (self.width() - self.prefix))
    }
    /// Last address.
    pub fn last(self) -> IpAddr {
        let rest = u32::from(self.width() - self.prefix);
        match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(rest).map_or(u32::MAX, |mask| !mask);
                IpAddr::V4((v4.to_bits() | mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(rest).map_or(u128::MAX, |mask| !mask);
                IpAddr::V6((v6.to_bits() | mask).into())
            }
        }
    }
    /// How many addresses it holds, at most `u64::MAX`.
    pub fn size(self) -> u64 {
        1u64.checked_shl(u32::from(self.width() - self.prefix))
            .unwrap_or(u64::MAX)
    }
    /// The address at `index` from the first; `None` past the end.
    pub fn nth(self, index: u64) -> Option<IpAddr> {
        (index < self.size()).then(|| match self.address {
            IpAddr::V4(v4) => {
                IpAddr::V4((v4.to_bits() + u32::try_from(index).unwrap_or(u32::MAX)).into())
            }
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(index)).into()),
        })
    }
    /// The `index`th part of it when cut into ranges of `prefix` bits; `None` past the end.
    pub fn subnet(self, prefix: u8, index: u64) -> Option<Self> {
        if prefix < self.prefix || prefix > self.width() {
            return None;
        }
        let count = 1u64
            .checked_shl(u32::from(prefix - self.prefix))
            .unwrap_or(u64::MAX);
        if index >= count {
            return None;
        }
        let offset = u128::from(index) << (self.width() - prefix);
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + u32::try_from(offset).ok()?).into()),
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + offset).into()),
        };
        Some(Self { address, prefix })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl std::str::FromStr for Cidr {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let cidr = Self { address, prefix };
        if prefix > cidr.width() {
            return Err(invalid());
        }
        let host = u32::from(cidr.width() - prefix);
        let mask = if host == 0 {
            0
        } else {
            u128::MAX >> (128 - host)
        };
        if bits(address) & mask != 0 {
            Err(invalid())
        } else {
            Ok(cidr)
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_are_cut_and_counted() {
        let pods: Cidr = "10.244.0.0/16".parse().unwrap();
        assert_eq!(pods.subnet(24, 3).unwrap().to_string(), "10.244.3.0/24");
        assert_eq!(pods.subnet(24, 256), None);
        assert_eq!(pods.nth(259).unwrap().to_string(), "10.244.1.3");
        assert!(pods.contains("10.244.255.1".parse().unwrap()));
        assert!(!pods.contains("10.245.0.1".parse().unwrap()));
        assert!(!pods.contains("::1".parse().unwrap()));
        for text in [
            "10.244.0.1/16",
            "10.244.0.0",
            "10.244.0.0/33",
            "x/8",
            "fd00::1/64",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        for (text, expected) in [
            ("10.244.3.7/16", "10.244.0.0/16"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("1.2.3.4/32", "1.2.3.4/32"),
            ("fd00::1/64", "fd00::/64"),
            ("fd00::1/0", "::/0"),
        ] {
            assert_eq!(Cidr::masked(text).unwrap().to_string(), expected, "{text}");
        }
        assert!(Cidr::masked("10.0.0.0/33").is_err());
        assert!(
            "0.0.0.0/0"
                .parse::<Cidr>()
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
    }
}
