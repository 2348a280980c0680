use super::*;
use crate::{CreateContext, FaultKind, FieldValidation, Part, prepare_create, prepare_update};
use proptest::prelude::*;

fn definition() -> Value {
    serde_json::from_str(include_str!("widget.json")).unwrap()
}

fn kinds() -> Kinds {
    let mut kinds = Kinds::default();
    assert!(kinds.define(&definition()));
    assert!(!kinds.define(&definition()));
    kinds
}

fn row(version: &str) -> &'static Resource {
    kinds().find("example.com", version, "widgets").unwrap()
}

const CONTEXT: CreateContext<'_> = CreateContext {
    now: jiff::Timestamp::UNIX_EPOCH,
    uid: "u",
    name_suffix: "abcde",
    namespace: "shop",
};

fn create(version: &str, spec: Value) -> Result<Value, crate::Status> {
    let value = json!({"metadata": {"name": "a"}, "spec": spec});
    let read = row(version).read(value, FieldValidation::Strict, Vec::new())?;
    prepare_create(row(version), read.value, &CONTEXT)
}

fn check(spec: Value, expect: &[(&str, &str)]) {
    let causes = create("v1", spec).unwrap_err().details.unwrap().causes;
    let seen: Vec<_> = causes
        .iter()
        .map(|one| (one.field.as_str(), one.reason.as_str()))
        .collect();
    assert_eq!(seen, expect, "{causes:?}");
}

