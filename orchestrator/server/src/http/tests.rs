//! The API without its sockets: requests go straight into the router, as an administrator unless said otherwise.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use waggle_store::{EmbeddedStore, Store as _};

use crate::audit::AuditLog;
use crate::controllers::{Recorder, View};
use crate::flow::FlowControl;
use crate::objects::Objects;
use crate::pki::Pki;
use crate::run::ServerState;
use crate::sessions::{Numbers, Sessions, Settings};
use crate::usage::UsageRegistry;

mod access;
mod admission;
mod audit;
mod binding;
mod components;
mod conversion;
mod custom;
mod eviction;
mod explanation;
mod flow;
mod signing;
mod watching;
mod webhooks;
mod writers;

struct Api {
    router: Router,
    state: ServerState,
    token: String,
    store: Arc<EmbeddedStore>,
    _folder: tempfile::TempDir,
}

async fn api() -> Api {
    api_in(tempfile::tempdir().unwrap()).await
}

async fn api_in(folder: tempfile::TempDir) -> Api {
    api_with(folder, None).await
}

async fn api_with(folder: tempfile::TempDir, audit: Option<AuditLog>) -> Api {
    let now = jiff::Timestamp::now();
    let pki = Arc::new(Pki::open(folder.path(), &["localhost".to_owned()], now).unwrap());
    let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    let objects = Objects::open(Arc::clone(&store) as _, Arc::new(jiff::Timestamp::now))
        .await
        .unwrap();
    let advertise = "172.30.0.1:6443".parse().unwrap();
    objects
        .bootstrap([10, 96, 0, 1].into(), advertise)
        .await
        .unwrap();
    let view = View::follow(&objects).await.unwrap();
    let usage = Arc::new(UsageRegistry::default());
    let sessions = Sessions::new(
        Arc::clone(&objects),
        view,
        Numbers::open(&objects).unwrap(),
        Arc::clone(&usage),
        Recorder::start(Arc::clone(&objects)),
        Settings::default(),
        Arc::clone(&pki),
    );
    let stop = CancellationToken::new();
    let state = ServerState {
        objects,
        metrics: Arc::default(),
        usage,
        flow: FlowControl::new(None),
        audit: audit.map(Arc::new),
        leading: crate::leading::Leading::alone(sessions),
        scheduler: Arc::default(),
        pki,
        advertise,
        stop,
    };
    let streams = crate::streams::Streams {
        objects: Arc::clone(&state.objects),
        leading: state.leading.clone(),
    };
    let calls = crate::webhook::begin(streams, state.stop.clone());
    state.objects.begin_to_call(calls);
    state.objects.begin_to_ask();
    let token = std::fs::read_to_string(folder.path().join("admin-token"))
        .unwrap()
        .trim()
        .to_owned();
    Api {
        router: super::router(state.clone()),
        state,
        token,
        store,
        _folder: folder,
    }
}

impl Api {
    async fn send(&self, request: http::request::Builder, body: impl Into<Body>) -> Response {
        let request = request
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .body(body.into())
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.send(Request::get(path), Body::empty()).await).await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        read(self.send(request, body.to_string()).await).await
    }

    async fn table(&self, path: &str) -> Value {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        read(
            self.send(Request::get(path).header(ACCEPT, accept), Body::empty())
                .await,
        )
        .await
        .1
    }

    async fn patch(&self, path: &str, media_type: &str, body: &Value) -> (u16, Value) {
        let request = Request::patch(path).header(CONTENT_TYPE, media_type);
        read(self.send(request, body.to_string()).await).await
    }

    async fn delete(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = Request::delete(path).header(CONTENT_TYPE, "application/json");
        read(self.send(request, body.to_string()).await).await
    }

    async fn watch(&self, query: &str) -> Lines {
        let response = self
            .send(
                Request::get(format!("{CONFIGS}?watch=1&{query}")),
                Body::empty(),
            )
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        Lines {
            body: response.into_body().into_data_stream(),
            rest: Vec::new(),
        }
    }
}

async fn read(response: Response) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (
        code,
        serde_json::from_slice(&bytes).unwrap_or(Value::String(text)),
    )
}

/// The lines of a watch.
struct Lines {
    body: axum::body::BodyDataStream,
    rest: Vec<u8>,
}

