//! Defaults of pods and of pod templates.

use serde_json::{Value, json};

use crate::walk::{at, at_mut, default, has, list, list_mut, set, text};

const GROUPS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// A pod, with what admission adds to pods but not to templates.
pub(crate) fn pod(value: &mut Value) {
    default(value, &["spec"], "enableServiceLinks", true);
    if let Some(inner) = value.get_mut("spec") {
        spec(inner);
        amounts_and_ports(inner);
    }
    tolerate_node_trouble(value);
    default(value, &["spec"], "serviceAccountName", "default");
    default(
        value,
        &["spec"],
        "serviceAccount",
        text(value, &["spec", "serviceAccountName"]).to_owned(),
    );
    let priority = match text(value, &["spec", "priorityClassName"]) {
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        _ => 0,
    };
    default(value, &["spec"], "priority", priority);
    default(value, &["spec"], "preemptionPolicy", "PreemptLowerPriority");
    default(value, &["status"], "phase", "Pending");
    let class = quality_of_service(at(value, &["spec"]));
    default(value, &["status"], "qosClass", class);
}

/// A pod's or template's `spec`.
pub(super) fn spec(spec: &mut Value) {
    default(spec, &[], "restartPolicy", "Always");
    default(spec, &[], "dnsPolicy", "ClusterFirst");
    default(spec, &[], "schedulerName", "default-scheduler");
    default(spec, &[], "terminationGracePeriodSeconds", 30);
    default(spec, &[], "securityContext", json!({}));
    for group in GROUPS {
        list_mut(spec, &[group]).iter_mut().for_each(container);
    }
    for volume in list_mut(spec, &["volumes"]) {
        self::volume(volume);
    }
    for spread in list_mut(spec, &["topologySpreadConstraints"]) {
        default(spread, &[], "nodeAffinityPolicy", "Honor");
        default(spread, &[], "nodeTaintsPolicy", "Ignore");
    }
}

/// What is filled in for pods but not for templates.
fn amounts_and_ports(spec: &mut Value) {
    let on_host = at(spec, &["hostNetwork"]) == true;
    for group in GROUPS {
        for one in list_mut(spec, &[group]) {
            requests_from_limits(one);
            for port in list_mut(one, &["ports"]).iter_mut().filter(|_| on_host) {
                let number = port["containerPort"].clone();
                default(port, &[], "hostPort", number);
            }
        }
    }
}

