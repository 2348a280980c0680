//! The schemas of every kind and of what they are made of, by their OpenAPI names, with the extensions that clients
//! read: merge keys, int-or-string, group-version-kind.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Status};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::patch::{ListRule, list_rule};
use crate::{RESOURCES, Resource, VIEWS, component, custom};

/// Where references point, as OpenAPI v3 has it.
pub(crate) const PREFIX: &str = "#/components/schemas/";

struct Schemas {
    /// By OpenAPI name.
    definitions: BTreeMap<String, Value>,
    /// OpenAPI name of each row's kind, in the registry's order.
    kinds: Vec<String>,
}

static SCHEMAS: LazyLock<Schemas> = LazyLock::new(generate);

/// Every schema by its OpenAPI name; references point to [`PREFIX`].
pub(crate) fn definitions() -> &'static BTreeMap<String, Value> {
    &SCHEMAS.definitions
}

fn own_rows() -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().chain(VIEWS).chain([&component::ROW])
}

/// The schemas of kinds that definitions add, and of their lists, by OpenAPI name.
pub(crate) fn of_custom(rows: impl Iterator<Item = &'static Resource>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for row in rows {
        let Some(custom) = row.custom() else { continue };
        let name = custom.definition.clone();
        all.insert(list_of(&name), list_schema(row, &name));
        all.insert(name.clone(), custom::open_api(row, custom));
        let list_kind = row.list_kind();
        name_kind(
            &mut all,
            &list_of(&name),
            (row.group, row.version, &list_kind),
        );
    }
    all
}

/// OpenAPI name of the kind's type.
pub(crate) fn definition_of(resource: &Resource) -> Option<&'static str> {
    if let Some(custom) = resource.custom() {
        return Some(&custom.definition);
    }
    let index = own_rows().position(|row| std::ptr::eq(row, resource))?;
    SCHEMAS.kinds.get(index).map(String::as_str)
}

/// OpenAPI name of the type of a field, or of its items if it is a list. `None` for plain values and maps of them.
pub(crate) fn field_type(definition: &str, field: &str) -> Option<&'static str> {
    let schema = SCHEMAS.definitions.get(definition)?;
    let property = &schema["properties"][field];
    reference(property).or_else(|| reference(&property["items"]))
}

/// The name that a schema refers to, directly or as `allOf` with one member.
pub(crate) fn reference(schema: &Value) -> Option<&str> {
    let direct = schema["$ref"]
        .as_str()
        .or_else(|| schema["allOf"][0]["$ref"].as_str())?;
    direct.strip_prefix(PREFIX)
}

/// OpenAPI name of a Scale.
pub(crate) const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
/// OpenAPI name of a Status.
pub(crate) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// OpenAPI name of DeleteOptions.
pub(crate) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// OpenAPI name of the lists of a type.
pub(crate) fn list_of(definition: &str) -> String {
    format!("{definition}List")
}

fn generate() -> Schemas {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    let roots: Vec<Value> = own_rows()
        .map(|row| (row.schema)(&mut generator).to_value())
        .collect();
    let kinds: Vec<String> = roots
        .iter()
        .map(|root| reference(root).unwrap_or_default().to_owned())
        .collect();
    generator.subschema_for::<Scale>();
    generator.subschema_for::<Status>();
    generator.subschema_for::<DeleteOptions>();
    generator.subschema_for::<ListMeta>();
    let mut definitions = BTreeMap::new();
    for (name, mut schema) in generator.take_definitions(true) {
        plain(&mut schema);
        annotate(&name, &mut schema);
        definitions.insert(name, schema);
    }
    for (row, name) in own_rows().zip(&kinds) {
        definitions.insert(list_of(name), list_schema(row, name));
        name_kind(&mut definitions, name, (row.group, row.version, row.kind));
        name_kind(
            &mut definitions,
            &list_of(name),
            (row.group, row.version, &row.list_kind()),
        );
    }
    name_kind(&mut definitions, SCALE, ("autoscaling", "v1", "Scale"));
    Schemas { definitions, kinds }
}

fn name_kind(
    definitions: &mut BTreeMap<String, Value>,
    name: &str,
    (group, version, kind): (&str, &str, &str),
) {
    if let Some(schema) = definitions.get_mut(name) {
        schema["x-kubernetes-group-version-kind"] =
            json!([{ "group": group, "version": version, "kind": kind }]);
    }
}

fn list_schema(row: &Resource, name: &str) -> Value {
    json!({
        "description": format!("A list of {}.", row.plural),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": { "description": "Always the group and version of the items.", "type": "string" },
            "kind": { "description": format!("Always {}.", row.list_kind()), "type": "string" },
            "metadata": {
                "description": "The revision that the list shows, and where its next part starts.",
                "allOf": [{ "$ref": format!("{PREFIX}{LIST_META}") }],
            },
            "items": {
                "description": format!("The {}.", row.plural),
                "type": "array",
                "items": { "$ref": format!("{PREFIX}{name}") },
            },
        },
    })
}

