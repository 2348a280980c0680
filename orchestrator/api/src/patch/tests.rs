//! Patches of all three sorts on real objects, and on garbage.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MEDIA_TYPES, Patch};
use crate::{RESOURCES, Resource, lookup_name};

fn deployment() -> Value {
    json!({
        "metadata": {"name": "d", "labels": {"a": "1"}, "finalizers": ["x/a", "x/b"]},
        "spec": {
            "replicas": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {
                "containers": [
                    {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
                        "ports": [{"containerPort": 53, "protocol": "TCP"}], "args": ["one", "two"]},
                    {"name": "b", "image": "b:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
                ],
                "tolerations": [{"key": "t"}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            }},
        },
    })
}

fn strategic(old: &Value, patch: Value) -> Result<Value, String> {
    let patch = Patch::parse(MEDIA_TYPES[2], patch.to_string().as_bytes()).unwrap();
    patch
        .apply(lookup_name("deploy").unwrap(), old)
        .map_err(|status| status.message)
}

/// Applies a strategic patch to the deployment and looks at one place of the result.
fn check(patch: Value, pointer: &str, expect: &Value) {
    let new = strategic(&deployment(), patch.clone()).unwrap();
    assert_eq!(
        new.pointer(pointer).unwrap_or(&Value::Null),
        expect,
        "{patch}"
    );
}

/// A patch of the pod template's spec.
fn template(patch: Value) -> Value {
    json!({"spec": {"template": {"spec": patch}}})
}

const SPEC: &str = "/spec/template/spec";

fn names(list: &str, patch: Value) -> Vec<String> {
    let new = strategic(&deployment(), template(patch)).unwrap();
    let list = new
        .pointer(&format!("{SPEC}/{list}"))
        .unwrap()
        .as_array()
        .unwrap();
    list.iter()
        .map(|one| one["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn lists_merge_by_their_keys() {
    let containers = |patch: Value| template(json!({"containers": patch}));
    check(
        containers(json!([{"name": "b", "image": "b:2"}])),
        "/spec/template/spec/containers/1/image",
        &json!("b:2"),
    );
    check(
        containers(json!([{"name": "b", "image": "b:2"}])),
        "/spec/template/spec/containers/0/image",
        &json!("a:1"),
    );
    check(
        containers(
            json!([{"name": "a", "env": [{"name": "Y", "value": null}, {"name": "Z", "value": "3"}]}]),
        ),
        "/spec/template/spec/containers/0/env",
        &json!([{"name": "X", "value": "1"}, {"name": "Y"}, {"name": "Z", "value": "3"}]),
    );
    check(
        containers(json!([{"name": "a", "args": ["new"]}])),
        "/spec/template/spec/containers/0/args",
        &json!(["new"]),
    );
    check(
        template(json!({"tolerations": [{"key": "u"}]})),
        "/spec/template/spec/tolerations",
        &json!([{"key": "u"}]),
    );
    check(
        json!({"metadata": {"finalizers": ["x/c"]}}),
        "/metadata/finalizers",
        &json!(["x/a", "x/b", "x/c"]),
    );
    check(
        json!({"metadata": {"labels": {"a": null, "b": "2"}}}),
        "/metadata/labels",
        &json!({"b": "2"}),
    );
    assert_eq!(
        names(
            "containers",
            json!({"containers": [{"name": "c", "image": "c"}]})
        ),
        ["a", "b", "c"]
    );
    assert!(
        strategic(&deployment(), containers(json!([{"image": "x"}])))
            .unwrap_err()
            .contains("merge key \"name\"")
    );
}

#[test]
fn directives_delete_replace_order_and_retain() {
    assert_eq!(
        names(
            "containers",
            json!({"containers": [{"name": "a", "$patch": "delete"}]})
        ),
        ["b"]
    );
    assert_eq!(
        names(
            "containers",
            json!({"containers": [{"$patch": "replace"}, {"name": "z"}]})
        ),
        ["z"]
    );
    let order = json!([{"name": "b"}, {"name": "c"}, {"name": "a"}]);
    let added = json!({"$setElementOrder/containers": order, "containers": [{"name": "c"}]});
    assert_eq!(names("containers", added), ["b", "c", "a"]);
    assert_eq!(
        names(
            "containers",
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]})
        ),
        ["b", "a"]
    );
    check(
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"]}}),
        "/metadata/finalizers",
        &json!(["x/b"]),
    );
    check(
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        "/spec/strategy",
        &json!({"type": "Recreate"}),
    );
    check(
        template(
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "configMap"], "configMap": {"name": "c"}}]}),
        ),
        "/spec/template/spec/volumes/0",
        &json!({"name": "v", "configMap": {"name": "c"}}),
    );
    check(
        json!({"metadata": {"labels": {"$patch": "replace", "n": "1"}}}),
        "/metadata/labels",
        &json!({"n": "1"}),
    );
    check(
        json!({"metadata": {"labels": {"$patch": "delete"}}}),
        "/metadata/labels",
        &json!({}),
    );
    let unknown = strategic(&deployment(), json!({"spec": {"$patch": "mangle"}})).unwrap_err();
    assert!(unknown.contains("mangle"), "{unknown}");
}

