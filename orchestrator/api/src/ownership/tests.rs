//! Managers beside each other, as the documentation of server-side apply tells their stories.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Status, lookup_name};

fn writer<'a>(manager: &'a str) -> Writer<'a> {
    Writer {
        manager,
        subresource: "",
        now: "2026-01-02T03:04:05Z".parse().unwrap(),
    }
}

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn by(live: Option<&Value>, manager: &str, spec: Value) -> Result<Value, Status> {
    let row = lookup_name("deployment").unwrap();
    apply(row, live, &deployment(spec), writer(manager), false).map(|applied| applied.value)
}

fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
    Managers::read(&object["metadata"]["managedFields"])
        .entries
        .iter()
        .map(|entry| (entry.manager.clone(), entry.fields.paths()))
        .collect()
}

fn updated(live: &Value, manager: &str, change: impl Fn(&mut Value)) -> Value {
    let row = lookup_name("deployment").unwrap();
    let mut new = live.clone();
    change(&mut new);
    track(row, Some(live), &mut new, &Value::Null, writer(manager));
    new
}

#[test]
fn an_applier_owns_what_it_sends_and_gives_up_what_it_leaves_out() {
    let spec = json!({"replicas": 2, "paused": true, "template": {"spec": {"containers": [{"name": "a", "image": "i:1"}]}}});
    let made = by(None, "ci", spec).unwrap();
    let expect = [
        ".spec.paused",
        ".spec.replicas",
        r#".spec.template.spec.containers[name="a"].image"#,
        r#".spec.template.spec.containers[name="a"].name"#,
        r#".spec.template.spec.containers[name="a"]"#,
    ];
    assert_eq!(
        owners(&made),
        [("ci".to_owned(), expect.map(str::to_owned).to_vec())]
    );
    let spec = json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "b", "image": "i:2"}]}}});
    let again = by(Some(&made), "ci", spec).unwrap();
    assert_eq!(
        again["spec"],
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "b", "image": "i:2"}]}}})
    );
}

#[test]
fn two_appliers_share_an_object() {
    let made = by(
        None,
        "ci",
        json!({"template": {"spec": {"containers": [{"name": "a", "image": "i:1"}]}}}),
    )
    .unwrap();
    let sidecar = json!({"template": {"spec": {"containers": [
        {"name": "a", "env": [{"name": "X", "value": "1"}]}, {"name": "proxy", "image": "p:1"}]}}});
    let both = by(Some(&made), "mesh", sidecar).unwrap();
    assert_eq!(
        both["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "i:1", "env": [{"name": "X", "value": "1"}]}, {"name": "proxy", "image": "p:1"}])
    );
    // One goes: its own fields go, what it shares stays.
    let rest = by(Some(&both), "mesh", json!({"replicas": 3})).unwrap();
    assert_eq!(
        rest["spec"],
        json!({"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "image": "i:1"}]}}})
    );
}

#[test]
fn a_field_with_another_owner_and_another_value_is_a_conflict() {
    let made = by(None, "ci", json!({"replicas": 2})).unwrap();
    let same = by(Some(&made), "ops", json!({"replicas": 2})).unwrap();
    assert_eq!(owners(&same).len(), 2);
    let status = by(Some(&made), "ops", json!({"replicas": 3})).unwrap_err();
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"ci\": .spec.replicas"
        )
    );
    let causes = &status.details.unwrap().causes;
    assert_eq!(
        (causes[0].reason.as_str(), causes[0].field.as_str()),
        ("FieldManagerConflict", ".spec.replicas")
    );
    let row = lookup_name("deployment").unwrap();
    let forced = apply(
        row,
        Some(&made),
        &deployment(json!({"replicas": 3})),
        writer("ops"),
        true,
    )
    .unwrap();
    assert_eq!(forced.value["spec"]["replicas"], 3);
    assert_eq!(
        owners(&forced.value),
        [("ops".to_owned(), vec![".spec.replicas".to_owned()])]
    );
}

#[test]
fn other_writers_take_what_they_change() {
    let made = by(None, "ci", json!({"replicas": 2, "paused": true})).unwrap();
    let scaled = updated(&made, "kubectl", |value| {
        value["spec"]["replicas"] = json!(5)
    });
    assert_eq!(
        owners(&scaled),
        [
            ("ci".to_owned(), vec![".spec.paused".to_owned()]),
            ("kubectl".to_owned(), vec![".spec.replicas".to_owned()])
        ]
    );
    let status = by(Some(&scaled), "ci", json!({"replicas": 2, "paused": true})).unwrap_err();
    let expect = "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1 at 2026-01-02T03:04:05Z: .spec.replicas";
    assert_eq!(status.message, expect);
    // Nothing changed, nothing noted.
    assert_eq!(updated(&scaled, "other", |_| {}), scaled);
}

#[test]
fn a_new_objects_status_is_nobodys() {
    let row = lookup_name("deployment").unwrap();
    let mut made = deployment(json!({"replicas": 1}));
    made["status"] = json!({"replicas": 0});
    track(row, None, &mut made, &Value::Null, writer("ci"));
    let expect = [".spec.replicas", ".spec"].map(str::to_owned).to_vec();
    assert_eq!(owners(&made), [("ci".to_owned(), expect)]);
}

#[test]
fn fields_from_before_belong_to_somebody() {
    let live = deployment(json!({"replicas": 2}));
    let status = by(Some(&live), "ci", json!({"replicas": 3})).unwrap_err();
    assert!(
        status.message.contains("before-first-apply"),
        "{}",
        status.message
    );
}

#[test]
fn managed_fields_can_be_replaced_and_forgotten() {
    let row = lookup_name("deployment").unwrap();
    let made = by(None, "ci", json!({"replicas": 2})).unwrap();
    let mut new = made.clone();
    track(row, Some(&made), &mut new, &json!([{}]), writer("x"));
    assert!(new["metadata"]["managedFields"].is_null());
}

#[test]
fn labels_and_ports_have_owners_one_by_one() {
    let row = lookup_name("service").unwrap();
    let service = |labels: Value, ports: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s", "labels": labels}, "spec": {"ports": ports}})
    };
    let made = apply(
        row,
        None,
        &service(json!({"a": "1"}), json!([{"port": 80, "protocol": "TCP"}])),
        writer("one"),
        false,
    );
    let made = made.unwrap().value;
    let more = service(
        json!({"b": "2"}),
        json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]),
    );
    let both = apply(row, Some(&made), &more, writer("two"), false)
        .unwrap()
        .value;
    assert_eq!(both["metadata"]["labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 3);
    let less = service(json!({}), json!([{"port": 53, "protocol": "UDP"}]));
    let less = apply(row, Some(&both), &less, writer("two"), false)
        .unwrap()
        .value;
    assert_eq!(less["metadata"]["labels"], json!({"a": "1"}));
    assert_eq!(less["spec"]["ports"].as_array().unwrap().len(), 2);
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in crate::any_json(), config in crate::any_json()) {
        let row = lookup_name("pod").unwrap();
        if live.is_object() && config.is_object() {
            let Ok(once) = apply(row, Some(&live), &config, writer("w"), true) else { return Ok(()) };
            let twice = apply(row, Some(&once.value), &config, writer("w"), true).unwrap();
            prop_assert_eq!(once.value, twice.value);
        }
    }

    #[test]
    fn field_sets_survive_their_text(value in crate::any_json()) {
        let set = super::shape::fields_of(Shape::Free, &value);
        prop_assert_eq!(FieldSet::read(&set.to_value()), set.clone());
        prop_assert_eq!(set.union(&set), set.clone());
        prop_assert!(set.difference(&set).is_empty());
    }
}
