//! Kinds that a CustomResourceDefinition adds: their rows, made from its versions, and what the rows' functions do by
//! its schemas (pruning, defaults, validation, columns, scale). Whether a definition is served at all is decided
//! elsewhere, from its conditions.

mod check;
pub mod conversion;
mod format;
mod json_path;
mod kinds;
mod rules;
mod schema;

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Value, json};

pub use kinds::Kinds;

use crate::resource::{Resource, Source};
use crate::table::{Column, age};
use crate::walk::{list, number, set, text};
use crate::{Cell, Decoded, Fault, validate};
use json_path::JsonPath;

/// What one version of a definition says beyond its row's names.
#[derive(Debug)]
pub struct Custom {
    /// The structural schema of the whole object.
    pub(crate) schema: Value,
    /// Its rules that are expressions.
    rules: rules::Rules,
    /// Its OpenAPI name, `com.example.v1.Widget`.
    pub(crate) definition: String,
    /// The columns after the name.
    columns: Vec<(JsonPath, ColumnKind)>,
    /// Where the scale subresource finds its numbers.
    scale: Option<ScalePaths>,
    /// `spec.conversion.webhook`, when a webhook converts between versions.
    pub(crate) converter: Option<Value>,
    /// The row of the version that is stored, when it is another one.
    pub(crate) stored: Option<&'static Resource>,
}

/// Where a Scale's numbers are in the object: fields from the root.
#[derive(Debug, Clone)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    /// A text with a label selector.
    pub(crate) selector: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnKind {
    Text,
    Integer,
    Number,
    Boolean,
    Date,
}

/// Rows that were made, by the text of what they were made from.
static MADE: LazyLock<Mutex<HashMap<String, Vec<&'static Resource>>>> =
    LazyLock::new(Mutex::default);

/// The rows of a definition, the stored version's first. They live as long as the process, because everything that
/// handles objects holds on to their rows; so a definition that is again what it was gets the rows that it had.
///
/// `None` for a definition without a stored version, which validation refuses.
pub(crate) fn rows(definition: &Value) -> Option<Vec<&'static Resource>> {
    let spec = &definition["spec"];
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let text = spec.to_string();
    if let Some(rows) = made.get(&text) {
        return Some(rows.clone());
    }
    let rows = make_rows(spec)?;
    made.insert(text, rows.clone());
    Some(rows)
}

fn make_rows(spec: &Value) -> Option<Vec<&'static Resource>> {
    let versions = list(spec, &["versions"]);
    let stored = versions.iter().find(|one| one["storage"] == true)?;
    let first: &'static Resource = Box::leak(Box::new(row(spec, stored, None)));
    let others = versions.iter().filter(|one| one["storage"] != true);
    let mut all = vec![first];
    all.extend(others.map(|version| -> &'static Resource {
        Box::leak(Box::new(row(spec, version, Some(first))))
    }));
    Some(all)
}

fn row(spec: &Value, version: &Value, stored: Option<&'static Resource>) -> Resource {
    let names = &spec["names"];
    let (group, kind) = (text(spec, &["group"]), text(names, &["kind"]));
    let schema = schema::prepared(&version["schema"]["openAPIV3Schema"]);
    let custom = Custom {
        rules: rules::of(&schema),
        schema,
        definition: definition_name(group, text(version, &["name"]), kind),
        columns: columns(version),
        scale: scale(&version["subresources"]["scale"]),
        converter: (spec["conversion"]["strategy"] == "Webhook")
            .then(|| spec["conversion"]["webhook"].clone()),
        stored,
    };
    let mut subresources = Vec::new();
    for name in ["scale", "status"] {
        if version["subresources"][name].is_object() {
            subresources.push(name);
        }
    }
    let selectable = list(version, &["selectableFields"]);
    let selectable = selectable
        .iter()
        .map(|one| kept(text(one, &["jsonPath"]).trim_start_matches('.')))
        .collect::<Vec<_>>();
    Resource {
        group: kept(group),
        version: kept(text(version, &["name"])),
        kind: kept(kind),
        plural: kept(text(names, &["plural"])),
        singular: kept(text(names, &["singular"])),
        short_names: kept_all(list(names, &["shortNames"])),
        categories: kept_all(list(names, &["categories"])),
        namespaced: text(spec, &["scope"]) == "Namespaced",
        subresources: subresources.leak(),
        columns: headings(version).leak(),
        selectable: selectable.leak(),
        source: Source::Custom(Box::leak(Box::new(custom))),
        ..Resource::of_custom()
    }
}

