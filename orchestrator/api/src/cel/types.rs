//! Types of expressions, as far as they are known before evaluation; those of schemas among them.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

use crate::walk::text;

/// What an expression may come to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type<'s> {
    /// Anything.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    /// A type itself.
    OfTypes,
    /// One of the library's own.
    Opaque(&'static str),
    Optional(Box<Type<'s>>),
    List(Box<Type<'s>>),
    /// Keys are texts but for maps that expressions make.
    Map(Box<Type<'s>>),
    /// An object with the fields of a schema, with those of every object if it is one of its own.
    Object {
        schema: &'s Value,
        whole: bool,
    },
}

impl<'s> Type<'s> {
    /// The type of what a structural schema describes; none for what expressions can't look at. `whole` for an object of
    /// its own.
    pub(crate) fn of(schema: &'s Value, whole: bool) -> Option<Self> {
        if schema["x-kubernetes-int-or-string"] == true {
            return Some(Self::Dyn);
        }
        Some(match (text(schema, &["type"]), text(schema, &["format"])) {
            ("boolean", _) => Self::Bool,
            ("integer", _) => Self::Int,
            ("number", _) => Self::Double,
            ("string", "byte") => Self::Bytes,
            ("string", "duration") => Self::Duration,
            ("string", "date" | "date-time") => Self::Timestamp,
            ("string", _) => Self::Text,
            ("array", _) => Self::List(Box::new(Self::of(&schema["items"], false)?)),
            ("object", _) if schema["additionalProperties"].is_object() => {
                Self::Map(Box::new(Self::of(&schema["additionalProperties"], false)?))
            }
            ("object", _) => Self::Object {
                schema,
                whole: whole || schema["x-kubernetes-embedded-resource"] == true,
            },
            _ => return None,
        })
    }

    /// The type of a field; none when there is no such field.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Dyn => Some(Self::Dyn),
            Self::Map(inner) => Some((**inner).clone()),
            Self::Object { schema, whole } => {
                let own = field_of(schema, name);
                match name {
                    "apiVersion" | "kind" if *whole => Some(Self::Text),
                    "metadata" if *whole => Some(Self::Object {
                        schema: &METADATA,
                        whole: false,
                    }),
                    _ => own.and_then(|schema| Self::of(schema, false)),
                }
            }
            _ => None,
        }
    }

    /// Whether what has this type may be what is `wanted`.
    pub(super) fn fits(&self, wanted: &Type<'_>) -> bool {
        match (self, wanted) {
            (Self::Dyn, _) | (_, Type::Dyn) => true,
            (Self::Optional(one), Type::Optional(other))
            | (Self::List(one), Type::List(other))
            | (Self::Map(one), Type::Map(other)) => one.fits(other),
            // Nothing is known to have no value.
            (Self::Null, Type::Object { .. } | Type::Map(_) | Type::List(_))
            | (Self::Object { .. } | Self::Map(_) | Self::List(_), Type::Null)
            | (Self::Object { .. } | Self::Map(_), Type::Map(_) | Type::Object { .. }) => true,
            _ => self == wanted,
        }
    }
}

/// What expressions see of an object's metadata.
static METADATA: std::sync::LazyLock<Value> = std::sync::LazyLock::new(
    || json!({"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}}),
);

/// See [`METADATA`].
pub(super) fn metadata() -> &'static Value {
    &METADATA
}

/// The schema of the property that expressions know as `name`.
fn field_of<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let mut all = schema["properties"].as_object().into_iter().flatten();
    all.find(|(property, _)| escaped(property).as_deref() == Some(name))
        .map(|(_, schema)| schema)
}

/// Words that can be no name of a field in an expression.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name under which expressions know a property; none for one that they can't name.
pub(crate) fn escaped(property: &str) -> Option<Cow<'_, str>> {
    if RESERVED.contains(&property) {
        return Some(format!("__{property}__").into());
    }
    let first = property.chars().next()?;
    if !(first.is_ascii_alphabetic() || first == '_') {
        return None;
    }
    let plain = |one: char| one.is_ascii_alphanumeric() || one == '_';
    if property.chars().all(plain) && !property.contains("__") {
        return Some(property.into());
    }
    let mut out = String::with_capacity(property.len() + 8);
    let mut rest = property;
    while let Some(first) = rest.chars().next() {
        let (taken, put) = match first {
            '_' if rest.starts_with("__") => (2, "__underscores__"),
            '.' => (1, "__dot__"),
            '-' => (1, "__dash__"),
            '/' => (1, "__slash__"),
            one if plain(one) => (1, &rest[..1]),
            _ => return None,
        };
        out.push_str(put);
        rest = &rest[taken..];
    }
    Some(out.into())
}

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dyn => "dyn",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::OfTypes => "type",
            Self::Opaque(name) => name,
            Self::Optional(inner) => return write!(f, "optional_type({inner})"),
            Self::List(inner) => return write!(f, "list({inner})"),
            Self::Map(inner) => return write!(f, "map(string, {inner})"),
            Self::Object { .. } => "object",
        })
    }
}
