//! Kinds that are kept and checked only: what is taken, and each fault by the place that is named.

use serde_json::{Value, json};

use super::tests::{faults, with};

/// The object is good; with `new` at each pointer it has one fault, at the path.
fn check(kind: &str, good: &Value, cases: &[(&str, Value, &str)]) {
    assert_eq!(faults(kind, good.clone()), [""; 0], "{kind}");
    for (pointer, new, path) in cases {
        let found = faults(kind, with(good, pointer, new.clone()));
        assert!(
            found
                .iter()
                .any(|fault| fault.starts_with(&format!("{path}: "))),
            "{kind} {pointer}: {found:?}"
        );
    }
}

#[test]
fn roles_and_bindings() {
    let role = json!({"kind": "Role", "metadata": {"name": "system:reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    check(
        "role",
        &role,
        &[
            ("/rules/0/verbs", json!([]), "rules[0].verbs"),
            ("/rules/0/apiGroups", json!([]), "rules[0].apiGroups"),
            (
                "/rules/0/nonResourceURLs",
                json!(["/x"]),
                "rules[0].nonResourceURLs",
            ),
            ("/metadata/name", json!("a/b"), "metadata.name"),
        ],
    );
    let binding = json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "ann"}, {"kind": "ServiceAccount", "name": "ci", "namespace": "shop"}]});
    check(
        "clusterrolebinding",
        &binding,
        &[
            ("/roleRef/kind", json!("Role"), "roleRef.kind"),
            ("/roleRef/name", json!(""), "roleRef.name"),
            ("/subjects/0/kind", json!("Robot"), "subjects[0].kind"),
            (
                "/subjects/1/namespace",
                Value::Null,
                "subjects[1].namespace",
            ),
        ],
    );
}

#[test]
fn storage() {
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}});
    check(
        "pv",
        &volume,
        &[
            ("/spec/capacity", Value::Null, "spec.capacity"),
            ("/spec/accessModes", json!(["Mine"]), "spec.accessModes[0]"),
            ("/spec/hostPath", Value::Null, "spec"),
            ("/spec/nfs", json!({"server": "s", "path": "/"}), "spec.nfs"),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Keep"),
                "spec.persistentVolumeReclaimPolicy",
            ),
        ],
    );
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    check(
        "pvc",
        &claim,
        &[
            ("/spec/resources", Value::Null, "spec.resources[storage]"),
            (
                "/spec/resources/requests/storage",
                json!("much"),
                "spec.resources[storage]",
            ),
            ("/spec/accessModes", json!([]), "spec.accessModes"),
            (
                "/spec/storageClassName",
                json!("A_b"),
                "spec.storageClassName",
            ),
        ],
    );
    let row = crate::lookup_name("pvc").unwrap();
    let grown = with(&claim, "/spec/resources/requests/storage", json!("2Gi"));
    assert_eq!((row.validate)(&grown, Some(&claim)), []);
    assert_eq!((row.validate)(&claim, Some(&grown)).len(), 1);
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "example.com/disk"});
    check(
        "sc",
        &class,
        &[
            ("/provisioner", Value::Null, "provisioner"),
            ("/volumeBindingMode", json!("Never"), "volumeBindingMode"),
        ],
    );
}

