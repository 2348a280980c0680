//! One thing that is wrong with an object, worded as Kubernetes words it. Status objects are made from them elsewhere.

use std::fmt;

use serde_json::Value;

/// What sort of fault. Clients tell them apart by [`FaultKind::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The field must be given.
    Required,
    /// The field's value is malformed or out of range.
    Invalid,
    /// The field's value is none of those that are allowed.
    NotSupported,
    /// The value appears twice where it must be unique.
    Duplicate,
    /// The field may not be set, or not be changed, here.
    Forbidden,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The value refers to something that isn't there.
    NotFound,
    /// The value has the wrong JSON type.
    WrongType,
    /// The kind has no such field. Only decoding reports it.
    UnknownField,
    /// The JSON object has the field twice. Only decoding reports it.
    DuplicateField,
}

impl FaultKind {
    /// `reason` of a cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::UnknownField | Self::DuplicateField => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::WrongType => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::WrongType => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::UnknownField => "unknown field",
            Self::DuplicateField => "duplicate field",
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// Where: `spec.template.spec.containers[0].image`.
    pub path: String,
    /// What sort.
    pub kind: FaultKind,
    /// What would be right; may be empty.
    pub detail: String,
    /// The value at fault; null where it says nothing (missing, forbidden).
    pub value: Value,
}

impl Fault {
    /// A field that must be given.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::Required,
            detail: detail.into(),
            value: Value::Null,
        }
    }

    /// A malformed or impossible value.
    pub fn invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::Invalid,
            detail: detail.into(),
            value: value.into(),
        }
    }

    /// A value that is none of `supported`.
    pub fn not_supported(
        path: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let list = supported
            .iter()
            .map(|one| format!("{one:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let detail = if list.is_empty() {
            String::new()
        } else {
            format!("supported values: {list}")
        };
        Self {
            path: path.into(),
            kind: FaultKind::NotSupported,
            detail,
            value: value.into(),
        }
    }

    /// A value that appears twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::Duplicate,
            detail: String::new(),
            value: value.into(),
        }
    }

    /// A field that may not be set or changed here.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::Forbidden,
            detail: detail.into(),
            value: Value::Null,
        }
    }

    /// A text of more than `bytes` bytes.
    pub fn too_long(path: impl Into<String>, bytes: usize) -> Self {
        let detail = format!("may not be more than {bytes} bytes");
        Self {
            path: path.into(),
            kind: FaultKind::TooLong,
            detail,
            value: Value::Null,
        }
    }

    /// A list of more than `most` items.
    pub fn too_many(path: impl Into<String>, count: usize, most: usize) -> Self {
        let detail = format!("must have at most {most} items");
        Self {
            path: path.into(),
            kind: FaultKind::TooMany,
            detail,
            value: count.into(),
        }
    }

    /// A name of something that isn't there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::NotFound,
            detail: String::new(),
            value: value.into(),
        }
    }

    /// A field that the kind doesn't have.
    pub fn unknown_field(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::UnknownField,
            detail: String::new(),
            value: Value::Null,
        }
    }

    /// A value of the wrong JSON type.
    pub fn wrong_type(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind: FaultKind::WrongType,
            detail: detail.into(),
            value: Value::Null,
        }
    }

    /// The fault without its path: `Invalid value: -1: must be greater than or equal to 0`.
    pub fn body(&self) -> String {
        match self.kind {
            FaultKind::UnknownField | FaultKind::DuplicateField => {
                format!("{} {:?}", self.kind.words(), self.path)
            }
            _ => {
                let mut text = self.kind.words().to_owned();
                if !self.value.is_null() {
                    text.push_str(": ");
                    text.push_str(&self.value.to_string());
                }
                if !self.detail.is_empty() {
                    text.push_str(": ");
                    text.push_str(&self.detail);
                }
                text
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::UnknownField | FaultKind::DuplicateField => f.write_str(&self.body()),
            _ if self.path.is_empty() => f.write_str(&self.body()),
            _ => write!(f, "{}: {}", self.path, self.body()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_kubernetes_words_them() {
        for (fault, expect) in [
            (
                Fault::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                Fault::required("spec.selector", ""),
                "spec.selector: Required value",
            ),
            (
                Fault::not_supported("spec.type", "X", &["ClusterIP", "NodePort"]),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"NodePort\"",
            ),
            (
                Fault::duplicate("spec.ports[1].name", "a"),
                "spec.ports[1].name: Duplicate value: \"a\"",
            ),
            (
                Fault::forbidden("spec.x", "may not"),
                "spec.x: Forbidden: may not",
            ),
            (
                Fault::too_long("data", 5),
                "data: Too long: may not be more than 5 bytes",
            ),
            (
                Fault::too_many("a", 9, 5),
                "a: Too many: 9: must have at most 5 items",
            ),
            (Fault::not_found("a.b", "v"), "a.b: Not found: \"v\""),
            (
                Fault::unknown_field("spec.replicaz"),
                "unknown field \"spec.replicaz\"",
            ),
        ] {
            assert_eq!(fault.to_string(), expect);
        }
    }
}
