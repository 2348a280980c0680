//! Admission webhooks, asked over TLS as a cluster's would be.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::Path;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;

/// A webhook server: what it answers is said by the last word of the path that it is asked at.
pub(super) struct Hooks {
    address: SocketAddr,
    /// PEM in base64.
    bundle: String,
    /// Paths and requests, in order.
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    stop: CancellationToken,
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn answer(path: &str, request: &Value) -> Value {
    let patch = |operations: Value| json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())});
    match path {
        // There is nothing to change in what goes.
        "label" if request["operation"] == "DELETE" => json!({"allowed": true}),
        "label" => patch(json!([{"op": "add", "path": "/metadata/labels/hooked", "value": "yes"}])),
        "count" => {
            let count = request["object"]["data"]["count"].as_str().unwrap_or("0");
            let next = (count.parse::<u32>().unwrap() + 1).to_string();
            patch(json!([{"op": "add", "path": "/data/count", "value": next}]))
        }
        "sidecar" => {
            let container = json!({"name": "side", "image": "shop/side:1"});
            patch(json!([{"op": "add", "path": "/spec/containers/-", "value": container}]))
        }
        "two" => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 2}])),
        "broken" => patch(json!([{"op": "remove", "path": "/no/such/field"}])),
        "no" => {
            json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "message": "not today"}})
        }
        "warn" => {
            json!({"allowed": true, "warnings": ["mind the gap"], "auditAnnotations": {"k": "v"}})
        }
        "convert" => {
            let made = request["objects"].as_array().unwrap().iter();
            let made: Vec<_> = made
                .map(|one| converted(one, &request["desiredAPIVersion"]))
                .collect();
            json!({"result": {"status": "Success"}, "convertedObjects": made})
        }
        "spoil" => patch(
            json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{"manager": "x"}]}]),
        ),
        "at" => patch(json!([{"op": "replace", "path": "/spec/at", "value": "there:7"}])),
        "refuse" => json!({"result": {"status": "Failed", "message": "not convertible"}}),
        "other-uid" => json!({"allowed": true, "uid": "another"}),
        _ => json!({"allowed": true}),
    }
}

/// A Door in another version: `spec.at` is `host:port` in v1beta1, and two fields in v1.
fn converted(door: &Value, version: &Value) -> Value {
    let mut made = door.clone();
    made["apiVersion"] = version.clone();
    made["spec"] = if *version == "example.com/v1" {
        let at = door["spec"]["at"].as_str().unwrap_or(":0");
        let (host, port) = at.split_once(':').unwrap();
        json!({"host": host, "port": port.parse::<u16>().unwrap()})
    } else {
        let (host, port) = (
            door["spec"]["host"].as_str().unwrap(),
            &door["spec"]["port"],
        );
        json!({"at": format!("{host}:{port}")})
    };
    // Nothing of this is a webhook's to change.
    made["metadata"]["generation"] = 99.into();
    made
}

pub(super) async fn hooks() -> Hooks {
    let names = ["127.0.0.1".to_owned(), "hook.default.svc".to_owned()];
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names)
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (noted, stop) = (Arc::clone(&seen), CancellationToken::new());
    let handler = move |Path(path): Path<String>, Json(review): Json<Value>| async move {
        let request = review["request"].clone();
        let mut response = json!({"uid": request["uid"]});
        let said = answer(&path, &request);
        response
            .as_object_mut()
            .unwrap()
            .extend(said.as_object().unwrap().clone());
        noted.lock().unwrap().push((path, request));
        Json(
            json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response}),
        )
    };
    let router = Router::new().route("/{path}", post(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(crate::http::serve(
        listener,
        crate::http::Callers::Clients,
        Arc::new(tls),
        router,
        stop.clone(),
    ));
    Hooks {
        address,
        bundle: STANDARD.encode(certificate.pem()),
        seen,
        stop,
    }
}

impl Hooks {
    pub(super) fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://{}/{path}", self.address), "caBundle": self.bundle})
    }

    /// Paths asked since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().map(|(path, _)| path).collect()
    }

    pub(super) fn requests(&self) -> Vec<Value> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        seen.into_iter().map(|(_, request)| request).collect()
    }
}

