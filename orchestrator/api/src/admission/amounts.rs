//! Amounts of resources as admission adds and compares them: exact, and printed as people write them.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use waggle_model::Quantity;

use crate::walk::{at, list, members, text};

/// An amount in thousandths of its unit, and how it is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    pub(crate) milli: i128,
    /// In powers of 1024.
    binary: bool,
}

impl Amount {
    /// So many whole units.
    pub fn whole(count: usize) -> Self {
        Self {
            milli: i128::try_from(count)
                .unwrap_or(i128::MAX)
                .saturating_mul(1000),
            binary: false,
        }
    }

    /// From a quantity's text; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let quantity: Quantity = text.parse().ok()?;
        Some(Self {
            milli: quantity.milli(),
            binary: text.ends_with('i'),
        })
    }

    /// The sum, printed as either of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            milli: self.milli.saturating_add(other.milli),
            binary: self.binary || other.binary,
        }
    }

    /// What is left of it without the other.
    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            milli: self.milli.saturating_sub(other.milli),
            ..self
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 != 0 {
            return write!(f, "{}m", self.milli);
        }
        let whole = self.milli / 1000;
        let (base, suffixes) = if self.binary {
            (1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
        } else {
            (1000, ["", "k", "M", "G", "T", "P", "E"])
        };
        let (mut rest, mut step) = (whole, 0);
        while rest != 0 && rest % base == 0 && step + 1 < suffixes.len() {
            rest /= base;
            step += 1;
        }
        write!(f, "{rest}{}", suffixes[step])
    }
}

/// Amounts by the resource's name.
pub(super) type Amounts = BTreeMap<String, Amount>;

/// A map of quantities.
pub(super) fn read(value: &Value) -> Amounts {
    members(value, &[])
        .filter_map(|(name, text)| Some((name.clone(), Amount::parse(text.as_str()?)?)))
        .collect()
}

pub(super) fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let own = to.entry(name.clone()).or_default();
        *own = own.plus(*amount);
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let own = to.entry(name.clone()).or_default();
        *own = (*own).max(*amount);
    }
}

/// What a pod asks for (`requests`) or may use (`limits`): its containers and sidecars together, or its largest init
/// container beside the sidecars before it, plus its overhead.
pub(super) fn of_pod(spec: &Value, which: &str) -> Amounts {
    let of = |container: &Value| {
        let own = at(container, &["resources", which]);
        let mut amounts = read(own);
        if which == "requests" {
            // Who sets a limit only asks for as much.
            for (name, amount) in read(at(container, &["resources", "limits"])) {
                amounts.entry(name).or_insert(amount);
            }
        }
        amounts
    };
    let mut running = Amounts::new();
    let mut peak = Amounts::new();
    for container in list(spec, &["initContainers"]) {
        let own = of(container);
        if text(container, &["restartPolicy"]) == "Always" {
            add(&mut running, &own);
            raise(&mut peak, &running);
        } else {
            let mut beside = running.clone();
            add(&mut beside, &own);
            raise(&mut peak, &beside);
        }
    }
    for container in list(spec, &["containers"]) {
        add(&mut running, &of(container));
    }
    raise(&mut running, &peak);
    let overhead = read(&spec["overhead"]);
    if which == "requests" {
        add(&mut running, &overhead);
    } else {
        for (name, amount) in overhead {
            if let Some(own) = running.get_mut(&name) {
                *own = own.plus(amount);
            }
        }
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_are_printed_as_they_are_written() {
        for text in ["0", "100m", "2", "1500m", "64Mi", "1Gi", "3k", "1G"] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
        let sum = Amount::parse("512Mi")
            .unwrap()
            .plus(Amount::parse("512Mi").unwrap());
        assert_eq!(sum.to_string(), "1Gi");
    }

    #[test]
    fn a_pod_counts_what_runs_at_once() {
        let spec = json!({
            "initContainers": [{"resources": {"requests": {"cpu": "2"}}},
                {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}}],
            "containers": [{"resources": {"requests": {"cpu": "500m"}}}, {"resources": {"limits": {"cpu": "1"}}}],
            "overhead": {"cpu": "50m"}});
        assert_eq!(of_pod(&spec, "requests")["cpu"].to_string(), "2050m");
        assert_eq!(of_pod(&spec, "limits")["cpu"].to_string(), "1050m");
    }
}
