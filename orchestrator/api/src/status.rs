//! The Kubernetes `Status` object as an error type: codes, reasons and wording that clients parse.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Fault, FaultKind, Resource};

/// A `v1` Status. As an error it displays its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Status {
    /// Whether the request did what it was for.
    pub outcome: Outcome,
    /// For people.
    pub message: String,
    /// One CamelCase word for programs: `NotFound`, `Conflict`.
    pub reason: String,
    /// What it is about and why.
    pub details: Option<Box<Details>>,
    /// HTTP status code.
    pub code: u16,
    /// With a 410 of a list's part: where the rest is to be had all the same, as it is now. Empty otherwise.
    pub continue_token: String,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was carried out.
    Success,
    /// It was not.
    #[default]
    Failure,
}

/// A [`Status`] as it is sent.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    kind: String,
    api_version: String,
    metadata: ListMeta,
    status: Outcome,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Box<Details>>,
    code: u16,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: ListMeta::default(),
            status: Outcome::Failure,
            message: String::new(),
            reason: String::new(),
            details: None,
            code: 0,
        }
    }
}

impl From<Status> for Wire {
    fn from(status: Status) -> Self {
        let Status {
            outcome,
            message,
            reason,
            details,
            code,
            continue_token,
        } = status;
        Self {
            metadata: ListMeta {
                continue_token,
                ..ListMeta::default()
            },
            status: outcome,
            message,
            reason,
            details,
            code,
            ..Self::default()
        }
    }
}

impl From<Wire> for Status {
    fn from(wire: Wire) -> Self {
        let Wire {
            status,
            message,
            reason,
            details,
            code,
            metadata,
            ..
        } = wire;
        Self {
            outcome: status,
            message,
            reason,
            details,
            code,
            continue_token: metadata.continue_token,
        }
    }
}

/// Metadata of lists and of [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta {
    /// The revision that a list shows.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Where the next part of a list starts; empty for the last.
    #[serde(default, rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    /// How many objects follow the last of this part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Object name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group, empty for core.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural of the resource, or the kind for `Invalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One cause a fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One reason of a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueInvalid`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `deployments.apps`, `pods`.
fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

impl Status {
    /// A failure with no details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Self {
        let (message, reason) = (message.into(), reason.into());
        Self {
            outcome: Outcome::Failure,
            message,
            reason,
            details: None,
            code,
            continue_token: String::new(),
        }
    }

    /// Success, as a DELETE answers it.
    pub fn deleted(resource: &Resource, name: &str, uid: &str) -> Self {
        let details = Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.plural.into(),
            uid: uid.into(),
            ..Details::default()
        };
        Self {
            outcome: Outcome::Success,
            details: Some(Box::new(details)),
            ..Self::failure(200, "", "")
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.plural.into(),
            ..Details::default()
        }));
        self
    }

    /// 404: no such object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "{} {name:?} not found",
            qualified(resource.group, resource.plural)
        );
        Self::failure(404, "NotFound", message).about(resource, name)
    }

    /// 404: no such path.
    pub fn unknown_path() -> Self {
        let mut status = Self::failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        status.details = Some(Box::default());
        status
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!(
            "{} {name:?} already exists",
            qualified(resource.group, resource.plural)
        );
        Self::failure(409, "AlreadyExists", message).about(resource, name)
    }

    /// 409: somebody else changed it. `why` completes the sentence.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let what = qualified(resource.group, resource.plural);
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Self::failure(409, "Conflict", message).about(resource, name)
    }

    /// 409: the resourceVersion is not the current one.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 422: every fault of the object.
    pub fn invalid(resource: &Resource, name: &str, faults: &[Fault]) -> Self {
        let list = faults.iter().map(ToString::to_string).collect::<Vec<_>>();
        let list = if let [one] = list.as_slice() {
            one.clone()
        } else {
            format!("[{}]", list.join(", "))
        };
        let message = format!(
            "{} {name:?} is invalid: {list}",
            qualified(resource.group, resource.kind)
        );
        let causes = faults
            .iter()
            .map(|fault| Cause {
                reason: fault.kind.reason().into(),
                message: fault.body(),
                field: fault.path.clone(),
            })
            .collect();
        let details = Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.kind.into(),
            causes,
            ..Details::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::failure(422, "Invalid", message)
        }
    }

    /// 400: the body can't be read as this kind (unknown fields, wrong types).
    pub fn undecodable(resource: &Resource, faults: &[Fault]) -> Self {
        let list = faults
            .iter()
            .map(wording_of_decoder)
            .collect::<Vec<_>>()
            .join(", ");
        let strict = faults
            .iter()
            .all(|fault| fault.kind != FaultKind::WrongType);
        let list = if strict {
            format!("strict decoding error: {list}")
        } else {
            list
        };
        let (kind, version) = (resource.kind, resource.version);
        Self::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {list}"
        ))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::failure(400, "BadRequest", message)
    }

    /// 401. `message` says what was wrong with the credentials, without repeating them.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::failure(401, "Unauthorized", message)
    }

    /// 403. `why` completes the sentence.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = qualified(resource.group, resource.plural);
        let what = if name.is_empty() {
            what
        } else {
            format!("{what} {name:?}")
        };
        Self::failure(403, "Forbidden", format!("{what} is forbidden: {why}")).about(resource, name)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::failure(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406.
    pub fn not_acceptable(offered: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            offered.join(", ")
        );
        Self::failure(406, "NotAcceptable", message)
    }

    /// 410: the revision is compacted; start again with a list.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::failure(410, "Expired", message)
    }

    /// 410: a watch or list from `asked` is too old; `oldest` is the first revision kept.
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 413. `limit` in bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::failure(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 429: not now. A client sleeps `seconds` and tries again.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let details = Details {
            retry_after_seconds: Some(seconds),
            ..Details::default()
        };
        Self {
            details: Some(Box::new(details)),
            ..Self::failure(429, "TooManyRequests", message)
        }
    }

    /// 500.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let details = Details {
            causes: vec![Cause {
                message: cause.to_string(),
                ..Cause::default()
            }],
            ..Details::default()
        };
        let message = format!("Internal error occurred: {cause}");
        Self {
            details: Some(Box::new(details)),
            ..Self::failure(500, "InternalError", message)
        }
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::failure(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long; the request may or may not have been carried out.
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::failure(504, "Timeout", format!("Timeout: {message}"))
    }

    /// 507: the disk that holds the cluster's state is full.
    pub fn storage_full(cause: impl fmt::Display) -> Self {
        Self::failure(
            507,
            "InsufficientStorage",
            format!("nothing was written, the store is out of space: {cause}"),
        )
    }

    /// Whether it says [`Status::not_found`].
    pub fn is_not_found(&self) -> bool {
        self.reason == "NotFound"
    }

    /// Whether it says [`Status::conflict`].
    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    /// Whether it says [`Status::already_exists`].
    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

