//! How each kind is laid out. Pure: objects in, tab-separated text out; `tab::align` makes columns of it.

use jiff::Timestamp;
use serde_json::Value;
use waggle_model::{Bytes, MilliCpu, Quantity};

use crate::age;

/// A scalar as text; `<none>` when absent.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `Labels:` with one pair a line.
fn pairs(title: &str, indent: &str, map: &Value, separator: &str) -> String {
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

fn time(value: &Value, now: Timestamp) -> String {
    match value.as_str() {
        Some(text) => format!("{text} ({} ago)", age::since(text, now)),
        None => "<unset>".to_owned(),
    }
}

fn head(object: &Value, namespaced: bool) -> String {
    let metadata = &object["metadata"];
    let mut text = format!("Name:\t{}\n", show(&metadata["name"]));
    if namespaced {
        text.push_str(&format!("Namespace:\t{}\n", show(&metadata["namespace"])));
    }
    text
}

fn conditions(object: &Value, with_reason: bool) -> String {
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

/// A pod.
pub(super) fn pod(pod: &Value, now: Timestamp) -> String {
    let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
    let mut text = head(pod, true);
    let node = match (spec["nodeName"].as_str(), status["hostIP"].as_str()) {
        (Some(node), Some(address)) => format!("{node}/{address}"),
        (Some(node), None) => node.to_owned(),
        (None, _) => "<none>".to_owned(),
    };
    text.push_str(&format!(
        "Service Account:\t{}\nNode:\t{node}\n",
        spec["serviceAccountName"].as_str().unwrap_or("default")
    ));
    text.push_str(&format!("Start Time:\t{}\n", show(&status["startTime"])));
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    match metadata["deletionTimestamp"].as_str() {
        Some(when) => {
            let grace = show(&metadata["deletionGracePeriodSeconds"]);
            text.push_str(&format!(
                "Status:\tTerminating (since {})\n",
                age::since(when, now)
            ));
            text.push_str(&format!("Termination Grace Period:\t{grace}s\n"));
        }
        None => text.push_str(&format!("Status:\t{}\n", show(&status["phase"]))),
    }
    for (title, field) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = status[field].as_str().filter(|value| !value.is_empty()) {
            text.push_str(&format!("{title}:\t{value}\n"));
        }
    }
    text.push_str(&format!(
        "IP:\t{}\n",
        status["podIP"].as_str().unwrap_or_default()
    ));
    for owner in list(&metadata["ownerReferences"])
        .iter()
        .filter(|owner| owner["controller"] == true)
    {
        text.push_str(&format!(
            "Controlled By:\t{}/{}\n",
            show(&owner["kind"]),
            show(&owner["name"])
        ));
    }
    for (title, containers, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        let found = list(&spec[containers]);
        if !found.is_empty() {
            text.push_str(&format!("{title}:\n"));
        }
        for container in found {
            let status = list(&status[statuses])
                .iter()
                .find(|status| status["name"] == container["name"]);
            text.push_str(&container_text(container, status.unwrap_or(&Value::Null)));
        }
    }
    text.push_str(&conditions(pod, false));
    text.push_str(&volumes(spec));
    text.push_str(&pairs("Node-Selectors", "", &spec["nodeSelector"], "="));
    text.push_str(&tolerations(spec));
    text
}

fn container_text(container: &Value, status: &Value) -> String {
    let mut text = format!("  {}:\n", show(&container["name"]));
    let mut line = |title: &str, value: &str| text.push_str(&format!("    {title}:\t{value}\n"));
    if let Some(id) = status["containerID"].as_str() {
        line("Container ID", id);
    }
    line("Image", &show(&container["image"]));
    if let Some(id) = status["imageID"].as_str() {
        line("Image ID", id);
    }
    let ports: Vec<String> = list(&container["ports"])
        .iter()
        .map(|port| {
            format!(
                "{}/{}",
                show(&port["containerPort"]),
                port["protocol"].as_str().unwrap_or("TCP")
            )
        })
        .collect();
    line(
        if ports.len() > 1 { "Ports" } else { "Port" },
        &if ports.is_empty() {
            "<none>".to_owned()
        } else {
            ports.join(", ")
        },
    );
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        if !list(&container[field]).is_empty() {
            let words: Vec<String> = list(&container[field]).iter().map(show).collect();
            line(title, &words.join(" "));
        }
    }
    if !status.is_null() {
        text.push_str(&state("State", &status["state"]));
        if status["lastState"]
            .as_object()
            .is_some_and(|state| !state.is_empty())
        {
            text.push_str(&state("Last State", &status["lastState"]));
        }
        let ready = if status["ready"] == true {
            "True"
        } else {
            "False"
        };
        text.push_str(&format!(
            "    Ready:\t{ready}\n    Restart Count:\t{}\n",
            status["restartCount"].as_i64().unwrap_or(0)
        ));
    }
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = container["resources"][field].as_object();
        if let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) {
            text.push_str(&format!("    {title}:\n"));
            for (name, amount) in amounts {
                text.push_str(&format!("      {name}:\t{}\n", show(amount)));
            }
        }
    }
    for (title, field) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if container[field].is_object() {
            text.push_str(&format!("    {title}:\t{}\n", probe(&container[field])));
        }
    }
    text.push_str(&environment(container));
    text.push_str(&mounts(container));
    text
}

