//! Volumes: what the nodes can provide, and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{names, one_of, resources};
use crate::Fault;
use crate::walk::{has, list, text};

/// What the nodes can provide.
const SOURCES: [&str; 7] = [
    "configMap",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "DirectoryOrCreate",
    "Directory",
    "FileOrCreate",
    "File",
    "Socket",
    "CharDevice",
    "BlockDevice",
];

/// Faults of a pod's volumes.
pub(super) fn check(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            out.push(Fault::required(format!("{path}.name"), ""));
        } else if let Some(rule) = names::label(name) {
            out.push(Fault::invalid(format!("{path}.name"), name, rule));
        } else if !seen.insert(name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        sources(volume, &path, out);
    }
}

fn sources(volume: &Value, path: &str, out: &mut Vec<Fault>) {
    let given: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .filter(|key| *key != "name")
        .collect();
    if given.is_empty() {
        out.push(Fault::required(path, "must specify a volume type"));
    }
    for extra in given.iter().skip(1) {
        out.push(Fault::forbidden(
            format!("{path}.{extra}"),
            "may not specify more than 1 volume type",
        ));
    }
    for source in given {
        let place = format!("{path}.{source}");
        let value = &volume[source.as_str()];
        match source.as_str() {
            "configMap" => named(value, "name", "items", &place, out),
            "secret" => named(value, "secretName", "items", &place, out),
            "emptyDir" => empty_dir(value, &place, out),
            "hostPath" => host_path(value, &place, out),
            "downwardAPI" => downward(value, &place, out),
            "projected" => projected(value, &place, out),
            "persistentVolumeClaim" => {
                let claim = text(value, &["claimName"]);
                if claim.is_empty() {
                    out.push(Fault::required(format!("{place}.claimName"), ""));
                } else if let Some(rule) = names::subdomain(claim) {
                    out.push(Fault::invalid(format!("{place}.claimName"), claim, rule));
                }
            }
            other => {
                let offered = SOURCES.join(", ");
                let detail =
                    format!("this cluster has no volumes of type {other}; use one of {offered}");
                out.push(Fault::forbidden(place, detail));
            }
        }
    }
}

fn named(value: &Value, name_field: &str, items_field: &str, path: &str, out: &mut Vec<Fault>) {
    if text(value, &[name_field]).is_empty() {
        out.push(Fault::required(format!("{path}.{name_field}"), ""));
    }
    mode(&value["defaultMode"], &format!("{path}.defaultMode"), out);
    for (index, item) in list(value, &[items_field]).iter().enumerate() {
        let path = format!("{path}.{items_field}[{index}]");
        if text(item, &["key"]).is_empty() {
            out.push(Fault::required(format!("{path}.key"), ""));
        }
        local_path(&item["path"], &format!("{path}.path"), out);
        mode(&item["mode"], &format!("{path}.mode"), out);
    }
}

fn empty_dir(value: &Value, path: &str, out: &mut Vec<Fault>) {
    one_of(
        &value["medium"],
        &["", "Memory"],
        &format!("{path}.medium"),
        out,
    );
    if has(value, &["sizeLimit"]) {
        resources::quantity(
            text(value, &["sizeLimit"]),
            false,
            &format!("{path}.sizeLimit"),
            out,
        );
    }
}

fn host_path(value: &Value, path: &str, out: &mut Vec<Fault>) {
    let host = text(value, &["path"]);
    if host.is_empty() {
        out.push(Fault::required(format!("{path}.path"), ""));
    } else if host.split('/').any(|step| step == "..") {
        out.push(Fault::invalid(
            format!("{path}.path"),
            host,
            "must not contain '..'",
        ));
    }
    one_of(
        &value["type"],
        &HOST_PATH_TYPES,
        &format!("{path}.type"),
        out,
    );
}

fn downward(value: &Value, path: &str, out: &mut Vec<Fault>) {
    mode(&value["defaultMode"], &format!("{path}.defaultMode"), out);
    for (index, item) in list(value, &["items"]).iter().enumerate() {
        let path = format!("{path}.items[{index}]");
        local_path(&item["path"], &format!("{path}.path"), out);
        if has(item, &["fieldRef"]) == has(item, &["resourceFieldRef"]) {
            out.push(Fault::required(
                path,
                "one of fieldRef and resourceFieldRef is required",
            ));
        }
    }
}

fn projected(value: &Value, path: &str, out: &mut Vec<Fault>) {
    mode(&value["defaultMode"], &format!("{path}.defaultMode"), out);
    for (index, source) in list(value, &["sources"]).iter().enumerate() {
        let path = format!("{path}.sources[{index}]");
        for (kind, value) in source.as_object().into_iter().flatten() {
            let path = format!("{path}.{kind}");
            match kind.as_str() {
                "configMap" | "secret" => named(value, "name", "items", &path, out),
                "downwardAPI" => downward(value, &path, out),
                "serviceAccountToken" => {
                    local_path(&value["path"], &format!("{path}.path"), out);
                    let seconds = &value["expirationSeconds"];
                    if seconds.as_i64().is_some_and(|seconds| seconds < 600) {
                        let detail = "may not specify a duration less than 10 minutes";
                        let field = format!("{path}.expirationSeconds");
                        out.push(Fault::invalid(field, seconds.clone(), detail));
                    }
                }
                _ => out.push(Fault::forbidden(path, "this cluster has no such source")),
            }
        }
    }
}

fn mode(value: &Value, path: &str, out: &mut Vec<Fault>) {
    if value
        .as_i64()
        .is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        out.push(Fault::invalid(
            path,
            value.clone(),
            "must be a number between 0 and 0777 (octal), both inclusive",
        ));
    }
}

/// A path below some folder.
pub(super) fn local_path(value: &Value, path: &str, out: &mut Vec<Fault>) {
    let text = value.as_str().unwrap_or_default();
    if text.is_empty() {
        out.push(Fault::required(path, ""));
    } else if text.starts_with('/') {
        out.push(Fault::invalid(path, text, "must be a relative path"));
    } else if text.split('/').any(|step| step == "..") {
        out.push(Fault::invalid(path, text, "must not contain '..'"));
    }
}