fn kept(text: &str) -> &'static str {
    text.to_owned().leak()
}

fn kept_all(texts: &[Value]) -> &'static [&'static str] {
    let all: Vec<_> = texts.iter().filter_map(Value::as_str).map(kept).collect();
    all.leak()
}

/// `com.example.v1.Widget` of `example.com`, `v1` and `Widget`.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut words: Vec<&str> = group.split('.').rev().collect();
    words.extend([version, kind]);
    words.join(".")
}

fn given_columns(version: &Value) -> &[Value] {
    list(version, &["additionalPrinterColumns"])
}

fn headings(version: &Value) -> Vec<Column> {
    let given = given_columns(version);
    if given.is_empty() {
        return vec![Column::NAME, Column::AGE];
    }
    let one = |column: &Value| Column {
        name: kept(text(column, &["name"])),
        kind: kept(text(column, &["type"])),
        format: kept(text(column, &["format"])),
        description: kept(text(column, &["description"])),
        priority: number(column, &["priority"])
            .and_then(|priority| i32::try_from(priority).ok())
            .unwrap_or(0),
    };
    std::iter::once(Column::NAME)
        .chain(given.iter().map(one))
        .collect()
}

fn columns(version: &Value) -> Vec<(JsonPath, ColumnKind)> {
    let given = given_columns(version);
    if given.is_empty() {
        let created = JsonPath::parse(".metadata.creationTimestamp").unwrap_or_default();
        return vec![(created, ColumnKind::Date)];
    }
    let one = |column: &Value| {
        let kind = match text(column, &["type"]) {
            "integer" => ColumnKind::Integer,
            "number" => ColumnKind::Number,
            "boolean" => ColumnKind::Boolean,
            "date" => ColumnKind::Date,
            _ => ColumnKind::Text,
        };
        // One that can't be read was refused with its definition; it shows nothing.
        let path = JsonPath::parse(text(column, &["jsonPath"])).unwrap_or_default();
        (path, kind)
    };
    given.iter().map(one).collect()
}

fn scale(given: &Value) -> Option<ScalePaths> {
    let path = |field: &str| simple_path(text(given, &[field]));
    Some(ScalePaths {
        spec: path("specReplicasPath")?,
        status: path("statusReplicasPath")?,
        selector: path("labelSelectorPath"),
    })
}

/// The fields of `.spec.replicas`; `None` for anything else.
fn simple_path(text: &str) -> Option<Vec<String>> {
    let fields: Vec<String> = text
        .strip_prefix('.')?
        .split('.')
        .map(str::to_owned)
        .collect();
    let plain = |field: &String| !field.is_empty() && !field.contains(['[', ']', '*', '\'']);
    fields.iter().all(plain).then_some(fields)
}

/// Faults of the expressions of one version: columns and scale.
pub(crate) fn expression_faults(version: &Value, path: &str, out: &mut Vec<Fault>) {
    for (index, column) in given_columns(version).iter().enumerate() {
        let given = text(column, &["jsonPath"]);
        if JsonPath::parse(given).is_none() {
            let path = format!("{path}.additionalPrinterColumns[{index}].jsonPath");
            out.push(Fault::invalid(path, given, "must be a simple JSON path"));
        }
    }
    let scale = &version["subresources"]["scale"];
    for field in [
        "specReplicasPath",
        "statusReplicasPath",
        "labelSelectorPath",
    ] {
        let given = text(scale, &[field]);
        let missing = given.is_empty() && field == "labelSelectorPath";
        if scale.is_object() && !missing && simple_path(given).is_none() {
            let path = format!("{path}.subresources.scale.{field}");
            let detail = "must be a path of fields such as .spec.replicas";
            out.push(Fault::invalid(path, given, detail));
        }
    }
}

pub(crate) use rules::faults as rule_faults;
pub(crate) use schema::{faults as schema_faults, field, is_embedded};

impl Custom {
    /// The object without the fields that the schema doesn't have, which are named.
    pub(crate) fn decode(&self, value: &Value) -> Decoded {
        let mut value = value.clone();
        let mut faults = Vec::new();
        schema::prune(&self.schema, &mut value, "", true, &mut faults);
        schema::object_meta(&mut value, "", &mut faults);
        let broken = faults
            .iter()
            .any(|one| one.kind == crate::FaultKind::WrongType);
        Decoded {
            value: (!broken).then_some(value),
            faults,
        }
    }

