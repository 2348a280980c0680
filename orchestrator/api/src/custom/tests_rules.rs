use serde_json::{Value, json};

use crate::walk::text;
use crate::{
    CreateContext, Fault, FieldValidation, Kinds, Part, Resource, Status, prepare_create,
    prepare_update,
};

const CONTEXT: CreateContext<'_> = CreateContext {
    now: jiff::Timestamp::UNIX_EPOCH,
    uid: "u",
    name_suffix: "abcde",
    namespace: "shop",
};

fn definition(schema: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gates.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gates", "singular": "gate", "kind": "Gate", "listKind": "GateList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
        "status": {"conditions": [{"type": "Established", "status": "True"}]}})
}

fn refused(schema: &Value) -> Vec<Fault> {
    let row = crate::lookup_name("crd").unwrap();
    (row.validate)(&definition(schema), None)
}

fn row(schema: &Value) -> &'static Resource {
    assert_eq!(refused(schema), [], "{schema}");
    let mut kinds = Kinds::default();
    kinds.define(&definition(schema));
    kinds.find("example.com", "v1", "gates").unwrap()
}

fn create(row: &'static Resource, spec: Value) -> Result<Value, Status> {
    let read = row.read(
        json!({"metadata": {"name": "a"}, "spec": spec}),
        FieldValidation::Strict,
        Vec::new(),
    )?;
    prepare_create(row, read.value, &CONTEXT)
}

fn update(row: &'static Resource, old: &Value, spec: Value) -> Result<Value, Status> {
    let mut new = old.clone();
    new["spec"] = spec;
    let read = row.read(new, FieldValidation::Strict, Vec::new())?;
    prepare_update(row, old, read.value, Part::Main)
}

/// Fields, reasons and messages of what is refused.
fn causes<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Vec<(String, String, String)> {
    let causes = outcome.unwrap_err().details.unwrap().causes;
    let one = |cause: crate::Cause| (cause.field, cause.reason, cause.message);
    causes.into_iter().map(one).collect()
}

#[test]
fn rules_are_asked_where_they_stand() {
    let row = row(&json!({"type": "object",
        "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')", "message": "names begin with a"}],
        "properties": {"spec": {"type": "object", "required": ["min"],
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "messageExpression": "'%d is over %d'.format([self.min, self.max])",
                 "fieldPath": ".max", "reason": "FieldValueForbidden"},
                {"rule": "self.ports.all(p, p.number != self.min)"}],
            "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "default": 5},
                "when": {"type": "string", "format": "date-time",
                    "x-kubernetes-validations": [{"rule": "self < timestamp('2020-01-01T00:00:00Z')", "message": "too late"}]},
                "limits": {"type": "object", "additionalProperties": {"type": "string",
                    "x-kubernetes-validations": [{"rule": "isQuantity(self)"}]}},
                "ports": {"type": "array", "default": [], "items": {"type": "object",
                    "x-kubernetes-validations": [{"rule": "self.name != ''", "reason": "FieldValueRequired", "message": "name it"}],
                    "properties": {"number": {"type": "integer"}, "name": {"type": "string"}}}}}}}}));
    create(
        row,
        json!({"min": 1, "max": 2, "limits": {"a": "1Gi"}, "ports": [{"number": 3, "name": "x"}]}),
    )
    .unwrap();
    create(row, json!({"min": 5})).unwrap();
    let spec = json!({"min": 7, "when": "2021-01-01T00:00:00Z", "limits": {"a": "1", "b": "x"},
        "ports": [{"number": 7, "name": "y"}, {"number": 8, "name": ""}, {"number": 9}]});
    let seen = causes(create(row, spec));
    let expect = [
        ("spec.max", "FieldValueForbidden", "Forbidden: 7 is over 5"),
        (
            "spec",
            "FieldValueInvalid",
            "Invalid value: \"object\": failed rule: self.ports.all(p, p.number != self.min)",
        ),
        (
            "spec.limits[b]",
            "FieldValueInvalid",
            "Invalid value: \"string\": failed rule: isQuantity(self)",
        ),
        (
            "spec.ports[1]",
            "FieldValueRequired",
            "Required value: name it",
        ),
        (
            "spec.ports[2]",
            "FieldValueInvalid",
            "Invalid value: \"object\": no such key: name evaluating rule: name it",
        ),
        (
            "spec.when",
            "FieldValueInvalid",
            "Invalid value: \"string\": too late",
        ),
    ];
    let seen: Vec<_> = seen
        .iter()
        .map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str()))
        .collect();
    assert_eq!(seen, expect);
    // What the schema refuses is told first.
    let seen = causes(create(row, json!({"max": "x"})));
    assert_eq!(seen.last().unwrap().0, "<nil>");
    assert!(
        seen.last()
            .unwrap()
            .2
            .contains("some validation rules were not checked"),
        "{seen:?}"
    );
    let named = json!({"metadata": {"name": "b"}, "spec": {"min": 1}});
    let seen = causes(prepare_create(row, named, &CONTEXT));
    assert_eq!(seen[0].2, "Invalid value: \"object\": names begin with a");
}