fn wording_of_decoder(fault: &Fault) -> String {
    match fault.kind {
        FaultKind::WrongType => format!("json: {}: {}", fault.path, fault.detail),
        _ => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup_name;
    use serde_json::json;

    #[test]
    fn a_status_reads_and_serializes_as_kubernetes() {
        let (pods, deployments) = (lookup_name("po").unwrap(), lookup_name("deploy").unwrap());
        assert_eq!(
            Status::not_found(deployments, "d").to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "deployments.apps \"d\" not found", "reason": "NotFound",
                "details": {"name": "d", "group": "apps", "kind": "deployments"}, "code": 404})
        );
        for (status, code, reason, message) in [
            (
                Status::already_exists(pods, "p"),
                409,
                "AlreadyExists",
                "pods \"p\" already exists",
            ),
            (
                Status::forbidden(pods, "p", "no"),
                403,
                "Forbidden",
                "pods \"p\" is forbidden: no",
            ),
            (
                Status::forbidden(pods, "", "no"),
                403,
                "Forbidden",
                "pods is forbidden: no",
            ),
            (
                Status::too_old(1, 5),
                410,
                "Expired",
                "too old resource version: 1 (5)",
            ),
            (
                Status::internal("x"),
                500,
                "InternalError",
                "Internal error occurred: x",
            ),
            (
                Status::unknown_path(),
                404,
                "NotFound",
                "the server could not find the requested resource",
            ),
        ] {
            assert_eq!(
                (
                    status.code,
                    status.reason.as_str(),
                    status.to_string().as_str()
                ),
                (code, reason, message)
            );
        }
    }

    #[test]
    fn several_faults_stand_in_brackets() {
        let faults = [
            Fault::required("spec.a", ""),
            Fault::invalid("spec.b", 1, "too small"),
        ];
        let status = Status::invalid(lookup_name("po").unwrap(), "p", &faults);
        let words =
            "Pod \"p\" is invalid: [spec.a: Required value, spec.b: Invalid value: 1: too small]";
        assert_eq!(status.message, words);
        let causes: Vec<_> = status.details.unwrap().causes;
        assert_eq!(causes[1].reason, "FieldValueInvalid");
        assert_eq!(
            (causes[1].message.as_str(), causes[1].field.as_str()),
            ("Invalid value: 1: too small", "spec.b")
        );
    }

    #[test]
    fn success_names_what_was_deleted() {
        let status = Status::deleted(lookup_name("po").unwrap(), "p", "u").to_value();
        assert_eq!(status["status"], "Success");
        assert_eq!(
            status["details"],
            json!({"name": "p", "kind": "pods", "uid": "u"})
        );
        assert!(status.get("reason").is_none());
        let again: Status = serde_json::from_value(status).unwrap();
        assert_eq!(again, Status::deleted(lookup_name("po").unwrap(), "p", "u"));
    }
}