#[test]
fn definitions_are_what_validation_takes() {
    let row = crate::lookup_name("crd").unwrap();
    let faults = (row.validate)(&definition(), None);
    assert_eq!(faults, []);
    let mut bad = definition();
    let schema = &mut bad["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]["color"]["default"] = json!("blue");
    schema["properties"]["spec"]["properties"]["name"]["pattern"] = json!("(");
    schema["properties"]["spec"]["properties"]["parts"]["x-kubernetes-list-map-keys"] =
        json!(["no"]);
    schema["properties"]["spec"]["properties"]["x"] = json!({});
    bad["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = json!("size");
    let faults = (row.validate)(&bad, None);
    assert_eq!(faults.len(), 5, "{faults:?}");
}

#[test]
fn every_fault_is_a_cause() {
    check(
        json!({"size": 10, "color": "blue", "name": "TOOLONG"}),
        &[
            ("spec.color", "FieldValueNotSupported"),
            ("spec.name", "FieldValueTooLong"),
            ("spec.name", "FieldValueInvalid"),
            ("spec.size", "FieldValueInvalid"),
        ],
    );
    check(json!({}), &[("spec.size", "FieldValueRequired")]);
    check(
        json!({"size": "three", "when": "noon"}),
        &[
            ("spec.size", "FieldValueTypeInvalid"),
            ("spec.when", "FieldValueInvalid"),
        ],
    );
    check(
        json!({"size": 1, "port": 1.5, "tags": ["a", "a", "b"]}),
        &[
            ("spec.port", "FieldValueTypeInvalid"),
            ("spec.tags", "FieldValueTooMany"),
            ("spec.tags[1]", "FieldValueDuplicate"),
        ],
    );
    check(
        json!({"size": 1, "parts": [{"id": "a"}, {"id": "a"}, {"count": 1}], "limits": {"x": "y"}}),
        &[
            ("spec.limits.x", "FieldValueTypeInvalid"),
            ("spec.parts[1]", "FieldValueDuplicate"),
            ("spec.parts[2].id", "FieldValueRequired"),
        ],
    );
    check(
        json!({"size": 1, "one": {"a": "1", "b": "2"}}),
        &[("spec.one", "FieldValueInvalid")],
    );
    let status = create("v1", json!({"size": "x"})).unwrap_err();
    let wording = "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"";
    assert!(status.message.contains(wording), "{}", status.message);
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let value = json!({"metadata": {"name": "a", "labells": {}},
        "spec": {"size": 1, "nothing": 1, "free": {"any": {"thing": 1}}, "parts": [{"id": "a", "x": 1}]}});
    let read = row("v1")
        .read(value, FieldValidation::Warn, Vec::new())
        .unwrap();
    assert_eq!(
        read.warnings,
        [
            "unknown field \"spec.nothing\"",
            "unknown field \"spec.parts[0].x\"",
            "unknown field \"metadata.labells\"",
        ]
    );
    let made = prepare_create(row("v1"), read.value, &CONTEXT).unwrap();
    assert_eq!(
        made["spec"],
        json!({"size": 1, "color": "green", "free": {"any": {"thing": 1}},
        "parts": [{"id": "a", "count": 1}]})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    assert!(create("v1", json!({"size": 1, "x": 1})).is_err());
}

#[test]
fn a_version_is_checked_by_its_own_schema_and_stored_as_another() {
    let made = create("v1beta1", json!({"size": 100, "old": true})).unwrap();
    assert_eq!(made["apiVersion"], "example.com/v1");
    assert_eq!(made["spec"]["size"], 100);
    let shown = row("v1beta1").show(&made).into_owned();
    assert_eq!(shown["apiVersion"], "example.com/v1beta1");
    // Through the stored version, what was wrong before and stays as it was is no fault of this change.
    let mut wanted = made.clone();
    wanted["spec"]["color"] = json!("red");
    let changed = prepare_update(row("v1"), &made, wanted.clone(), Part::Main).unwrap();
    assert_eq!(changed["metadata"]["generation"], 2);
    wanted["spec"]["size"] = json!(101);
    assert_eq!(
        prepare_update(row("v1"), &made, wanted, Part::Main)
            .unwrap_err()
            .code,
        422
    );
}

#[test]
fn status_and_scale_are_parts_of_their_own() {
    let made = create("v1", json!({"size": 3})).unwrap();
    let mut wanted = made.clone();
    wanted["status"] = json!({"ready": 2});
    wanted["spec"]["size"] = json!(5);
    let changed = prepare_update(row("v1"), &made, wanted.clone(), Part::Status).unwrap();
    assert_eq!(
        (&changed["spec"]["size"], &changed["status"]["ready"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(changed["metadata"]["generation"], 1);
    wanted["status"]["ready"] = json!("two");
    assert_eq!(
        prepare_update(row("v1"), &made, wanted, Part::Status)
            .unwrap_err()
            .code,
        422
    );
    let scale = crate::scale::get(row("v1"), &changed);
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["replicas"]),
        (&json!(3), &json!(2))
    );
    let scaled =
        crate::scale::apply(row("v1"), &changed, &json!({"spec": {"replicas": 7}})).unwrap();
    assert_eq!(scaled["spec"]["size"], 7);
}

#[test]
fn documents_know_the_kind() {
    let kinds = kinds();
    let groups = crate::discovery::groups(&kinds);
    let mine = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "example.com")
        .unwrap();
    assert_eq!(mine["preferredVersion"]["version"], "v1");
    assert_eq!(mine["versions"].as_array().unwrap().len(), 2);
    let document = kinds.openapi_v3("apis/example.com/v1").unwrap();
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["size"]["minimum"],
        1
    );
    assert!(
        document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"]
            .is_object()
    );
    assert!(kinds.openapi_v3_index()["paths"]["apis/example.com/v1beta1"].is_object());
    let older: Value = serde_json::from_slice(&kinds.openapi_v2_json()).unwrap();
    assert!(older["definitions"]["com.example.v1.Widget"]["properties"]["spec"].is_object());
    let table = crate::table::document(
        row("v1"),
        [&json!({"metadata": {"name": "a"}, "spec": {"size": 3}})],
        0,
        crate::table::IncludeObject::None,
        &crate::ListMeta::default(),
        true,
    );
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["cells"], json!(["a", 3, null]));
}

#[test]
fn what_is_not_established_is_not_served() {
    let mut kinds = Kinds::default();
    let mut new = definition();
    new["status"] = Value::Null;
    kinds.define(&new);
    assert!(kinds.find("example.com", "v1", "widgets").is_none());
    assert!(kinds.in_store("example.com", "widgets").is_some());
    let before = kinds.in_store("example.com", "widgets").unwrap();
    assert!(kinds.define(&definition()));
    assert!(std::ptr::eq(
        before,
        kinds.find("example.com", "v1", "widgets").unwrap()
    ));
    kinds.forget("widgets.example.com");
    assert!(kinds.in_store("example.com", "widgets").is_none());
}

#[test]
fn appliers_own_items_by_the_schemas_keys() {
    use crate::ownership::{Writer, apply};
    let writer = |manager| Writer {
        manager,
        subresource: "",
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let config = |id: &str, count: i64| {
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a"},
            "spec": {"parts": [{"id": id, "count": count}], "tags": [id]}})
    };
    let first = apply(row("v1"), None, &config("x", 1), writer("one"), false)
        .unwrap()
        .value;
    let both = apply(
        row("v1"),
        Some(&first),
        &config("y", 2),
        writer("two"),
        false,
    )
    .unwrap()
    .value;
    assert_eq!(both["spec"]["parts"].as_array().unwrap().len(), 2);
    assert_eq!(both["spec"]["tags"].as_array().unwrap().len(), 2);
    let refused = apply(
        row("v1"),
        Some(&both),
        &config("x", 5),
        writer("two"),
        false,
    )
    .unwrap_err();
    assert!(
        refused.message.contains(".spec.parts[id=\"x\"].count"),
        "{}",
        refused.message
    );
}

proptest! {
    #[test]
    fn any_object_is_answered(spec in crate::any_json()) {
        if let Err(status) = create("v1", spec) {
            prop_assert!(matches!(status.code, 400 | 422));
        }
    }

    #[test]
    fn any_schema_is_answered(schema in crate::any_json(), value in crate::any_json()) {
        let mut out = Vec::new();
        schema::faults(&schema, "schema", &mut out);
        let mut value = value;
        schema::prune(&schema, &mut value, "", true, &mut out);
        schema::fill_in(&schema, &mut value);
        check::faults(&schema, &value, None, "", &mut out);
        prop_assert!(out.iter().all(|fault| fault.kind != FaultKind::DuplicateField));
    }
}

#[test]
fn a_definition_that_is_again_what_it_was_gets_its_rows_again() {
    let mut other = definition();
    other["spec"]["names"]["shortNames"] = json!(["other"]);
    let first = rows(&definition()).unwrap();
    let second = rows(&other).unwrap();
    let third = rows(&definition()).unwrap();
    assert!(!std::ptr::eq(first[0], second[0]));
    assert!(
        first
            .iter()
            .zip(&third)
            .all(|(one, two)| std::ptr::eq(*one, *two))
    );
}
