//! OpenAPI version 2 (Swagger), as JSON and as gnostic's protobuf, for clients that read nothing newer.

mod proto;

use prost::Message;
use serde_json::{Map, Value, json};

use super::operations::{Operation, operations};
use super::path_words;
use super::schema::{INT_OR_STRING, PREFIX, QUANTITY, definitions, of_custom};
use crate::{Kinds, component};

const TARGET: &str = "#/definitions/";

/// The whole document as JSON.
pub(super) fn document(kinds: &Kinds) -> Value {
    let mut paths = Map::new();
    for one in operations(component::readable(kinds)) {
        let item = paths
            .entry(one.path.clone())
            .or_insert_with(|| json!({ "parameters": path_parameters(&one.path) }));
        item[one.method] = operation(&one);
    }
    let mut schemas: Map<String, Value> = definitions()
        .iter()
        .map(|(name, schema)| (name.clone(), older(name, schema)))
        .collect();
    for (name, schema) in of_custom(kinds.custom()) {
        schemas.insert(name, looser(&rewrite(&schema)));
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Waggle", "version": format!("v{}", env!("CARGO_PKG_VERSION")) },
        "paths": paths,
        "definitions": schemas,
    })
}

fn path_parameters(path: &str) -> Vec<Value> {
    path_words(path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "type": "string" }))
        .collect()
}

fn operation(one: &Operation) -> Value {
    let mut parameters: Vec<Value> = one
        .query
        .iter()
        .map(|&(name, kind)| json!({ "name": name, "in": "query", "type": kind }))
        .collect();
    if let Some(input) = &one.input {
        let schema = json!({ "$ref": format!("{TARGET}{input}") });
        parameters.push(json!({ "name": "body", "in": "body", "required": one.method != "delete", "schema": schema }));
    }
    let (group, version, kind) = one.kind;
    json!({
        "operationId": one.id,
        "description": one.description,
        "consumes": one.consumes,
        "produces": ["application/json"],
        "parameters": parameters,
        "responses": {
            "200": { "description": "OK", "schema": { "$ref": format!("{TARGET}{}", one.output) } },
        },
        "x-kubernetes-action": one.action,
        "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": kind },
    })
}

/// A version 3 schema as version 2 has it: references beside descriptions, no `oneOf`.
fn older(name: &str, schema: &Value) -> Value {
    let mut schema = rewrite(schema);
    if let Some(map) = schema.as_object_mut()
        && map.remove("oneOf").is_some()
        && (name == INT_OR_STRING || name == QUANTITY)
    {
        map.insert("type".into(), "string".into());
    }
    schema
}

/// A custom kind's schema as clients of version 2 can use it: nothing that they take for stricter than it is meant.
fn looser(schema: &Value) -> Value {
    let mut new = Map::new();
    for (word, value) in schema.as_object().into_iter().flatten() {
        match word.as_str() {
            "oneOf" | "anyOf" | "allOf" | "not" | "nullable" | "default" => {}
            "properties" => {
                let each = entries(value).map(|(name, inner)| (name.clone(), looser(inner)));
                new.insert(word.clone(), each.collect::<Map<_, _>>().into());
            }
            "items" | "additionalProperties" if value.is_object() => {
                new.insert(word.clone(), looser(value));
            }
            _ => {
                new.insert(word.clone(), value.clone());
            }
        }
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        new.remove("properties");
        new.remove("items");
    }
    if schema["nullable"] == true {
        new.retain(|word, _| !["type", "properties", "items"].contains(&word.as_str()));
    }
    new.into()
}

fn rewrite(schema: &Value) -> Value {
    match schema {
        Value::Array(items) => items.iter().map(rewrite).collect(),
        Value::Object(map) => {
            let mut new = Map::new();
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("allOf", Value::Array(all))
                        if all.len() == 1 && all[0]["$ref"].is_string() =>
                    {
                        new.insert("$ref".into(), rewrite(&all[0]["$ref"]));
                    }
                    _ => {
                        new.insert(key.clone(), rewrite(value));
                    }
                }
            }
            new.into()
        }
        Value::String(text) => match text.strip_prefix(PREFIX) {
            Some(name) => format!("{TARGET}{name}").into(),
            None => schema.clone(),
        },
        _ => schema.clone(),
    }
}

/// The document as protobuf.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let info = &document["info"];
    let proto = proto::Document {
        swagger: text(document, "swagger"),
        info: Some(proto::Info {
            title: text(info, "title"),
            version: text(info, "version"),
        }),
        paths: Some(proto::Paths {
            path: entries(&document["paths"])
                .map(|(name, item)| proto::NamedPathItem {
                    name: name.clone(),
                    value: Some(path_item(item)),
                })
                .collect(),
        }),
        definitions: Some(proto::NamedSchemas {
            additional_properties: named_schemas(&document["definitions"]),
        }),
    };
    proto.encode_to_vec()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// `x-...` members; JSON is YAML.
fn extensions(value: &Value) -> Vec<proto::NamedAny> {
    entries(value)
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| proto::NamedAny {
            name: name.clone(),
            value: Some(proto::Any {
                yaml: value.to_string(),
            }),
        })
        .collect()
}

