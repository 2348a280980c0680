//! Request bodies: from bytes to JSON values, noticing what a plain parse would swallow.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{Fault, FaultKind, Status};

/// Parses a JSON body. Fields given twice keep their last value and are reported as faults.
///
/// # Errors
/// 400 naming line and column when it is no JSON.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<Fault>), Status> {
    let mut faults = Vec::new();
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed {
        path: String::new(),
        faults: &mut faults,
    };
    let value = seed
        .deserialize(&mut decoder)
        .and_then(|value| decoder.end().map(|()| value))
        .map_err(|error| {
            Status::bad_request(format!("the body of the request is no valid JSON: {error}"))
        })?;
    Ok((value, faults))
}

struct Seed<'a> {
    path: String,
    faults: &'a mut Vec<Fault>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<Value, D::Error> {
        decoder.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let seed = Seed {
                path: format!("{}[{}]", self.path, list.len()),
                faults: self.faults,
            };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = if self.path.is_empty() {
                key.clone()
            } else {
                format!("{}.{key}", self.path)
            };
            if map.contains_key(&key) {
                let kind = FaultKind::DuplicateField;
                self.faults.push(Fault {
                    path: path.clone(),
                    kind,
                    detail: String::new(),
                    value: Value::Null,
                });
            }
            let value = entries.next_value_seed(Seed {
                path,
                faults: self.faults,
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_given_twice_are_reported() {
        let (value, faults) = parse(br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": 3}"#).unwrap();
        assert_eq!(value, json!({"a": 3, "b": [{"c": 2}]}));
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            ["duplicate field \"b[0].c\"", "duplicate field \"a\""]
        );
    }

    #[test]
    fn broken_json_is_answered_with_its_place() {
        let error = parse(b"{\"a\": \n ]").unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("line 2"), "{}", error.message);
        assert!(parse(b"{} x").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let plain = serde_json::from_slice::<Value>(&bytes).ok();
            prop_assert_eq!(parse(&bytes).ok().map(|(value, _)| value), plain);
        }
    }
}