impl Lines {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let piece = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await;
            self.rest
                .extend(piece.expect("the watch says nothing")?.unwrap());
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("the watch ended");
        assert_eq!(
            (&event["type"], &event["object"]["metadata"]["name"]),
            (&json!(kind), &json!(name)),
            "{event}"
        );
        event["object"].clone()
    }
}

const CONFIGS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

/// Names of a list's objects, one after the other.
fn names(list: &Value) -> String {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect::<String>()
}

fn config(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": label}},
        "data": {"x": "1"}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "shop/web:1"}]}}}})
}

#[tokio::test]
async fn an_object_lives_through_its_verbs() {
    let api = api().await;
    let (code, made) = api.post(CONFIGS, &config("a", "web")).await;
    assert_eq!(
        (code, &made["metadata"]["namespace"]),
        (201, &json!("default"))
    );
    let path = format!("{CONFIGS}/a");
    assert_eq!(api.get(&path).await, (200, made.clone()));
    let (code, status) = api.post(CONFIGS, &config("a", "web")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("AlreadyExists")));
    let merge = json!({"data": {"x": null, "y": "2"}});
    let (code, patched) = api
        .patch(&path, "application/merge-patch+json", &merge)
        .await;
    assert_eq!((code, &patched["data"]), (200, &json!({"y": "2"})));
    let operations = json!([{"op": "add", "path": "/data/z", "value": "3"}]);
    let (_, patched) = api
        .patch(&path, "application/json-patch+json", &operations)
        .await;
    assert_eq!(patched["data"], json!({"y": "2", "z": "3"}));
    let request = Request::put(&path).header(CONTENT_TYPE, "application/json");
    let (code, status) = read(api.send(request, made.to_string()).await).await;
    assert_eq!(
        (code, &status["reason"]),
        (409, &json!("Conflict")),
        "an old resourceVersion"
    );
    let (code, status) = api
        .delete(&path, &json!({"preconditions": {"uid": "other"}}))
        .await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let (code, status) = api.delete(&path, &json!({})).await;
    assert_eq!(
        (code, &status["status"], &status["details"]["name"]),
        (200, &json!("Success"), &json!("a"))
    );
    let (code, status) = api.get(&path).await;
    assert_eq!(
        (code, &status["message"]),
        (404, &json!("configmaps \"a\" not found"))
    );
}