fn container(one: &mut Value) {
    let policy = if moves(text(one, &["image"])) {
        "Always"
    } else {
        "IfNotPresent"
    };
    default(one, &[], "imagePullPolicy", policy);
    default(one, &[], "terminationMessagePath", "/dev/termination-log");
    default(one, &[], "terminationMessagePolicy", "File");
    default(one, &[], "resources", json!({}));
    for port in list_mut(one, &["ports"]) {
        default(port, &[], "protocol", "TCP");
    }
    for variable in list_mut(one, &["env"]) {
        if has(variable, &["valueFrom", "fieldRef"]) {
            default(variable, &["valueFrom", "fieldRef"], "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = one.get_mut(name).filter(|probe| probe.is_object()) {
            self::probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = at_mut(one, &["lifecycle", hook, "httpGet"]) {
            http_get(action);
        }
    }
}

/// Whether an image's tag may come to mean another image: `latest`, or none at all.
fn moves(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// A limit is also the request where no request is given.
fn requests_from_limits(one: &mut Value) {
    let limits = at(one, &["resources", "limits"])
        .as_object()
        .cloned()
        .unwrap_or_default();
    for (name, amount) in limits {
        default(one, &["resources", "requests"], &name, amount);
    }
}

fn probe(probe: &mut Value) {
    for (field, fallback) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        // Zero means "not said" here, as in Kubernetes.
        if at(probe, &[field]) == 0 {
            set(probe, &[], field, fallback);
        }
        default(probe, &[], field, fallback);
    }
    if let Some(action) = at_mut(probe, &["httpGet"]) {
        http_get(action);
    }
    if has(probe, &["grpc"]) {
        default(probe, &["grpc"], "service", "");
    }
}

fn http_get(action: &mut Value) {
    default(action, &[], "path", "/");
    default(action, &[], "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if has(volume, &[source]) {
            default(volume, &[source], "defaultMode", 0o644);
        }
    }
    if has(volume, &["hostPath"]) {
        default(volume, &["hostPath"], "type", "");
    }
    for item in list_mut(volume, &["downwardAPI", "items"]) {
        if has(item, &["fieldRef"]) {
            default(item, &["fieldRef"], "apiVersion", "v1");
        }
    }
    for source in list_mut(volume, &["projected", "sources"]) {
        if has(source, &["serviceAccountToken"]) {
            default(source, &["serviceAccountToken"], "expirationSeconds", 3600);
        }
        for item in list_mut(source, &["downwardAPI", "items"]) {
            if has(item, &["fieldRef"]) {
                default(item, &["fieldRef"], "apiVersion", "v1");
            }
        }
    }
    let named = [
        "configMap",
        "secret",
        "emptyDir",
        "hostPath",
        "downwardAPI",
        "projected",
        "persistentVolumeClaim",
    ];
    let bare = volume
        .as_object()
        .is_some_and(|map| map.keys().all(|key| key == "name"));
    if bare && !named.iter().any(|source| has(volume, &[source])) {
        set(volume, &[], "emptyDir", json!({}));
    }
}

/// Seconds that a pod stays on a node that is not ready or unreachable, unless it says otherwise.
const PATIENCE: i64 = 300;

fn tolerate_node_trouble(pod: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = list(pod, &["spec", "tolerations"]).iter().any(|one| {
            let names = text(one, &["key"]) == key || text(one, &["key"]).is_empty();
            let effect = text(one, &["effect"]);
            names && (effect.is_empty() || effect == "NoExecute")
        });
        if tolerated {
            continue;
        }
        default(pod, &["spec"], "tolerations", json!([]));
        if let Some(all) = at_mut(pod, &["spec", "tolerations"]).and_then(Value::as_array_mut) {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": PATIENCE}));
        }
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`: who is killed first when memory runs out.
pub(crate) fn quality_of_service(spec: &Value) -> &'static str {
    let containers = || {
        list(spec, &["initContainers"])
            .iter()
            .chain(list(spec, &["containers"]))
    };
    let said = |one: &Value, side: &str, name: &str| {
        let amount = text(one, &["resources", side, name]);
        amount
            .parse::<waggle_model::Quantity>()
            .ok()
            .filter(|amount| amount.milli() > 0)
    };
    let names = ["cpu", "memory"];
    let any = containers().any(|one| {
        ["requests", "limits"]
            .iter()
            .any(|side| names.iter().any(|name| said(one, side, name).is_some()))
    });
    let all = containers().all(|one| {
        names.iter().all(|name| {
            let limit = said(one, "limits", name);
            limit.is_some() && limit == said(one, "requests", name)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, expect) in [
            ("shop/redis:7", false),
            ("shop/redis", true),
            ("shop/redis:latest", true),
            ("registry:5000/shop/redis", true),
            ("registry:5000/shop/redis:7", false),
            ("redis@sha256:00", false),
        ] {
            assert_eq!(moves(image), expect, "{image}");
        }
    }

    #[test]
    fn a_pod_is_completed_as_kubernetes_completes_it() {
        let mut pod = json!({
            "metadata": {"name": "a"},
            "spec": {
                "containers": [{
                    "name": "a", "image": "a:1",
                    "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                    "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 2},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                }],
                "volumes": [{"name": "x"}, {"name": "y", "configMap": {"name": "y"}}],
            },
        });
        super::pod(&mut pod);
        let spec = &pod["spec"];
        for (path, expect) in [
            ("/restartPolicy", json!("Always")),
            ("/dnsPolicy", json!("ClusterFirst")),
            ("/terminationGracePeriodSeconds", json!(30)),
            ("/schedulerName", json!("default-scheduler")),
            ("/securityContext", json!({})),
            ("/serviceAccountName", json!("default")),
            ("/containers/0/imagePullPolicy", json!("IfNotPresent")),
            ("/containers/0/ports/0/protocol", json!("TCP")),
            (
                "/containers/0/resources/requests",
                json!({"cpu": "1", "memory": "1Gi"}),
            ),
            ("/containers/0/readinessProbe/httpGet/scheme", json!("HTTP")),
            ("/containers/0/readinessProbe/periodSeconds", json!(2)),
            ("/containers/0/readinessProbe/failureThreshold", json!(3)),
            (
                "/containers/0/env/0/valueFrom/fieldRef/apiVersion",
                json!("v1"),
            ),
            ("/volumes/0/emptyDir", json!({})),
            ("/volumes/1/configMap/defaultMode", json!(420)),
            ("/tolerations/0/tolerationSeconds", json!(300)),
            (
                "/tolerations/1/key",
                json!("node.kubernetes.io/unreachable"),
            ),
        ] {
            assert_eq!(spec.pointer(path), Some(&expect), "{path}");
        }
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "Guaranteed"})
        );
        let once = pod.clone();
        super::pod(&mut pod);
        assert_eq!(pod, once);
    }

    #[test]
    fn own_tolerations_are_respected() {
        for (own, count) in [
            (json!([{"operator": "Exists"}]), 1),
            (
                json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "operator": "Exists"}]),
                2,
            ),
            (
                json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule", "operator": "Exists"}]),
                3,
            ),
        ] {
            let mut pod = json!({"spec": {"containers": [], "tolerations": own}});
            super::pod(&mut pod);
            assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), count);
        }
    }
}
