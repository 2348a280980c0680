//! Ephemeral containers: added to a pod that runs, never changed or taken away.

use serde_json::Value;

use super::container;
use crate::Fault;
use crate::walk::{has, list, text};

/// What makes no sense for a container that nobody restarts or waits for.
const NEVER: [&str; 6] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "startupProbe",
];

/// Faults of a pod's ephemeral containers, `old` being the pod as it is.
pub(crate) fn ephemeral_containers(value: &Value, old: &Value) -> Vec<Fault> {
    let mut out = Vec::new();
    let place = "spec.ephemeralContainers";
    let all = list(value, &["spec", "ephemeralContainers"]);
    for one in list(old, &["spec", "ephemeralContainers"]) {
        if !all.contains(one) {
            let name = text(one, &["name"]);
            let detail =
                format!("existing ephemeral container {name:?} may not be changed or removed");
            out.push(Fault::forbidden(place, detail));
        }
    }
    let spec = &value["spec"];
    let named = |group: &str, name: &str| {
        let mut containers = list(spec, &[group]).iter();
        containers.any(|one| text(one, &["name"]) == name)
    };
    for (index, one) in all.iter().enumerate() {
        let path = format!("{place}[{index}]");
        let name = text(one, &["name"]);
        let before = all
            .iter()
            .take(index)
            .any(|other| text(other, &["name"]) == name);
        if before || named("containers", name) || named("initContainers", name) {
            out.push(Fault::duplicate(format!("{path}.name"), name));
        }
        container::check(spec, one, &path, &mut out);
        for field in NEVER {
            let given = &one[field];
            let empty = given.as_object().is_some_and(serde_json::Map::is_empty)
                || given.as_array().is_some_and(Vec::is_empty);
            if has(one, &[field]) && !empty {
                let detail = "cannot be set for an Ephemeral Container";
                out.push(Fault::forbidden(format!("{path}.{field}"), detail));
            }
        }
        let target = text(one, &["targetContainerName"]);
        if !target.is_empty() && !named("containers", target) {
            let path = format!("{path}.targetContainerName");
            out.push(Fault::invalid(
                path,
                target,
                "no container of the pod has this name",
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(ephemeral: Value) -> Value {
        json!({"spec": {"containers": [{"name": "main", "image": "web:1"}], "ephemeralContainers": ephemeral}})
    }

    #[test]
    fn they_are_added_and_stay() {
        let check = |old: Value, new: Value| -> Vec<String> {
            let faults = ephemeral_containers(&pod(new), &pod(old));
            faults.iter().map(ToString::to_string).collect()
        };
        let one = json!({"name": "a", "image": "tools:1", "targetContainerName": "main"});
        assert!(check(json!([]), json!([one])).is_empty());
        for (old, new, expect) in [
            (
                json!([one]),
                json!([]),
                "\"a\" may not be changed or removed",
            ),
            (
                json!([]),
                json!([{"name": "main", "image": "i"}]),
                "Duplicate",
            ),
            (json!([]), json!([{"name": "a"}]), "image: Required"),
            (
                json!([]),
                json!([{"name": "a", "image": "i", "ports": [{"containerPort": 1}]}]),
                "[0].ports: Forbidden",
            ),
            (
                json!([]),
                json!([{"name": "a", "image": "i", "targetContainerName": "x"}]),
                "no container of the pod",
            ),
        ] {
            let faults = check(old, new.clone());
            assert!(
                faults.iter().any(|fault| fault.contains(expect)),
                "{new}: {faults:?}"
            );
        }
    }
}
