//! Names that Kubernetes accepts, checked once where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a text is no valid name. Says the rule (RFC 1123) and the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} {text:?}: {rule}")]
pub struct InvalidName {
    /// What was to be named.
    pub what: &'static str,
    /// The text as given.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "must be 1 to 63 lower case letters, digits or '-', and start and end with a letter or digit";
const SUBDOMAIN_RULE: &str = "must be 1 to 253 lower case letters, digits, '-' or '.', and start and end with a letter or digit";

fn alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        && bytes.first().is_some_and(|&b| alphanumeric(b))
        && bytes.last().is_some_and(|&b| alphanumeric(b))
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_of_any_length)
}

fn is_label_of_any_length(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
        && bytes.first().is_some_and(|&b| alphanumeric(b))
        && bytes.last().is_some_and(|&b| alphanumeric(b))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { what: $what, text, rule: $rule })
                }
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text.to_owned())
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_from(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// Name of a namespaced object: an RFC 1123 subdomain.
    ObjectName, "object name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// Name of a node: an RFC 1123 subdomain.
    NodeName, "node name", is_subdomain, SUBDOMAIN_RULE
);
name!(
    /// Name of a Namespace: an RFC 1123 label.
    Namespace, "namespace", is_label, LABEL_RULE
);
name!(
    /// Name of a tenant: an RFC 1123 label.
    TenantName, "tenant name", is_label, LABEL_RULE
);
name!(
    /// Name of a cluster on this machine: an RFC 1123 label.
    ClusterName, "cluster name", is_label, LABEL_RULE
);

/// Which pod, for certain: a name can be used again, the UID can't.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for (text, label, subdomain) in [
            ("shop", true, true),
            ("user-center.v2", false, true),
            ("", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("A", false, false),
            ("a..b", false, false),
            ("a_b", false, false),
        ] {
            assert_eq!(Namespace::try_from(text).is_ok(), label, "{text}");
            assert_eq!(ObjectName::try_from(text).is_ok(), subdomain, "{text}");
        }
        assert!(Namespace::try_from("a".repeat(64).as_str()).is_err());
        assert!(ObjectName::try_from("a".repeat(254).as_str()).is_err());
    }

    #[test]
    fn the_error_names_the_text_and_the_rule() {
        let error = Namespace::try_from("Shop").unwrap_err().to_string();
        assert!(
            error.contains("\"Shop\"") && error.contains("lower case"),
            "{error}"
        );
    }
}
