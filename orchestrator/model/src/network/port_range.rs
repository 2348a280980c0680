//! A range of ports.

/// Ports from the first to the last, both included. Written `30000-32767`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid port range {text:?}: write FIRST-LAST such as 30000-32767, from 1 to 65535")]
pub struct InvalidPortRange {
    /// The text as given.
    pub text: String,
}

impl PortRange {
    /// Kubernetes' default range of node ports.
    pub const NODE_PORTS: Self = Self {
        first: 30_000,
        last: 32_767,
    };

    /// First port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// Last port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` lies in it.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self::NODE_PORTS
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl std::str::FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange {
            text: text.to_owned(),
        };
        let (first, last) = text.split_once('-').ok_or_else(invalid)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| invalid());
        let (first, last) = (port(first)?, port(last)?);
        if first == 0 || first > last {
            return Err(invalid());
        }
        Ok(Self { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range: PortRange = "30000-32767".parse().unwrap();
        assert_eq!(range, PortRange::default());
        assert!(range.contains(32_767) && !range.contains(32_768));
        for wrong in ["", "30000", "2-1", "0-9", "1-65536", "a-b"] {
            let error = wrong.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains("30000-32767"), "{wrong}: {error}");
        }
    }
}
