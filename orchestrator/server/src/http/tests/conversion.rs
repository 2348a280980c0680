//! Conversion webhooks: objects of a kind in versions that only a webhook can make, for readers, writers, admission
//! webhooks and on servers that follow.

use crate::forward::Forwarder;
use crate::leading::Leading;

use super::webhooks::{MUTATING, VALIDATING, hook, hooks};
use super::*;

const MERGE: &str = "application/merge-patch+json";

fn of(version: &str) -> String {
    format!("/apis/example.com/{version}/namespaces/default/doors")
}

fn newer_door(name: &str, host: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"host": host, "port": 80}})
}

fn doors(converter: &Value, stored: &str) -> Value {
    let version = |name: &str, spec: Value| {
        json!({"name": name, "served": true, "storage": name == stored, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": spec},
                "status": {"type": "object", "properties": {"open": {"type": "boolean"}}}}}}})
    };
    let newer = json!({"host": {"type": "string"}, "port": {"type": "integer", "minimum": 1}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "doors.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "doors", "singular": "door", "kind": "Door", "listKind": "DoorList"},
            "versions": [version("v1", newer), version("v1beta1", json!({"at": {"type": "string"}}))],
            "conversion": {"strategy": "Webhook", "webhook":
                {"clientConfig": converter, "conversionReviewVersions": ["v1"]}}}})
}

