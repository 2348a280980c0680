//! Create, update and delete, as clients see them.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, Deletion, Preconditions, Propagation, prepare_delete};
use super::{CreateContext, Part, may_go, prepare_create, prepare_update};
use crate::{FieldValidation, RESOURCES, Status, lookup_name};

fn now() -> Timestamp {
    "2026-01-02T03:04:05.678Z".parse().unwrap()
}

fn create(kind: &str, namespace: &str, value: Value) -> Result<Value, Status> {
    let row = lookup_name(kind).unwrap();
    let read = row.read(value, FieldValidation::Strict, Vec::new())?;
    let context = CreateContext {
        now: now(),
        uid: "u-1",
        name_suffix: "x7k2m",
        namespace,
    };
    let mut value = prepare_create(row, read.value, &context)?;
    value["metadata"]["resourceVersion"] = "7".into();
    Ok(value)
}

fn deployment() -> Value {
    let spec = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}},
    });
    create(
        "deploy",
        "shop",
        json!({"metadata": {"name": "d"}, "spec": spec}),
    )
    .unwrap()
}

fn pod(spec: Value) -> Value {
    let mut base = json!({"containers": [{"name": "a", "image": "a:1"}]});
    base.as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    create(
        "pod",
        "shop",
        json!({"metadata": {"name": "p"}, "spec": base}),
    )
    .unwrap()
}

