//! Checking a JSON object against its kind's type: unknown fields and wrong types with their paths.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use crate::{Fault, FaultKind, Resource, Status};

/// What became of an object that was decoded as its kind's type.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object with only the fields that its kind has; `None` when a value has the wrong type.
    pub value: Option<Value>,
    /// Unknown fields, and at most one wrong type.
    pub faults: Vec<Fault>,
}

/// What to do about fields that a kind doesn't have (query parameter `fieldValidation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in `Warning` headers.
    #[default]
    Warn,
    /// Refuse the object.
    Strict,
}

impl std::str::FromStr for FieldValidation {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        match text {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            _ => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: {text:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// An object that has the shape of its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// The object, with apiVersion and kind.
    pub value: Value,
    /// One text a `Warning` header.
    pub warnings: Vec<String>,
}

impl Resource {
    /// Checks that `value` is an object of this kind. `duplicates` are the faults of [`crate::body::parse`], empty
    /// otherwise. Missing apiVersion and kind are filled in.
    ///
    /// # Errors
    /// 400 for another kind, a wrong type, or (if strict) any unknown or repeated field; all of them are named.
    pub fn read(
        &self,
        mut value: Value,
        mode: FieldValidation,
        duplicates: Vec<Fault>,
    ) -> Result<Read, Status> {
        self.fill_in_kind(&mut value)?;
        match self.kind {
            // The words below are names of fields there.
            _ if self.is_custom() => {}
            "CustomResourceDefinition" => {}
            "LimitRange" => {
                for item in crate::walk::list_mut(&mut value, &["spec", "limits"]) {
                    let kinds = item.as_object_mut().into_iter().flatten();
                    kinds.for_each(|(_, amounts)| amounts_as_text(amounts));
                }
            }
            _ => quantities_as_text(&mut value),
        }
        let decoded = self.decoded(&value);
        let mut faults = duplicates;
        faults.extend(decoded.faults);
        let Some(value) = decoded.value else {
            faults.retain(|fault| fault.kind == FaultKind::WrongType);
            return Err(Status::undecodable(self, &faults));
        };
        match mode {
            FieldValidation::Strict if !faults.is_empty() => {
                Err(Status::undecodable(self, &faults))
            }
            FieldValidation::Warn => Ok(Read {
                value,
                warnings: faults.iter().map(ToString::to_string).collect(),
            }),
            _ => Ok(Read {
                value,
                warnings: Vec::new(),
            }),
        }
    }

    /// Reads an object of which only some fields are given, as server-side apply sends them: checked like a whole one,
    /// but nothing is added to it.
    ///
    /// # Errors
    /// As for [`Resource::read`].
    pub fn read_partial(&self, mut value: Value, mode: FieldValidation) -> Result<Read, Status> {
        let mut read = self.read(value.clone(), mode, Vec::new())?;
        self.fill_in_kind(&mut value)?;
        restrict(&mut value, &read.value);
        read.value = value;
        Ok(read)
    }

    fn fill_in_kind(&self, value: &mut Value) -> Result<(), Status> {
        let Some(map) = value.as_object_mut() else {
            return Err(Status::bad_request(format!(
                "the body of the request is no {} object",
                self.kind
            )));
        };
        for (field, expect) in [
            ("apiVersion", self.api_version()),
            ("kind", self.kind.to_owned()),
        ] {
            let slot = map.entry(field).or_insert(Value::Null);
            if slot.is_null() || slot == "" {
                *slot = expect.into();
            } else if *slot != expect {
                return Err(Status::bad_request(format!(
                    "the {field} in the data ({}) does not match the expected one ({expect})",
                    slot.as_str()
                        .map_or_else(|| slot.to_string(), str::to_owned)
                )));
            }
        }
        Ok(())
    }
}

/// Takes out of `given` what `known` doesn't have, and writes the rest as `known` does.
fn restrict(given: &mut Value, known: &Value) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            given.retain(|name, _| known.contains_key(name));
            for (name, value) in given {
                restrict(value, &known[name]);
            }
        }
        (Value::Array(given), Value::Array(known)) if given.len() == known.len() => {
            given
                .iter_mut()
                .zip(known)
                .for_each(|(given, known)| restrict(given, known));
        }
        (given, known) => *given = known.clone(),
    }
}

/// Kubernetes takes `cpu: 1` for `cpu: "1"`; the types here don't.
fn quantities_as_text(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(quantities_as_text),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    (
                        "requests" | "limits" | "capacity" | "allocatable" | "overhead" | "hard"
                        | "used",
                        map @ Value::Object(_),
                    ) => amounts_as_text(map),
                    ("sizeLimit" | "divisor", value) => as_text(value),
                    (_, value) => quantities_as_text(value),
                }
            }
        }
        _ => {}
    }
}

