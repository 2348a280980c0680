use http::header::{ACCEPT, WARNING};

use super::*;

#[tokio::test]
async fn components_of_the_control_plane_are_told() {
    let api = api().await;
    let path = "/api/v1/componentstatuses";
    let (code, list) = api.get(path).await;
    assert_eq!(
        (code, &list["kind"]),
        (200, &json!("ComponentStatusList")),
        "{list}"
    );
    let names = list["items"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["controller-manager", "scheduler", "etcd-0"]);
    let (code, one) = api.get(&format!("{path}/etcd-0")).await;
    let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    assert_eq!((code, &one["conditions"]), (200, &healthy));
    let (code, status) = api.get(&format!("{path}/nothing")).await;
    assert_eq!((code, &status["reason"]), (404, &json!("NotFound")));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::get(path).header(ACCEPT, table);
    let response = api.send(request, Body::empty()).await;
    let warning = response.headers()[WARNING].to_str().unwrap().to_owned();
    assert!(warning.contains("deprecated"), "{warning}");
    let (_, table) = read(response).await;
    assert_eq!(
        table["rows"][2]["cells"],
        json!(["etcd-0", "Healthy", "ok", ""])
    );
    let (_, resources) = api.get("/api/v1").await;
    let rows = resources["resources"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["name"] == "componentstatuses");
    let row = rows.next().unwrap();
    assert_eq!(
        (&row["verbs"], &row["shortNames"]),
        (&json!(["get", "list"]), &json!(["cs"]))
    );
    assert_eq!(
        api.send(Request::post(path), Body::empty()).await.status(),
        405
    );
}