fn path_item(item: &Value) -> proto::PathItem {
    let one = |method: &str| {
        item[method]
            .is_object()
            .then(|| operation_of(&item[method]))
    };
    proto::PathItem {
        get: one("get"),
        put: one("put"),
        post: one("post"),
        delete: one("delete"),
        patch: one("patch"),
        parameters: parameters(&item["parameters"]),
    }
}

fn operation_of(one: &Value) -> proto::Operation {
    let responses = entries(&one["responses"])
        .map(|(code, response)| proto::NamedResponseValue {
            name: code.clone(),
            value: Some(proto::ResponseValue {
                response: Some(proto::Response {
                    description: text(response, "description"),
                    schema: Some(proto::SchemaItem {
                        schema: Some(schema_of(&response["schema"])),
                    }),
                }),
            }),
        })
        .collect();
    proto::Operation {
        description: text(one, "description"),
        operation_id: text(one, "operationId"),
        produces: texts(&one["produces"]),
        consumes: texts(&one["consumes"]),
        parameters: parameters(&one["parameters"]),
        responses: Some(proto::Responses {
            response_code: responses,
        }),
        vendor_extension: extensions(one),
    }
}

fn parameters(list: &Value) -> Vec<proto::ParametersItem> {
    let parameter = |one: &Value| {
        let (name, required) = (text(one, "name"), one["required"] == true);
        match one["in"].as_str() {
            Some("body") => proto::Parameter {
                body: Some(proto::BodyParameter {
                    name,
                    place: "body".into(),
                    required,
                    schema: Some(schema_of(&one["schema"])),
                }),
                non_body: None,
            },
            Some("query") => {
                let query = proto::QueryParameter {
                    required,
                    place: "query".into(),
                    name,
                    kind: text(one, "type"),
                };
                proto::Parameter {
                    body: None,
                    non_body: Some(proto::NonBodyParameter {
                        query: Some(query),
                        path: None,
                    }),
                }
            }
            _ => {
                let path = proto::PathParameter {
                    required,
                    place: "path".into(),
                    name,
                    kind: text(one, "type"),
                };
                proto::Parameter {
                    body: None,
                    non_body: Some(proto::NonBodyParameter {
                        query: None,
                        path: Some(path),
                    }),
                }
            }
        }
    };
    let list = list.as_array().into_iter().flatten();
    list.map(|one| proto::ParametersItem {
        parameter: Some(parameter(one)),
    })
    .collect()
}

fn named_schemas(map: &Value) -> Vec<proto::NamedSchema> {
    entries(map)
        .map(|(name, schema)| proto::NamedSchema {
            name: name.clone(),
            value: Some(schema_of(schema)),
        })
        .collect()
}

fn schema_of(schema: &Value) -> proto::Schema {
    let some = |key: &str| schema.get(key).filter(|value| value.is_object());
    proto::Schema {
        reference: text(schema, "$ref"),
        format: text(schema, "format"),
        description: text(schema, "description"),
        required: texts(&schema["required"]),
        additional_properties: some("additionalProperties").map(|one| {
            Box::new(proto::AdditionalProperties {
                schema: Some(Box::new(schema_of(one))),
            })
        }),
        kind: schema["type"].as_str().map(|kind| proto::Texts {
            value: vec![kind.to_owned()],
        }),
        items: some("items").map(|one| proto::Items {
            schema: vec![schema_of(one)],
        }),
        properties: some("properties").map(|map| proto::NamedSchemas {
            additional_properties: named_schemas(map),
        }),
        vendor_extension: extensions(schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protobuf_form_says_what_the_json_form_says() {
        let document = document(&Kinds::default());
        let decoded = proto::Document::decode(encode(&document).as_slice()).unwrap();
        let names: Vec<_> = decoded.definitions.unwrap().additional_properties;
        assert_eq!(
            names.len(),
            document["definitions"].as_object().unwrap().len()
        );
        let pod = names
            .iter()
            .find(|one| one.name == "io.k8s.api.core.v1.PodSpec")
            .unwrap()
            .value
            .clone()
            .unwrap();
        let fields = pod.properties.unwrap().additional_properties;
        let containers = fields
            .iter()
            .find(|one| one.name == "containers")
            .unwrap()
            .value
            .clone()
            .unwrap();
        assert_eq!(
            containers.items.unwrap().schema[0].reference,
            "#/definitions/io.k8s.api.core.v1.Container"
        );
        let key = containers
            .vendor_extension
            .iter()
            .find(|one| one.name == "x-kubernetes-patch-merge-key")
            .unwrap();
        assert_eq!(key.value.clone().unwrap().yaml, "\"name\"");
        assert_eq!(
            decoded.paths.unwrap().path.len(),
            document["paths"].as_object().unwrap().len()
        );
    }

    #[test]
    fn nothing_of_version_3_is_left() {
        let text = document(&Kinds::default()).to_string();
        assert!(!text.contains("/components/") && !text.contains("\"oneOf\":["));
    }
}