#[tokio::test]
async fn lists_are_selected_and_paged_at_one_revision() {
    let api = api().await;
    for (name, label) in [("a", "web"), ("b", "db"), ("c", "web"), ("d", "web")] {
        api.post(CONFIGS, &config(name, label)).await;
    }
    let (_, list) = api.get(&format!("{CONFIGS}?labelSelector=app%3Dweb")).await;
    assert_eq!(
        (list["kind"].as_str(), names(&list).as_str()),
        (Some("ConfigMapList"), "acd")
    );
    let (_, list) = api
        .get(&format!("{CONFIGS}?fieldSelector=metadata.name%3Db"))
        .await;
    assert_eq!(names(&list), "b");
    let (_, first) = api.get(&format!("{CONFIGS}?limit=2")).await;
    assert_eq!(
        (
            names(&first).as_str(),
            &first["metadata"]["remainingItemCount"]
        ),
        ("ab", &json!(2))
    );
    // What changes now is not seen by the rest of the list.
    api.delete(&format!("{CONFIGS}/c"), &json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = api
        .get(&format!("{CONFIGS}?limit=2&continue={token}"))
        .await;
    assert_eq!(names(&rest), "cd");
    assert_eq!(
        rest["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    assert!(rest["metadata"]["continue"].is_null());
    let (code, _) = api.get("/api/v1/configmaps").await;
    assert_eq!(code, 200);
    for (query, expect) in [
        ("continue=x", 400),
        ("labelSelector=%3D", 400),
        ("fieldSelector=spec.x%3D1", 400),
    ] {
        let (code, status) = api.get(&format!("{CONFIGS}?{query}")).await;
        assert_eq!(
            (code, &status["kind"]),
            (expect, &json!("Status")),
            "{query}"
        );
    }
    let (code, status) = api
        .get(&format!(
            "{CONFIGS}?resourceVersion=9999&resourceVersionMatch=Exact"
        ))
        .await;
    assert_eq!((code, &status["reason"]), (504, &json!("Timeout")));
}

#[tokio::test]
async fn a_watch_follows_through_its_selector() {
    let api = api().await;
    let (_, made) = api.post(CONFIGS, &config("a", "web")).await;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut lines = api
        .watch(&format!(
            "resourceVersion={revision}&labelSelector=app%3Dweb"
        ))
        .await;
    api.post(CONFIGS, &config("b", "db")).await;
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    let merge = "application/merge-patch+json";
    api.patch(&format!("{CONFIGS}/b"), merge, &label("web"))
        .await;
    let seen = lines.expect("ADDED", "b").await;
    assert_eq!(seen["metadata"]["labels"]["app"], "web");
    api.patch(&format!("{CONFIGS}/b"), merge, &json!({"data": {"x": "9"}}))
        .await;
    lines.expect("MODIFIED", "b").await;
    let (_, changed) = api
        .patch(&format!("{CONFIGS}/b"), merge, &label("db"))
        .await;
    let seen = lines.expect("DELETED", "b").await;
    assert_eq!(
        seen["metadata"]["labels"]["app"], "web",
        "as it last was inside"
    );
    assert_eq!(
        seen["metadata"]["resourceVersion"],
        changed["metadata"]["resourceVersion"]
    );
    api.delete(&format!("{CONFIGS}/a"), &json!({})).await;
    lines.expect("DELETED", "a").await;
    api.state.stop.cancel();
    assert_eq!(
        lines.next().await,
        None,
        "a server that ends ends its watches"
    );
}

#[tokio::test]
async fn a_watch_may_begin_with_all_there_is() {
    let api = api().await;
    api.post(CONFIGS, &config("a", "web")).await;
    let query = "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut lines = api.watch(query).await;
    lines.expect("ADDED", "a").await;
    let bookmark = lines.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    api.post(CONFIGS, &config("b", "web")).await;
    lines.expect("ADDED", "b").await;
    let mut short = api.watch("timeoutSeconds=1").await;
    short.expect("ADDED", "a").await;
    short.expect("ADDED", "b").await;
    assert_eq!(short.next().await, None);
    let refused = api
        .get(&format!("{CONFIGS}?watch=1&sendInitialEvents=true"))
        .await;
    assert_eq!(refused.0, 422);
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_told_in_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
    let value = Some(config("old", "web").to_string().into());
    let key = "/registry/core/configmaps/default/old".to_owned();
    for expect in [waggle_store::Expect::Absent, waggle_store::Expect::Present] {
        store
            .commit(vec![waggle_store::Write {
                key: key.clone(),
                expect,
                value: value.clone(),
            }])
            .await
            .unwrap();
    }
    drop(store);
    let api = api_in(folder).await;
    let mut late = api.watch("resourceVersion=1").await;
    let event = late.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(late.next().await, None);
}

#[tokio::test]
async fn tables_are_for_lists_objects_and_watches() {
    let api = api().await;
    api.post(DEPLOYMENTS, &deployment("web")).await;
    for path in [DEPLOYMENTS.to_owned(), format!("{DEPLOYMENTS}/web")] {
        let table = api.table(&path).await;
        assert_eq!(
            (&table["kind"], &table["rows"][0]["cells"][0]),
            (&json!("Table"), &json!("web")),
            "{path}"
        );
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    }
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::get(format!("{DEPLOYMENTS}?watch=1")).header(ACCEPT, accept);
    let response = api.send(request, Body::empty()).await;
    let mut lines = Lines {
        body: response.into_body().into_data_stream(),
        rest: Vec::new(),
    };
    let first = lines.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"]),
        (&json!("ADDED"), &json!("Table"))
    );
    assert_eq!(first["object"]["rows"][0]["cells"][0], "web");
    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, partial) = read(
        api.send(
            Request::get(DEPLOYMENTS).header(ACCEPT, accept),
            Body::empty(),
        )
        .await,
    )
    .await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0]["spec"].is_null());
    let protobuf = Request::get(DEPLOYMENTS).header(ACCEPT, "application/vnd.kubernetes.protobuf");
    assert_eq!(
        api.send(protobuf, Body::empty()).await.status(),
        StatusCode::NOT_ACCEPTABLE
    );
}