#[test]
fn one_port_number_may_serve_two_protocols() {
    let ports = |patch: Value| {
        let new = strategic(&deployment(), template(json!({"containers": [patch]}))).unwrap();
        new.pointer("/spec/template/spec/containers/0/ports")
            .unwrap()
            .clone()
    };
    let both =
        json!([{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]);
    let udp = json!({"containerPort": 53, "protocol": "UDP"});
    let order = json!([{"containerPort": 53}, {"containerPort": 53}]);
    assert_eq!(
        ports(json!({"name": "a", "ports": [udp], "$setElementOrder/ports": order})),
        both
    );
    let order = json!([{"containerPort": 53}]);
    assert_eq!(
        ports(json!({"name": "a", "ports": [udp], "$setElementOrder/ports": order})),
        json!([udp])
    );
    assert_eq!(
        ports(json!({"name": "a", "ports": [{"containerPort": 53, "$patch": "delete"}]})),
        json!([])
    );
}

#[test]
fn items_that_the_order_does_not_name_keep_their_place() {
    let mut old = deployment();
    old["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "a"}, {"name": "injected"}, {"name": "b"}]);
    let patch = template(
        json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "containers": [{"name": "c"}]}),
    );
    let new = strategic(&old, patch).unwrap();
    let list = new["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap();
    let names: Vec<_> = list
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["a", "injected", "b", "c"]);
}

#[test]
fn merge_and_json_patches_do_what_their_rfcs_say() {
    let row = lookup_name("deploy").unwrap();
    let merge = Patch::parse(
        MEDIA_TYPES[1],
        br#"{"spec": {"replicas": 5, "strategy": null}}"#,
    )
    .unwrap();
    let new = merge.apply(row, &deployment()).unwrap();
    assert_eq!(
        (&new["spec"]["replicas"], &new["spec"]["strategy"]),
        (&json!(5), &Value::Null)
    );
    let operations = br#"[{"op": "test", "path": "/spec/replicas", "value": 3}, {"op": "add", "path": "/metadata/labels/b", "value": "2"}]"#;
    let new = Patch::parse("application/json-patch+json; charset=utf-8", operations)
        .unwrap()
        .apply(row, &deployment());
    assert_eq!(
        new.unwrap()["metadata"]["labels"],
        json!({"a": "1", "b": "2"})
    );
    let failing = Patch::parse(
        MEDIA_TYPES[0],
        br#"[{"op": "remove", "path": "/spec/nothing"}]"#,
    )
    .unwrap();
    let error = failing.apply(row, &deployment()).unwrap_err();
    assert_eq!(error.code, 422);
    assert!(
        error.message.contains("/spec/nothing") || error.message.contains("path"),
        "{}",
        error.message
    );
}

#[test]
fn a_test_for_null_finds_what_is_not_there() {
    let row = lookup_name("deploy").unwrap();
    let first = br#"[{"op": "test", "path": "/metadata/finalizers", "value": null},
                     {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/a"]}]"#;
    let first = Patch::parse(MEDIA_TYPES[0], first).unwrap();
    let mut old = deployment();
    old["metadata"] = json!({"name": "web"});
    let new = first.apply(row, &old).unwrap();
    assert_eq!(new["metadata"]["finalizers"], json!(["example.com/a"]));
    let error = first.apply(row, &new).unwrap_err();
    assert_eq!(error.code, 422);
    assert!(error.message.contains("'/0'"), "{}", error.message);
}

#[test]
fn what_is_no_patch_is_refused() {
    assert_eq!(Patch::parse("text/plain", b"{}").unwrap_err().code, 415);
    for (media_type, body) in [
        (MEDIA_TYPES[0], "{}"),
        (MEDIA_TYPES[1], "[]"),
        (MEDIA_TYPES[2], "3"),
        (MEDIA_TYPES[1], "{"),
    ] {
        assert_eq!(
            Patch::parse(media_type, body.as_bytes()).unwrap_err().code,
            400,
            "{media_type} {body}"
        );
    }
}

fn any_row() -> impl Strategy<Value = &'static Resource> {
    (0..RESOURCES.len()).prop_map(|index| &RESOURCES[index])
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(row in any_row(), old in crate::any_json()) {
        prop_assume!(old.is_object());
        for media_type in &MEDIA_TYPES[1..] {
            prop_assert_eq!(&Patch::parse(media_type, b"{}").unwrap().apply(row, &old).unwrap(), &old);
        }
        prop_assert_eq!(&Patch::parse(MEDIA_TYPES[0], b"[]").unwrap().apply(row, &old).unwrap(), &old);
    }

    #[test]
    fn a_patch_applied_twice_is_the_patch_applied_once(row in any_row(), old in crate::any_json(), patch in crate::any_json()) {
        prop_assume!(patch.is_object());
        let patch = Patch::parse(MEDIA_TYPES[2], patch.to_string().as_bytes()).unwrap();
        if let Ok(once) = patch.apply(row, &old) {
            prop_assert_eq!(patch.apply(row, &once).unwrap(), once);
        }
    }
}
