//! What the scheduler says of a pod.

use super::*;

#[tokio::test]
async fn a_pod_is_explained_node_by_node() {
    let api = api().await;
    for (name, cpu) in [("n1", "4"), ("n2", "1")] {
        let node = json!({"metadata": {"name": name}});
        assert_eq!(api.post("/api/v1/nodes", &node).await.0, 201);
        let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let merge = "application/merge-patch+json";
        let path = format!("/api/v1/nodes/{name}/status");
        assert_eq!(api.patch(&path, merge, &status).await.0, 200);
    }
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
        {"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "2"}}}]}});
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(api.post(pods, &pod).await.0, 201);
    let path = "/apis/waggle.dev/v1/namespaces/default/schedulingexplanations";
    let (code, answer) = api.get(&format!("{path}/p")).await;
    assert_eq!((code, &answer["best"]), (200, &json!("n1")), "{answer}");
    assert_eq!(answer["kind"], "SchedulingExplanation");
    assert_eq!(answer["nodes"][1]["filter"], "NodeResourcesFit", "{answer}");
    assert_eq!(answer["nodes"][1]["reasons"], json!(["Insufficient cpu"]));
    assert_eq!(api.get(&format!("{path}/nobody")).await.0, 404);
}
