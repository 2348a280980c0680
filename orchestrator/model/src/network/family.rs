//! One value for each address family that a cluster speaks: the primary one, and the other one in dual-stack clusters.

use std::net::IpAddr;

use super::Cidr;

/// Which family a value belongs to.
pub trait OfFamily {
    /// Belongs to IPv4, else to IPv6.
    fn is_ipv4(&self) -> bool;
}

impl OfFamily for IpAddr {
    fn is_ipv4(&self) -> bool {
        Self::is_ipv4(self)
    }
}

impl OfFamily for Cidr {
    fn is_ipv4(&self) -> bool {
        self.address().is_ipv4()
    }
}

/// One or two values, never two of one family. Written with a comma: `10.244.0.0/16,fd00:10:244::/56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PerFamily<T> {
    primary: T,
    other: Option<T>,
}

/// Why values are none for each family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFamilies {
    /// No value at all.
    #[error("empty: write one value, or one IPv4 and one IPv6 value with a comma between them")]
    Empty,
    /// Two of one family, or more than two.
    #[error("{text:?}: at most one value of each family, IPv4 and IPv6")]
    Repeated {
        /// The values as given.
        text: String,
    },
    /// A part that is no value.
    #[error("{text:?}: {cause}")]
    Value {
        /// The part.
        text: String,
        /// What is wrong with it.
        cause: String,
    },
}

impl<T: OfFamily + Copy> PerFamily<T> {
    /// Of one family.
    pub fn single(primary: T) -> Self {
        Self {
            primary,
            other: None,
        }
    }

    /// From values, the primary first; `None` for none, two of one family or more than two.
    pub fn of(values: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut values = values.into_iter();
        let (primary, other) = (values.next()?, values.next());
        let distinct = other.is_none_or(|other| other.is_ipv4() != primary.is_ipv4());
        (distinct && values.next().is_none()).then_some(Self { primary, other })
    }

    /// The cluster's first family's.
    pub fn primary(&self) -> T {
        self.primary
    }

    /// The value of a family.
    pub fn family(&self, ipv4: bool) -> Option<T> {
        self.iter().find(|value| value.is_ipv4() == ipv4)
    }

    /// Both, the primary first.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<T> {
        [Some(self.primary), self.other].into_iter().flatten()
    }

    /// Has both families.
    pub fn is_dual(&self) -> bool {
        self.other.is_some()
    }
}

impl<T: OfFamily + Copy + std::fmt::Display> std::fmt::Display for PerFamily<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.primary.fmt(f)?;
        match &self.other {
            Some(other) => write!(f, ",{other}"),
            None => Ok(()),
        }
    }
}

impl<T> std::str::FromStr for PerFamily<T>
where
    T: OfFamily + Copy + std::str::FromStr,
    T::Err: std::fmt::Display,
{
    type Err = InvalidFamilies;

    fn from_str(text: &str) -> Result<Self, InvalidFamilies> {
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let values = parts.map(|part| {
            part.parse()
                .map_err(|cause: T::Err| InvalidFamilies::Value {
                    text: part.to_owned(),
                    cause: cause.to_string(),
                })
        });
        let values: Vec<T> = values.collect::<Result<_, _>>()?;
        if values.is_empty() {
            return Err(InvalidFamilies::Empty);
        }
        Self::of(values).ok_or_else(|| InvalidFamilies::Repeated {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_each_family_and_nothing_else() {
        let both: PerFamily<Cidr> = "10.244.0.0/16, fd00::/56".parse().unwrap();
        assert_eq!(both.to_string(), "10.244.0.0/16,fd00::/56");
        assert_eq!(both.family(false).unwrap().to_string(), "fd00::/56");
        assert!(both.is_dual() && both.primary().is_ipv4());
        let one: PerFamily<IpAddr> = "fd00::1".parse().unwrap();
        assert_eq!((one.family(true), one.iter().count()), (None, 1));
        for (text, expect) in [
            ("", "empty"),
            ("10.0.0.1,10.0.0.2", "at most one value of each family"),
            (
                "10.0.0.1,fd00::1,fd00::2",
                "at most one value of each family",
            ),
            ("10.0.0.1,x", "\"x\": invalid IP address"),
        ] {
            let error = text.parse::<PerFamily<IpAddr>>().unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
    }
}
