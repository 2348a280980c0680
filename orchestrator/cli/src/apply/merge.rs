//! Three-way merge for client-side apply: what the manifest said last time, what it says now, what the cluster has.
//! Pure. Lists whose items have a key are merged item by item, as strategic merge patch does; others are replaced.
//!
//! Keys: <https://kubernetes.io/docs/reference/kubernetes-api/> (`patchMergeKey`).

use serde_json::{Map, Value};

/// Annotation that keeps what was applied last, as kubectl writes it.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// `current` with what changed between `original` and `wanted` brought in: fields that are wanted are set, fields that were
/// in `original` and are no longer wanted are removed, everything else stays as it is.
pub(crate) fn three_way(original: &Value, wanted: &Value, current: &Value) -> Value {
    merge("", original, wanted, current)
}

fn merge(field: &str, original: &Value, wanted: &Value, current: &Value) -> Value {
    match (wanted, current) {
        (Value::Object(wanted), Value::Object(current)) => {
            let empty = Map::new();
            Value::Object(merge_objects(
                original.as_object().unwrap_or(&empty),
                wanted,
                current,
            ))
        }
        (Value::Array(wanted), Value::Array(current)) => {
            let original = original.as_array().map(Vec::as_slice).unwrap_or_default();
            match list_key(field, wanted, current) {
                Some(key) => Value::Array(merge_lists(key, original, wanted, current)),
                None => Value::Array(wanted.clone()),
            }
        }
        _ => wanted.clone(),
    }
}

fn merge_objects(
    original: &Map<String, Value>,
    wanted: &Map<String, Value>,
    current: &Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = current.clone();
    for name in original.keys() {
        if wanted.get(name).is_none_or(Value::is_null) {
            merged.remove(name);
        }
    }
    for (name, value) in wanted {
        if value.is_null() {
            merged.remove(name);
            continue;
        }
        let before = original.get(name).unwrap_or(&Value::Null);
        let value = match current.get(name) {
            Some(now) => merge(name, before, value, now),
            None => value.clone(),
        };
        merged.insert(name.clone(), value);
    }
    merged
}

/// Wanted items in their order, each merged with its namesake; then what others added.
fn merge_lists(key: &str, original: &[Value], wanted: &[Value], current: &[Value]) -> Vec<Value> {
    let named = |list: &[Value], name: &Value| list.iter().find(|item| &item[key] == name).cloned();
    let mut merged: Vec<Value> = wanted
        .iter()
        .map(|item| match named(current, &item[key]) {
            Some(now) => merge(
                "",
                &named(original, &item[key]).unwrap_or_default(),
                item,
                &now,
            ),
            None => item.clone(),
        })
        .collect();
    for item in current {
        let name = &item[key];
        if named(wanted, name).is_none() && named(original, name).is_none() {
            merged.push(item.clone());
        }
    }
    merged
}

/// The field that names the items of a list, if every item has it and no two are alike.
fn list_key<'a>(field: &str, wanted: &[Value], current: &[Value]) -> Option<&'a str> {
    let candidates: &[&str] = match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => &["name"],
        "ports" => &["containerPort", "port"],
        "volumeMounts" => &["mountPath"],
        "volumeDevices" => &["devicePath"],
        "hostAliases" => &["ip"],
        "topologySpreadConstraints" => &["topologyKey"],
        "ownerReferences" => &["uid"],
        "conditions" => &["type"],
        _ => &[],
    };
    candidates
        .iter()
        .copied()
        .find(|key| has_unique_keys(key, wanted) && has_unique_keys(key, current))
}

fn has_unique_keys(key: &str, items: &[Value]) -> bool {
    let names: Vec<&Value> = items.iter().map(|item| &item[key]).collect();
    names
        .iter()
        .enumerate()
        .all(|(index, name)| !name.is_null() && !names[..index].contains(name))
}

/// The JSON merge patch (RFC 7386) that makes `to` out of `from`; an empty object when they are equal.
pub(crate) fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        match before.get(name) {
            Some(same) if same == value => {}
            Some(old) if old.is_object() && value.is_object() => {
                patch.insert(name.clone(), merge_patch(old, value));
            }
            _ => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(original: Value, wanted: Value, current: Value, expect: Value) {
        let merged = three_way(&original, &wanted, &current);
        assert_eq!(merged, expect);
        assert_eq!(
            three_way(&wanted, &wanted, &merged),
            merged,
            "applying twice changes nothing more"
        );
    }

    #[test]
    fn what_others_set_stays_and_what_was_dropped_goes() {
        check(
            json!({"spec": {"replicas": 3, "paused": true}}),
            json!({"spec": {"replicas": 5}}),
            json!({"spec": {"replicas": 3, "paused": true, "strategy": {"type": "RollingUpdate"}}, "status": {"x": 1}}),
            json!({"spec": {"replicas": 5, "strategy": {"type": "RollingUpdate"}}, "status": {"x": 1}}),
        );
    }

    #[test]
    fn a_field_that_the_manifest_never_had_is_left_to_the_autoscaler() {
        check(
            json!({"spec": {"selector": {"a": "b"}}}),
            json!({"spec": {"selector": {"a": "b"}}}),
            json!({"spec": {"replicas": 7, "selector": {"a": "b"}}}),
            json!({"spec": {"replicas": 7, "selector": {"a": "b"}}}),
        );
    }

    #[test]
    fn containers_and_ports_are_merged_by_their_keys() {
        check(
            json!({"containers": [{"name": "web", "image": "w:1", "env": [{"name": "A", "value": "1"}]}, {"name": "old"}]}),
            json!({"containers": [{"name": "web", "image": "w:2", "env": [{"name": "B", "value": "2"}]}]}),
            json!({"containers": [
                {"name": "injected", "image": "i"},
                {"name": "web", "image": "w:1", "imagePullPolicy": "IfNotPresent", "env": [{"name": "A", "value": "1"}]},
                {"name": "old"}]}),
            json!({"containers": [
                {"name": "web", "image": "w:2", "imagePullPolicy": "IfNotPresent", "env": [{"name": "B", "value": "2"}]},
                {"name": "injected", "image": "i"}]}),
        );
        check(
            json!({"ports": [{"port": 80}]}),
            json!({"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "admin"}]}),
            json!({"ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}),
            json!({"ports": [{"port": 80, "name": "http", "nodePort": 30080, "protocol": "TCP"}, {"port": 81, "name": "admin"}]}),
        );
    }

    #[test]
    fn a_list_with_the_same_key_twice_is_replaced() {
        check(
            json!({}),
            json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}),
            json!({"ports": [{"port": 53, "protocol": "UDP", "nodePort": 1}]}),
            json!({"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}),
        );
    }

    #[test]
    fn plain_lists_are_replaced_and_null_removes() {
        check(
            json!({"args": ["a"], "x": 1}),
            json!({"args": ["b", "c"], "x": null}),
            json!({"args": ["a"], "x": 1, "y": 2}),
            json!({"args": ["b", "c"], "y": 2}),
        );
    }

    #[test]
    fn the_patch_says_only_what_changed() {
        let from = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        assert_eq!(merge_patch(&from, &from), json!({}));
        let to = json!({"a": 1, "b": {"c": 4}, "e": [1, 2], "f": {"g": 1}});
        assert_eq!(
            merge_patch(&from, &to),
            json!({"b": {"c": 4, "d": null}, "e": [1, 2], "f": {"g": 1}})
        );
    }
}