/// A webhook about ConfigMaps, whatever is done with them.
pub(super) fn hook(name: &str, client: &Value) -> Value {
    json!({"name": format!("{name}.hooks.example.com"), "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

impl Api {
    pub(super) async fn hook(&self, kind: &str, name: &str, hooks: &[Value]) {
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/{}s",
            kind.to_lowercase()
        );
        let made = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": hooks});
        let (code, answer) = self.post(&path, &made).await;
        assert_eq!(code, 201, "{answer}");
    }
}

pub(super) const MUTATING: &str = "MutatingWebhookConfiguration";
pub(super) const VALIDATING: &str = "ValidatingWebhookConfiguration";

#[tokio::test]
async fn webhooks_change_see_and_refuse_what_is_written() {
    let (api, hooks) = (api().await, hooks().await);
    api.hook(VALIDATING, "watch", &[hook("warn", &hooks.url("warn"))])
        .await;
    api.hook(MUTATING, "label", &[hook("label", &hooks.url("label"))])
        .await;
    let request = Request::post(CONFIGS).header(CONTENT_TYPE, "application/json");
    let response = api.send(request, config("a", "web").to_string()).await;
    assert_eq!(response.headers()["warning"], "299 - \"mind the gap\"");
    let (code, made) = read(response).await;
    assert_eq!(
        (code, &made["metadata"]["labels"]["hooked"]),
        (201, &json!("yes"))
    );
    let requests = hooks.requests();
    let [mutated, validated] = requests.as_slice() else {
        panic!("{requests:?}")
    };
    assert_eq!(mutated["operation"], "CREATE");
    assert_eq!(mutated["userInfo"]["username"], "waggle-admin");
    assert_eq!(
        mutated["object"]["metadata"]["labels"]["hooked"],
        json!(null)
    );
    assert_eq!(mutated["oldObject"], json!(null));
    assert_eq!(validated["object"]["metadata"]["labels"]["hooked"], "yes");
    assert_eq!(
        validated["object"]["metadata"]["uid"],
        made["metadata"]["uid"]
    );
    assert_eq!(validated["namespace"], "default");

    let path = format!("{CONFIGS}/a");
    let patch = json!({"data": {"x": "2"}});
    let (code, _) = api
        .patch(&path, "application/merge-patch+json", &patch)
        .await;
    assert_eq!(code, 200);
    let requests = hooks.requests();
    assert_eq!(requests[1]["operation"], "UPDATE");
    assert_eq!(
        (
            &requests[1]["object"]["data"]["x"],
            &requests[1]["oldObject"]["data"]["x"]
        ),
        (&json!("2"), &json!("1"))
    );

    // A dry run is one for webhooks too, and a refusal is a refusal.
    api.hook(VALIDATING, "refuse", &[hook("no", &hooks.url("no"))])
        .await;
    let (code, refused) = api
        .post(&format!("{CONFIGS}?dryRun=All"), &config("b", "x"))
        .await;
    assert_eq!(code, 403, "{refused}");
    let message = "admission webhook \"no.hooks.example.com\" denied the request: not today";
    assert_eq!(refused["message"], message);
    assert!(hooks.requests().iter().all(|one| one["dryRun"] == true));
    let (code, refused) = api.delete(&path, &json!({})).await;
    assert_eq!((code, &refused["message"]), (403, &json!(message)));
    let deletion = hooks.requests().pop().unwrap();
    assert_eq!(
        (&deletion["operation"], &deletion["object"]),
        (&json!("DELETE"), &json!(null))
    );
    assert_eq!(deletion["oldObject"]["metadata"]["name"], "a");
    // Their own configurations can always be removed.
    let own = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/refuse";
    assert_eq!(api.delete(own, &json!({})).await.0, 200);
    assert_eq!(api.delete(&path, &json!({})).await.0, 200);
}

#[tokio::test]
async fn selectors_leave_out_and_earlier_webhooks_see_later_changes_once() {
    let (api, hooks) = (api().await, hooks().await);
    let mut first = hook("count", &hooks.url("count"));
    first["reinvocationPolicy"] = "IfNeeded".into();
    first["objectSelector"] = json!({"matchLabels": {"app": "web"}});
    let mut second = hook("label", &hooks.url("label"));
    second["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": "default"}});
    let mut never = hook("no", &hooks.url("no"));
    never["namespaceSelector"] =
        json!({"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}});
    api.hook(MUTATING, "all", &[first, second, never]).await;
    let (code, made) = api.post(CONFIGS, &config("a", "web")).await;
    assert_eq!((code, &made["data"]["count"]), (201, &json!("2")), "{made}");
    assert_eq!(hooks.asked(), ["count", "label", "count"]);
    let (_, made) = api.post(CONFIGS, &config("b", "db")).await;
    assert_eq!(made["data"]["count"], json!(null));
    assert_eq!(hooks.asked(), ["label"]);
}

#[tokio::test]
async fn a_webhook_that_fails_refuses_or_is_ignored() {
    let (api, hooks) = (api().await, hooks().await);
    let foreign = KeyPair::generate().unwrap();
    let foreign = CertificateParams::new(["x".to_owned()])
        .unwrap()
        .self_signed(&foreign)
        .unwrap();
    let mut untrusted = hooks.url("yes");
    untrusted["caBundle"] = STANDARD.encode(foreign.pem()).into();
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let nobody = json!({"url": format!("https://{closed}/"), "caBundle": hooks.bundle});
    let nothing =
        json!({"service": {"namespace": "default", "name": "absent"}, "caBundle": hooks.bundle});
    for (name, client, why) in [
        ("nobody", &nobody, "can't be reached"),
        ("untrusted", &untrusted, "invalid peer certificate"),
        ("nothing", &nothing, "service default/absent not found"),
        (
            "other-uid",
            &hooks.url("other-uid"),
            "expected response.uid",
        ),
        ("broken", &hooks.url("broken"), "patch of webhook"),
    ] {
        let mut one = hook(name, client);
        api.hook(MUTATING, name, std::slice::from_ref(&one)).await;
        let (code, refused) = api.post(CONFIGS, &config(name, "x")).await;
        let message = refused["message"].as_str().unwrap();
        assert_eq!(code, 500, "{name}: {message}");
        assert!(message.contains(why), "{name}: {message}");
        let path =
            format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{name}");
        assert_eq!(api.delete(&path, &json!({})).await.0, 200);
        if name == "broken" {
            continue;
        }
        one["failurePolicy"] = "Ignore".into();
        api.hook(MUTATING, name, &[one]).await;
        assert_eq!(api.post(CONFIGS, &config(name, "x")).await.0, 201, "{name}");
        assert_eq!(api.delete(&path, &json!({})).await.0, 200);
    }
}

#[tokio::test]
async fn a_service_is_asked_and_a_scale_is_a_scale() {
    let (api, hooks) = (api().await, hooks().await);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"ports": [{"port": 9443}]}});
    assert_eq!(
        api.post("/api/v1/namespaces/default/services", &service)
            .await
            .0,
        201
    );
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "ports": [{"name": "", "port": hooks.address.port()}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let (code, made) = api.post(path, &slice).await;
    assert_eq!(code, 201, "{made}");
    let client = json!({"caBundle": hooks.bundle,
        "service": {"namespace": "default", "name": "hook", "port": 9443, "path": "/two"}});
    let mut two = hook("two", &client);
    two["rules"] = json!([{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["*"],
        "resources": ["deployments/scale"]}]);
    api.hook(MUTATING, "two", &[two]).await;
    assert_eq!(api.post(DEPLOYMENTS, &deployment("web")).await.0, 201);
    let scale = json!({"spec": {"replicas": 7}});
    let path = format!("{DEPLOYMENTS}/web/scale");
    let (code, answer) = api
        .patch(&path, "application/merge-patch+json", &scale)
        .await;
    assert_eq!(
        (code, &answer["spec"]["replicas"]),
        (200, &json!(2)),
        "{answer}"
    );
    let request = hooks.requests().pop().unwrap();
    assert_eq!(request["kind"]["kind"], "Scale");
    assert_eq!(
        (&request["resource"]["resource"], &request["subResource"]),
        (&json!("deployments"), &json!("scale"))
    );
    assert_eq!(request["object"]["spec"]["replicas"], 7);
}

