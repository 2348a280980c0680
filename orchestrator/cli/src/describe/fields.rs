//! The parts that every layout is made of, and the layout of kinds that have none of their own: their fields as they are.
//! Pure: objects in, tab-separated text out; `tab::align` makes columns of it.

use jiff::Timestamp;
use serde_json::Value;

use crate::age;

/// A scalar as text; `<none>` when absent.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `Labels:` with one pair a line.
pub(super) fn pairs(title: &str, indent: &str, map: &Value, separator: &str) -> String {
    let mut lines = map
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(key, value)| format!("{key}{separator}{}", show(value)));
    let mut text = format!(
        "{indent}{title}:\t{}\n",
        lines.next().unwrap_or_else(|| "<none>".to_owned())
    );
    for line in lines {
        text.push_str(&format!("{indent}\t{line}\n"));
    }
    text
}

pub(super) fn time(value: &Value, now: Timestamp) -> String {
    match value.as_str() {
        Some(text) => format!("{text} ({} ago)", age::since(text, now)),
        None => "<unset>".to_owned(),
    }
}

pub(super) fn head(object: &Value, namespaced: bool) -> String {
    let metadata = &object["metadata"];
    let mut text = format!("Name:\t{}\n", show(&metadata["name"]));
    if namespaced {
        text.push_str(&format!("Namespace:\t{}\n", show(&metadata["namespace"])));
    }
    text
}

pub(super) fn conditions(object: &Value, with_reason: bool) -> String {
    let conditions = list(&object["status"]["conditions"]);
    if conditions.is_empty() {
        return String::new();
    }
    let mut text = String::from(if with_reason {
        "Conditions:\n  Type\tStatus\tReason\tMessage\n  ----\t------\t------\t-------\n"
    } else {
        "Conditions:\n  Type\tStatus\n  ----\t------\n"
    });
    for condition in conditions {
        text.push_str(&format!(
            "  {}\t{}",
            show(&condition["type"]),
            show(&condition["status"])
        ));
        if with_reason {
            let message = condition["message"].as_str().unwrap_or_default();
            text.push_str(&format!("\t{}\t{message}", show(&condition["reason"])));
        }
        text.push('\n');
    }
    text
}

/// Any other kind: its fields as they are, Secrets by size only.
pub(super) fn generic(object: &Value) -> String {
    let metadata = &object["metadata"];
    let mut text = head(object, !metadata["namespace"].is_null());
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    text.push_str(&format!(
        "API Version:\t{}\nKind:\t{}\n",
        show(&object["apiVersion"]),
        show(&object["kind"])
    ));
    text.push_str(&format!(
        "CreationTimestamp:\t{}\n",
        show(&metadata["creationTimestamp"])
    ));
    let secret = object["kind"] == "Secret";
    for (key, value) in object.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        if secret && (key == "data" || key == "stringData") {
            text.push_str("Data:\n");
            for (name, value) in value.as_object().into_iter().flatten() {
                let bytes = value
                    .as_str()
                    .map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
                text.push_str(&format!("  {name}:\t{bytes} bytes\n"));
            }
            continue;
        }
        fields(&title(key), value, "", &mut text);
    }
    text
}

/// `minReadySeconds` -> `Min Ready Seconds`.
fn title(key: &str) -> String {
    let mut out = String::new();
    for (index, letter) in key.chars().enumerate() {
        if index == 0 {
            out.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && !out.ends_with(|c: char| c.is_uppercase() || c == ' ') {
                out.push(' ');
            }
            out.push(letter);
        }
    }
    out
}

fn fields(name: &str, value: &Value, indent: &str, text: &mut String) {
    match value {
        Value::Object(map) if map.is_empty() => {
            text.push_str(&format!("{indent}{name}:\t<none>\n"))
        }
        Value::Object(map) => {
            text.push_str(&format!("{indent}{name}:\n"));
            // What a user wrote as a key (data of a ConfigMap, labels) stays as it is.
            let verbatim = matches!(name, "Data" | "Labels" | "Match Labels" | "Annotations");
            for (key, value) in map {
                let key = if verbatim { key.clone() } else { title(key) };
                fields(&key, value, &format!("{indent}  "), text);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            text.push_str(&format!("{indent}{name}:\n"));
            for (number, item) in items.iter().enumerate() {
                fields(&format!("[{number}]"), item, &format!("{indent}  "), text);
            }
        }
        Value::Array(items) => {
            let words: Vec<String> = items.iter().map(show).collect();
            text.push_str(&format!(
                "{indent}{name}:\t{}\n",
                if words.is_empty() {
                    "<none>".to_owned()
                } else {
                    words.join(", ")
                }
            ));
        }
        Value::String(words) if words.contains('\n') => {
            text.push_str(&format!("{indent}{name}:\n"));
            for line in words.lines() {
                text.push_str(&format!("{indent}  {line}\n"));
            }
        }
        other => text.push_str(&format!("{indent}{name}:\t{}\n", show(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_secret_shows_sizes_only_and_other_kinds_their_fields() {
        let secret = json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}});
        let text = generic(&secret);
        assert!(
            text.contains("password:\t7 bytes") && !text.contains("aHVudGVy"),
            "{text}"
        );
        let lease = json!({"kind": "Lease", "metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 40, "holders": ["a", "b"], "terms": [{"x": 1}]}});
        let text = generic(&lease);
        assert!(text.contains("Spec:\n  Holders:\ta, b\n  Lease Duration Seconds:\t40\n  Terms:\n    [0]:\n      X:\t1\n"), "{text}");
    }
}
