//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386) and Kubernetes' strategic merge patch. Applying one is
//! pure; the result is read, defaulted and validated like any other body.

pub(crate) mod keys;
mod operations;
mod strategic;

use serde_json::Value;

use crate::openapi::schema;
use crate::{Resource, Status};

pub use keys::{ListRule, list_rule};

/// Content types of patches, as a 415 lists them: JSON patch, merge patch, strategic merge patch.
pub const MEDIA_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The same for kinds that a definition adds.
pub const CUSTOM_MEDIA_TYPES: [&str; 3] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];

/// A patch, parsed.
#[derive(Debug, Clone)]
pub enum Patch {
    /// A list of operations.
    Json(json_patch::Patch),
    /// Fields to set; null removes.
    Merge(Value),
    /// The same, with lists merged by key and directives.
    Strategic(Value),
}

impl Patch {
    /// Parses a request body by its Content-Type.
    ///
    /// # Errors
    /// 415 for another content type, 400 for a malformed patch.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, Status> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let bad = |error: serde_json::Error| {
            Status::bad_request(format!("the patch can't be read: {error}"))
        };
        match media_type {
            "application/json-patch+json" => {
                Ok(Self::Json(serde_json::from_slice(body).map_err(bad)?))
            }
            "application/merge-patch+json" => Ok(Self::Merge(object(body)?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(object(body)?)),
            _ => Err(Status::unsupported_media_type(&MEDIA_TYPES)),
        }
    }

    /// The object after the patch.
    ///
    /// # Errors
    /// 422 for an operation whose path isn't there or whose test fails, 400 for a malformed directive.
    pub fn apply(&self, resource: &Resource, old: &Value) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => operations::apply(&resource.qualified(), old, &patch.0),
            Self::Merge(patch) => {
                let mut value = old.clone();
                json_patch::merge(&mut value, patch);
                Ok(value)
            }
            // Only types tell which lists are merged.
            Self::Strategic(_) if resource.is_custom() => {
                Err(Status::unsupported_media_type(&CUSTOM_MEDIA_TYPES))
            }
            Self::Strategic(patch) => {
                let mut value = old.clone();
                strategic::merge(schema::definition_of(resource), &mut value, patch)
                    .map_err(Status::bad_request)?;
                Ok(value)
            }
        }
    }
}

fn object(body: &[u8]) -> Result<Value, Status> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("the patch can't be read: {error}")))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(Status::bad_request("the patch is no JSON object"))
    }
}

#[cfg(test)]
mod tests;