#[test]
fn a_first_status_has_the_numbers_that_are_never_left_out() {
    let set = json!({"metadata": {"name": "db"}, "spec": {
        "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    let made = create("sts", "shop", set).unwrap();
    assert_eq!(
        made["status"],
        json!({"replicas": 0, "availableReplicas": 0})
    );
}

#[test]
fn a_new_object_gets_its_metadata_and_an_empty_status() {
    let made = create("deploy", "shop", {
        let mut value = deployment();
        value["metadata"] =
            json!({"generateName": "web-", "creationTimestamp": null, "generation": 9});
        value["status"] = json!({"replicas": 5});
        value
    })
    .unwrap();
    assert_eq!(
        made["metadata"],
        json!({"name": "web-x7k2m", "generateName": "web-", "namespace": "shop", "uid": "u-1", "generation": 1,
            "creationTimestamp": "2026-01-02T03:04:05Z", "resourceVersion": "7"})
    );
    assert_eq!(made["status"], json!({}));
    assert_eq!(made["spec"]["replicas"], 1);
    assert_eq!(
        (&made["apiVersion"], &made["kind"]),
        (&json!("apps/v1"), &json!("Deployment"))
    );
}

#[test]
fn what_can_not_be_created_is_refused() {
    for (kind, namespace, value, code, words) in [
        (
            "cm",
            "shop",
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "does not match",
        ),
        (
            "cm",
            "shop",
            json!({"metadata": {"name": "a", "resourceVersion": "3"}}),
            400,
            "resourceVersion",
        ),
        (
            "cm",
            "shop",
            json!({}),
            422,
            "name or generateName is required",
        ),
        (
            "cm",
            "shop",
            json!({"metadata": {"name": "a"}, "kind": "Secret"}),
            400,
            "kind",
        ),
        ("cm", "shop", json!([]), 400, "no ConfigMap object"),
        (
            "deploy",
            "shop",
            json!({"metadata": {"name": "a"}}),
            422,
            "spec: Required value",
        ),
    ] {
        let error = create(kind, namespace, value).unwrap_err();
        assert!(
            error.code == code && error.message.contains(words),
            "{error:?}"
        );
    }
}

#[test]
fn a_bad_deployment_is_refused_as_kubernetes_words_it() {
    let mut value = deployment();
    value["metadata"] = json!({"name": "d"});
    value["spec"]["replicas"] = json!(-1);
    let error = create("deploy", "shop", value.clone()).unwrap_err();
    let words = "Deployment.apps \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!((error.code, error.message.as_str()), (422, words));
    let details = error.details.unwrap();
    assert_eq!(
        (details.kind.as_str(), details.group.as_str()),
        ("Deployment", "apps")
    );
    assert_eq!(details.causes[0].field, "spec.replicas");

    value["spec"]["replicaz"] = json!(1);
    value["spec"]["template"]["spec"]["containers"][0]["imag"] = json!("x");
    let error = create("deploy", "shop", value).unwrap_err();
    let words = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
                 \"spec.replicaz\", unknown field \"spec.template.spec.containers[0].imag\"";
    assert_eq!((error.code, error.message.as_str()), (400, words));
}

#[test]
fn an_update_keeps_what_is_not_the_clients() {
    let row = lookup_name("deploy").unwrap();
    let mut old = deployment();
    old["status"] = json!({"replicas": 1});
    let mut wanted = old.clone();
    wanted["metadata"]["uid"] = Value::Null;
    wanted["metadata"]["creationTimestamp"] = json!("2000-01-01T00:00:00Z");
    wanted["metadata"]["labels"] = json!({"a": "b"});
    wanted["status"] = json!({"replicas": 9});
    let new = prepare_update(row, &old, wanted.clone(), Part::Main).unwrap();
    let mut expect = old.clone();
    expect["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(new, expect, "metadata only: the generation stays");
    wanted["spec"]["replicas"] = json!(4);
    let new = prepare_update(row, &old, wanted.clone(), Part::Main).unwrap();
    assert_eq!(new["metadata"]["generation"], 2);
    let new = prepare_update(row, &old, wanted, Part::Status).unwrap();
    expect = old.clone();
    expect["status"] = json!({"replicas": 9});
    assert_eq!(new, expect);
}

#[test]
fn an_update_of_something_else_is_refused() {
    let row = lookup_name("deploy").unwrap();
    let old = deployment();
    for (field, value, code, words) in [
        (
            "resourceVersion",
            "6",
            409,
            "Operation cannot be fulfilled on deployments.apps \"d\": the object has been \
            modified; please apply your changes to the latest version and try again",
        ),
        (
            "uid",
            "u-2",
            409,
            "UID in precondition: u-2, UID in object meta: u-1",
        ),
        ("name", "e", 400, "does not match the name on the URL (d)"),
        ("namespace", "other", 400, "namespace"),
    ] {
        let mut wanted = old.clone();
        wanted["metadata"][field] = value.into();
        let error = prepare_update(row, &old, wanted, Part::Main).unwrap_err();
        assert!(
            error.code == code && error.message.contains(words),
            "{error:?}"
        );
    }
}

#[test]
fn a_service_keeps_its_address_when_it_is_replaced() {
    let row = lookup_name("svc").unwrap();
    let mut old = create(
        "svc",
        "shop",
        json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}),
    )
    .unwrap();
    old["spec"]["clusterIP"] = json!("10.96.0.9");
    old["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    let wanted = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 2}]}});
    let new = prepare_update(row, &old, wanted, Part::Main).unwrap();
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
    assert_eq!(new["spec"]["ports"][0]["port"], 2);
}

fn delete(kind: &str, old: &Value, options: &DeleteOptions) -> Result<Deletion, Status> {
    prepare_delete(lookup_name(kind).unwrap(), old, options, now())
}

fn marked(deletion: Deletion) -> Value {
    match deletion {
        Deletion::Mark(value) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_on_a_node_gets_its_grace_period() {
    let plain = DeleteOptions::default();
    let grace = |seconds| DeleteOptions {
        grace_period_seconds: Some(seconds),
        ..DeleteOptions::default()
    };
    assert_eq!(
        delete("pod", &pod(json!({})), &plain).unwrap(),
        Deletion::Remove,
        "bound to no node"
    );
    let bound = pod(json!({"nodeName": "n1", "terminationGracePeriodSeconds": 10}));
    assert_eq!(
        delete("pod", &bound, &grace(0)).unwrap(),
        Deletion::Remove,
        "forced"
    );
    let ending = marked(delete("pod", &bound, &plain).unwrap());
    assert_eq!(
        ending["metadata"]["deletionTimestamp"],
        "2026-01-02T03:04:15Z"
    );
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 10);
    assert!(!may_go(lookup_name("pod").unwrap(), &ending));
    assert_eq!(delete("pod", &ending, &plain).unwrap(), Deletion::Unchanged);
    assert_eq!(
        delete("pod", &ending, &grace(60)).unwrap(),
        Deletion::Unchanged,
        "never later"
    );
    let sooner = marked(delete("pod", &ending, &grace(2)).unwrap());
    assert_eq!(
        sooner["metadata"]["deletionTimestamp"],
        "2026-01-02T03:04:07Z"
    );
    let mut ended = bound;
    ended["status"]["phase"] = json!("Failed");
    assert_eq!(delete("pod", &ended, &plain).unwrap(), Deletion::Remove);
    assert_eq!(delete("pod", &ended, &grace(-1)).unwrap_err().code, 422);
}

#[test]
fn finalizers_hold_an_object_until_they_are_gone() {
    let row = lookup_name("deploy").unwrap();
    let policy = |policy| DeleteOptions {
        propagation_policy: Some(policy),
        ..DeleteOptions::default()
    };
    let old = deployment();
    assert_eq!(
        delete("deploy", &old, &policy(Propagation::Background)).unwrap(),
        Deletion::Remove
    );
    for (wanted, finalizer) in [
        (Propagation::Foreground, "foregroundDeletion"),
        (Propagation::Orphan, "orphan"),
    ] {
        let held = marked(delete("deploy", &old, &policy(wanted)).unwrap());
        assert_eq!(held["metadata"]["finalizers"], json!([finalizer]));
        assert_eq!(held["metadata"]["generation"], 2);
        let mut free = held.clone();
        free["metadata"]["finalizers"] = json!([]);
        let free = prepare_update(row, &held, free, Part::Main).unwrap();
        assert!(may_go(row, &free) && !may_go(row, &held));
        let mut more = held.clone();
        more["metadata"]["finalizers"] = json!([finalizer, "x/new"]);
        assert_eq!(
            prepare_update(row, &held, more, Part::Main)
                .unwrap_err()
                .code,
            422
        );
    }
}

#[test]
fn a_namespace_waits_for_its_content() {
    let row = lookup_name("ns").unwrap();
    let old = create("ns", "", json!({"metadata": {"name": "shop"}})).unwrap();
    assert_eq!(
        old["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "shop"
    );
    let held = marked(delete("ns", &old, &DeleteOptions::default()).unwrap());
    assert_eq!(held["status"]["phase"], "Terminating");
    assert!(!may_go(row, &held));
    let mut emptied = held.clone();
    emptied["spec"]["finalizers"] = json!([]);
    assert!(may_go(
        row,
        &prepare_update(row, &held, emptied, Part::Main).unwrap()
    ));
}

#[test]
fn preconditions_are_kept() {
    let want = |uid: Option<&str>, version: Option<&str>| DeleteOptions {
        preconditions: Some(Preconditions {
            uid: uid.map(str::to_owned),
            resource_version: version.map(str::to_owned),
        }),
        ..DeleteOptions::default()
    };
    let old = deployment();
    assert_eq!(
        delete("deploy", &old, &want(Some("u-1"), Some("7"))).unwrap(),
        Deletion::Remove
    );
    assert_eq!(
        delete("deploy", &old, &want(Some("u-2"), None))
            .unwrap_err()
            .code,
        409
    );
    assert_eq!(
        delete("deploy", &old, &want(None, Some("8")))
            .unwrap_err()
            .code,
        409
    );
    let body =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    assert_eq!(
        DeleteOptions::from_value(&body).unwrap().propagation(),
        Propagation::Foreground
    );
    assert_eq!(
        DeleteOptions::from_value(&json!({"orphanDependents": true}))
            .unwrap()
            .propagation(),
        Propagation::Orphan
    );
    assert_eq!(
        DeleteOptions::from_value(&json!({"propagationPolicy": "X"}))
            .unwrap_err()
            .code,
        400
    );
}

proptest! {
    #[test]
    fn any_object_is_answered(index in 0..RESOURCES.len(), value in crate::any_json(), old in crate::any_json()) {
        let row = &RESOURCES[index];
        let context = CreateContext { now: now(), uid: "u", name_suffix: "abcde", namespace: "n" };
        let _ = row.read(value.clone(), FieldValidation::Warn, Vec::new());
        let _ = prepare_create(row, value.clone(), &context);
        let _ = prepare_update(row, &old, value, Part::Main);
        let _ = prepare_delete(row, &old, &DeleteOptions::default(), now());
    }
}

#[test]
fn namespaces_that_every_cluster_has_stay() {
    let namespace =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}});
    for name in ["default", "kube-system", "kube-public"] {
        let refused = delete("namespace", &namespace(name), &DeleteOptions::default());
        let refused = refused.unwrap_err();
        assert_eq!(refused.code, 403);
        let message =
            format!("namespaces {name:?} is forbidden: this namespace may not be deleted");
        assert_eq!(refused.message, message);
    }
    let shop = delete("namespace", &namespace("shop"), &DeleteOptions::default());
    assert!(matches!(shop, Ok(Deletion::Mark(_))));
}
