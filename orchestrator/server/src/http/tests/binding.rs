use super::*;

#[tokio::test]
async fn a_pod_is_bound_once_and_a_trial_binds_nothing() {
    let api = api().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "main", "image": "web:1"}]}});
    assert_eq!(api.post(pods, &pod).await.0, 201);
    let to = |target: Value| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}, "target": target});
    let node1 = to(json!({"kind": "Node", "name": "node1"}));
    let path = format!("{pods}/web/binding");
    let (code, status) = api.post(&path, &to(json!({"kind": "Node"}))).await;
    assert_eq!(code, 400, "{status}");
    let (code, status) = api.post(&format!("{path}?dryRun=All"), &node1).await;
    assert_eq!(code, 201, "{status}");
    let (_, seen) = api.get(&format!("{pods}/web")).await;
    assert_eq!(seen["spec"]["nodeName"], Value::Null);
    let (code, status) = api
        .post("/api/v1/namespaces/default/bindings", &node1)
        .await;
    assert_eq!(
        (code, &status["status"]),
        (201, &json!("Success")),
        "{status}"
    );
    let (_, seen) = api.get(&format!("{pods}/web")).await;
    assert_eq!(seen["spec"]["nodeName"], "node1");
    let node2 = to(json!({"kind": "Node", "name": "node2"}));
    let (code, status) = api.post(&path, &node2).await;
    let message = status["message"].as_str().unwrap();
    assert!(
        code == 409 && message.contains("already assigned"),
        "{status}"
    );
    assert_eq!(
        api.post(&format!("{pods}/other/binding"), &node2).await.0,
        400
    );
    // As typed clients send it.
    let mut bytes = b"k8s\0".to_vec();
    bytes.extend(unknown(
        b"v1",
        b"Binding",
        &[
            message_of(&[(1, b"\x0a\x03web")]),
            message_of(&[(2, b"\x0a\x04Node\x1a\x05node2")]),
        ]
        .concat(),
    ));
    let request = Request::post(&path).header(CONTENT_TYPE, "application/vnd.kubernetes.protobuf");
    let (code, status) = read(api.send(request, bytes).await).await;
    assert_eq!(code, 409, "{status}");
}

/// A message of these fields, each below 128 bytes.
fn message_of(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let field =
        |(number, bytes): &(u8, &[u8])| [&[number << 3 | 2, bytes.len() as u8], *bytes].concat();
    fields.iter().flat_map(field).collect()
}

/// Kubernetes' envelope.
fn unknown(version: &[u8], kind: &[u8], raw: &[u8]) -> Vec<u8> {
    message_of(&[(1, &message_of(&[(1, version), (2, kind)])), (2, raw)])
}
