//! How Services and Deployments are laid out, with what stands behind them. Pure.

use jiff::Timestamp;
use serde_json::Value;

use super::fields::{conditions, head, list, pairs, show, time};
use super::pod::container_text;

/// A Service and the endpoints behind it.
pub(super) fn service(service: &Value, slices: &[Value]) -> String {
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    let mut text = head(service, true);
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    let selector: Vec<String> = spec["selector"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", show(value)))
        .collect();
    text.push_str(&format!(
        "Selector:\t{}\n",
        if selector.is_empty() {
            "<none>".to_owned()
        } else {
            selector.join(",")
        }
    ));
    text.push_str(&format!("Type:\t{}\n", show(&spec["type"])));
    text.push_str(&format!("IP:\t{}\n", show(&spec["clusterIP"])));
    let addresses: Vec<String> = list(&spec["clusterIPs"]).iter().map(show).collect();
    text.push_str(&format!(
        "IPs:\t{}\n",
        if addresses.is_empty() {
            "<none>".to_owned()
        } else {
            addresses.join(",")
        }
    ));
    if let Some(name) = spec["externalName"].as_str() {
        text.push_str(&format!("External Name:\t{name}\n"));
    }
    for port in list(&spec["ports"]) {
        let (name, protocol) = (
            port["name"].as_str().unwrap_or("<unset>"),
            port["protocol"].as_str().unwrap_or("TCP"),
        );
        text.push_str(&format!(
            "Port:\t{name}  {}/{protocol}\n",
            show(&port["port"])
        ));
        let target = if port["targetPort"].is_null() {
            &port["port"]
        } else {
            &port["targetPort"]
        };
        text.push_str(&format!("TargetPort:\t{}/{protocol}\n", show(target)));
        if let Some(node_port) = port["nodePort"].as_i64() {
            text.push_str(&format!("NodePort:\t{name}  {node_port}/{protocol}\n"));
        }
        text.push_str(&format!("Endpoints:\t{}\n", endpoints(slices, port)));
    }
    text.push_str(&format!(
        "Session Affinity:\t{}\n",
        spec["sessionAffinity"].as_str().unwrap_or("None")
    ));
    text.push_str(&conditions(service, true));
    text
}

/// Ready endpoints of one port, three and a count of the rest.
fn endpoints(slices: &[Value], port: &Value) -> String {
    let mut found = Vec::new();
    for slice in slices {
        let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
        for target in list(&slice["ports"])
            .iter()
            .filter(|target| name(target) == name(port))
        {
            for endpoint in list(&slice["endpoints"])
                .iter()
                .filter(|endpoint| endpoint["conditions"]["ready"] != false)
            {
                found.extend(
                    list(&endpoint["addresses"])
                        .iter()
                        .map(|address| format!("{}:{}", show(address), show(&target["port"]))),
                );
            }
        }
    }
    match found.len() {
        0 => "<none>".to_owned(),
        1..=3 => found.join(","),
        many => format!("{} + {} more...", found[..3].join(","), many - 3),
    }
}

/// A Deployment and its ReplicaSets.
pub(super) fn deployment(deployment: &Value, sets: &[Value], now: Timestamp) -> String {
    let (metadata, spec, status) = (
        &deployment["metadata"],
        &deployment["spec"],
        &deployment["status"],
    );
    let mut text = head(deployment, true);
    text.push_str(&format!(
        "CreationTimestamp:\t{}\n",
        time(&metadata["creationTimestamp"], now)
    ));
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    text.push_str(&format!(
        "Selector:\t{}\n",
        crate::logs::selector_of(deployment).unwrap_or_else(|| "<none>".to_owned())
    ));
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    text.push_str(&format!(
        "Replicas:\t{} desired | {} updated | {} total | {} available | {} unavailable\n",
        spec["replicas"].as_i64().unwrap_or(1),
        number("updatedReplicas"),
        number("replicas"),
        number("availableReplicas"),
        number("unavailableReplicas")
    ));
    text.push_str(&format!(
        "StrategyType:\t{}\n",
        show(&spec["strategy"]["type"])
    ));
    text.push_str(&format!(
        "MinReadySeconds:\t{}\n",
        spec["minReadySeconds"].as_i64().unwrap_or(0)
    ));
    let rolling = &spec["strategy"]["rollingUpdate"];
    if rolling.is_object() {
        text.push_str(&format!(
            "RollingUpdateStrategy:\t{} max unavailable, {} max surge\n",
            show(&rolling["maxUnavailable"]),
            show(&rolling["maxSurge"])
        ));
    }
    text.push_str("Pod Template:\n");
    text.push_str(&pairs(
        "Labels",
        "  ",
        &spec["template"]["metadata"]["labels"],
        "=",
    ));
    text.push_str("  Containers:\n");
    for container in list(&spec["template"]["spec"]["containers"]) {
        for line in container_text(container, &Value::Null).lines() {
            text.push_str(&format!(" {line}\n"));
        }
    }
    text.push_str(&conditions(deployment, true));
    text.push_str(&replica_sets(deployment, sets));
    text
}

fn replica_sets(deployment: &Value, sets: &[Value]) -> String {
    let revision = |object: &Value| {
        object["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone()
    };
    let owned = sets.iter().filter(|set| {
        list(&set["metadata"]["ownerReferences"])
            .iter()
            .any(|owner| owner["uid"] == deployment["metadata"]["uid"])
    });
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for set in owned {
        let (have, want) = (
            set["status"]["replicas"].as_i64().unwrap_or(0),
            set["spec"]["replicas"].as_i64().unwrap_or(0),
        );
        let line = format!(
            "{} ({have}/{want} replicas created)",
            show(&set["metadata"]["name"])
        );
        if revision(set) == revision(deployment) {
            new.push(line);
        } else if want > 0 || have > 0 {
            old.push(line);
        }
    }
    let words = |lines: Vec<String>| {
        if lines.is_empty() {
            "<none>".to_owned()
        } else {
            lines.join(", ")
        }
    };
    format!(
        "OldReplicaSets:\t{}\nNewReplicaSet:\t{}\n",
        words(old),
        words(new)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn a_service_lists_ready_endpoints() {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.5", "ports": [{"port": 80, "targetPort": "http"}]},
            "status": {"conditions": [{"type": "waggle.dev/Programmed", "status": "False", "reason": "CapacityExceeded", "message": "no room"}]}});
        let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
        let slice = json!({"ports": [{"port": 8080}], "endpoints": [endpoint("10.244.1.2", true), endpoint("10.244.1.3", false),
            endpoint("10.244.2.2", true), endpoint("10.244.2.3", true), endpoint("10.244.3.3", true)]});
        let text = service(&object, &[slice]);
        assert!(
            text.contains(
                "Endpoints:\t10.244.1.2:8080,10.244.2.2:8080,10.244.2.3:8080 + 1 more...\n"
            ),
            "{text}"
        );
        assert!(text.contains("TargetPort:\thttp/TCP\n"), "{text}");
        assert!(
            text.contains("waggle.dev/Programmed\tFalse\tCapacityExceeded\tno room\n"),
            "{text}"
        );
    }

    #[test]
    fn a_deployment_tells_old_from_new() {
        let object = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": {"deployment.kubernetes.io/revision": "2"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": {"replicas": 4}});
        let set = |name: &str, revision: &str, replicas: i64| {
            json!({"metadata": {"name": name, "ownerReferences": [{"uid": "u"}],
            "annotations": {"deployment.kubernetes.io/revision": revision}}, "spec": {"replicas": replicas}, "status": {"replicas": replicas}})
        };
        let text = deployment(
            &object,
            &[
                set("web-a", "1", 1),
                set("web-b", "2", 3),
                set("web-0", "0", 0),
            ],
            now(),
        );
        assert!(text.contains("OldReplicaSets:\tweb-a (1/1 replicas created)\nNewReplicaSet:\tweb-b (3/3 replicas created)\n"), "{text}");
        assert!(text.contains("3 desired | 0 updated | 4 total"), "{text}");
    }
}
