//! Objects as values of expressions: by what their schema says, or as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cel::common::types::{
    CelBool, CelBytes, CelDouble, CelDuration, CelInt, CelList, CelMap, CelMapKey, CelNull,
    CelString, CelTimestamp, CelUInt,
};
use cel::common::value::Val;
use serde_json::{Number, Value};
use std::collections::HashMap;

use super::types::{escaped, metadata};
use crate::walk::text;

type Boxed<'v> = Box<dyn Val + 'v>;

/// The value as it is.
pub(crate) fn of_json(value: &Value) -> Boxed<'_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(one) => Box::new(CelBool::from(*one)),
        Value::Number(one) => number(one),
        Value::String(one) => Box::new(CelString::from(one.as_str())),
        Value::Array(items) => {
            Box::new(CelList::from(items.iter().map(of_json).collect::<Vec<_>>()))
        }
        Value::Object(map) => map_of(
            map.iter()
                .map(|(key, value)| (key.as_str().into(), of_json(value))),
        ),
    }
}

/// The value as its schema types it: what the schema doesn't name is not there. `whole` for an object of its own.
pub(crate) fn of_schema<'v>(value: &'v Value, schema: &'v Value, whole: bool) -> Boxed<'v> {
    if schema["x-kubernetes-int-or-string"] == true {
        return of_json(value);
    }
    match (value, text(schema, &["type"])) {
        (Value::Number(one), "number") => {
            Box::new(CelDouble::from(one.as_f64().unwrap_or_default()))
        }
        (Value::Number(one), "integer") => match one.as_f64().filter(|_| one.is_f64()) {
            Some(whole) => Box::new(CelInt::from(truncated(whole))),
            None => number(one),
        },
        (Value::String(one), "string") => formatted(one, text(schema, &["format"])),
        (Value::Array(items), "array") => {
            let items = items
                .iter()
                .map(|one| of_schema(one, &schema["items"], false));
            Box::new(CelList::from(items.collect::<Vec<_>>()))
        }
        (Value::Object(map), _) if schema["additionalProperties"].is_object() => {
            let inner = &schema["additionalProperties"];
            map_of(
                map.iter()
                    .map(|(key, value)| (key.as_str().into(), of_schema(value, inner, false))),
            )
        }
        (Value::Object(map), _) => {
            let whole = whole || schema["x-kubernetes-embedded-resource"] == true;
            map_of(map.iter().filter_map(|(name, value)| {
                let inner = match name.as_str() {
                    "metadata" if whole => {
                        return Some(("metadata".into(), of_schema(value, metadata(), false)));
                    }
                    "apiVersion" | "kind" if whole => {
                        return Some((name.as_str().into(), of_json(value)));
                    }
                    other => schema["properties"].get(other)?,
                };
                let key = match escaped(name)? {
                    std::borrow::Cow::Borrowed(name) => name.into(),
                    std::borrow::Cow::Owned(name) => name.into(),
                };
                Some((key, of_schema(value, inner, false)))
            }))
        }
        _ => of_json(value),
    }
}

fn map_of<'v>(entries: impl Iterator<Item = (CelMapKey<'v>, Boxed<'v>)>) -> Boxed<'v> {
    Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
}

fn number(one: &Number) -> Boxed<'static> {
    if let Some(whole) = one.as_i64() {
        Box::new(CelInt::from(whole))
    } else if let Some(whole) = one.as_u64() {
        Box::new(CelUInt::from(whole))
    } else {
        Box::new(CelDouble::from(one.as_f64().unwrap_or_default()))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the schema's check has seen that it is whole"
)]
fn truncated(whole: f64) -> i64 {
    whole as i64
}

/// A text that can't be read as what its format says stays a text: the schema's own check refuses it.
fn formatted<'v>(given: &'v str, format: &str) -> Boxed<'v> {
    let made: Option<Boxed<'static>> = match format {
        "byte" => STANDARD
            .decode(given)
            .ok()
            .map(|one| boxed(CelBytes::from(one))),
        "duration" => duration(given).map(|one| boxed(CelDuration::from(one))),
        "date-time" => chrono::DateTime::parse_from_rfc3339(given)
            .ok()
            .map(|one| boxed(CelTimestamp::from(one))),
        "date" => chrono::DateTime::parse_from_rfc3339(&format!("{given}T00:00:00Z"))
            .ok()
            .map(|one| boxed(CelTimestamp::from(one))),
        _ => None,
    };
    made.unwrap_or_else(|| Box::new(CelString::from(given)))
}

fn boxed<T: Val + 'static>(value: T) -> Boxed<'static> {
    Box::new(value)
}

/// A duration as Go writes it, `1h30m`.
fn duration(given: &str) -> Option<chrono::Duration> {
    let (negative, mut rest) = match given.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, given.strip_prefix('+').unwrap_or(given)),
    };
    if rest == "0" {
        return Some(chrono::Duration::zero());
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanoseconds = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|one: char| !one.is_ascii_digit() && one != '.')?;
        let amount: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|one: char| one.is_ascii_digit() || one == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanoseconds += amount * unit;
        rest = &rest[end..];
    }
    if nanoseconds > 9.2e18 {
        return None;
    }
    let nanoseconds = truncated(nanoseconds.round());
    Some(chrono::Duration::nanoseconds(if negative {
        -nanoseconds
    } else {
        nanoseconds
    }))
}
