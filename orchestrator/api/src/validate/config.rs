//! ConfigMaps, Secrets, ServiceAccounts.

use serde_json::Value;

use super::{meta, names};
use crate::Fault;
use crate::walk::{has, members, text};

/// All data of one object.
const DATA_BYTES: usize = 1024 * 1024;

/// Faults of a ConfigMap.
pub(crate) fn config_map(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ConfigMap", value, old, &mut out);
    for (key, _) in members(value, &["binaryData"]) {
        if has(value, &["data", key]) {
            out.push(Fault::invalid(
                format!("data[{key}]"),
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
    }
    data(value, &["data", "binaryData"], &mut out);
    frozen(value, old, &["data", "binaryData"], &mut out);
    out
}

/// Fields that a Secret of a type must have.
const TYPES: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

/// Faults of a Secret.
pub(crate) fn secret(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Secret", value, old, &mut out);
    data(value, &["data"], &mut out);
    let kind = text(value, &["type"]);
    for field in TYPES
        .iter()
        .filter(|(name, _)| *name == kind)
        .flat_map(|(_, fields)| *fields)
    {
        if !has(value, &["data", field]) {
            out.push(Fault::required(format!("data[{field}]"), ""));
        }
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["type"], &mut out);
    }
    frozen(value, old, &["data"], &mut out);
    out
}

/// Faults of a ServiceAccount.
pub(crate) fn service_account(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ServiceAccount", value, old, &mut out);
    out
}

fn data(value: &Value, fields: &[&str], out: &mut Vec<Fault>) {
    let mut bytes = 0;
    for field in fields {
        for (key, content) in members(value, &[field]) {
            if let Some(rule) = names::data_key(key) {
                out.push(Fault::invalid(
                    format!("{field}[{key}]"),
                    key.as_str(),
                    rule,
                ));
            }
            bytes += content.as_str().map_or(0, str::len);
        }
    }
    if bytes > DATA_BYTES {
        out.push(Fault::too_long("data", DATA_BYTES));
    }
}

/// An object that was made immutable stays as it is.
fn frozen(value: &Value, old: Option<&Value>, fields: &[&str], out: &mut Vec<Fault>) {
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    if value["immutable"] != true {
        out.push(Fault::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in fields {
        if value[*field] != old[*field] {
            out.push(Fault::forbidden(
                *field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}
