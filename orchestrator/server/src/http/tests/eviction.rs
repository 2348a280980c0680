//! Evictions, with a budget and without.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_budget_has_a_say_in_an_eviction() {
    let api = api().await;
    let labels = json!({"app": "web"});
    for name in ["a", "b"] {
        let pod = json!({"metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        assert_eq!(api.post(PODS, &pod).await.0, 201);
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let merge = "application/merge-patch+json";
        let path = format!("{PODS}/{name}/status");
        assert_eq!(api.patch(&path, merge, &ready).await.0, 200);
    }
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "one"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}});
    let (code, made) = api.post(budgets, &budget).await;
    assert_eq!(code, 201, "{made}");
    let evict = |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        (format!("{PODS}/{name}/eviction"), body)
    };
    for body in [
        json!("x"),
        json!({"metadata": "x"}),
        json!({"metadata": []}),
    ] {
        let (code, answer) = api.post(&evict("a").0, &body).await;
        assert_eq!(code, 400, "{body}: {answer}");
    }
    // Nobody has counted yet.
    let (path, body) = evict("a");
    assert_eq!(api.post(&path, &body).await.0, 429);
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2,
        "desiredHealthy": 1, "expectedPods": 2}});
    let merge = "application/merge-patch+json";
    let (code, answer) = api
        .patch(&format!("{budgets}/one/status"), merge, &counted)
        .await;
    assert_eq!(code, 200, "{answer}");
    let (code, answer) = api.post(&path, &body).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(api.get(&format!("{PODS}/a")).await.0, 404);
    let (path, body) = evict("b");
    let (code, answer) = api.post(&path, &body).await;
    assert_eq!(
        (code, &answer["details"]["causes"][0]["reason"]),
        (429, &json!("DisruptionBudget")),
        "{answer}"
    );
    assert_eq!(api.get(&format!("{PODS}/b")).await.0, 200);
    let (path, body) = evict("nobody");
    assert_eq!(api.post(&path, &body).await.0, 404);
    assert_eq!(
        api.delete(&format!("{budgets}/one"), &json!({})).await.0,
        200
    );
    let (path, body) = evict("b");
    assert_eq!(api.post(&path, &body).await.0, 201);
}