#[tokio::test]
async fn scale_and_status_touch_only_what_is_theirs() {
    let api = api().await;
    api.post(DEPLOYMENTS, &deployment("web")).await;
    let scale = format!("{DEPLOYMENTS}/web/scale");
    let (_, before) = api.get(&scale).await;
    assert_eq!(
        (&before["kind"], &before["spec"]["replicas"]),
        (&json!("Scale"), &json!(1))
    );
    let table = Request::get(&scale).header(ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, table) = read(api.send(table, Body::empty()).await).await;
    assert_eq!(table["columnDefinitions"][1]["name"], "Desired");
    let cells = json!(["web", 1, 0]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..3],
        *cells.as_array().unwrap()
    );
    let replicas = |count: i32| json!({"spec": {"replicas": count}});
    let (code, after) = api
        .patch(&scale, "application/merge-patch+json", &replicas(4))
        .await;
    assert_eq!((code, &after["spec"]["replicas"]), (200, &json!(4)));
    let (code, _) = api
        .patch(
            &scale,
            "application/strategic-merge-patch+json",
            &replicas(-1),
        )
        .await;
    assert_eq!(code, 422);
    let request = Request::put(&scale).header(CONTENT_TYPE, "application/json");
    let (code, status) = read(api.send(request, before.to_string()).await).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let status = json!({"spec": {"replicas": 9}, "status": {"replicas": 3}});
    let path = format!("{DEPLOYMENTS}/web/status");
    let (code, after) = api
        .patch(&path, "application/merge-patch+json", &status)
        .await;
    assert_eq!(
        (
            code,
            &after["spec"]["replicas"],
            &after["status"]["replicas"]
        ),
        (200, &json!(4), &json!(3))
    );
    assert_eq!(api.get(&format!("{CONFIGS}/a/scale")).await.0, 404);
}

#[tokio::test]
async fn garbage_gets_one_clear_status() {
    let api = api().await;
    for (media_type, body, code, part) in [
        ("application/json", "{\"a\": ", 400, "JSON"),
        ("application/yaml", "a: [1", 400, "YAML"),
        (
            "application/vnd.kubernetes.protobuf",
            "k8s\0",
            415,
            "application/json",
        ),
        ("text/plain", "x", 415, "application/json"),
        ("application/json", "[]", 400, "ConfigMap"),
        ("application/json", "", 400, "ConfigMap"),
        ("application/json", "{\"kind\": \"Pod\"}", 400, "kind"),
        (
            "application/json",
            "{\"metadata\": {\"name\": \"Bad Name\"}}",
            422,
            "metadata.name",
        ),
        (
            "application/json",
            "{\"metadata\": {\"name\": \"a\", \"namespace\": \"other\"}}",
            400,
            "namespace",
        ),
        (
            "application/json",
            "{\"metadata\": {\"name\": \"a\"}, \"data\": 7}",
            400,
            "data",
        ),
    ] {
        let request = Request::post(CONFIGS).header(CONTENT_TYPE, media_type);
        let (seen, status) = read(api.send(request, body).await).await;
        assert_eq!(
            (seen, &status["kind"], &status["code"]),
            (code, &json!("Status"), &json!(code)),
            "{body}: {status}"
        );
        assert!(
            status["message"].as_str().unwrap().contains(part),
            "{body}: {status}"
        );
    }
    let large = format!("{{\"data\": {{\"x\": \"{}\"}}}}", "y".repeat(4 << 20));
    let request = Request::post(CONFIGS).header(CONTENT_TYPE, "application/json");
    assert_eq!(read(api.send(request, large).await).await.0, 413);
    let strict = json!({"metadata": {"name": "a"}, "datum": {}});
    let (code, status) = api
        .post(&format!("{CONFIGS}?fieldValidation=Strict"), &strict)
        .await;
    assert!(
        code == 400 && status["message"].as_str().unwrap().contains("datum"),
        "{status}"
    );
    let request = Request::post(CONFIGS).header(CONTENT_TYPE, "application/json");
    let response = api.send(request, strict.to_string()).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert!(
        response.headers()["warning"]
            .to_str()
            .unwrap()
            .contains("datum")
    );
}

#[tokio::test]
async fn yaml_bodies_and_dry_runs_are_taken() {
    let api = api().await;
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\ndata:\n  x: \"1\"\n";
    let request =
        Request::post(format!("{CONFIGS}?dryRun=All")).header(CONTENT_TYPE, "application/yaml");
    let (code, made) = read(api.send(request, body).await).await;
    assert_eq!((code, &made["data"]["x"]), (201, &json!("1")));
    assert_eq!(api.get(&format!("{CONFIGS}/y")).await.0, 404);
    let request = Request::post(CONFIGS).header(CONTENT_TYPE, "application/yaml");
    assert_eq!(read(api.send(request, body).await).await.0, 201);
    let (code, list) = api
        .delete(
            &format!("{CONFIGS}?fieldSelector=metadata.name%3Dy"),
            &json!({}),
        )
        .await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));
    assert_eq!(api.get(&format!("{CONFIGS}/y")).await.0, 404);
}

