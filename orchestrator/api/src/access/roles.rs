//! Roles and bindings that every cluster has from its first moment.

use serde_json::{Value, json};

use super::{AUTHENTICATED, UNAUTHENTICATED};

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// Everything that a namespace's users work with, by group.
const WORK: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "persistentvolumeclaims/status",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
            "services/status",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "daemonsets/status",
            "deployments",
            "deployments/scale",
            "deployments/status",
            "replicasets",
            "replicasets/scale",
            "replicasets/status",
            "statefulsets",
            "statefulsets/scale",
            "statefulsets/status",
        ],
    ),
    (
        "autoscaling",
        &[
            "horizontalpodautoscalers",
            "horizontalpodautoscalers/status",
        ],
    ),
    (
        "batch",
        &["cronjobs", "cronjobs/status", "jobs", "jobs/status"],
    ),
    (
        "networking.k8s.io",
        &["ingresses", "ingresses/status", "networkpolicies"],
    ),
    (
        "policy",
        &["poddisruptionbudgets", "poddisruptionbudgets/status"],
    ),
];

/// What may be looked at beside.
const LOOK: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "bindings",
            "events",
            "limitranges",
            "namespaces",
            "namespaces/status",
            "pods/log",
            "pods/status",
            "replicationcontrollers/status",
            "resourcequotas",
            "resourcequotas/status",
        ],
    ),
    ("discovery.k8s.io", &["endpointslices"]),
    ("metrics.k8s.io", &["nodes", "pods"]),
    ("waggle.dev", &["flows"]),
];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn view() -> Vec<Value> {
    let all = WORK.iter().chain(LOOK);
    all.map(|(group, resources)| rule(group, resources, &READ))
        .collect()
}

fn edit() -> Vec<Value> {
    let mut rules = view();
    rules.push(rule("", &["secrets"], &READ));
    rules.push(rule("", &["secrets"], &WRITE));
    for (group, resources) in WORK {
        let own: Vec<&str> = resources
            .iter()
            .copied()
            .filter(|one| !one.ends_with("/status"))
            .collect();
        rules.push(rule(group, &own, &WRITE));
    }
    let streams = [
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "services/proxy",
    ];
    rules.push(rule(
        "",
        &streams,
        &[
            "create", "delete", "get", "list", "patch", "update", "watch",
        ],
    ));
    rules.push(rule(
        "",
        &["pods/eviction", "serviceaccounts/token"],
        &["create"],
    ));
    rules.push(rule("", &["events"], &WRITE));
    rules.push(rule("", &["serviceaccounts"], &["impersonate"]));
    rules
}

fn admin() -> Vec<Value> {
    let mut rules = edit();
    let access = ["rolebindings", "roles"];
    rules.push(rule("rbac.authorization.k8s.io", &access, &READ));
    rules.push(rule("rbac.authorization.k8s.io", &access, &WRITE));
    rules.push(rule(
        "authorization.k8s.io",
        &["localsubjectaccessreviews"],
        &["create"],
    ));
    rules
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": rules,
    })
}

/// A role that also has the rules of the roles labelled for it.
fn gathering(name: &str, rules: &[Value], labels: &[&str]) -> Value {
    let mut role = role(name, rules);
    let selectors: Vec<Value> = labels
        .iter()
        .map(|label| {
            let key = format!("rbac.authorization.k8s.io/aggregate-to-{label}");
            json!({"matchLabels": {key: "true"}})
        })
        .collect();
    role["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    role
}

fn binding(role: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups
        .iter()
        .map(|group| json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}))
        .collect();
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    })
}

/// The roles and bindings, to be made where missing.
pub fn defaults() -> Vec<Value> {
    let everything = [
        rule("*", &["*"], &["*"]),
        json!({"nonResourceURLs": ["*"], "verbs": ["*"]}),
    ];
    let urls = |urls: &[&str]| json!({"nonResourceURLs": urls, "verbs": ["get"]});
    let health = [
        "/healthz",
        "/livez",
        "/livez/*",
        "/readyz",
        "/readyz/*",
        "/version",
        "/version/",
    ];
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let own = [
        rule(
            "authorization.k8s.io",
            &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            &["create"],
        ),
        rule(
            "authentication.k8s.io",
            &["selfsubjectreviews"],
            &["create"],
        ),
    ];
    let delegate = [
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        rule(
            "authorization.k8s.io",
            &["subjectaccessreviews"],
            &["create"],
        ),
    ];
    vec![
        role("cluster-admin", &everything),
        gathering("admin", &admin(), &["admin", "edit", "view"]),
        gathering("edit", &edit(), &["edit", "view"]),
        gathering("view", &view(), &["view"]),
        role("system:basic-user", &own),
        role("system:discovery", &[urls(&discovery)]),
        role("system:public-info-viewer", &[urls(&health)]),
        role(
            "system:monitoring",
            &[
                urls(&["/metrics", "/metrics/*", "/healthz", "/livez", "/readyz"]),
                rule("", &["nodes/metrics"], &["get"]),
            ],
        ),
        role("system:auth-delegator", &delegate),
        binding("cluster-admin", &["system:masters"]),
        binding("system:basic-user", &[AUTHENTICATED]),
        binding("system:discovery", &[AUTHENTICATED]),
        binding(
            "system:public-info-viewer",
            &[AUTHENTICATED, UNAUTHENTICATED],
        ),
        binding("system:monitoring", &["system:monitoring"]),
    ]
}