#[test]
fn ingresses_and_endpoints() {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"rules": [{"host": "*.example.com",
        "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    check(
        "ingress",
        &ingress,
        &[
            ("/spec/rules", json!([]), "spec"),
            (
                "/spec/rules/0/host",
                json!("10.0.0.1"),
                "spec.rules[0].host",
            ),
            (
                "/spec/rules/0/http/paths/0/path",
                json!("x"),
                "spec.rules[0].http.paths[0].path",
            ),
            (
                "/spec/rules/0/http/paths/0/pathType",
                Value::Null,
                "spec.rules[0].http.paths[0].pathType",
            ),
            (
                "/spec/rules/0/http/paths/0/backend/service/port",
                json!({}),
                "spec.rules[0].http.paths[0].backend.service.port",
            ),
        ],
    );
    let class = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/c"}});
    check(
        "ingressclass",
        &class,
        &[("/spec/controller", json!("c"), "spec.controller")],
    );
    let endpoints = json!({"metadata": {"name": "e"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]});
    check(
        "endpoints",
        &endpoints,
        &[
            (
                "/subsets/0/addresses/0/ip",
                json!("x"),
                "subsets[0].addresses[0].ip",
            ),
            (
                "/subsets/0/ports/0/port",
                json!(0),
                "subsets[0].ports[0].port",
            ),
        ],
    );
}

#[test]
fn limits_and_quotas() {
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container",
        "min": {"cpu": "100m"}, "max": {"cpu": "2"}, "defaultRequest": {"cpu": "200m"}}]}});
    check(
        "limits",
        &range,
        &[
            (
                "/spec/limits/0/min",
                json!({"cpu": "3"}),
                "spec.limits[0].min[cpu]",
            ),
            ("/spec/limits/0/type", json!("Thing"), "spec.limits[0].type"),
            (
                "/spec/limits/0/max",
                json!({"cpu": "lots"}),
                "spec.limits[0].max[cpu]",
            ),
        ],
    );
    let mut defaulted = range.clone();
    (crate::lookup_name("limits").unwrap().defaults)(&mut defaulted);
    assert_eq!(
        defaulted["spec"]["limits"][0]["default"],
        json!({"cpu": "2"})
    );
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "10", "requests.cpu": "500m",
        "count/jobs.batch": "3"}}});
    check(
        "quota",
        &quota,
        &[
            ("/spec/hard/pods", json!("1500m"), "spec.hard[pods]"),
            ("/spec/scopes", json!(["Some"]), "spec.scopes[0]"),
        ],
    );
}

#[test]
fn what_extends_the_api() {
    let definition = json!({"metadata": {"name": "hives.example.com"}, "spec": {"group": "example.com",
        "names": {"plural": "hives", "kind": "Hive"}, "scope": "Namespaced",
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}}}]}});
    let schema = "/spec/versions/0/schema/openAPIV3Schema";
    let path = "spec.versions[0].schema.openAPIV3Schema";
    check(
        "crd",
        &definition,
        &[
            ("/metadata/name", json!("hives"), "metadata.name"),
            ("/spec/group", json!("example"), "spec.group"),
            ("/spec/scope", json!("World"), "spec.scope"),
            ("/spec/versions/0/storage", json!(false), "spec.versions"),
            (schema, json!({"type": "string"}), &format!("{path}.type")),
            (
                &format!("{schema}/properties/spec"),
                json!({}),
                &format!("{path}.properties[spec].type"),
            ),
            (
                "/spec/conversion",
                json!({"strategy": "Webhook"}),
                "spec.conversion.webhook",
            ),
        ],
    );
    let hooks = json!({"kind": "ValidatingWebhookConfiguration", "metadata": {"name": "h"}, "webhooks": [{
        "name": "a.example.com", "clientConfig": {"url": "https://a"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]}]});
    check(
        "validatingwebhookconfiguration",
        &hooks,
        &[
            ("/webhooks/0/name", json!("a"), "webhooks[0].name"),
            (
                "/webhooks/0/clientConfig",
                json!({}),
                "webhooks[0].clientConfig",
            ),
            (
                "/webhooks/0/sideEffects",
                Value::Null,
                "webhooks[0].sideEffects",
            ),
        ],
    );
    let request = json!({"metadata": {"name": "r"}, "spec": {"request": "TFM=", "signerName": "example.com/s",
        "usages": ["client auth"]}});
    check(
        "csr",
        &request,
        &[
            ("/spec/request", Value::Null, "spec.request"),
            ("/spec/usages", json!([]), "spec.usages"),
        ],
    );
    let class = json!({"metadata": {"name": "r"}, "handler": "runc"});
    check(
        "runtimeclass",
        &class,
        &[("/handler", json!("-"), "handler")],
    );
}
