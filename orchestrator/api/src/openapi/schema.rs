//! The schemas of every kind and of what they are made of, by their OpenAPI names, with the extensions that clients
//! read: merge keys, int-or-string, group-version-kind.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::patch::{ListRule, list_rule};
use crate::{RESOURCES, Resource};

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

/// OpenAPI name of the kind's type.
pub(crate) fn definition_of(resource: &Resource) -> Option<&'static str> {
    let index = RESOURCES
        .iter()
        .position(|row| std::ptr::eq(row, resource))?;
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

fn generate() -> Schemas {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.transforms.clear();
    });
    let mut generator = settings.into_generator();
    let roots: Vec<Value> = RESOURCES
        .iter()
        .map(|row| (row.schema)(&mut generator).to_value())
        .collect();
    let kinds = roots
        .iter()
        .map(|root| reference(root).unwrap_or_default().to_owned())
        .collect();
    let mut definitions: BTreeMap<String, Value> = generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, schema)| {
            let mut schema = schema;
            plain(&mut schema);
            annotate(&name, &mut schema);
            (name, schema)
        })
        .collect();
    let schemas: &Vec<String> = &kinds;
    for (row, name) in RESOURCES.iter().zip(schemas) {
        if let Some(schema) = definitions.get_mut(name) {
            let kind = json!([{ "group": row.group, "version": row.version, "kind": row.kind }]);
            schema["x-kubernetes-group-version-kind"] = kind;
        }
    }
    Schemas { definitions, kinds }
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
    let Some(properties) = schema["properties"].as_object_mut() else {
        return;
    };
    for (field, property) in properties {
        let Some(rule) = list_rule(name, field) else {
            continue;
        };
        property["x-kubernetes-patch-strategy"] = rule.strategy().into();
        if let ListRule::Keyed { key, second, .. } = rule {
            property["x-kubernetes-patch-merge-key"] = key.into();
            property["x-kubernetes-list-type"] = "map".into();
            let keys: Vec<&str> = std::iter::once(key)
                .chain(second.map(|(field, _)| field))
                .collect();
            property["x-kubernetes-list-map-keys"] = json!(keys);
        } else if rule == ListRule::Set {
            property["x-kubernetes-list-type"] = "set".into();
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn dump() {
        for name in ["io.k8s.api.core.v1.PodSpec","io.k8s.apimachinery.pkg.util.intstr.IntOrString","io.k8s.apimachinery.pkg.api.resource.Quantity","io.k8s.api.core.v1.ResourceRequirements","io.k8s.apimachinery.pkg.apis.meta.v1.Time","dev.waggle.v1.Tenant","dev.waggle.v1.TenantStatus","io.k8s.api.core.v1.ServicePort", "io.k8s.api.core.v1.Secret","io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "io.k8s.api.core.v1.ConfigMap", "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"] {
            println!("{name}: {}", serde_json::to_string_pretty(&definitions().get(name)).unwrap());
        }
        println!("{:?}", definitions().keys().collect::<Vec<_>>());
        println!("{:?}", SCHEMAS.kinds);
    }
}
