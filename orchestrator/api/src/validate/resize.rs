//! A change of the resources of a pod that runs (subresource `resize`): processor and memory, within its QoS class.

use std::collections::BTreeSet;

use serde_json::Value;

use super::resources;
use crate::Fault;
use crate::defaults::quality_of_service;
use crate::walk::{list, members, text};

/// What can be changed under a container that runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Faults of a pod with new resources, `old` being the pod as it is; the rest of both is the same.
pub(crate) fn resize(value: &Value, old: &Value) -> Vec<Fault> {
    let mut out = Vec::new();
    for group in ["initContainers", "containers"] {
        let all = list(value, &["spec", group]).iter();
        for (index, (new, was)) in all.zip(list(old, &["spec", group])).enumerate() {
            let path = format!("spec.{group}[{index}]");
            container(new, was, &path, &mut out);
            if group == "initContainers"
                && new["resources"] != was["resources"]
                && text(new, &["restartPolicy"]) != "Always"
            {
                let detail =
                    "only sidecars (restartPolicy Always) can be resized among init containers";
                out.push(Fault::forbidden(format!("{path}.resources"), detail));
            }
        }
    }
    let (class, was) = (
        quality_of_service(&value["spec"]),
        quality_of_service(&old["spec"]),
    );
    if class != was {
        let detail = format!("Pod QOS Class may not change as a result of resizing: it is {was}");
        out.push(Fault::invalid("spec", class, detail));
    }
    out
}

fn container(new: &Value, was: &Value, path: &str, out: &mut Vec<Fault>) {
    let path = format!("{path}.resources");
    resources::check(&new["resources"], &path, out);
    for list in ["requests", "limits"] {
        let (new, was) = (&new["resources"][list], &was["resources"][list]);
        let names: BTreeSet<&String> = members(new, &[])
            .chain(members(was, &[]))
            .map(|(name, _)| name)
            .collect();
        for name in names {
            let place = format!("{path}.{list}[{name}]");
            if new[name] != was[name] && !RESIZABLE.contains(&name.as_str()) {
                let detail = "only cpu and memory resources are mutable";
                out.push(Fault::forbidden(place, detail));
            } else if new[name].is_null() {
                let detail = format!("resource {list} cannot be removed");
                out.push(Fault::forbidden(place, detail));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    fn check(old: Value, new: Value, expect: &[&str]) {
        let faults = resize(&pod(new.clone()), &pod(old));
        let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), expect.len(), "{new}: {text:?}");
        for (fault, expect) in text.iter().zip(expect) {
            assert!(fault.contains(expect), "{fault}: {expect}");
        }
    }

    #[test]
    fn processor_and_memory_change_within_the_class() {
        let small =
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}});
        let large =
            json!({"requests": {"cpu": "200m", "memory": "96Mi"}, "limits": {"memory": "128Mi"}});
        check(small.clone(), large.clone(), &[]);
        check(large, small.clone(), &[]);
        check(
            small.clone(),
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}}),
            &["limits cannot be removed"],
        );
        check(
            small.clone(),
            json!({"requests": {"cpu": "x", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}),
            &["requests"],
        );
        let all = json!({"cpu": "1", "memory": "64Mi"});
        check(
            json!({"requests": all, "limits": all}),
            json!({"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": all}),
            &["QOS Class may not change"],
        );
        let mut storage = small.clone();
        storage["limits"]["ephemeral-storage"] = json!("1Gi");
        check(small, storage, &["only cpu and memory"]);
    }
}