#[tokio::test]
async fn containers_that_a_webhook_adds_get_the_token_too() {
    let (api, hooks) = (api().await, hooks().await);
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await;
    let mut sidecar = hook("sidecar", &hooks.url("sidecar"));
    sidecar["rules"][0]["resources"] = json!(["pods"]);
    api.hook(MUTATING, "sidecar", &[sidecar]).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "shop/web:1"}]}});
    let (code, made) = api.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, 201, "{made}");
    let containers = made["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    for container in containers {
        assert_eq!(
            container["volumeMounts"].as_array().unwrap().len(),
            1,
            "{container}"
        );
    }
    let volumes = made["spec"]["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 1, "{volumes:?}");
}

#[tokio::test]
async fn conditions_say_whether_a_webhook_is_asked() {
    let (api, hooks) = (api().await, hooks().await);
    let mut conditional = hook("no", &hooks.url("no"));
    conditional["matchConditions"] = json!([
        {"name": "not-ours", "expression": "!object.metadata.name.startsWith('ours')"},
        {"name": "owned", "expression": "object.data.owner != request.userInfo.username"}]);
    let mut lenient = hook("lenient", &hooks.url("look"));
    lenient["failurePolicy"] = "Ignore".into();
    lenient["matchConditions"] =
        json!([{"name": "odd", "expression": "object.data.nothing == 'x'"}]);
    api.hook(VALIDATING, "conditional", &[conditional.clone(), lenient])
        .await;
    let map = |name: &str, owner: Option<&str>| {
        let data = owner.map_or_else(|| json!({}), |owner| json!({"owner": owner}));
        json!({"metadata": {"name": name}, "data": data})
    };
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(api.post(maps, &map("ours", Some("eve"))).await.0, 201);
    assert_eq!(hooks.asked(), [] as [&str; 0]);
    let (code, refused) = api.post(maps, &map("theirs", Some("eve"))).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(hooks.asked(), ["no"]);
    // A condition that can't be evaluated fails as the webhook would.
    let (code, refused) = api.post(maps, &map("theirs", None)).await;
    assert_eq!(code, 403, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("owned: no such key: owner"), "{message}");
    assert_eq!(hooks.asked(), [] as [&str; 0]);

    conditional["matchConditions"] = json!([{"name": "broken", "expression": "object.metadata.name +"},
        {"name": "who", "expression": "authorizer.group('').resource('pods').check('get').allowed()"}]);
    let made = json!({"metadata": {"name": "broken"}, "webhooks": [conditional]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let (code, refused) = api.post(path, &made).await;
    assert_eq!(code, 422, "{refused}");
    let causes = refused["details"]["causes"].as_array().unwrap();
    let field = |index: usize| causes[index]["field"].as_str().unwrap();
    assert_eq!(field(0), "webhooks[0].matchConditions[0].expression");
    assert_eq!(field(1), "webhooks[0].matchConditions[1].expression");
    let message = causes[1]["message"].as_str().unwrap();
    assert!(
        message.contains("undeclared reference to 'authorizer'"),
        "{message}"
    );
}

#[tokio::test]
async fn webhooks_are_asked_about_evictions_tokens_and_streams() {
    let (api, hooks) = (api().await, hooks().await);
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}});
    assert_eq!(api.post(pods, &pod).await.0, 201);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(
        api.post(accounts, &json!({"metadata": {"name": "ci"}}))
            .await
            .0,
        201
    );
    let rule = |operation: &str, resource: &str| json!({"operations": [operation], "apiGroups": [""], "apiVersions": ["v1"], "resources": [resource]});
    let mut refuses = hook("refuses", &hooks.url("no"));
    refuses["rules"] = json!([
        rule("CONNECT", "pods/exec"),
        rule("CREATE", "pods/eviction")
    ]);
    let mut looks = hook("looks", &hooks.url("look"));
    looks["rules"] = json!([
        rule("CREATE", "serviceaccounts/token"),
        rule("CONNECT", "pods/attach")
    ]);
    let configuration = json!({"metadata": {"name": "errands"}, "webhooks": [refuses, looks]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let (code, made) = api.post(path, &configuration).await;
    assert_eq!(code, 201, "{made}");
    let (code, refused) = api
        .get(&format!("{pods}/p/exec?command=sh&stdin=true"))
        .await;
    assert_eq!(code, 403, "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("not today"),
        "{refused}"
    );
    let request = hooks.requests().remove(0);
    assert_eq!(request["operation"], "CONNECT");
    assert_eq!(request["kind"]["kind"], "PodExecOptions");
    assert_eq!(request["subResource"], "exec");
    assert_eq!(
        (&request["name"], &request["namespace"]),
        (&json!("p"), &json!("default"))
    );
    assert_eq!(request["object"]["command"], json!(["sh"]));
    assert_eq!(request["options"], Value::Null);
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    assert_eq!(
        api.post(&format!("{pods}/p/eviction"), &eviction).await.0,
        403
    );
    assert_eq!(hooks.requests().remove(0)["kind"]["kind"], "Eviction");
    assert_eq!(api.get(&format!("{pods}/p")).await.0, 200);
    assert_eq!(
        api.post(&format!("{accounts}/ci/token"), &json!({"spec": {}}))
            .await
            .0,
        201
    );
    assert_eq!(hooks.requests().remove(0)["kind"]["kind"], "TokenRequest");
    // Nobody asks for a stream here, but the webhook has been asked whether they may.
    assert_eq!(api.get(&format!("{pods}/p/attach")).await.0, 400);
    assert_eq!(hooks.asked(), ["look"]);
    assert_ne!(api.get(&format!("{pods}/p/log")).await.0, 403);
    assert!(hooks.asked().is_empty());
    let broken = json!("no object");
    assert_eq!(
        api.post(&format!("{pods}/p/eviction"), &broken).await.0,
        400
    );
}

/// Stands before a webhook server and counts who connects; what it closes, it closes for all.
async fn counted(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>, tokio::sync::watch::Sender<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let (close, closed) = tokio::sync::watch::channel(());
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut closed = closed.clone();
            closed.mark_unchanged();
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    _ = closed.changed() => {}
                }
            });
        }
    });
    (address, count, close)
}