fn state(title: &str, state: &Value) -> String {
    let Some((name, detail)) = state.as_object().and_then(|state| state.iter().next()) else {
        return format!("    {title}:\tWaiting\n");
    };
    let (first, rest) = name.split_at(1);
    let mut text = format!("    {title}:\t{}{rest}\n", first.to_uppercase());
    for (label, field) in [
        ("Reason", "reason"),
        ("Message", "message"),
        ("Exit Code", "exitCode"),
        ("Signal", "signal"),
        ("Started", "startedAt"),
        ("Finished", "finishedAt"),
    ] {
        if !detail[field].is_null() {
            text.push_str(&format!("      {label}:\t{}\n", show(&detail[field])));
        }
    }
    text
}

fn probe(probe: &Value) -> String {
    let how = if let Some(http) = probe["httpGet"].as_object() {
        let text = |field: &str, or: &str| http.get(field).map_or(or.to_owned(), show);
        format!(
            "http-get {}://{}:{}{}",
            text("scheme", "HTTP").to_lowercase(),
            text("host", ""),
            text("port", ""),
            text("path", "/")
        )
    } else if probe["tcpSocket"].is_object() {
        format!(
            "tcp-socket {}:{}",
            probe["tcpSocket"]["host"].as_str().unwrap_or_default(),
            show(&probe["tcpSocket"]["port"])
        )
    } else if probe["grpc"].is_object() {
        format!(
            "grpc <pod>:{} {}",
            show(&probe["grpc"]["port"]),
            probe["grpc"]["service"].as_str().unwrap_or_default()
        )
    } else {
        let words: Vec<String> = list(&probe["exec"]["command"]).iter().map(show).collect();
        format!("exec [{}]", words.join(" "))
    };
    let number = |field: &str, or: i64| probe[field].as_i64().unwrap_or(or);
    format!(
        "{how} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn environment(container: &Value) -> String {
    let variables = list(&container["env"]);
    if variables.is_empty() {
        return "    Environment:\t<none>\n".to_owned();
    }
    let mut text = String::from("    Environment:\n");
    for variable in variables {
        let from = &variable["valueFrom"];
        let value = if from["secretKeyRef"].is_object() {
            format!(
                "<set to the key '{}' in secret '{}'>",
                show(&from["secretKeyRef"]["key"]),
                show(&from["secretKeyRef"]["name"])
            )
        } else if from["configMapKeyRef"].is_object() {
            let reference = &from["configMapKeyRef"];
            format!(
                "<set to the key '{}' of config map '{}'>",
                show(&reference["key"]),
                show(&reference["name"])
            )
        } else if from["fieldRef"].is_object() {
            format!("({})", show(&from["fieldRef"]["fieldPath"]))
        } else {
            variable["value"].as_str().unwrap_or_default().to_owned()
        };
        text.push_str(&format!("      {}:\t{value}\n", show(&variable["name"])));
    }
    text
}

fn mounts(container: &Value) -> String {
    let mounts = list(&container["volumeMounts"]);
    if mounts.is_empty() {
        return "    Mounts:\t<none>\n".to_owned();
    }
    let mut text = String::from("    Mounts:\n");
    for mount in mounts {
        let mode = if mount["readOnly"] == true {
            "ro"
        } else {
            "rw"
        };
        text.push_str(&format!(
            "      {} from {} ({mode})\n",
            show(&mount["mountPath"]),
            show(&mount["name"])
        ));
    }
    text
}

fn volumes(spec: &Value) -> String {
    let volumes = list(&spec["volumes"]);
    if volumes.is_empty() {
        return "Volumes:\t<none>\n".to_owned();
    }
    let mut text = String::from("Volumes:\n");
    for volume in volumes {
        text.push_str(&format!("  {}:\n", show(&volume["name"])));
        let source = volume
            .as_object()
            .into_iter()
            .flatten()
            .find(|(key, _)| *key != "name");
        if let Some((kind, detail)) = source {
            text.push_str(&format!("    Type:\t{kind}\n"));
            for (key, value) in detail
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, value)| !value.is_object() && !value.is_array())
            {
                text.push_str(&format!("    {key}:\t{}\n", show(value)));
            }
        }
    }
    text
}

