//! When packets to another node's pods travel inside packets of the nodes.

use std::fmt;
use std::str::FromStr;

/// When a node sends through its tunnel. The same on every node of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum TunnelMode {
    /// To nodes that share no link with it: those that are reached by a gateway.
    #[default]
    Auto,
    /// To every node.
    Always,
    /// To none: the network between the nodes routes pods' addresses.
    Never,
}

/// A text that is no [`TunnelMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no tunnel mode: write auto, always or never")]
pub struct InvalidTunnelMode {
    text: String,
}

impl FromStr for TunnelMode {
    type Err = InvalidTunnelMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(InvalidTunnelMode {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for TunnelMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [TunnelMode::Auto, TunnelMode::Always, TunnelMode::Never] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "vxlan".parse::<TunnelMode>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"vxlan\" is no tunnel mode: write auto, always or never"
        );
    }
}