#[tokio::test]
async fn a_connection_is_used_again_for_the_same_webhook() {
    let (api, hooks) = (api().await, hooks().await);
    let (address, count, close) = counted(hooks.address).await;
    let mut client = hooks.url("label");
    client["url"] = format!("https://{address}/label").into();
    api.hook(MUTATING, "one", &[hook("one", &client)]).await;
    for index in 0..5 {
        let (code, made) = api.post(CONFIGS, &config(&format!("a{index}"), "x")).await;
        assert_eq!(code, 201, "{made}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // One that was closed meanwhile costs nobody a write.
    close.send_replace(());
    for index in 0..3 {
        let (code, made) = api.post(CONFIGS, &config(&format!("b{index}"), "x")).await;
        assert_eq!(code, 201, "{made}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Other authorities are not believed because of a connection that others let in.
    let foreign = KeyPair::generate().unwrap();
    let foreign = CertificateParams::new(["x".to_owned()])
        .unwrap()
        .self_signed(&foreign)
        .unwrap();
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/one";
    assert_eq!(api.delete(path, &json!({})).await.0, 200);
    client["caBundle"] = STANDARD.encode(foreign.pem()).into();
    api.hook(MUTATING, "two", &[hook("two", &client)]).await;
    let (code, refused) = api.post(CONFIGS, &config("c", "x")).await;
    assert_eq!(code, 500, "{refused}");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn what_a_webhook_changes_is_nobodys() {
    let (api, hooks) = (api().await, hooks().await);
    api.hook(MUTATING, "label", &[hook("label", &hooks.url("label"))])
        .await;
    let owns_label = |made: &Value| {
        let entries = made["metadata"]["managedFields"].as_array().unwrap();
        entries
            .iter()
            .any(|one| !one["fieldsV1"]["f:metadata"]["f:labels"]["f:hooked"].is_null())
    };
    let (code, made) = api.post(CONFIGS, &config("a", "web")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["labels"]["hooked"], "yes");
    assert!(!owns_label(&made), "{made}");
    let entry = &made["metadata"]["managedFields"][0];
    assert!(!entry["fieldsV1"]["f:data"].is_null(), "{made}");
    // So whoever applies it later takes it from nobody.
    let apply = |labels: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": labels}});
    let path = format!("{CONFIGS}/a?fieldManager=me");
    let media = "application/apply-patch+yaml";
    let (code, applied) = api
        .patch(&path, media, &apply(json!({"hooked": "no"})))
        .await;
    assert_eq!(code, 200, "{applied}");
    assert!(owns_label(&applied), "{applied}");
    // The webhook has the last word about the value, and its owner stays.
    assert_eq!(applied["metadata"]["labels"]["hooked"], "yes");

    // A webhook that spoils the owners does not have its way with them.
    api.hook(MUTATING, "spoil", &[hook("spoil", &hooks.url("spoil"))])
        .await;
    let request = Request::post(CONFIGS).header(CONTENT_TYPE, "application/json");
    let response = api.send(request, config("b", "web").to_string()).await;
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(
        warning.contains("managedFields was in an invalid state"),
        "{warning}"
    );
    let (code, made) = read(response).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["managedFields"][0]["manager"].is_string());
}
