//! Kinds that a CustomResourceDefinition adds, from its creation to its end.

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// Version v1 is stored; the older one has no rules.
fn definition() -> Value {
    let parts = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
        "items": {"type": "object", "required": ["id"],
            "properties": {"id": {"type": "string"}, "count": {"type": "integer", "default": 1}}}});
    let spec = json!({"type": "object", "properties": {"parts": parts,
        "size": {"type": "integer", "minimum": 1, "default": 3}}});
    let schema = json!({"type": "object", "properties": {"spec": spec,
        "status": {"type": "object", "properties": {"ready": {"type": "integer"}}}}});
    let loose = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList",
        "shortNames": ["wd"]});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {},
                    "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.ready"}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
            {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": loose}}]}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

impl Api {
    /// Runs the planner until it has nothing more to do.
    async fn settle_definitions(&self) {
        let view = View::follow(&self.state.objects).await.unwrap();
        for _ in 0..10 {
            let revision = *self.state.objects.changed().borrow();
            assert!(view.reach(revision).await);
            let now = self.state.objects.now();
            let plan =
                view.read(|snapshot| waggle_plan::custom_resource_definition::plan(snapshot, now));
            if plan.writes.is_empty() {
                return;
            }
            for answer in self.state.objects.apply_plan(plan.writes).await {
                answer.unwrap();
            }
        }
        panic!("the planner goes on and on");
    }

    async fn define(&self) {
        self.define_as(&definition()).await;
    }

    pub(super) async fn define_as(&self, definition: &Value) {
        let (code, made) = self.post(DEFINITIONS, definition).await;
        assert_eq!(code, 201, "{made}");
        self.settle_definitions().await;
    }
}

#[tokio::test]
async fn a_defined_kind_is_served_like_any_other() {
    let api = api().await;
    assert_eq!(api.get(WIDGETS).await.0, 404);
    api.define().await;
    let (code, made) = api
        .post(WIDGETS, &widget("a", json!({"parts": [{"id": "x"}]})))
        .await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        made["spec"],
        json!({"size": 3, "parts": [{"id": "x", "count": 1}]})
    );
    let (code, refused) = api.post(WIDGETS, &widget("b", json!({"size": 0}))).await;
    assert_eq!(code, 422);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.size");
    let path = format!("{WIDGETS}/a");
    let (code, patched) = api
        .patch(
            &path,
            "application/merge-patch+json",
            &json!({"spec": {"size": 4}}),
        )
        .await;
    assert_eq!(
        (code, &patched["spec"]["size"]),
        (200, &json!(4)),
        "{patched}"
    );
    let strategic = "application/strategic-merge-patch+json";
    assert_eq!(
        api.patch(&path, strategic, &json!({"spec": {"size": 5}}))
            .await
            .0,
        415
    );
    let (_, status) = api
        .patch(
            &format!("{path}/status"),
            "application/merge-patch+json",
            &json!({"status": {"ready": 2}}),
        )
        .await;
    assert_eq!(status["status"]["ready"], 2);
    let (code, scaled) = api
        .patch(
            &format!("{path}/scale"),
            "application/merge-patch+json",
            &json!({"spec": {"replicas": 8}}),
        )
        .await;
    assert_eq!(
        (
            code,
            &scaled["spec"]["replicas"],
            &scaled["status"]["replicas"]
        ),
        (200, &json!(8), &json!(2))
    );
    let table = api.table(WIDGETS).await;
    assert_eq!(table["rows"][0]["cells"], json!(["a", 8]));
    let (_, groups) = api.get("/apis").await;
    assert!(groups.to_string().contains("example.com/v1beta1"));
    let (_, listed) = api.get("/apis/example.com/v1").await;
    assert_eq!(listed["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(api.get("/openapi/v3/apis/example.com/v1").await.0, 200);
}

#[tokio::test]
async fn every_version_shows_the_same_object() {
    let api = api().await;
    api.define().await;
    let older = "/apis/example.com/v1beta1/namespaces/default/widgets";
    let body = json!({"apiVersion": "example.com/v1beta1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 0}});
    let (code, made) = api.post(older, &body).await;
    assert_eq!(
        (code, &made["apiVersion"]),
        (201, &json!("example.com/v1beta1")),
        "{made}"
    );
    let (_, newer) = api.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(
        (&newer["apiVersion"], &newer["spec"]["size"]),
        (&json!("example.com/v1"), &json!(0))
    );
    let (_, list) = api.get(older).await;
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v1beta1");
    let response = api
        .send(Request::get(format!("{older}?watch=1")), Body::empty())
        .await;
    let mut lines = Lines {
        body: response.into_body().into_data_stream(),
        rest: Vec::new(),
    };
    assert_eq!(
        lines.expect("ADDED", "a").await["apiVersion"],
        "example.com/v1beta1"
    );
    let (code, deleted) = api.delete(&format!("{older}/a"), &json!({})).await;
    assert_eq!(code, 200, "{deleted}");
    assert_eq!(
        lines.expect("DELETED", "a").await["apiVersion"],
        "example.com/v1beta1"
    );
}

#[tokio::test]
async fn appliers_share_a_custom_object() {
    let api = api().await;
    api.define().await;
    let apply = |manager: &str, spec: Value, force: bool| {
        let path = format!("{WIDGETS}/a?fieldManager={manager}&force={force}");
        let body = widget("a", spec);
        let api = &api;
        async move {
            api.patch(&path, "application/apply-patch+yaml", &body)
                .await
        }
    };
    let (code, made) = apply("one", json!({"parts": [{"id": "x", "count": 1}]}), false).await;
    assert_eq!(code, 201, "{made}");
    let (code, made) = apply("two", json!({"parts": [{"id": "y"}]}), false).await;
    assert_eq!(
        (code, made["spec"]["parts"].as_array().unwrap().len()),
        (200, 2),
        "{made}"
    );
    let (code, status) = apply("two", json!({"parts": [{"id": "x", "count": 9}]}), false).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let (code, made) = apply("two", json!({"parts": [{"id": "x", "count": 9}]}), true).await;
    assert_eq!(
        (code, &made["spec"]["parts"]),
        (200, &json!([{"id": "x", "count": 9}])),
        "{made}"
    );
}

#[tokio::test]
async fn a_definition_takes_its_objects_along() {
    let api = api().await;
    api.define().await;
    api.post(WIDGETS, &widget("a", json!({}))).await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (code, marked) = api.delete(&path, &json!({})).await;
    assert_eq!(
        (
            code,
            marked["metadata"]["finalizers"].as_array().unwrap().len()
        ),
        (200, 1),
        "{marked}"
    );
    let (code, refused) = api.post(WIDGETS, &widget("b", json!({}))).await;
    assert_eq!(
        (code, &refused["reason"]),
        (405, &json!("MethodNotAllowed"))
    );
    api.settle_definitions().await;
    assert_eq!(api.get(&path).await.0, 404);
    assert_eq!(api.get(WIDGETS).await.0, 404);
    // Nothing is left for who comes later.
    api.define().await;
    let (_, list) = api.get(WIDGETS).await;
    assert_eq!(list["items"], json!([]));
}

#[tokio::test]
async fn whoever_reads_the_store_knows_the_kinds_in_their_newest_form() {
    let api = api().await;
    let open = || Objects::open(Arc::clone(&api.store) as _, Arc::new(jiff::Timestamp::now));
    let follower = open().await.unwrap();
    api.define().await;
    api.post(WIDGETS, &widget("a", json!({}))).await;
    let place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/color";
    let added =
        json!([{"op": "add", "path": place, "value": {"type": "string", "default": "red"}}]);
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let (code, changed) = api
        .patch(&path, "application/json-patch+json", &added)
        .await;
    assert_eq!(code, 200, "{changed}");
    let (_, shown) = api.get(&format!("{WIDGETS}/a")).await;
    assert_eq!(shown["spec"]["color"], "red");
    follower.catch_up().await.unwrap();
    for other in [follower, open().await.unwrap()] {
        let row = other.kinds().find("example.com", "v1", "widgets").unwrap();
        let found = other.get(row, "default", "a").unwrap();
        assert_eq!(found.value["spec"]["color"], "red");
    }
}

#[tokio::test]
async fn a_stored_kind_is_served_under_other_versions() {
    let api = api().await;
    let base = |version: &str| {
        format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers")
    };
    let wanted = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 60}, "status": {"currentReplicas": 0, "desiredReplicas": 0}});
    let (code, made) = api.post(&base("v1"), &wanted).await;
    assert_eq!(
        (code, &made["spec"]["targetCPUUtilizationPercentage"]),
        (201, &json!(60)),
        "{made}"
    );
    let (_, newer) = api.get(&format!("{}/h", base("v2"))).await;
    assert_eq!(
        newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60,
        "{newer}"
    );
    let change = json!({"spec": {"maxReplicas": 6}});
    let path = format!("{}/h", base("v1"));
    let (code, changed) = api
        .patch(&path, "application/merge-patch+json", &change)
        .await;
    assert_eq!(
        (code, &changed["spec"]["maxReplicas"]),
        (200, &json!(6)),
        "{changed}"
    );
    assert_eq!(changed["spec"]["targetCPUUtilizationPercentage"], 60);
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "note": "hello", "reason": "Greeted", "action": "Greet", "type": "Normal", "reportingController": "example.com/c",
        "reportingInstance": "c-1", "eventTime": "2026-01-01T00:00:00.000000Z"});
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (code, made) = api.post(events, &event).await;
    assert_eq!((code, &made["note"]), (201, &json!("hello")), "{made}");
    let (_, list) = api
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")
        .await;
    assert_eq!(list["items"][0]["message"], "hello", "{list}");
    let (_, list) = api
        .get(&format!("{events}?fieldSelector=regarding.name%3Dp"))
        .await;
    assert_eq!(list["items"][0]["note"], "hello", "{list}");
}

#[tokio::test]
async fn a_watch_ends_with_its_definition() {
    let api = api().await;
    api.define().await;
    let request = Request::get(format!("{WIDGETS}?watch=1"));
    let response = api.send(request, Body::empty()).await;
    let mut watch = Lines {
        body: response.into_body().into_data_stream(),
        rest: Vec::new(),
    };
    assert_eq!(api.post(WIDGETS, &widget("a", json!({}))).await.0, 201);
    watch.expect("ADDED", "a").await;
    assert_eq!(api.delete(&format!("{WIDGETS}/a"), &json!({})).await.0, 200);
    watch.expect("DELETED", "a").await;
    let path = format!("{DEFINITIONS}/widgets.example.com");
    api.delete(&path, &json!({})).await;
    api.settle_definitions().await;
    assert_eq!(api.get(&path).await.0, 404);
    assert!(watch.next().await.is_none());
    // What comes again is another: nothing of the old is in it.
    api.define().await;
    let (code, list) = api.get(WIDGETS).await;
    assert_eq!((code, &list["items"]), (200, &json!([])));
}
