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
    if let Some(policy) = spec["ipFamilyPolicy"].as_str() {
        text.push_str(&format!("IP Family Policy:\t{policy}\n"));
    }
    text.push_str(&format!("IP Families:\t{}\n", joined(&spec["ipFamilies"])));
    let address = spec["clusterIP"].as_str().unwrap_or_default();
    text.push_str(&format!("IP:\t{address}\n"));
    text.push_str(&format!("IPs:\t{}\n", joined(&spec["clusterIPs"])));
    if !list(&spec["externalIPs"]).is_empty() {
        text.push_str(&format!(
            "External IPs:\t{}\n",
            joined(&spec["externalIPs"])
        ));
    }
    for (title, field) in [
        ("Desired LoadBalancer IP", "loadBalancerIP"),
        ("External Name", "externalName"),
    ] {
        if let Some(given) = spec[field].as_str().filter(|text| !text.is_empty()) {
            text.push_str(&format!("{title}:\t{given}\n"));
        }
    }
    let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
    if !ingress.is_empty() {
        let shown: Vec<String> = ingress.iter().map(balancer).collect();
        text.push_str(&format!("LoadBalancer Ingress:\t{}\n", shown.join(", ")));
    }
    for port in list(&spec["ports"]) {
        text.push_str(&service_port(port, slices));
    }
    text.push_str(&format!(
        "Session Affinity:\t{}\n",
        spec["sessionAffinity"].as_str().unwrap_or("None")
    ));
    for (title, field) in [
        ("External Traffic Policy", "externalTrafficPolicy"),
        ("Internal Traffic Policy", "internalTrafficPolicy"),
        ("Traffic Distribution", "trafficDistribution"),
        ("HealthCheck NodePort", "healthCheckNodePort"),
    ] {
        let given = &spec[field];
        if !given.is_null() && *given != 0 && *given != "" {
            text.push_str(&format!("{title}:\t{}\n", show(given)));
        }
    }
    let ranges = &spec["loadBalancerSourceRanges"];
    if !list(ranges).is_empty() {
        text.push_str(&format!(
            "LoadBalancer Source Ranges:\t{}\n",
            joined(ranges)
        ));
    }
    if spec["publishNotReadyAddresses"] == true {
        text.push_str("Publish Not Ready Addresses:\ttrue\n");
    }
    text.push_str(&conditions(service, true));
    text
}

fn joined(values: &Value) -> String {
    let texts: Vec<String> = list(values).iter().map(show).collect();
    if texts.is_empty() {
        "<none>".to_owned()
    } else {
        texts.join(",")
    }
}

/// One address of a load balancer, `192.0.2.1 (VIP)`.
fn balancer(ingress: &Value) -> String {
    let text = |field: &str| ingress[field].as_str().unwrap_or_default();
    match (text("ip"), text("ipMode")) {
        ("", _) => text("hostname").to_owned(),
        (address, "") => address.to_owned(),
        (address, mode) => format!("{address} ({mode})"),
    }
}

fn service_port(port: &Value, slices: &[Value]) -> String {
    let (name, protocol) = (
        port["name"].as_str().unwrap_or("<unset>"),
        port["protocol"].as_str().unwrap_or("TCP"),
    );
    let target = if port["targetPort"].is_null() {
        &port["port"]
    } else {
        &port["targetPort"]
    };
    let mut text = format!("Port:\t{name}  {}/{protocol}\n", show(&port["port"]));
    text.push_str(&format!("TargetPort:\t{}/{protocol}\n", show(target)));
    if let Some(node_port) = port["nodePort"].as_i64().filter(|number| *number != 0) {
        text.push_str(&format!("NodePort:\t{name}  {node_port}/{protocol}\n"));
    }
    text.push_str(&format!("Endpoints:\t{}\n", endpoints(slices, port)));
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
    fn a_service_shows_how_it_is_reached() {
        let mut object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"type": "LoadBalancer",
            "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}], "sessionAffinity": "ClientIP",
            "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 30100,
            "externalIPs": ["192.0.2.7"], "loadBalancerSourceRanges": ["10.0.0.0/8", "192.0.2.0/24"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "172.30.0.220", "ipMode": "VIP"}, {"hostname": "lb.example.com"}]}}});
        let text = service(&object, &[]);
        for line in [
            "IP Family Policy:\tSingleStack",
            "IP Families:\tIPv4",
            "IP:\t10.96.0.5",
            "External IPs:\t192.0.2.7",
            "LoadBalancer Ingress:\t172.30.0.220 (VIP), lb.example.com",
            "NodePort:\thttp  30080/TCP",
            "Session Affinity:\tClientIP",
            "External Traffic Policy:\tLocal",
            "Internal Traffic Policy:\tCluster",
            "HealthCheck NodePort:\t30100",
            "LoadBalancer Source Ranges:\t10.0.0.0/8,192.0.2.0/24",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
        object["status"] = json!({"conditions": [{"type": "waggle.dev/AddressAssigned", "status": "False",
            "message": "no free IPv4 address"}]});
        let text = service(&object, &[]);
        assert!(text.contains("no free IPv4 address\n"), "{text}");
        let alias = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com"}});
        let text = service(&alias, &[]);
        assert!(
            text.contains("External Name:\tdb.example.com\n") && text.contains("IPs:\t<none>\n"),
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
