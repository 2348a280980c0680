//! How a pod and its containers are laid out. Pure.

use jiff::Timestamp;
use serde_json::Value;

use super::fields::{conditions, head, list, pairs, show};
use crate::age;

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

pub(super) fn container_text(container: &Value, status: &Value) -> String {
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
            let words: Vec<&str> = list(&container[field])
                .iter()
                .filter_map(Value::as_str)
                .collect();
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
            "  Ready          True",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "no line {line:?} in\n{text}"
            );
        }
    }
}
