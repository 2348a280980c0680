//! An object against its schema, worded as Kubernetes words it: every fault with its path.

use std::collections::BTreeSet;

use serde_json::Value;

use super::format;
use super::schema::{field, is_embedded, join};
use crate::walk::{list, members, text};
use crate::{Fault, FaultKind};

/// A pattern, compiled within bounds.
pub(super) fn regex(pattern: &str) -> Option<regex::Regex> {
    crate::pattern::compile(pattern).ok()
}

/// Every fault of `value` at `path`. What is as it was in `old` is not looked at: a rule that came later does not keep
/// somebody from changing something else.
pub(super) fn faults(
    schema: &Value,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    out: &mut Vec<Fault>,
) {
    if old == Some(value) {
        return;
    }
    if !has_type(schema, value) {
        out.push(wrong_type(schema, value, path));
        return;
    }
    value_rules(schema, value, path, out);
    match value {
        Value::Object(map) => {
            if is_embedded(schema) && !path.is_empty() {
                embedded(value, path, out);
            }
            for (name, inner) in map {
                let at_root = path.is_empty() && matches!(name.as_str(), "apiVersion" | "kind");
                let Some(schema) = field(schema, name).filter(|_| !at_root) else {
                    continue;
                };
                let old = old.and_then(|old| old.get(name));
                // Of metadata the schema says only what is asked of names.
                faults(schema, inner, old, &join(path, name), out);
            }
        }
        Value::Array(items) => {
            list_rules(schema, items, path, out);
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|old| counterpart(schema, old, item, index));
                faults(
                    &schema["items"],
                    item,
                    old,
                    &format!("{path}[{index}]"),
                    out,
                );
            }
        }
        _ => {}
    }
}

