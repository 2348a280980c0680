//! Kubernetes quantities (`100m`, `1.5`, `64Mi`, `1e3`) as exact integers.
//!
//! Grammar: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid quantity {text:?}: write a number with an optional suffix such as 500m, 2, 64Mi or 1G"
)]
pub struct InvalidQuantity {
    /// The text as given.
    pub text: String,
}

/// A non-negative amount in thousandths of its unit, rounded up as Kubernetes does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    milli: i128,
}

impl Quantity {
    /// In thousandths of the unit.
    pub fn milli(self) -> i128 {
        self.milli
    }
    /// In whole units, rounded up.
    pub fn value(self) -> i64 {
        let whole = self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) > 0);
        i64::try_from(whole).unwrap_or(i64::MAX)
    }
    /// Below zero: syntactically a quantity, but no resource amount.
    pub fn is_negative(self) -> bool {
        self.milli < 0
    }
}

/// Multiplier of a suffix as (numerator, denominator).
fn suffix(text: &str) -> Option<(i128, i128)> {
    Some(match text {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => {
            let exponent: i32 = text.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse(text).ok_or_else(|| InvalidQuantity {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    let (number, unit) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (numerator, denominator) = suffix(unit)?;
    let top = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let bottom = scale.checked_mul(denominator)?;
    let milli = top / bottom + i128::from(top % bottom > 0);
    Some(Quantity {
        milli: sign * milli,
    })
}

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident, $read:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// Sum, stopping at the largest value.
            #[must_use]
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
            /// Difference, stopping at the smallest value.
            #[must_use]
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl From<Quantity> for $name {
            fn from(quantity: Quantity) -> Self {
                $read(quantity)
            }
        }

        impl FromStr for $name {
            type Err = InvalidQuantity;
            fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
                text.parse::<Quantity>().map(Self::from)
            }
        }
    };
}

fn read_milli(quantity: Quantity) -> MilliCpu {
    MilliCpu(i64::try_from(quantity.milli()).unwrap_or(i64::MAX))
}

fn read_value(quantity: Quantity) -> Bytes {
    Bytes(quantity.value())
}

amount!(
    /// Processor time: thousandths of one core.
    MilliCpu, read_milli
);
amount!(
    /// Memory or storage, in bytes.
    Bytes, read_value
);

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 == 0 {
            write!(f, "{}", self.0 / 1000)
        } else {
            write!(f, "{}m", self.0)
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if self.0 != 0 && self.0 % (1 << shift) == 0 {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_mean_what_kubernetes_means() {
        for (text, milli) in [
            ("0", 0),
            ("100m", 100),
            ("1.5", 1500),
            (".5", 500),
            ("2", 2000),
            ("1e3", 1_000_000),
            ("64Mi", 64 * 1024 * 1024 * 1000),
            ("1G", 1_000_000_000_000),
            ("1n", 1),
            ("-3", -3000),
        ] {
            assert_eq!(
                text.parse::<Quantity>().map(Quantity::milli),
                Ok(milli),
                "{text}"
            );
        }
        for text in ["", "x", "1x", "1.2.3", "--1", "1 Mi", "Mi", "1e999", "."] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(cpu in 0i64..1 << 40, bytes in 0i64..1 << 50) {
            prop_assert_eq!(MilliCpu(cpu).to_string().parse(), Ok(MilliCpu(cpu)));
            prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
