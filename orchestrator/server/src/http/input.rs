//! Request bodies: bounded; JSON, YAML or protobuf, everything else refused by name.

use axum::body::Body;
use axum::extract::Request;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;
use waggle_api::{Fault, Status, protobuf};

/// Largest body, in bytes; Kubernetes' own limit.
const LARGEST: usize = 3 << 20;

/// Media types that a body may have.
const READABLE: [&str; 3] = ["application/json", "application/yaml", protobuf::MEDIA_TYPE];

/// Reads a body: the value, and the fields that it has twice.
type Reader = fn(&[u8]) -> Result<(Value, Vec<Fault>), Status>;

/// The media type of the body, without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    given.split(';').next().unwrap_or_default().trim()
}

/// The whole body.
///
/// # Errors
/// 413 when it is too large, 400 when it breaks off.
pub(crate) async fn whole(body: Body) -> Result<Bytes, Status> {
    let limited = Limited::new(body, LARGEST);
    let collected = limited.collect().await.map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            Status::too_large(LARGEST)
        } else {
            Status::bad_request(format!("the body of the request can't be read: {error}"))
        }
    })?;
    Ok(collected.to_bytes())
}

/// The body as a value, and the fields that it has twice.
///
/// # Errors
/// 415 for another media type, 400 for broken JSON or YAML with the place, 413.
pub(super) async fn value(request: Request) -> Result<(Value, Vec<Fault>), Status> {
    let media_type = media_type(request.headers()).to_owned();
    let read: Reader = match media_type.as_str() {
        "" | "application/json" | "*/*" => waggle_api::body::parse,
        "application/yaml" | "application/x-yaml" | "text/yaml" => {
            |body| Ok((from_yaml(body)?, Vec::new()))
        }
        protobuf::MEDIA_TYPE => |body| Ok((protobuf::parse(body)?, Vec::new())),
        _ => return Err(Status::unsupported_media_type(&READABLE)),
    };
    let body = whole(request.into_body()).await?;
    if body.is_empty() {
        return Ok((Value::Null, Vec::new()));
    }
    read(&body)
}

/// A single YAML document.
pub(crate) fn from_yaml(body: &[u8]) -> Result<Value, Status> {
    let broken = |error: serde_yaml_ng::Error| {
        Status::bad_request(format!("the body of the request is no valid YAML: {error}"))
    };
    let mut documents = serde_yaml_ng::Deserializer::from_slice(body);
    let Some(first) = documents.next() else {
        return Ok(Value::Null);
    };
    // Bounded: its aliases repeat what they stand for.
    let (value, twice) = waggle_api::body::read(first, LARGEST).map_err(broken)?;
    if let Some(fault) = twice.first() {
        return Err(Status::bad_request(format!(
            "the body of the request is no valid YAML: {fault}"
        )));
    }
    if documents.next().is_some() {
        return Err(Status::bad_request(
            "the body of the request holds several YAML documents: send one at a time",
        ));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_read_or_answered() {
        assert_eq!(
            from_yaml(b"a:\n- 1\n- x: true\n").unwrap(),
            json!({"a": [1, {"x": true}]})
        );
        for broken in [&b"a: [1"[..], b"a: 1\n---\nb: 2\n", b"a: 1\na: 2\n"] {
            let status = from_yaml(broken).unwrap_err();
            assert_eq!(status.code, 400, "{}", status.message);
        }
        assert_eq!(
            from_yaml(b"1: x\ntrue: y\n").unwrap(),
            json!({"1": "x", "true": "y"})
        );
    }

    #[test]
    fn aliases_are_followed_within_bounds() {
        let shared = from_yaml(b"a: &x {k: v}\nb: *x\nc: {<<: *x}\n").unwrap();
        assert_eq!(shared["b"], json!({"k": "v"}));
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            laughs.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let wide = format!(
            "a: &a [{}]\nb: [{}]\n",
            "x, ".repeat(100_000),
            "*a, ".repeat(10_000)
        );
        let long = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(1 << 20),
            "*a, ".repeat(10_000)
        );
        for bomb in [laughs, wide, long, "[".repeat(100_000)] {
            assert_eq!(from_yaml(bomb.as_bytes()).unwrap_err().code, 400);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = from_yaml(&bytes);
        }
    }
}
