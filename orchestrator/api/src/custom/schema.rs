//! Walking an object along its structural schema: what the schema doesn't have goes, defaults come. And what is wrong
//! with a schema itself.

use serde_json::{Map, Value, json};

use super::check;
use crate::Fault;
use crate::decode::decode;
use crate::walk::{list, members, text};

/// Deeper than any schema may be.
const DEEPEST: usize = 64;

/// A definition's schema as it is worked with: the root is an object that has what every object has.
pub(super) fn prepared(given: &Value) -> Value {
    let mut schema = if given.is_object() {
        given.clone()
    } else {
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    };
    // Its own rules about names are checked; its fields are every object's.
    schema["x-kubernetes-embedded-resource"] = true.into();
    schema
}

/// Whether fields that the schema doesn't name are kept.
fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
        || matches!(schema["additionalProperties"], Value::Bool(true))
}

/// Whether the value at this place is an object of its own, with apiVersion, kind and metadata.
pub(crate) fn is_embedded(schema: &Value) -> bool {
    schema["x-kubernetes-embedded-resource"] == true
}

/// The schema of a field of an object with `schema`, if the schema says anything of it.
pub(crate) fn field<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let own = schema["properties"].get(name);
    own.or_else(|| {
        schema
            .get("additionalProperties")
            .filter(|one| one.is_object())
    })
}

