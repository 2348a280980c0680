//! Request bodies in Kubernetes' protobuf form, read into the same JSON values as any other body. What the fields of
//! each message are called and what they hold is a table (`messages.txt`); answers are JSON always.
//!
//! The envelope is `k8s\0` and a message with the object's apiVersion, kind and bytes:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl>.

mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::Status;
use crate::life::time_text;
use wire::{Fields, Item, Scalar};

/// Media type of such bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages; deeper ones are refused.
const DEEPEST: usize = 48;

/// A line a message: its name, then `number:field:type`. Types: `s` text, `b` bool, `i` whole number, `d` float, `y`
/// bytes, or a message; `[` is a list of them, `{` a map by text; the field `*` is a message whose fields belong to
/// the message around it.
static MESSAGES: LazyLock<HashMap<&'static str, Message>> = LazyLock::new(|| {
    include_str!("messages.txt")
        .lines()
        .filter_map(message)
        .collect()
});

/// Fields by number.
type Message = HashMap<u32, Field>;

#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    many: Many,
    kind: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Many {
    One,
    List,
    Map,
}

fn message(line: &'static str) -> Option<(&'static str, Message)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let fields = words.filter_map(|word| {
        let mut parts = word.splitn(3, ':');
        let (number, name, kind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let (many, kind) = match kind.as_bytes().first()? {
            b'[' => (Many::List, &kind[1..]),
            b'{' => (Many::Map, &kind[1..]),
            _ => (Many::One, kind),
        };
        Some((number, Field { name, many, kind }))
    });
    Some((name, fields.collect()))
}

