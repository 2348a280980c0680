//! Request bodies: from bytes to JSON values, noticing what a plain parse would swallow.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::{Fault, FaultKind, Status};

/// Fields given twice that are told of one body.
const TOLD: usize = 50;
/// Longest path that is told, bytes.
const LONGEST_PATH: usize = 500;

/// Parses a JSON body. Fields given twice keep their last value and are reported as faults.
///
/// # Errors
/// 400 naming line and column when it is no JSON.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<Fault>), Status> {
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    read(&mut decoder, usize::MAX)
        .and_then(|read| decoder.end().map(|()| read))
        .map_err(|error| {
            Status::bad_request(format!("the body of the request is no valid JSON: {error}"))
        })
}

/// Reads one value from any format, and reports the fields that it gives twice. `most` bounds what it comes to, in
/// values and bytes of text: a format that repeats parts of itself says much in few bytes.
///
/// # Errors
/// The decoder's, with the place.
pub fn read<'de, D: Deserializer<'de>>(
    decoder: D,
    most: usize,
) -> Result<(Value, Vec<Fault>), D::Error> {
    let mut progress = Progress {
        faults: Vec::new(),
        left: most,
    };
    let seed = Seed {
        path: &Path::Root,
        progress: &mut progress,
    };
    let value = seed.deserialize(decoder)?;
    Ok((value, progress.faults))
}

struct Progress {
    faults: Vec<Fault>,
    left: usize,
}

/// Where a value is, from inside out: written down only when there is something to say of the place.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut steps, mut here) = (Vec::new(), self);
        loop {
            here = match here {
                Path::Root => break,
                Path::Field(outer, name) => {
                    steps.push(if matches!(outer, Path::Root) {
                        (*name).to_owned()
                    } else {
                        format!(".{name}")
                    });
                    outer
                }
                Path::Item(outer, index) => {
                    steps.push(format!("[{index}]"));
                    outer
                }
            };
        }
        let whole = steps.iter().rev().map(String::as_str).collect::<String>();
        let end = whole.floor_char_boundary(LONGEST_PATH);
        let more = if end < whole.len() { "..." } else { "" };
        write!(f, "{}{more}", &whole[..end])
    }
}

struct Seed<'a> {
    path: &'a Path<'a>,
    progress: &'a mut Progress,
}

impl Seed<'_> {
    /// Notes a value of so many bytes of text.
    fn spend<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        let left = self.progress.left.checked_sub(bytes.saturating_add(1));
        self.progress.left = left.ok_or_else(|| E::custom("it comes to more than is taken"))?;
        Ok(())
    }

    fn scalar<E: serde::de::Error>(mut self, value: impl Into<Value>) -> Result<Value, E> {
        self.spend(0)?;
        Ok(value.into())
    }
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
        f.write_str("plain data")
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.scalar(value)
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.scalar(value)
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.scalar(value)
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.scalar(value)
    }
    fn visit_str<E: serde::de::Error>(mut self, value: &str) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(value.into())
    }
    fn visit_string<E: serde::de::Error>(mut self, value: String) -> Result<Value, E> {
        self.spend(value.len())?;
        Ok(value.into())
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.scalar(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut list = Vec::new();
        loop {
            let path = Path::Item(self.path, list.len());
            let seed = Seed {
                path: &path,
                progress: &mut *self.progress,
            };
            match items.next_element_seed(seed)? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        self.spend(0)?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.spend(key.len())?;
            let path = Path::Field(self.path, &key);
            if map.contains_key(&key) && self.progress.faults.len() < TOLD {
                let kind = FaultKind::DuplicateField;
                self.progress.faults.push(Fault {
                    path: path.to_string(),
                    kind,
                    detail: String::new(),
                    value: Value::Null,
                });
            }
            let value = entries.next_value_seed(Seed {
                path: &path,
                progress: &mut *self.progress,
            })?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Whether values are nested in it deeper than `most`.
pub fn is_deeper(value: &Value, most: usize) -> bool {
    let inside = |value: &Value| is_deeper(value, most - 1);
    match value {
        Value::Array(list) => most == 0 || list.iter().any(inside),
        Value::Object(map) => most == 0 || map.values().any(inside),
        _ => false,
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

    #[test]
    fn what_is_told_is_bounded() {
        let long = "k".repeat(1 << 20);
        let items = "0,".repeat(1 << 19);
        let text = format!(
            "{{\"{long}\": [{items}{{{}\"a\": 1}}]}}",
            "\"a\": 1,".repeat(9999)
        );
        let (_, faults) = parse(text.as_bytes()).unwrap();
        assert_eq!(faults.len(), TOLD);
        assert!(faults[0].path.len() < LONGEST_PATH + 9);
    }

    #[test]
    fn depth_is_counted() {
        assert!(!is_deeper(&json!(1), 0));
        assert!(is_deeper(&json!([]), 0) && !is_deeper(&json!([]), 1));
        assert!(
            is_deeper(&json!({"a": [1, {"b": []}]}), 3)
                && !is_deeper(&json!({"a": [1, {"b": []}]}), 4)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let plain = serde_json::from_slice::<Value>(&bytes).ok();
            prop_assert_eq!(parse(&bytes).ok().map(|(value, _)| value), plain);
        }
    }
}