#[tokio::test]
async fn a_webhook_converts_between_the_versions_of_a_kind() {
    let (api, hooks) = (api().await, hooks().await);
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/doors.example.com";
    api.define_as(&doors(&hooks.url("convert"), "v1")).await;
    let (older, newer) = (of("v1beta1"), of("v1"));
    let door = json!({"apiVersion": "example.com/v1beta1", "kind": "Door",
        "metadata": {"name": "front", "labels": {"a": "b"}}, "spec": {"at": "home:80"}});
    let (code, made) = api.post(&older, &door).await;
    assert_eq!(
        (code, &made["spec"]),
        (201, &json!({"at": "home:80"})),
        "{made}"
    );
    assert_eq!(made["apiVersion"], "example.com/v1beta1");
    let (_, found) = api.get(&format!("{newer}/front")).await;
    assert_eq!(
        found["spec"],
        json!({"host": "home", "port": 80}),
        "{found}"
    );
    assert_eq!(
        (
            &found["metadata"]["generation"],
            &found["metadata"]["labels"]["a"]
        ),
        (&json!(1), &json!("b"))
    );
    let (_, listed) = api.get(&older).await;
    assert_eq!(
        listed["items"][0]["spec"],
        json!({"at": "home:80"}),
        "{listed}"
    );
    assert_eq!(listed["items"][0]["apiVersion"], "example.com/v1beta1");

    // A change in one version is one in the other.
    let (code, changed) = api
        .patch(
            &format!("{older}/front"),
            MERGE,
            &json!({"spec": {"at": "home:81"}}),
        )
        .await;
    assert_eq!(
        (code, &changed["spec"]["at"]),
        (200, &json!("home:81")),
        "{changed}"
    );
    assert_eq!(changed["metadata"]["generation"], 2);
    let (code, changed) = api
        .patch(
            &format!("{newer}/front"),
            MERGE,
            &json!({"spec": {"host": "away"}}),
        )
        .await;
    assert_eq!(
        (code, &changed["spec"]),
        (200, &json!({"host": "away", "port": 81})),
        "{changed}"
    );
    let (_, found) = api.get(&format!("{older}/front")).await;
    assert_eq!(found["spec"]["at"], "away:81");
    let request = Request::get(format!("{older}?watch=true"));
    let mut events = Lines {
        body: api
            .send(request, Body::empty())
            .await
            .into_body()
            .into_data_stream(),
        rest: Vec::new(),
    };
    let event = events.next().await.unwrap();
    assert_eq!(event["object"]["spec"]["at"], "away:81", "{event}");

    // What was stored in a version that is no longer the one that is stored is converted, too.
    let (_, mut there) = api.get(definition).await;
    there["spec"] = doors(&hooks.url("convert"), "v1beta1")["spec"].clone();
    let request = Request::put(definition).header(CONTENT_TYPE, "application/json");
    let (code, answer) = read(api.send(request, there.to_string()).await).await;
    assert_eq!(code, 200, "{answer}");
    let (_, found) = api.get(&format!("{older}/front")).await;
    assert_eq!(found["spec"], json!({"at": "away:81"}), "{found}");
    let (_, found) = api.get(&format!("{newer}/front")).await;
    assert_eq!(
        found["spec"],
        json!({"host": "away", "port": 81}),
        "{found}"
    );

    // One that fails is told of, and nothing is made up.
    there["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("resourceVersion");
    there["spec"]["conversion"]["webhook"]["clientConfig"] = hooks.url("refuse");
    let request = Request::put(definition).header(CONTENT_TYPE, "application/json");
    let (code, answer) = read(api.send(request, there.to_string()).await).await;
    assert_eq!(code, 200, "{answer}");
    for path in [format!("{older}/front"), older.clone()] {
        let (code, refused) = api.get(&path).await;
        assert_eq!(code, 500, "{refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(
            message.contains(
                "conversion webhook for example.com/v1beta1, Kind=Door failed: not convertible"
            ),
            "{message}"
        );
    }
    let (code, _) = api.get(&format!("{newer}/front")).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn an_admission_webhook_sees_the_version_that_it_names() {
    let (api, hooks) = (api().await, hooks().await);
    api.define_as(&doors(&hooks.url("convert"), "v1")).await;
    let about = |name: &str, url: &str| {
        let mut one = hook(name, &hooks.url(url));
        one["rules"] = json!([{"operations": ["*"], "apiGroups": ["example.com"],
            "apiVersions": ["v1beta1"], "resources": ["doors"]}]);
        one
    };
    api.hook(MUTATING, "moves", &[about("at", "at")]).await;
    let (code, made) = api.post(&of("v1"), &newer_door("front", "home")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"], json!({"host": "there", "port": 7}), "{made}");
    let mut seen = hooks.requests();
    seen.retain(|request| !request["operation"].is_null());
    assert_eq!(seen[0]["kind"]["version"], "v1beta1");
    assert_eq!(seen[0]["requestKind"]["version"], "v1");
    assert_eq!(seen[0]["object"]["spec"], json!({"at": "home:80"}));
    assert_eq!(seen[0]["object"]["apiVersion"], "example.com/v1beta1");

    // What a policy forbids in one version can't be done in another.
    api.hook(VALIDATING, "forbids", &[about("no", "no")]).await;
    let (code, refused) = api.post(&of("v1"), &newer_door("back", "home")).await;
    assert_eq!(code, 403, "{refused}");
    let path = format!("{}/front", of("v1"));
    let (code, refused) = api.patch(&path, MERGE, &json!({"spec": {"port": 9}})).await;
    assert_eq!(code, 403, "{refused}");
    let mut seen = hooks.requests();
    seen.retain(|request| request["operation"] == "UPDATE");
    let [_, update] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(update["oldObject"]["spec"], json!({"at": "there:7"}));
    // The first webhook has its way with every write.
    assert_eq!(update["object"]["spec"], json!({"at": "there:7"}));
    let mut exact = about("exact", "no");
    exact["matchPolicy"] = "Exact".into();
    let validating = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let forbids = format!("{validating}/forbids");
    assert_eq!(api.delete(&forbids, &json!({})).await.0, 200);
    api.hook(VALIDATING, "exact", &[exact]).await;
    let (code, made) = api.post(&of("v1"), &newer_door("back", "home")).await;
    assert_eq!(code, 201, "{made}");
}

#[tokio::test]
async fn a_long_list_is_converted_in_parts() {
    let (api, hooks) = (api().await, hooks().await);
    api.define_as(&doors(&hooks.url("convert"), "v1")).await;
    for (name, letter) in [("a", "a"), ("b", "b"), ("c", "c"), ("d", "d"), ("e", "e")] {
        let door = newer_door(name, &letter.repeat(400 << 10));
        assert_eq!(api.post(&of("v1"), &door).await.0, 201);
    }
    hooks.requests();
    let (code, listed) = api.get(&of("v1beta1")).await;
    assert_eq!(code, 200);
    let items = listed["items"].as_array().unwrap();
    let starts: Vec<&str> = items
        .iter()
        .map(|item| &item["spec"]["at"].as_str().unwrap()[..2])
        .collect();
    assert_eq!(starts, ["aa", "bb", "cc", "dd", "ee"]);
    let mut parts: Vec<usize> = hooks
        .requests()
        .iter()
        .map(|request| request["objects"].as_array().unwrap().len())
        .collect();
    parts.sort_unstable();
    assert_eq!(parts, [1, 2, 2]);
}

#[tokio::test]
async fn a_server_that_follows_converts_itself() {
    let (api, hooks) = (api().await, hooks().await);
    api.define_as(&doors(&hooks.url("convert"), "v1")).await;
    assert_eq!(
        api.post(&of("v1"), &newer_door("front", "home")).await.0,
        201
    );
    let follower = api.follower().await;
    let (code, found) = follower.get(&format!("{}/front", of("v1beta1"))).await;
    assert_eq!(
        (code, &found["spec"]["at"]),
        (200, &json!("home:80")),
        "{found}"
    );
    let (code, listed) = follower.get(&of("v1beta1")).await;
    assert_eq!(
        (code, &listed["items"][0]["spec"]["at"]),
        (200, &json!("home:80")),
        "{listed}"
    );
}

impl Api {
    /// Another server over the same store, which knows of no leader.
    async fn follower(&self) -> Api {
        let store = Arc::clone(&self.store);
        let objects = Objects::open(Arc::clone(&store) as _, Arc::new(jiff::Timestamp::now))
            .await
            .unwrap();
        let forwarder = Forwarder::new(self.state.pki.peer_tls().unwrap());
        let state = ServerState {
            objects,
            leading: Leading::elected(Some(Arc::new(forwarder))),
            ..self.state.clone()
        };
        let streams = crate::streams::Streams {
            objects: Arc::clone(&state.objects),
            leading: state.leading.clone(),
        };
        let calls = crate::webhook::begin(streams, state.stop.clone());
        state.objects.begin_to_call(calls);
        Api {
            router: crate::http::router(state.clone()),
            state,
            token: self.token.clone(),
            store,
            _folder: tempfile::tempdir().unwrap(),
        }
    }
}