/// From JSON schema as the generator writes it to what OpenAPI v3 and Kubernetes clients read: no titles, no lists of
/// types, references beside descriptions wrapped in `allOf`.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Object(map) => {
            for word in ["$schema", "title"] {
                if map.get(word).is_some_and(Value::is_string) {
                    map.remove(word);
                }
            }
            one_type(map);
            if map.len() > 1
                && let Some(target) = map.remove("$ref")
            {
                map.insert("allOf".into(), json!([{ "$ref": target }]));
            }
            map.values_mut().for_each(plain);
        }
        _ => {}
    }
}

/// `["string", "null"]` is `string`; optional fields are those that aren't required.
fn one_type(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get("type")
        && let Some(first) = types.iter().find(|one| *one != "null").cloned()
    {
        map.insert("type".into(), first);
    }
    if let Some(Value::Array(choices)) = map.get_mut("anyOf") {
        choices.retain(|one| one["type"] != "null");
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            map.remove("anyOf");
            map.extend(only);
        }
    }
    map.remove("nullable");
}

fn annotate(name: &str, schema: &mut Value) {
    if name == INT_OR_STRING || name == QUANTITY {
        either(name, schema);
    }
    let Some(map) = schema.as_object_mut() else {
        return;
    };
    // Any JSON, not only objects.
    if name.ends_with("apiextensions.v1.JSON") {
        map.remove("type");
    }
    // A body without metadata is refused with the name that is missing, not with this.
    if let Some(Value::Array(required)) = map.get_mut("required") {
        required.retain(|field| field != "metadata");
        if required.is_empty() {
            map.remove("required");
        }
    }
    let Some(Value::Object(properties)) = map.get_mut("properties") else {
        return;
    };
    for (field, property) in properties {
        if let Some(property) = property
            .as_object_mut()
            .filter(|_| name.starts_with("dev.waggle."))
        {
            property.remove("default");
            property.remove("minimum");
        }
        if let Some(rule) = list_rule(name, field) {
            annotate_list(rule, property);
        }
    }
}

fn annotate_list(rule: ListRule, property: &mut Value) {
    property["x-kubernetes-patch-strategy"] = rule.strategy().into();
    match rule {
        ListRule::Keyed { key, second, .. } => {
            property["x-kubernetes-patch-merge-key"] = key.into();
            property["x-kubernetes-list-type"] = "map".into();
            let keys: Vec<&str> = std::iter::once(key)
                .chain(second.map(|(field, _)| field))
                .collect();
            property["x-kubernetes-list-map-keys"] = json!(keys);
        }
        ListRule::Set => property["x-kubernetes-list-type"] = "set".into(),
        ListRule::Retain => {}
    }
}

/// OpenAPI name of texts that may be written as whole numbers.
pub(crate) const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
/// OpenAPI name of amounts.
pub(crate) const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

fn either(name: &str, schema: &mut Value) {
    let number = if name == QUANTITY {
        "number"
    } else {
        "integer"
    };
    if let Some(map) = schema.as_object_mut() {
        map.remove("x-kubernetes-int-or-string");
        map.insert(
            "oneOf".into(),
            json!([{ "type": "string" }, { "type": number }]),
        );
        if name == INT_OR_STRING {
            map.insert("format".into(), "int-or-string".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::keys;

    #[test]
    fn every_kind_has_a_schema_and_every_reference_a_target() {
        for row in RESOURCES {
            let name = definition_of(row).unwrap();
            let schema = &definitions()[name];
            assert_eq!(
                schema["x-kubernetes-group-version-kind"][0]["kind"], row.kind,
                "{name}"
            );
            assert!(schema["properties"]["metadata"].is_object(), "{name}");
        }
        let text = serde_json::to_string(definitions()).unwrap();
        for part in text.split(PREFIX).skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(definitions().contains_key(target), "{target}");
        }
        assert!(
            !text.contains("\"title\":\"") && !text.contains(":null"),
            "left over from the generator"
        );
    }

    #[test]
    fn every_merge_rule_is_about_a_field_that_exists() {
        for (definition, field) in keys::fields() {
            let property = &definitions()[definition]["properties"][field];
            assert!(property.is_object(), "{definition}.{field}");
            let rule = list_rule(definition, field).unwrap();
            assert_eq!(
                property["x-kubernetes-patch-strategy"],
                rule.strategy(),
                "{definition}.{field}"
            );
            if let ListRule::Keyed { key, .. } = rule {
                let items = field_type(definition, field).unwrap();
                assert!(
                    definitions()[items]["properties"][key].is_object(),
                    "{items}.{key}"
                );
            }
        }
    }

    #[test]
    fn fields_lead_to_their_types() {
        for (definition, field, expect) in [
            (
                "io.k8s.api.apps.v1.DeploymentSpec",
                "template",
                Some("io.k8s.api.core.v1.PodTemplateSpec"),
            ),
            (
                "io.k8s.api.core.v1.PodSpec",
                "containers",
                Some("io.k8s.api.core.v1.Container"),
            ),
            ("io.k8s.api.core.v1.PodSpec", "hostname", None),
            ("io.k8s.api.core.v1.PodSpec", "nothing", None),
        ] {
            assert_eq!(field_type(definition, field), expect);
        }
    }
}
