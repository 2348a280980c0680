//! Reading and writing nested JSON by field name. Knows nothing of kinds.

use serde_json::{Map, Value};

/// The value at `path`, null when any step is missing.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |value, step| &value[*step])
}

/// The text at `path`, empty when missing or no text.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The number at `path`.
pub(crate) fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).as_i64()
}

/// The list at `path`, empty when missing.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).as_array().map_or(&[], Vec::as_slice)
}

/// The value at `path` for change, if it is there.
pub(crate) fn at_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter()
        .try_fold(value, |value, step| value.get_mut(*step))
        .filter(|value| !value.is_null())
}

/// The list at `path` for change, empty when missing.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let found = path
        .iter()
        .try_fold(value, |value, step| value.get_mut(*step));
    found
        .and_then(Value::as_array_mut)
        .map_or(&mut [], Vec::as_mut_slice)
}

/// The members of the object at `path`.
pub(crate) fn members<'a>(
    value: &'a Value,
    path: &[&str],
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    at(value, path).as_object().into_iter().flatten()
}

/// Whether there is something other than null at `path`.
pub(crate) fn has(value: &Value, path: &[&str]) -> bool {
    !at(value, path).is_null()
}

/// The object at `path`, made where missing. `None` when something else is in the way.
pub(crate) fn object<'a>(
    value: &'a mut Value,
    path: &[&str],
) -> Option<&'a mut Map<String, Value>> {
    let mut here = value;
    for step in path {
        here = here.as_object_mut()?.entry(*step).or_insert(Value::Null);
        if here.is_null() {
            *here = Value::Object(Map::new());
        }
    }
    here.as_object_mut()
}

/// Sets `key` of the object at `path` when it is missing or null, making the object where missing.
pub(crate) fn default(value: &mut Value, path: &[&str], key: &str, fallback: impl Into<Value>) {
    if let Some(map) = object(value, path) {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = fallback.into();
        }
    }
}

/// Sets `key` of the object at `path`, making the object where missing.
pub(crate) fn set(value: &mut Value, path: &[&str], key: &str, new: impl Into<Value>) {
    if let Some(map) = object(value, path) {
        map.insert(key.to_owned(), new.into());
    }
}

/// Removes `key` from the object at `path`; drops nothing else.
pub(crate) fn remove(value: &mut Value, path: &[&str], key: &str) -> Option<Value> {
    let parent = path
        .iter()
        .try_fold(value, |value, step| value.get_mut(*step))?;
    parent.as_object_mut()?.remove(key)
}

/// Copies `key` from one object to another: set when there, removed when not.
pub(crate) fn carry(from: &Value, to: &mut Value, path: &[&str], key: &str) {
    let source = &at(from, path)[key];
    if source.is_null() {
        remove(to, path, key);
    } else {
        set(to, path, key, source.clone());
    }
}