#[tokio::test]
async fn nobody_gets_in_without_a_name() {
    let api = api().await;
    let anonymous = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        read(api.router.clone().oneshot(request).await.unwrap()).await
    };
    for (path, code) in [
        ("/readyz", 200),
        ("/livez", 200),
        ("/version", 200),
        (CONFIGS, 401),
        ("/apis", 401),
    ] {
        assert_eq!(anonymous(path).await.0, code, "{path}");
    }
    let join = api.state.pki.join_token().to_owned();
    for token in [join.as_str(), "guessed-token", ""] {
        let request = Request::get(CONFIGS).header(AUTHORIZATION, format!("Bearer {token}"));
        let response = api
            .router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        let (code, status) = read(response).await;
        assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
        assert!(
            token.is_empty() || !status.to_string().contains(token),
            "a token is never repeated"
        );
    }
}

#[tokio::test]
async fn documents_and_unknown_paths_are_answered() {
    let api = api().await;
    for path in [
        "/version",
        "/version/",
        "/api",
        "/api/",
        "/apis",
        "/apis/",
        "/api/v1",
        "/api/v1/",
        "/apis/apps",
        "/apis/apps/",
        "/apis/apps/v1",
        "/apis/apps/v1/",
        "/openapi/v2",
        "/openapi/v3",
    ] {
        let (code, document) = api.get(path).await;
        assert!(code == 200 && document.is_object(), "{path}: {document}");
    }
    let (code, _) = api.get("/openapi/v3/apis/apps/v1").await;
    assert_eq!(code, 200);
    let accept =
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let (_, all) = read(
        api.send(Request::get("/apis").header(ACCEPT, accept), Body::empty())
            .await,
    )
    .await;
    assert_eq!(all["kind"], "APIGroupDiscoveryList");
    for path in [
        "/",
        "/nothing",
        "/api/v1/things",
        "/apis/none/v1",
        "/apis/none",
        "/openapi/v3/none",
    ] {
        let (code, status) = api.get(path).await;
        assert_eq!((code, &status["kind"]), (404, &json!("Status")), "{path}");
    }
    for (method, path) in [
        (Method::POST, "/version"),
        (Method::PUT, CONFIGS),
        (Method::OPTIONS, CONFIGS),
    ] {
        let request = Request::builder().method(method.clone()).uri(path);
        let (code, status) = read(api.send(request, Body::empty()).await).await;
        assert_eq!(
            (code, &status["kind"]),
            (405, &json!("Status")),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_them_so() {
    let api = api().await;
    let mut large = config("large", "x");
    large["data"]["x"] = "0123456789".repeat(20_000).into();
    let (code, plain) = api.post(CONFIGS, &large).await;
    assert_eq!(code, 201);
    let path = format!("{CONFIGS}/large");
    let request = || Request::get(&path).header(http::header::ACCEPT_ENCODING, "gzip");
    let response = api.send(request(), Body::empty()).await;
    assert_eq!(response.headers()[http::header::CONTENT_ENCODING], "gzip");
    let packed = response.into_body().collect().await.unwrap().to_bytes();
    assert!(packed.len() < 20_000, "{}", packed.len());
    let unpacked: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(&packed[..])).unwrap();
    assert_eq!(unpacked, plain);
    assert_eq!(api.get(&path).await, (200, plain));
    let watch =
        Request::get(format!("{CONFIGS}?watch=1")).header(http::header::ACCEPT_ENCODING, "gzip");
    let response = api.send(watch, Body::empty()).await;
    assert!(
        !response
            .headers()
            .contains_key(http::header::CONTENT_ENCODING)
    );
}

#[tokio::test]
async fn health_is_told_check_by_check_when_asked() {
    let api = api().await;
    let read = async |path: &str| {
        let response = api.send(Request::get(path), Body::empty()).await;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(read("/readyz").await, "ok");
    assert_eq!(read("/livez/ping").await, "ok");
    let whole = "[+]ping ok\n[+]store ok\nreadyz check passed\n";
    assert_eq!(read("/readyz?verbose").await, whole);
    assert_eq!(
        read("/livez?verbose=true").await,
        "[+]ping ok\nlivez check passed\n"
    );
}