#[test]
fn transition_rules_compare_what_was() {
    let row = row(
        &json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {
            "class": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "class is immutable"}]},
            "once": {"type": "string", "x-kubernetes-validations": [
                {"rule": "oldSelf.hasValue() || self == 'first'", "optionalOldSelf": true, "message": "begins with first"}]},
            "labels": {"type": "object", "additionalProperties": {"type": "string",
                "x-kubernetes-validations": [{"rule": "self.size() >= oldSelf.size()", "message": "may not shrink"}]}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"],
                "items": {"type": "object", "required": ["id"],
                    "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n", "message": "may not fall"}],
                    "properties": {"id": {"type": "string"}, "n": {"type": "integer"}}}},
            "tags": {"type": "array", "items": {"type": "string"},
                "x-kubernetes-validations": [{"rule": "oldSelf.all(t, t in self)", "message": "none goes"}]}}}}}),
    );
    let spec =
        json!({"class": "a", "labels": {"x": "ab"}, "parts": [{"id": "p", "n": 2}], "tags": ["t"]});
    let old = create(row, spec).unwrap();
    let changed = json!({"class": "b", "labels": {"x": "a", "y": ""}, "parts": [{"id": "q", "n": 0}, {"id": "p", "n": 1}],
        "tags": []});
    let seen = causes(update(row, &old, changed));
    let paths: Vec<_> = seen.iter().map(|(path, ..)| path.as_str()).collect();
    assert_eq!(
        paths,
        ["spec.class", "spec.labels[x]", "spec.parts[1]", "spec.tags"],
        "{seen:?}"
    );
    let grown = json!({"class": "a", "labels": {"x": "abc"}, "parts": [{"id": "q", "n": 0}, {"id": "p", "n": 3}],
        "tags": ["u", "t"], "once": "first"});
    update(row, &old, grown).unwrap();
    let seen = causes(create(row, json!({"once": "second"})));
    assert_eq!(seen[0].0, "spec.once");
}

#[test]
fn what_is_as_it_was_is_not_asked_about_again() {
    let field = |rules: Value| {
        json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"a": {"type": "string", "x-kubernetes-validations": rules}, "b": {"type": "string"}}}}})
    };
    let before = row(&field(json!([])));
    let after = row(&field(json!([{"rule": "self != 'x'"}])));
    let old = create(before, json!({"a": "x"})).unwrap();
    update(after, &old, json!({"a": "x", "b": "new"})).unwrap();
    assert!(update(after, &old, json!({"a": "y"})).is_ok());
    assert!(create(after, json!({"a": "x"})).is_err());
}

