//! Who writes what: server-side apply beside other writers, and bodies in protobuf.

use super::*;

const APPLY: &str = "application/apply-patch+yaml";

fn config(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": data})
}

async fn apply(api: &Api, manager: &str, data: &Value, force: bool) -> (u16, Value) {
    let path = format!("{CONFIGS}/shared?fieldManager={manager}&force={force}");
    api.patch(&path, APPLY, &config(data)).await
}

#[tokio::test]
async fn appliers_share_an_object_and_conflicts_are_named() {
    let api = api().await;
    let (code, made) = apply(&api, "one", &json!({"a": "1", "b": "1"}), false).await;
    assert_eq!(
        (code, &made["data"]),
        (201, &json!({"a": "1", "b": "1"})),
        "{made}"
    );
    let (code, same) = apply(&api, "one", &json!({"a": "1", "b": "1"}), false).await;
    assert_eq!(
        (code, &same["metadata"]["resourceVersion"]),
        (200, &made["metadata"]["resourceVersion"])
    );
    assert_eq!(apply(&api, "two", &json!({"c": "2"}), false).await.0, 200);
    let (code, status) = apply(&api, "two", &json!({"a": "2", "c": "2"}), false).await;
    assert_eq!(
        (
            code,
            &status["reason"],
            &status["details"]["causes"][0]["field"]
        ),
        (409, &json!("Conflict"), &json!(".data.a")),
        "{status}"
    );
    let (_, forced) = apply(&api, "two", &json!({"a": "2", "c": "2"}), true).await;
    assert_eq!(forced["data"], json!({"a": "2", "b": "1", "c": "2"}));
    let (_, less) = apply(&api, "one", &json!({}), false).await;
    assert_eq!(less["data"], json!({"a": "2", "c": "2"}));
    // Another writer takes what it changes.
    let path = format!("{CONFIGS}/shared?fieldManager=editor");
    let merge = "application/merge-patch+json";
    let (_, edited) = api.patch(&path, merge, &json!({"data": {"c": "3"}})).await;
    let managers: Vec<&Value> = edited["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["manager"])
        .collect();
    assert_eq!(managers, ["one", "two", "editor"]);
    assert_eq!(
        apply(&api, "two", &json!({"a": "2", "c": "2"}), false)
            .await
            .0,
        409
    );
}

#[tokio::test]
async fn an_apply_that_can_not_be_is_refused() {
    let api = api().await;
    let nobody = api
        .patch(&format!("{CONFIGS}/shared"), APPLY, &config(&json!({})))
        .await;
    assert_eq!(nobody.0, 422, "{}", nobody.1);
    let path = format!("{CONFIGS}/shared?fieldManager=x");
    let mut other = config(&json!({}));
    other["metadata"]["name"] = "other".into();
    assert_eq!(api.patch(&path, APPLY, &other).await.0, 400);
    let strict = format!("{path}&fieldValidation=Strict");
    let mut unknown = config(&json!({}));
    unknown["dada"] = json!({});
    let (code, status) = api.patch(&strict, APPLY, &unknown).await;
    assert!(
        code == 400 && status["message"].as_str().unwrap().contains("dada"),
        "{status}"
    );
    let dry = format!("{path}&dryRun=All");
    assert_eq!(
        api.patch(&dry, APPLY, &config(&json!({"a": "1"}))).await.0,
        201
    );
    assert_eq!(api.get(&format!("{CONFIGS}/shared")).await.0, 404);
}

#[tokio::test]
async fn a_protobuf_body_is_read() {
    let api = api().await;
    // ConfigMap "p" with data {"a": "1"}, as kubectl sends it.
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0d\x0a\x03\x0a\x01p\x12\x06\x0a\x01a\x12\x011";
    let request =
        Request::post(CONFIGS).header(CONTENT_TYPE, "application/vnd.kubernetes.protobuf");
    let (code, made) = read(api.send(request, body.to_vec()).await).await;
    assert_eq!((code, &made["data"]), (201, &json!({"a": "1"})), "{made}");
    let request =
        Request::post(CONFIGS).header(CONTENT_TYPE, "application/vnd.kubernetes.protobuf");
    let (code, _) = read(api.send(request, b"k8s\0\x0a".to_vec()).await).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn endpoints_go_with_the_service_of_their_name() {
    let api = api().await;
    let [services, endpoints] =
        ["services", "endpoints"].map(|kind| format!("/api/v1/namespaces/default/{kind}"));
    let service = json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}});
    let theirs = json!({"metadata": {"name": "db"}, "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]});
    assert_eq!(api.post(&services, &service).await.0, 201);
    let (code, answer) = api.post(&endpoints, &theirs).await;
    assert_eq!(code, 201, "{answer}");
    let db = format!("{services}/db");
    let trial = format!("{db}?dryRun=All");
    assert_eq!(api.delete(&trial, &json!({})).await.0, 200);
    assert_eq!(api.get(&format!("{endpoints}/db")).await.0, 200);
    assert_eq!(api.delete(&db, &json!({})).await.0, 200);
    assert_eq!(api.get(&format!("{endpoints}/db")).await.0, 404);
}