    /// Fills in what the schema says.
    pub(crate) fn fill_in(&self, value: &mut Value) {
        schema::fill_in(&self.schema, value);
    }

    /// Every fault of the object. What is as it was before is not looked at again.
    pub(crate) fn faults(&self, value: &Value, old: Option<&Value>) -> Vec<Fault> {
        let mut out = validate::metadata_only(value, old);
        check::faults(&self.schema, value, old, "", &mut out);
        self.rules.faults(&self.schema, value, old, &mut out);
        out
    }

    /// A row's cells, the name first.
    pub(crate) fn cells(&self, object: &Value, now: i64) -> Vec<Cell> {
        let name = Cell::from(text(object, &["metadata", "name"]));
        let others = self.columns.iter().map(|(path, kind)| {
            let found = path.find(object);
            cell(found.first().copied(), *kind, now)
        });
        std::iter::once(name).chain(others).collect()
    }

    pub(crate) fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    /// Another version's object as this version has it.
    pub(crate) fn shown(&self, row: &Resource, stored: &Value) -> Value {
        let mut value = stored.clone();
        set(&mut value, &[], "apiVersion", row.api_version());
        schema::prune(&self.schema, &mut value, "", true, &mut Vec::new());
        self.fill_in(&mut value);
        value
    }
}

fn cell(found: Option<&Value>, kind: ColumnKind, now: i64) -> Cell {
    let Some(found) = found else {
        return Cell::Other(Value::Null);
    };
    match (kind, found) {
        (_, Value::Null) => Cell::Other(Value::Null),
        (ColumnKind::Date, Value::String(moment)) => age::since(moment, now).into(),
        (ColumnKind::Integer, Value::Number(number)) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => Cell::Other(found.clone()),
        },
        (ColumnKind::Number, Value::Number(_)) | (ColumnKind::Boolean, Value::Bool(_)) => {
            Cell::Other(found.clone())
        }
        (ColumnKind::Text, Value::String(text)) => text.as_str().into(),
        (ColumnKind::Text, other) => other.to_string().into(),
        _ => Cell::Other(Value::Null),
    }
}

/// An object as it came from the store, in the form of the version that is stored now: an older version's name, and
/// fields that have since got defaults or gone. What only a webhook can convert stays in the version that it is in.
pub(crate) fn settle(row: &Resource, custom: &Custom, value: &mut Value) {
    if custom.converter.is_some() && value["apiVersion"] != *row.api_version() {
        return;
    }
    set(value, &[], "apiVersion", row.api_version());
    schema::prune(&custom.schema, value, "", true, &mut Vec::new());
    custom.fill_in(value);
}

/// The names that a definition asks for, for comparing with others'.
pub fn names_of(spec: &Value) -> Vec<(&'static str, String)> {
    let names = &spec["names"];
    let mut all = Vec::new();
    for field in ["plural", "singular", "kind", "listKind"] {
        all.push((field, text(names, &[field]).to_owned()));
    }
    for short in list(names, &["shortNames"]) {
        all.push(("shortNames", short.as_str().unwrap_or_default().to_owned()));
    }
    all
}

/// The OpenAPI schema of a custom kind, standing alone but for metadata's type.
pub(crate) fn open_api(row: &Resource, custom: &Custom) -> Value {
    let mut schema = schema::published(&custom.schema);
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let reference = format!("{}{meta}", crate::openapi::schema::PREFIX);
    let text = |words: &str| json!({"type": "string", "description": words});
    for (field, property) in [
        ("apiVersion", text("Group and version of this object.")),
        ("kind", text("Kind of this object.")),
        (
            "metadata",
            json!({"description": "Standard object metadata.", "allOf": [{"$ref": reference}]}),
        ),
    ] {
        schema["properties"][field] = property;
    }
    schema["x-kubernetes-group-version-kind"] =
        json!([{"group": row.group, "version": row.version, "kind": row.kind}]);
    schema
}

/// Reads whatever it is as a path, and follows it.
#[cfg(test)]
pub(crate) fn try_out_path(path: &str, object: &Value) {
    if let Some(path) = JsonPath::parse(path) {
        let _ = path.find(object);
    }
    let _ = simple_path(path);
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_rules;