#[test]
fn rules_that_can_not_be_asked_are_refused_with_their_definition() {
    let with = |rule: Value| {
        json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [{"rule": "true"}, rule],
        "properties": {"a": {"type": "integer"}, "any": {"x-kubernetes-preserve-unknown-fields": true}}}}})
    };
    for (rule, field, why) in [
        (json!({"rule": "self.a =="}), "rule", "compilation failed"),
        (json!({"rule": ""}), "rule", ""),
        (
            json!({"rule": "self.b == 1"}),
            "rule",
            "undefined field 'b'",
        ),
        (
            json!({"rule": "self.any == 1"}),
            "rule",
            "undefined field 'any'",
        ),
        (
            json!({"rule": "self.a.all(i, x, true)"}),
            "rule",
            "undeclared reference to 'all'",
        ),
        (
            json!({"rule": "self.a == 1", "messageExpression": "self.a"}),
            "messageExpression",
            "must evaluate to a string",
        ),
        (
            json!({"rule": "self.a == 1", "message": "a\nb"}),
            "message",
            "line breaks",
        ),
        (
            json!({"rule": "self.a == 1", "reason": "Odd"}),
            "reason",
            "",
        ),
        (
            json!({"rule": "self.a == 1", "fieldPath": ".nothing"}),
            "fieldPath",
            "valid field",
        ),
        (
            json!({"rule": "self.a == 1", "fieldPath": "a"}),
            "fieldPath",
            "path of fields",
        ),
        (
            json!({"rule": "self.a == 1", "optionalOldSelf": true}),
            "optionalOldSelf",
            "oldSelf is not used",
        ),
    ] {
        let faults = refused(&with(rule.clone()));
        let [fault] = faults.as_slice() else {
            panic!("{rule}: {faults:?}");
        };
        let path =
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].x-kubernetes-validations[1]";
        assert_eq!(fault.path, format!("{path}.{field}"));
        assert!(fault.detail.contains(why), "{rule}: {fault}");
    }
    let within = |list: &str| {
        json!({"type": "object", "properties": {"spec": {"type": "array",
        "x-kubernetes-list-type": list,
        "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}})
    };
    assert!(refused(&within("set"))[0].detail.contains("uncorrelatable"));
    let nested =
        json!({"type": "object", "anyOf": [{"x-kubernetes-validations": [{"rule": "true"}]}]});
    assert_eq!(
        text(&json!(refused(&nested)[0].path), &[]),
        "spec.versions[0].schema.openAPIV3Schema.anyOf[0].x-kubernetes-validations"
    );
}

#[test]
fn a_rule_that_takes_too_long_ends_the_validation() {
    let row = row(
        &json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.l.all(a, self.l.all(b, self.l.all(c, a + b + c != 'x')))"},
            {"rule": "self.l.size() == 0"}],
        "properties": {"l": {"type": "array", "items": {"type": "string"}}}}}}),
    );
    let items: Vec<_> = (0..400).map(|one| one.to_string()).collect();
    let seen = causes(create(row, json!({"l": items})));
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].2.contains("cost budget"), "{seen:?}");
}

#[test]
fn null_before_is_nothing_before() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "x": {"type": "object", "nullable": true, "properties": {"n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n >= oldSelf.n"}]}}}}});
    let row = row(&schema);
    let old = create(row, json!({"x": null})).unwrap();
    let one = update(row, &old, json!({"x": {"n": 1}})).unwrap();
    assert_eq!(causes(update(row, &one, json!({"x": {"n": 0}}))).len(), 1);
}

#[test]
fn rules_have_no_place_in_alternatives() {
    let hidden = json!({"allOf": [{"x-kubernetes-validations": [{"rule": "true"}]}]});
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "anyOf": [hidden]}}});
    let found = refused(&schema);
    let place = "properties[spec].anyOf[0].allOf[0].x-kubernetes-validations";
    assert!(
        found.iter().any(|one| one.path.ends_with(place)),
        "{found:?}"
    );
}