fn tolerations(spec: &Value) -> String {
    let lines: Vec<String> = list(&spec["tolerations"])
        .iter()
        .map(|toleration| {
            let mut text = toleration["key"].as_str().unwrap_or_default().to_owned();
            if let Some(value) = toleration["value"].as_str() {
                text.push_str(&format!("={value}"));
            }
            if let Some(effect) = toleration["effect"].as_str() {
                text.push_str(&format!(":{effect}"));
            }
            if toleration["operator"] == "Exists" {
                text.push_str(" op=Exists");
            }
            if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
                text.push_str(&format!(" for {seconds}s"));
            }
            text.trim().to_owned()
        })
        .collect();
    format!(
        "Tolerations:\t{}\n",
        if lines.is_empty() {
            "<none>".to_owned()
        } else {
            lines.join("\n\t")
        }
    )
}

/// Requests of a pod: thousandths of a core, bytes.
fn requests(pod: &Value) -> (MilliCpu, Bytes) {
    let mut sum = (MilliCpu(0), Bytes(0));
    for container in list(&pod["spec"]["containers"]) {
        let amount = |name: &str| {
            container["resources"]["requests"][name]
                .as_str()
                .and_then(|text| text.parse::<Quantity>().ok())
        };
        sum.0 = sum
            .0
            .saturating_add(amount("cpu").map(MilliCpu::from).unwrap_or_default());
        sum.1 = sum
            .1
            .saturating_add(amount("memory").map(Bytes::from).unwrap_or_default());
    }
    sum
}

/// A node and the pods on it.
pub(super) fn node(node: &Value, pods: &[Value], now: Timestamp) -> String {
    let (metadata, spec, status) = (&node["metadata"], &node["spec"], &node["status"]);
    let mut text = head(node, false);
    text.push_str(&pairs("Labels", "", &metadata["labels"], "="));
    text.push_str(&pairs("Annotations", "", &metadata["annotations"], ": "));
    text.push_str(&format!(
        "CreationTimestamp:\t{}\n",
        show(&metadata["creationTimestamp"])
    ));
    let taints: Vec<String> = list(&spec["taints"])
        .iter()
        .map(|taint| {
            let value = taint["value"]
                .as_str()
                .map(|value| format!("={value}"))
                .unwrap_or_default();
            format!("{}{value}:{}", show(&taint["key"]), show(&taint["effect"]))
        })
        .collect();
    text.push_str(&format!(
        "Taints:\t{}\n",
        if taints.is_empty() {
            "<none>".to_owned()
        } else {
            taints.join("\n\t")
        }
    ));
    text.push_str(&format!(
        "Unschedulable:\t{}\n",
        spec["unschedulable"] == true
    ));
    text.push_str("Conditions:\n  Type\tStatus\tLastHeartbeatTime\tReason\tMessage\n  ----\t------\t-----------------\t------\t-------\n");
    for condition in list(&status["conditions"]) {
        let message = condition["message"].as_str().unwrap_or_default();
        text.push_str(&format!(
            "  {}\t{}\t{}\t{}\t{message}\n",
            show(&condition["type"]),
            show(&condition["status"]),
            time(&condition["lastHeartbeatTime"], now),
            show(&condition["reason"])
        ));
    }
    text.push_str("Addresses:\n");
    for address in list(&status["addresses"]) {
        text.push_str(&format!(
            "  {}:\t{}\n",
            show(&address["type"]),
            show(&address["address"])
        ));
    }
    for (title, field) in [
        ("Capacity", "capacity"),
        ("Allocatable", "allocatable"),
        ("System Info", "nodeInfo"),
    ] {
        text.push_str(&format!("{title}:\n"));
        for (key, value) in status[field].as_object().into_iter().flatten() {
            text.push_str(&format!("  {key}:\t{}\n", show(value)));
        }
    }
    text.push_str(&format!("PodCIDR:\t{}\n", show(&spec["podCIDR"])));
    text.push_str(&node_pods(pods, now));
    text.push_str(&allocated(status, pods));
    text
}

