//! Answers: objects, Tables, metadata, and the Status that every refusal is.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WARNING};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use waggle_api::table::{self, IncludeObject};
use waggle_api::{ListMeta, Resource, Status};

use super::accept::Form;
use crate::objects::Object;

const JSON: &str = "application/json";

/// A Status as an HTTP response, for handlers outside this module too.
pub fn status_response(status: &Status) -> Response {
    refusal(status)
}

/// A Status as an HTTP response.
pub(super) fn refusal(status: &Status) -> Response {
    let mut response = json(code(status.code), &status.to_value());
    if let Some(seconds) = status
        .details
        .as_ref()
        .and_then(|details| details.retry_after_seconds)
    {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn code(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A JSON document.
pub(super) fn json(code: StatusCode, value: &Value) -> Response {
    // A Value always serializes.
    bytes(
        code,
        JSON,
        Bytes::from(serde_json::to_vec(value).unwrap_or_default()),
    )
}

/// Bytes that are encoded already.
pub(super) fn bytes(code: StatusCode, content_type: &str, bytes: Bytes) -> Response {
    body(code, content_type, Body::from(bytes))
}

/// A body that is made as it is sent.
pub(super) fn body(code: StatusCode, content_type: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("application/octet-stream");
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_str(content_type).unwrap_or(plain),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// One object in the form that was asked for. `now` is seconds since the epoch.
pub(super) fn object(
    code: StatusCode,
    object: &Object,
    form: Form,
    include: IncludeObject,
    now: i64,
) -> Response {
    match form {
        Form::Plain => bytes(code, JSON, object.bytes.clone()),
        Form::Table => json(
            code,
            &table_of(object.resource, &object.value, include, now, true),
        ),
        Form::Metadata => json(code, &table::partial(&object.value)),
    }
}

/// A Table of one object, carrying its revision.
pub(super) fn table_of(
    resource: &Resource,
    value: &Value,
    include: IncludeObject,
    now: i64,
    headings: bool,
) -> Value {
    let resource_version = value["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let metadata = ListMeta {
        resource_version,
        ..ListMeta::default()
    };
    table::document(resource, [value], now, include, &metadata, headings)
}

/// Adds a `Warning` header for each text.
pub(super) fn warn(mut response: Response, warnings: &[String]) -> Response {
    let name: HeaderName = WARNING;
    for text in warnings {
        let quoted = text
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace(['\r', '\n'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(name.clone(), value);
        }
    }
    response
}