/// Reads a body: the object's JSON, with its apiVersion and kind.
///
/// # Errors
/// 400 when it is no such body or breaks off, 415 for a kind that has no protobuf form here.
pub fn parse(body: &[u8]) -> Result<Value, Status> {
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| {
        Status::bad_request(
            "the body of the request is no Kubernetes protobuf: it does not start with \"k8s\\0\"",
        )
    })?;
    let broken = |why: &str| {
        Status::bad_request(format!(
            "the body of the request is no valid protobuf: {why}"
        ))
    };
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields::new(rest) {
        match field.map_err(broken)? {
            (1, Item::Bytes(bytes)) => {
                for field in Fields::new(bytes) {
                    match field.map_err(broken)? {
                        (1, Item::Bytes(bytes)) => api_version = text(bytes).map_err(broken)?,
                        (2, Item::Bytes(bytes)) => kind = text(bytes).map_err(broken)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let Some(name) = message_of(&api_version, &kind) else {
        let message = format!(
            "kind {kind:?} of {api_version:?} can't be read from protobuf: send application/json"
        );
        return Err(Status::failure(415, "UnsupportedMediaType", message));
    };
    let mut object = read(&name, raw, 0).map_err(|why| broken(&why))?;
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), api_version.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(object)
}

/// The message of a kind: `apps.v1.Deployment`. The options of a request are the same in every group.
fn message_of(api_version: &str, kind: &str) -> Option<String> {
    if kind == "DeleteOptions" {
        return Some("meta.v1.DeleteOptions".into());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
    let group = match group {
        "rbac.authorization.k8s.io" => "rbac",
        other => other.split('.').next()?,
    };
    let name = format!("{group}.{version}.{kind}");
    MESSAGES.contains_key(name.as_str()).then_some(name)
}

fn text(bytes: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text is not UTF-8")
}

type Read = Result<Value, String>;

/// A message as JSON; null for a time that is not set.
fn read(name: &str, bytes: &[u8], depth: usize) -> Read {
    if depth > DEEPEST {
        return Err("messages are nested too deeply".into());
    }
    match name {
        "meta.v1.Time" | "meta.v1.MicroTime" => return time(bytes, name == "meta.v1.MicroTime"),
        "resource.Quantity" => return first_text(bytes),
        "intstr.IntOrString" => return int_or_string(bytes),
        "runtime.RawExtension" | "meta.v1.FieldsV1" => return raw(bytes),
        _ => {}
    }
    let message = MESSAGES
        .get(name)
        .ok_or_else(|| format!("message {name} is not known"))?;
    let mut map = Map::new();
    for field in Fields::new(bytes) {
        let (number, item) = field?;
        let Some(field) = message.get(&number) else {
            continue;
        };
        take(&mut map, field, item, depth)?;
    }
    // A list that stands by itself where JSON has a plain list.
    if name.ends_with(".ExtraValue") {
        return Ok(map
            .remove("items")
            .unwrap_or_else(|| Value::Array(Vec::new())));
    }
    Ok(Value::Object(map))
}

fn take(
    map: &mut Map<String, Value>,
    field: &Field,
    item: Item<'_>,
    depth: usize,
) -> Result<(), String> {
    match field.many {
        Many::One if field.name == "*" => {
            if let Value::Object(inner) = value(field.kind, item, depth)? {
                map.extend(inner);
            }
        }
        Many::One => {
            let value = value(field.kind, item, depth)?;
            if !says_nothing(field, &value) {
                map.insert(field.name.into(), value);
            }
        }
        Many::List => {
            let slot = map
                .entry(field.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = slot {
                match item {
                    // Numbers may come packed.
                    Item::Bytes(packed) if field.kind == "i" => {
                        list.extend(wire::packed(packed)?.into_iter().map(Value::from));
                    }
                    item => list.push(value(field.kind, item, depth)?),
                }
            }
        }
        Many::Map => {
            let Item::Bytes(entry) = item else {
                return Err(format!("field {} is no map", field.name));
            };
            let (mut key, mut content) = (String::new(), empty(field.kind));
            for part in Fields::new(entry) {
                match part? {
                    (1, Item::Bytes(bytes)) => key = text(bytes)?,
                    (2, item) => content = value(field.kind, item, depth)?,
                    _ => {}
                }
            }
            let slot = map
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = slot {
                entries.insert(key, content);
            }
        }
    }
    Ok(())
}

/// The value of a map's entry that says none.
fn empty(kind: &str) -> Value {
    match kind {
        "s" | "y" => "".into(),
        _ => Value::Null,
    }
}

fn value(kind: &str, item: Item<'_>, depth: usize) -> Read {
    Ok(match (kind, item) {
        ("s", Item::Bytes(bytes)) => text(bytes)?.into(),
        ("y", Item::Bytes(bytes)) => {
            serde_json::to_value(k8s_openapi::ByteString(bytes.to_vec())).unwrap_or_default()
        }
        ("b", Item::Number(Scalar(number))) => (number != 0).into(),
        ("i", Item::Number(scalar)) => scalar.signed().into(),
        ("d", Item::Double(number)) => number.into(),
        (message, Item::Bytes(bytes)) if message.contains('.') => read(message, bytes, depth + 1)?,
        _ => return Err(format!("a field of type {kind} has another wire type")),
    })
}

/// Numbers whose 0 is a choice; of all others 0 is what stands there when nothing was said.
const CHOSEN_NUMBERS: [&str; 29] = [
    "activeDeadlineSeconds",
    "averageUtilization",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completions",
    "defaultMode",
    "deletionGracePeriodSeconds",
    "expirationSeconds",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "leaseTransitions",
    "maxFailedIndexes",
    "minReplicas",
    "mode",
    "parallelism",
    "partition",
    "priority",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsUser",
    "stabilizationWindowSeconds",
    "startingDeadlineSeconds",
    "successfulJobsHistoryLimit",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

/// Flags whose `false` is what stands there when nothing was said.
const PLAIN_FLAGS: [&str; 12] = [
    "globalDefault",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "paused",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
    "unschedulable",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
];

/// Fields that can't be left out of a message are sent empty; JSON leaves them out.
fn says_nothing(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && field.name != "storageClassName",
        Value::Bool(false) => PLAIN_FLAGS.contains(&field.name),
        Value::Number(number) => {
            number.as_i64() == Some(0) && !CHOSEN_NUMBERS.contains(&field.name)
        }
        _ => false,
    }
}

fn time(bytes: &[u8], micro: bool) -> Read {
    let (mut seconds, mut nanos, mut any) = (0i64, 0i64, false);
    for field in Fields::new(bytes) {
        match field? {
            (1, Item::Number(scalar)) => (seconds, any) = (scalar.signed(), true),
            (2, Item::Number(scalar)) => nanos = scalar.signed(),
            _ => {}
        }
    }
    // Year 1: Go's zero time.
    if !any || seconds == -62_135_596_800 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| "a time has too many nanoseconds")?;
    let moment = jiff::Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
    Ok(if micro {
        moment.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into()
    } else {
        time_text(moment).into()
    })
}

fn first_text(bytes: &[u8]) -> Read {
    for field in Fields::new(bytes) {
        if let (1, Item::Bytes(bytes)) = field? {
            return Ok(text(bytes)?.into());
        }
    }
    Ok(Value::Null)
}

fn int_or_string(bytes: &[u8]) -> Read {
    let (mut is_text, mut number, mut name) = (false, 0, String::new());
    for field in Fields::new(bytes) {
        match field? {
            (1, Item::Number(Scalar(kind))) => is_text = kind == 1,
            (2, Item::Number(scalar)) => number = scalar.signed(),
            (3, Item::Bytes(bytes)) => name = text(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text { name.into() } else { number.into() })
}

/// An object that was encoded by itself: JSON as a rule.
fn raw(bytes: &[u8]) -> Read {
    for field in Fields::new(bytes) {
        if let (1, Item::Bytes(bytes)) = field? {
            if bytes.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(bytes)
                .map_err(|error| format!("an object inside is no JSON: {error}"));
        }
    }
    Ok(Value::Null)
}

#[cfg(test)]
mod tests;
