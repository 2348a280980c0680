//! Levels and schemas that every cluster has from its first moment; Kubernetes' own, with its figures.

use serde_json::{Value, json};

use super::{CATCH_ALL, EXEMPT, GROUP};
use crate::access::{AUTHENTICATED, UNAUTHENTICATED};

/// Annotation of objects whose spec is the server's to keep.
const KEPT: &str = "apf.kubernetes.io/autoupdate-spec";

/// Whether the server goes by it even where it is missing, and nobody may change its spec.
pub fn is_mandatory(object: &Value) -> bool {
    matches!(
        object["metadata"]["name"].as_str(),
        Some(EXEMPT | CATCH_ALL)
    )
}

/// All of them, levels first.
pub fn objects() -> Vec<Value> {
    let mut all = vec![
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "PriorityLevelConfiguration",
            "metadata": metadata(EXEMPT),
            "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}},
        }),
        level(CATCH_ALL, 5, 0, None),
        level("system", 30, 33, Some((64, 6))),
        level("node-high", 40, 25, Some((64, 6))),
        level("leader-election", 10, 0, Some((16, 4))),
        level("workload-high", 40, 50, Some((128, 6))),
        level("workload-low", 100, 90, Some((128, 6))),
        level("global-default", 20, 50, Some((128, 6))),
    ];
    all.extend(schemas());
    all
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {KEPT: "true"}})
}

fn level(name: &str, shares: u32, lendable: u32, queues: Option<(u32, u32)>) -> Value {
    let response = match queues {
        Some((queues, hand)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50},
        }),
        None => json!({"type": "Reject"}),
    };
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "PriorityLevelConfiguration",
        "metadata": metadata(name),
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
        }},
    })
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules,
    });
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "FlowSchema", "metadata": metadata(name), "spec": spec,
    })
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn resources(
    verbs: &[&str],
    api_group: &str,
    resources: &[&str],
    namespaces: &[&str],
    cluster: bool,
) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [api_group], "resources": resources});
    if !namespaces.is_empty() {
        rule["namespaces"] = json!(namespaces);
    }
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Whatever the subjects ask for.
fn everything(subjects: &[Value]) -> Value {
    json!([{
        "subjects": subjects,
        "resourceRules": [resources(&["*"], "*", &["*"], &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }])
}

fn leases(namespaces: &[&str]) -> Value {
    let verbs = ["get", "create", "update"];
    resources(
        &verbs,
        "coordination.k8s.io",
        &["leases"],
        namespaces,
        false,
    )
}

fn schemas() -> [Value; 13] {
    let managers = [
        user("system:kube-controller-manager"),
        user("system:kube-scheduler"),
    ];
    let everybody = [group(UNAUTHENTICATED), group(AUTHENTICATED)];
    let mut election = managers.to_vec();
    election.push(account("*"));
    let endpoints = [
        user("system:kube-controller-manager"),
        account("endpoint-controller"),
        account("endpointslicemirroring-controller"),
    ];
    let nodes = resources(&["*"], "", &["nodes", "nodes/status"], &["*"], true);
    let heartbeats = resources(
        &["*"],
        "coordination.k8s.io",
        &["leases"],
        &["kube-node-lease"],
        false,
    );
    let [manager, scheduler] = managers;
    [
        schema(
            EXEMPT,
            EXEMPT,
            1,
            "",
            everything(&[group("system:masters")]),
        ),
        schema(
            "probes",
            EXEMPT,
            2,
            "",
            json!([{"subjects": everybody, "nonResourceRules": [
                {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/livez", "/readyz"]}]}]),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            json!([{"subjects": election, "resourceRules": [leases(&["kube-system"])]}]),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            json!([{"subjects": endpoints, "resourceRules": [
                resources(&["get", "create", "update"], "", &["endpoints"], &["*"], false)]}]),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            json!([{"subjects": [account("*")], "resourceRules": [leases(&["*"])]}]),
        ),
        schema(
            "system-node-high",
            "node-high",
            400,
            "ByUser",
            json!([{"subjects": [group("system:nodes")], "resourceRules": [nodes, heartbeats]}]),
        ),
        schema(
            "system-nodes",
            "system",
            500,
            "ByUser",
            everything(&[group("system:nodes")]),
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(&[manager]),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            everything(&[scheduler]),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(&[account("*")]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(&[group("system:serviceaccounts")]),
        ),
        schema(
            "global-default",
            "global-default",
            9900,
            "ByUser",
            everything(&everybody),
        ),
        schema(
            CATCH_ALL,
            CATCH_ALL,
            10_000,
            "ByUser",
            everything(&everybody),
        ),
    ]
}
