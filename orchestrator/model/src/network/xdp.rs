//! Whether a node decides about what comes in before its kernel makes packets of it.

use std::fmt;
use std::str::FromStr;

/// How the XDP program is attached to a node's uplink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// Not at all: the same is done a little later.
    #[default]
    Never,
    /// In the driver, where that can.
    Native,
    /// By the kernel, for any driver: no faster, but good for a try.
    Generic,
}

/// A text that is no [`XdpMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no XDP mode: write never, native or generic")]
pub struct InvalidXdpMode {
    text: String,
}

impl FromStr for XdpMode {
    type Err = InvalidXdpMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "never" => Ok(Self::Never),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(InvalidXdpMode {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [XdpMode::Never, XdpMode::Native, XdpMode::Generic] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let error = "driver".parse::<XdpMode>().unwrap_err().to_string();
        assert!(
            error.contains("\"driver\"") && error.contains("native"),
            "{error}"
        );
    }
}
