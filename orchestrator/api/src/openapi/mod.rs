//! OpenAPI documents, made from the types of the registry's kinds: version 3 a group version, version 2 for all
//! (JSON, and the protobuf form that kubectl asks for).

mod operations;
pub(crate) mod schema;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::discovery::group_versions;
use crate::{Kinds, Resource, component};
use operations::{Operation, operations};
use schema::PREFIX;

/// Content-Type of the protobuf form of version 2.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// The documents of the registry's kinds, by their path below `/openapi/v3/`.
static V3: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let own = Kinds::default();
    let documents = group_versions(&own);
    documents
        .into_iter()
        .map(|(group, version)| (path_of(group, version), document(&own, group, version)))
        .collect()
});

static V3_INDEX: LazyLock<Map<String, Value>> = LazyLock::new(|| index(&V3));
static V2: LazyLock<Version2> = LazyLock::new(|| Version2::of(&Kinds::default()));

/// What the documents of a cluster have beyond those of the registry's kinds: made when they are first asked for.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    v3: OnceLock<BTreeMap<String, Value>>,
    v2: OnceLock<Version2>,
}

#[derive(Debug)]
struct Version2 {
    json: Bytes,
    protobuf: Bytes,
}

impl Version2 {
    fn of(kinds: &Kinds) -> Self {
        let document = v2::document(kinds);
        Self {
            json: document.to_string().into(),
            protobuf: v2::encode(&document).into(),
        }
    }
}

impl Kinds {
    /// Answer of `/openapi/v3`.
    pub fn openapi_v3_index(&self) -> Value {
        let mut paths = V3_INDEX.clone();
        paths.extend(index(self.custom_v3()));
        json!({ "paths": paths })
    }

    /// Answer of `/openapi/v3/<path>`, with `path` such as `api/v1` or `apis/apps/v1`.
    pub fn openapi_v3(&self, path: &str) -> Option<&Value> {
        self.custom_v3().get(path).or_else(|| V3.get(path))
    }

    /// Answer of `/openapi/v2` as JSON.
    pub fn openapi_v2_json(&self) -> Bytes {
        self.v2().json.clone()
    }

    /// Answer of `/openapi/v2` as [`V2_PROTOBUF`].
    pub fn openapi_v2_protobuf(&self) -> Bytes {
        self.v2().protobuf.clone()
    }

    fn custom_v3(&self) -> &BTreeMap<String, Value> {
        self.documents.v3.get_or_init(|| {
            let mut all = BTreeMap::new();
            for row in self.custom() {
                all.entry(path_of(row.group, row.version))
                    .or_insert_with(|| document(self, row.group, row.version));
            }
            all
        })
    }

    fn v2(&self) -> &Version2 {
        if self.custom().next().is_none() {
            return &V2;
        }
        self.documents.v2.get_or_init(|| Version2::of(self))
    }
}

/// Each document's address with a hash of its content, so that clients keep it until it changes.
fn index(documents: &BTreeMap<String, Value>) -> Map<String, Value> {
    documents
        .iter()
        .map(|(path, document)| {
            let mut hasher = DefaultHasher::new();
            document.to_string().hash(&mut hasher);
            let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
            (path.clone(), json!({ "serverRelativeURL": url }))
        })
        .collect()
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut wanted = BTreeSet::new();
    let rows = || {
        let mine = |row: &&'static Resource| row.group == group && row.version == version;
        component::readable(kinds).filter(mine)
    };
    for one in operations(rows()) {
        wanted.extend(one.input.clone());
        wanted.insert(one.output.clone());
        let item = paths
            .entry(one.path.clone())
            .or_insert_with(|| json!({ "parameters": path_parameters(&one.path) }));
        item[one.method] = operation(&one);
    }
    let custom = schema::of_custom(rows());
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Waggle", "version": format!("v{}", env!("CARGO_PKG_VERSION")) },
        "paths": paths,
        "components": { "schemas": reachable(wanted, &custom) },
    })
}

/// The wanted schemas and all that they refer to, out of the registry's and the `custom` ones.
fn reachable(wanted: BTreeSet<String>, custom: &BTreeMap<String, Value>) -> BTreeMap<&str, &Value> {
    let mut found = BTreeMap::new();
    let mut open: Vec<String> = wanted.into_iter().collect();
    while let Some(name) = open.pop() {
        let known = schema::definitions().get_key_value(&name);
        let Some((name, schema)) = known.or_else(|| custom.get_key_value(&name)) else {
            continue;
        };
        if found.insert(name.as_str(), schema).is_none() {
            references(schema, &mut open);
        }
    }
    found
}

fn references(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        Value::Object(map) => {
            let target = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|target| target.strip_prefix(PREFIX));
            out.extend(target.map(str::to_owned));
            map.values().for_each(|value| references(value, out));
        }
        _ => {}
    }
}

/// The names in braces of a path.
fn path_words(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|step| step.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameters(path: &str) -> Vec<Value> {
    let one = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } });
    path_words(path).map(one).collect()
}

fn operation(one: &Operation) -> Value {
    let parameters: Vec<Value> = one
        .query
        .iter()
        .map(|&(name, kind)| {
            json!({ "name": name, "in": "query", "schema": { "type": kind, "uniqueItems": true } })
        })
        .collect();
    let (group, version, kind) = &one.kind;
    let output = json!({ "schema": { "$ref": format!("{PREFIX}{}", one.output) } });
    let mut operation = json!({
        "operationId": one.id,
        "description": one.description,
        "parameters": parameters,
        "responses": { "200": { "description": "OK", "content": { "application/json": output } } },
        "x-kubernetes-action": one.action,
        "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": kind },
    });
    if let Some(input) = &one.input {
        let schema = json!({ "schema": { "$ref": format!("{PREFIX}{input}") } });
        let content: Map<String, Value> = one
            .consumes
            .iter()
            .map(|&media| (media.to_owned(), schema.clone()))
            .collect();
        operation["requestBody"] =
            json!({ "content": content, "required": one.method != "delete" });
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_version_has_a_document_that_stands_alone() {
        let kinds = Kinds::default();
        let index = kinds.openapi_v3_index();
        for path in index["paths"].as_object().unwrap().keys() {
            let document = kinds.openapi_v3(path).unwrap();
            let text = document.to_string();
            for part in text.split(PREFIX).skip(1) {
                let target = part.split('"').next().unwrap();
                assert!(
                    document["components"]["schemas"][target].is_object(),
                    "{path}: {target}"
                );
            }
        }
        assert!(kinds.openapi_v3("apis/none/v1").is_none());
    }

    #[test]
    fn what_clients_look_up_before_apply_is_there() {
        let kinds = Kinds::default();
        let document = kinds.openapi_v3("apis/apps/v1").unwrap();
        let patch =
            &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"]["kind"],
            "Deployment"
        );
        assert!(
            patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object()
        );
        let names: Vec<_> = patch["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].clone())
            .collect();
        assert!(
            names.contains(&json!("fieldValidation")) && names.contains(&json!("dryRun")),
            "{names:?}"
        );
        let core = kinds.openapi_v3("api/v1").unwrap();
        assert!(core["paths"]["/api/v1/namespaces/{name}"]["patch"].is_object());
        assert!(core["paths"]["/api/v1/pods"]["get"].is_object());
        assert!(core["components"]["schemas"]["io.k8s.api.core.v1.PodList"].is_object());
    }
}