fn running(pods: &[Value]) -> impl Iterator<Item = &Value> {
    pods.iter().filter(|pod| {
        !matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        )
    })
}

fn node_pods(pods: &[Value], now: Timestamp) -> String {
    let mut text = format!(
        "Non-terminated Pods:\t({} in total)\n",
        running(pods).count()
    );
    text.push_str("  Namespace\tName\tCPU Requests\tMemory Requests\tAge\n  ---------\t----\t------------\t---------------\t---\n");
    for pod in running(pods) {
        let (cpu, memory) = requests(pod);
        let age = age::since(
            pod["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap_or_default(),
            now,
        );
        let name = |field: &str| show(&pod["metadata"][field]);
        text.push_str(&format!(
            "  {}\t{}\t{cpu}\t{memory}\t{age}\n",
            name("namespace"),
            name("name")
        ));
    }
    text
}

fn allocated(status: &Value, pods: &[Value]) -> String {
    let (cpu, memory) = running(pods)
        .map(requests)
        .fold((MilliCpu(0), Bytes(0)), |sum, one| {
            (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
        });
    let room = |name: &str| {
        status["allocatable"][name]
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok())
    };
    let percent = |part: i64, whole: Option<i64>| match whole {
        Some(whole) if whole > 0 => format!(" ({}%)", part.saturating_mul(100) / whole),
        _ => String::new(),
    };
    let cpu_share = percent(
        cpu.0,
        room("cpu").map(|quantity| MilliCpu::from(quantity).0),
    );
    let memory_share = percent(
        memory.0,
        room("memory").map(|quantity| Bytes::from(quantity).0),
    );
    format!(
        "Allocated resources:\n  Resource\tRequests\n  --------\t--------\n  cpu\t{cpu}{cpu_share}\n  memory\t{memory}{memory_share}\n"
    )
}

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
    use crate::tab::align;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn a_pod_tells_its_state() {
        let object = json!({
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": true}]},
            "spec": {"nodeName": "node1", "containers": [{"name": "web", "image": "shop/web:2.0", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}}, "env": [{"name": "A", "value": "1"}]}]},
            "status": {"phase": "Running", "hostIP": "172.30.0.11", "podIP": "10.244.1.2", "containerStatuses": [
                {"name": "web", "ready": true, "restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                 "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}],
                "conditions": [{"type": "Ready", "status": "True"}]}});
        let text = align(&pod(&object, now()), 0, 2);
        for line in [
            "Node:             node1/172.30.0.11",
            "Labels:           app=web",
            "Controlled By:    ReplicaSet/web",
            "    State:          Running",
            "      Exit Code:    137",
            "    Restart Count:  2",
            "    Readiness:      http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3",
            "  Ready  True",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no line {line:?} in\n{text}"
            );
        }
    }

    #[test]
    fn a_service_lists_ready_endpoints() {
        let object = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.5", "ports": [{"port": 80, "targetPort": "http"}]}});
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
    }

    #[test]
    fn a_node_adds_up_requests() {
        let object = json!({"metadata": {"name": "node1"}, "status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}});
        let of = |phase: &str| {
            json!({"metadata": {"name": "p", "namespace": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "256Mi"}}}]}, "status": {"phase": phase}})
        };
        let text = node(
            &object,
            &[of("Running"), of("Pending"), of("Failed")],
            now(),
        );
        assert!(
            text.contains("cpu\t1 (50%)\n") && text.contains("memory\t512Mi (50%)\n"),
            "{text}"
        );
        assert!(text.contains("(2 in total)"), "{text}");
    }

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
