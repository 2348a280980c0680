//! Addresses that may be given out one by one: those of load balancers.

use std::net::IpAddr;

use super::Cidr;

/// Ranges of addresses. Written with commas, each as `CIDR` or `FIRST-LAST`: `192.0.2.16-192.0.2.31,2001:db8::/120`.
/// Every address of a range is given, its first and its last too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPool {
    ranges: Vec<(IpAddr, IpAddr)>,
    text: String,
}

/// Why a text is no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid address pool {text:?}: {rule}")]
pub struct InvalidPool {
    /// The part at fault.
    pub text: String,
    /// What would be right.
    pub rule: &'static str,
}

impl AddressPool {
    /// Whether it may give `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let within = |(first, last): &(IpAddr, IpAddr)| {
            first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
        };
        self.ranges.iter().any(within)
    }

    /// Whether it has addresses of a family.
    pub fn has_family(&self, ipv4: bool) -> bool {
        self.ranges.iter().any(|(first, _)| first.is_ipv4() == ipv4)
    }

    /// Its addresses of a family, in the order in which its ranges were written.
    pub fn addresses(&self, ipv4: bool) -> impl Iterator<Item = IpAddr> {
        let ranges = self.ranges.iter();
        let ranges = ranges.filter(move |(first, _)| first.is_ipv4() == ipv4);
        ranges.flat_map(|&(first, last)| span(first, last))
    }

    /// Whether it shares an address with `range`.
    pub fn overlaps(&self, range: Cidr) -> bool {
        let inside =
            |(first, last): &(IpAddr, IpAddr)| range.contains(*first) || range.contains(*last);
        self.contains(range.address()) || self.ranges.iter().any(inside)
    }
}

fn span(first: IpAddr, last: IpAddr) -> Box<dyn Iterator<Item = IpAddr> + Send> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((first.to_bits()..=last.to_bits()).map(|bits| IpAddr::V4(bits.into())))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new((first.to_bits()..=last.to_bits()).map(|bits| IpAddr::V6(bits.into())))
        }
        _ => Box::new(std::iter::empty()),
    }
}

impl std::fmt::Display for AddressPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for AddressPool {
    type Err = InvalidPool;

    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        let parts = text.split(',').map(str::trim);
        let ranges = parts.map(range).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            ranges,
            text: text.to_owned(),
        })
    }
}

fn range(text: &str) -> Result<(IpAddr, IpAddr), InvalidPool> {
    let fault = |rule| InvalidPool {
        text: text.to_owned(),
        rule,
    };
    const FORM: &str = "write CIDR or FIRST-LAST, such as 192.0.2.0/28 or 192.0.2.16-192.0.2.31, several with commas";
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => {
            let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| fault(FORM));
            (address(first)?, address(last)?)
        }
        None => {
            let cidr: Cidr = text.parse().map_err(|_| fault(FORM))?;
            (cidr.address(), cidr.last())
        }
    };
    if first.is_ipv4() != last.is_ipv4() || first > last {
        return Err(fault("the last address must not come before the first"));
    }
    let unusable = |address: IpAddr| {
        address.is_unspecified() || address.is_loopback() || address.is_multicast()
    };
    if unusable(first) || unusable(last) {
        return Err(fault(
            "it holds loopback, multicast or unspecified addresses, which no client outside can use",
        ));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_walked() {
        let pool: AddressPool = "192.0.2.30-192.0.2.33, 2001:db8::/127,198.51.100.0/31"
            .parse()
            .unwrap();
        let texts = |ipv4| -> Vec<String> {
            let all = pool.addresses(ipv4);
            all.map(|one| one.to_string()).collect()
        };
        assert_eq!(
            texts(true),
            [
                "192.0.2.30",
                "192.0.2.31",
                "192.0.2.32",
                "192.0.2.33",
                "198.51.100.0",
                "198.51.100.1"
            ]
        );
        assert_eq!(texts(false), ["2001:db8::", "2001:db8::1"]);
        for (address, within) in [
            ("192.0.2.33", true),
            ("192.0.2.34", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            assert_eq!(pool.contains(address.parse().unwrap()), within, "{address}");
        }
        for (range, shares) in [
            ("192.0.2.32/30", true),
            ("192.0.0.0/16", true),
            ("192.0.2.34/31", false),
            ("2001:db8::/64", true),
            ("10.0.0.0/8", false),
        ] {
            assert_eq!(pool.overlaps(range.parse().unwrap()), shares, "{range}");
        }
        assert!(pool.has_family(false) && pool.has_family(true));
    }

    #[test]
    fn what_is_no_pool_is_refused_with_its_part() {
        for (text, expect) in [
            ("", "\"\""),
            ("192.0.2.0/28,x", "\"x\""),
            ("192.0.2.9-192.0.2.1", "must not come before"),
            ("192.0.2.9-2001:db8::1", "must not come before"),
            ("127.0.0.0/24", "loopback"),
            ("192.0.2.1/28", "write CIDR or FIRST-LAST"),
        ] {
            let error = text.parse::<AddressPool>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