/// Takes out of `value` what the schema doesn't have, and names it. `root` is true for the whole object.
pub(super) fn prune(
    schema: &Value,
    value: &mut Value,
    path: &str,
    root: bool,
    faults: &mut Vec<Fault>,
) {
    match value {
        Value::Object(map) => {
            let embedded = root || is_embedded(schema);
            let kept = |name: &str| {
                field(schema, name).is_some()
                    || preserves(schema)
                    || embedded && matches!(name, "apiVersion" | "kind" | "metadata")
            };
            map.retain(|name, _| {
                let known = kept(name);
                if !known {
                    faults.push(Fault::unknown_field(join(path, name)));
                }
                known
            });
            for (name, inner) in map {
                if embedded && name == "metadata" {
                    continue;
                }
                if let Some(schema) = field(schema, name) {
                    prune(schema, inner, &join(path, name), false, faults);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            for (index, item) in items.iter_mut().enumerate() {
                let path = format!("{path}[{index}]");
                prune(&schema["items"], item, &path, false, faults);
            }
        }
        _ => {}
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Metadata in the form in which every object has it; what it doesn't have is named.
pub(super) fn object_meta(value: &mut Value, path: &str, faults: &mut Vec<Fault>) {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    let Some(given) = value.get_mut("metadata").filter(|one| !one.is_null()) else {
        return;
    };
    let decoded = decode::<ObjectMeta>(given);
    let within = join(path, "metadata");
    faults.extend(decoded.faults.into_iter().map(|mut fault| {
        fault.path = if fault.path == "." {
            within.clone()
        } else {
            join(&within, &fault.path)
        };
        fault
    }));
    if let Some(decoded) = decoded.value {
        *given = decoded;
    }
}

/// Fills in defaults, also inside what they bring.
pub(super) fn fill_in(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, property) in members(schema, &["properties"]) {
                defaulted(map, name, property);
            }
            for (name, inner) in map {
                if let Some(schema) = field(schema, name) {
                    fill_in(schema, inner);
                }
            }
        }
        Value::Array(items) if schema["items"].is_object() => {
            items
                .iter_mut()
                .for_each(|item| fill_in(&schema["items"], item));
        }
        _ => {}
    }
}

/// A null that the schema doesn't allow counts as missing where there is a default.
fn defaulted(map: &mut Map<String, Value>, name: &str, property: &Value) {
    let Some(default) = property.get("default").filter(|one| !one.is_null()) else {
        return;
    };
    let missing = match map.get(name) {
        None => true,
        Some(Value::Null) => property["nullable"] != true,
        Some(_) => false,
    };
    if missing {
        map.insert(name.to_owned(), default.clone());
    }
}

/// Faults of a schema: not structural, impossible, or with defaults that it refuses itself.
pub(crate) fn faults(schema: &Value, path: &str, out: &mut Vec<Fault>) {
    if schema["type"] != "object" {
        let detail = "must be object at the root";
        out.push(Fault::invalid(
            format!("{path}.type"),
            schema["type"].clone(),
            detail,
        ));
    }
    node_faults(schema, path, 0, out);
    if schema["properties"]["metadata"].get("default").is_some() {
        let path = format!("{path}.properties[metadata].default");
        out.push(Fault::forbidden(
            path,
            "must not be set in top-level metadata",
        ));
    }
}

fn node_faults(schema: &Value, path: &str, depth: usize, out: &mut Vec<Fault>) {
    if depth > DEEPEST {
        out.push(Fault::forbidden(path, "is nested too deeply"));
        return;
    }
    type_faults(schema, path, out);
    for word in [
        "$ref",
        "definitions",
        "dependencies",
        "id",
        "patternProperties",
    ] {
        if schema.get(word).is_some() {
            out.push(Fault::forbidden(
                format!("{path}.{word}"),
                format!("{word} is not supported"),
            ));
        }
    }
    if schema["uniqueItems"] == true {
        out.push(Fault::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    if schema["properties"].is_object() && schema["additionalProperties"].is_object() {
        out.push(Fault::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties and properties are mutual exclusive",
        ));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && check::regex(pattern).is_none()
    {
        let detail = "must be a valid regular expression";
        out.push(Fault::invalid(format!("{path}.pattern"), pattern, detail));
    }
    list_faults(schema, path, out);
    default_faults(schema, path, out);
    for (name, inner) in members(schema, &["properties"]) {
        node_faults(inner, &format!("{path}.properties[{name}]"), depth + 1, out);
    }
    for field in ["items", "additionalProperties"] {
        if schema[field].is_object() {
            node_faults(&schema[field], &format!("{path}.{field}"), depth + 1, out);
        }
    }
}

fn type_faults(schema: &Value, path: &str, out: &mut Vec<Fault>) {
    let kinds = ["array", "boolean", "integer", "number", "object", "string"];
    let any = schema["x-kubernetes-int-or-string"] == true
        || schema["x-kubernetes-preserve-unknown-fields"] == true;
    let kind = text(schema, &["type"]);
    let path = format!("{path}.type");
    if kind.is_empty() {
        if !any {
            let detail = "must not be empty for specified object fields";
            out.push(Fault::required(path, detail));
        }
    } else if !kinds.contains(&kind) {
        out.push(Fault::not_supported(path, kind, &kinds));
    } else if schema["x-kubernetes-int-or-string"] == true {
        let detail = "must be empty if x-kubernetes-int-or-string is true";
        out.push(Fault::forbidden(path, detail));
    }
}

fn list_faults(schema: &Value, path: &str, out: &mut Vec<Fault>) {
    if schema["type"] == "array" && !schema["items"].is_object() {
        out.push(Fault::required(
            format!("{path}.items"),
            "must be specified",
        ));
    }
    let kinds = ["atomic", "map", "set"];
    let kind = text(schema, &["x-kubernetes-list-type"]);
    if !kind.is_empty() && !kinds.contains(&kind) {
        let path = format!("{path}.x-kubernetes-list-type");
        out.push(Fault::not_supported(path, kind, &kinds));
    }
    let keys = list(schema, &["x-kubernetes-list-map-keys"]);
    let path = format!("{path}.x-kubernetes-list-map-keys");
    if kind == "map" && keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        out.push(Fault::required(path, detail));
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let property = &schema["items"]["properties"][name];
        let required = list(&schema["items"], &["required"]).contains(key);
        if property.is_null() {
            let detail = "entries must all be names of item properties";
            out.push(Fault::invalid(format!("{path}[{index}]"), name, detail));
        } else if kind == "map" && !required && property.get("default").is_none() {
            let path = path.replace(
                "x-kubernetes-list-map-keys",
                &format!("items.properties[{name}].default"),
            );
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            out.push(Fault::required(path, detail));
        }
    }
}

fn default_faults(schema: &Value, path: &str, out: &mut Vec<Fault>) {
    let Some(default) = schema.get("default").filter(|one| !one.is_null()) else {
        return;
    };
    let path = format!("{path}.default");
    let mut pruned = default.clone();
    prune(schema, &mut pruned, "", false, &mut Vec::new());
    if pruned != *default {
        let detail = "must not have unknown fields";
        out.push(Fault::invalid(path.clone(), default.clone(), detail));
    }
    let mut filled = default.clone();
    fill_in(schema, &mut filled);
    check::faults(schema, &filled, None, &path, out);
}

/// The schema as OpenAPI documents publish it.
pub(super) fn published(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(map) = schema.as_object_mut() {
        map.remove("x-kubernetes-embedded-resource");
        if !map.get("properties").is_some_and(Value::is_object) {
            map.insert("properties".into(), json!({}));
        }
    }
    schema
}