fn as_text(value: &mut Value) {
    if value.is_number() {
        *value = value.to_string().into();
    }
}

/// The members of a map of amounts.
fn amounts_as_text(value: &mut Value) {
    let amounts = value.as_object_mut().into_iter().flatten();
    amounts.for_each(|(_, amount)| as_text(amount));
}

/// Decodes `value` as a `T` and encodes it again.
pub(crate) fn decode<T: DeserializeOwned + Serialize>(value: &Value) -> Decoded {
    let mut faults = Vec::new();
    let mut unknown = |path: Path<'_>| faults.push(Fault::unknown_field(dotted(&path)));
    let mut track = serde_path_to_error::Track::new();
    let ignored = serde_ignored::Deserializer::new(value, &mut unknown);
    let decoder = serde_path_to_error::Deserializer::new(ignored, &mut track);
    match T::deserialize(decoder) {
        Ok(typed) => Decoded {
            value: serde_json::to_value(typed).ok(),
            faults,
        },
        Err(error) => {
            faults.push(Fault::wrong_type(
                track.path().to_string(),
                error.to_string(),
            ));
            Decoded {
                value: None,
                faults,
            }
        }
    }
}

/// `spec.containers[0].imag`.
fn dotted(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => {
            let parent = dotted(parent);
            if parent.is_empty() {
                key.clone()
            } else {
                format!("{parent}.{key}")
            }
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}

/// Schema of `T`, by reference.
pub(crate) fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup_name;
    use serde_json::json;

    fn read(kind: &str, value: Value, mode: FieldValidation) -> Result<Read, Status> {
        lookup_name(kind).unwrap().read(value, mode, Vec::new())
    }

    #[test]
    fn unknown_fields_are_named_and_dropped() {
        let value = json!({"metadata": {"name": "p", "labells": {}}, "spec": {"containers": [{"name": "a", "imag": 1}]}});
        let answer = read("pod", value.clone(), FieldValidation::Warn).unwrap();
        let fields = [
            "unknown field \"metadata.labells\"",
            "unknown field \"spec.containers[0].imag\"",
        ];
        assert_eq!(answer.warnings, fields);
        assert_eq!(answer.value["spec"]["containers"], json!([{"name": "a"}]));
        assert!(
            read("pod", value.clone(), FieldValidation::Ignore)
                .unwrap()
                .warnings
                .is_empty()
        );
        let error = read("pod", value, FieldValidation::Strict).unwrap_err();
        assert!(
            error.message.contains(&fields.join(", ")),
            "{}",
            error.message
        );
    }

    #[test]
    fn wrong_types_are_named_with_their_path() {
        for (kind, value, path) in [
            (
                "deploy",
                json!({"spec": {"selector": {}, "template": {}, "replicas": "three"}}),
                "spec.replicas",
            ),
            (
                "pod",
                json!({"spec": {"containers": [{"name": "a"}, {"name": 3}]}}),
                "spec.containers[1].name",
            ),
            (
                "pod",
                json!({"spec": {"containers": {}}}),
                "spec.containers",
            ),
            ("cm", json!({"data": {"a": 1}}), "data.a"),
            ("tenant", json!({"spec": 3}), "spec"),
        ] {
            let error = read(kind, value, FieldValidation::Warn).unwrap_err();
            assert_eq!(error.code, 400);
            assert!(
                error.message.contains(&format!("json: {path}: ")),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn amounts_may_be_numbers_and_nulls_are_dropped() {
        let value = json!({"metadata": {"name": "p", "creationTimestamp": null},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}});
        let answer = read("pod", value, FieldValidation::Strict).unwrap().value;
        assert_eq!(
            answer["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "1", "memory": "1Gi"})
        );
        assert!(answer["metadata"].get("creationTimestamp").is_none());
    }

    #[test]
    fn every_kind_survives_reading_its_own_output() {
        for row in crate::RESOURCES {
            let value = json!({"metadata": {"name": "x"}});
            let value = match row.kind {
                "EndpointSlice" => json!({"endpoints": [], "addressType": "IPv4"}),
                _ => value,
            };
            let Ok(once) = row.read(value, FieldValidation::Strict, Vec::new()) else {
                panic!("{}", row.kind)
            };
            let again = row
                .read(once.value.clone(), FieldValidation::Strict, Vec::new())
                .unwrap();
            assert_eq!(once, again, "{}", row.kind);
        }
    }

    #[test]
    fn field_validation_is_parsed() {
        assert_eq!(
            "Strict".parse::<FieldValidation>().unwrap(),
            FieldValidation::Strict
        );
        assert_eq!(
            "".parse::<FieldValidation>().unwrap(),
            FieldValidation::Warn
        );
        assert!("strict".parse::<FieldValidation>().is_err());
    }
}