/// The item that `item` was before.
fn counterpart<'a>(
    schema: &Value,
    old: &'a Value,
    item: &Value,
    index: usize,
) -> Option<&'a Value> {
    let old = old.as_array()?;
    let keys = list(schema, &["x-kubernetes-list-map-keys"]);
    if keys.is_empty() {
        return old.get(index);
    }
    let names = || keys.iter().filter_map(Value::as_str);
    old.iter()
        .find(|one| names().all(|key| one[key] == item[key]))
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string()
            || is_whole(value)
            || value.is_null() && schema["nullable"] == true;
    }
    match (text(schema, &["type"]), value) {
        (_, Value::Null) => schema["nullable"] == true || text(schema, &["type"]).is_empty(),
        ("", _) => true,
        ("object", value) => value.is_object(),
        ("array", value) => value.is_array(),
        ("string", value) => value.is_string(),
        ("boolean", value) => value.is_boolean(),
        ("integer", value) => is_whole(value),
        ("number", value) => value.is_number(),
        _ => true,
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn wrong_type(schema: &Value, value: &Value, path: &str) -> Fault {
    let wanted = match text(schema, &["type"]) {
        "" => "integer,string",
        wanted => wanted,
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let detail = format!("{path} in body must be of type {wanted}: {found:?}");
    Fault {
        value: found.into(),
        ..Fault::wrong_type(path, detail)
    }
}

/// What a schema asks of a value of its type, alternatives included.
fn value_rules(schema: &Value, value: &Value, path: &str, out: &mut Vec<Fault>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
        && !value.is_null()
    {
        let words: Vec<String> = allowed
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        out.push(Fault::not_supported(path, value.clone(), &words));
    }
    match value {
        Value::String(given) => text_rules(schema, given, path, out),
        Value::Number(_) => number_rules(schema, value, path, out),
        Value::Object(map) => {
            for name in list(schema, &["required"]).iter().filter_map(Value::as_str) {
                let known = path.is_empty() && matches!(name, "apiVersion" | "kind" | "metadata");
                if !known && !map.contains_key(name) {
                    out.push(Fault::required(join(path, name), ""));
                }
            }
            count_rules(
                schema,
                map.len(),
                ["minProperties", "maxProperties"],
                "properties",
                path,
                out,
            );
        }
        Value::Array(items) => {
            count_rules(
                schema,
                items.len(),
                ["minItems", "maxItems"],
                "items",
                path,
                out,
            );
        }
        _ => {}
    }
    alternatives(schema, value, path, out);
}

fn text_rules(schema: &Value, given: &str, path: &str, out: &mut Vec<Fault>) {
    let length = given.chars().count() as u64;
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
        let detail = format!("may not be more than {most} bytes");
        out.push(Fault {
            kind: FaultKind::TooLong,
            ..Fault::required(path, detail)
        });
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length < *least) {
        let detail = format!("{path} in body should be at least {least} chars long");
        out.push(Fault::invalid(path, given, detail));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !regex(pattern).is_none_or(|pattern| pattern.is_match(given))
    {
        let detail = format!("{path} in body should match '{pattern}'");
        out.push(Fault::invalid(path, given, detail));
    }
    let format = text(schema, &["format"]);
    if !format::fits(format, &given.into()) {
        let detail = format!("{path} in body must be of type {format}: {given:?}");
        out.push(Fault::invalid(path, given, detail));
    }
}

fn number_rules(schema: &Value, value: &Value, path: &str, out: &mut Vec<Fault>) {
    let number = value.as_f64().unwrap_or_default();
    let mut refuse = |rule: String| {
        let detail = format!("{path} in body should be {rule}");
        out.push(Fault::invalid(path, value.clone(), detail));
    };
    if let Some(least) = schema["minimum"].as_f64() {
        let strict = schema["exclusiveMinimum"] == true;
        if number < least || strict && number <= least {
            let or_equal = if strict { "" } else { " or equal to" };
            refuse(format!("greater than{or_equal} {}", schema["minimum"]));
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        let strict = schema["exclusiveMaximum"] == true;
        if number > most || strict && number >= most {
            let or_equal = if strict { "" } else { " or equal to" };
            refuse(format!("less than{or_equal} {}", schema["maximum"]));
        }
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| *step != 0.0)
        && (number / step).fract().abs() > 1e-9
    {
        refuse(format!("a multiple of {}", schema["multipleOf"]));
    }
    let format = text(schema, &["format"]);
    if !format::fits(format, value) {
        refuse(format!("of type {format}"));
    }
}

fn count_rules(
    schema: &Value,
    count: usize,
    [least, most]: [&str; 2],
    what: &str,
    path: &str,
    out: &mut Vec<Fault>,
) {
    let bound = |word: &str| {
        schema[word]
            .as_u64()
            .and_then(|bound| usize::try_from(bound).ok())
    };
    if let Some(least) = bound(least).filter(|least| count < *least) {
        let detail = format!("{path} in body should have at least {least} {what}");
        out.push(Fault::invalid(path, count, detail));
    }
    if let Some(most) = bound(most).filter(|most| count > *most) {
        out.push(Fault::too_many(path, count, most));
    }
}

/// allOf, anyOf, oneOf and not.
fn alternatives(schema: &Value, value: &Value, path: &str, out: &mut Vec<Fault>) {
    for one in list(schema, &["allOf"]) {
        part(one, value, path, out);
    }
    let fits = |one: &Value| {
        let mut found = Vec::new();
        part(one, value, path, &mut found);
        found.is_empty()
    };
    let count = |word: &str| list(schema, &[word]).iter().filter(|one| fits(one)).count();
    let mut refuse = |rule: &str| {
        let detail = format!("{path:?} {rule}");
        let shown = if value.is_object() || value.is_array() {
            Value::Null
        } else {
            value.clone()
        };
        out.push(Fault::invalid(path, shown, detail));
    };
    if schema["anyOf"].is_array() && count("anyOf") == 0 {
        refuse("must validate at least one schema (anyOf)");
    }
    if schema["oneOf"].is_array() && count("oneOf") != 1 {
        refuse("must validate one and only one schema (oneOf)");
    }
    if schema["not"].is_object() && fits(&schema["not"]) {
        refuse("must not validate the schema (not)");
    }
}

/// A schema inside an alternative: only rules, of the value and of what is in it.
fn part(schema: &Value, value: &Value, path: &str, out: &mut Vec<Fault>) {
    if !has_type(schema, value) {
        out.push(wrong_type(schema, value, path));
        return;
    }
    value_rules(schema, value, path, out);
    for (name, inner) in members(schema, &["properties"]) {
        if let Some(value) = value.get(name) {
            part(inner, value, &join(path, name), out);
        }
    }
    if let (true, Some(items)) = (schema["items"].is_object(), value.as_array()) {
        for (index, item) in items.iter().enumerate() {
            part(&schema["items"], item, &format!("{path}[{index}]"), out);
        }
    }
}

fn list_rules(schema: &Value, items: &[Value], path: &str, out: &mut Vec<Fault>) {
    let keys = list(schema, &["x-kubernetes-list-map-keys"]);
    let name = |item: &Value| match text(schema, &["x-kubernetes-list-type"]) {
        "set" => Some(item.clone()),
        "map" => {
            let keys = keys.iter().filter_map(Value::as_str);
            Some(
                keys.map(|key| (key.to_owned(), item[key].clone()))
                    .collect(),
            )
        }
        _ => None,
    };
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(name) = name(item) else { return };
        if !seen.insert(name.to_string()) {
            out.push(Fault::duplicate(format!("{path}[{index}]"), name));
        }
    }
}

/// An object inside an object says what it is.
fn embedded(value: &Value, path: &str, out: &mut Vec<Fault>) {
    for name in ["apiVersion", "kind"] {
        if text(value, &[name]).is_empty() {
            out.push(Fault::required(join(path, name), "must not be empty"));
        }
    }
}
