//! What the API machinery knows of a kind. The rows themselves are in the registry.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Cell, Column, Decoded, Fault};

/// One row of the registry.
#[derive(Debug)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// Version, `v1`.
    pub version: &'static str,
    /// Kind, `Pod`.
    pub kind: &'static str,
    /// Path segment, `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Lives in a Namespace.
    pub namespaced: bool,
    /// Subresources served through the generic path: `status`, `scale`. Others (`log`, `exec`, `binding`) are the
    /// server's own; discovery lists them all.
    pub subresources: &'static [&'static str],
    /// Fills in what Kubernetes fills in. Idempotent.
    pub defaults: fn(&mut Value),
    /// Decodes as the kind's type: unknown fields and wrong types, with their paths, and the object without them.
    pub decode: fn(&Value) -> Decoded,
    /// Every fault of a new object (`old` is `None`) or of a change.
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<Fault>,
    /// Table columns.
    pub columns: &'static [Column],
    /// A row's cells, one a column. `now` is seconds since the epoch, for ages.
    pub cells: fn(object: &Value, now: i64) -> Vec<Cell>,
    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// JSON schema of the kind's type, for OpenAPI.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

impl Resource {
    /// A row that says only what the type itself says: stored, watched, without rules of its own. For struct update
    /// syntax.
    pub(crate) const fn of<T>(singular: &'static str, namespaced: bool) -> Self
    where
        T: k8s_openapi::Resource + DeserializeOwned + Serialize + JsonSchema,
    {
        Self {
            group: T::GROUP,
            version: T::VERSION,
            kind: T::KIND,
            plural: T::URL_PATH_SEGMENT,
            singular,
            short_names: &[],
            categories: &[],
            namespaced,
            subresources: &[],
            defaults: crate::defaults::nothing,
            decode: crate::decode::decode::<T>,
            validate: crate::validate::metadata_only,
            columns: crate::table::NAME_AND_AGE,
            cells: crate::table::name_and_age,
            selectable: &[],
            schema: crate::decode::schema::<T>,
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Kind of its lists, `PodList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// Has a status that only the status subresource writes.
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&"status")
    }

    /// Has a scale subresource.
    pub fn has_scale(&self) -> bool {
        self.subresources.contains(&"scale")
    }

    /// Store key of an object, `/registry/<group or core>/<plural>/[<namespace>/]<name>`.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/{name}", self.prefix())
        } else {
            format!("{}{name}", self.prefix())
        }
    }

    /// Store key prefix of the kind, ending in `/`.
    pub fn prefix(&self) -> String {
        let group = if self.group.is_empty() {
            "core"
        } else {
            self.group
        };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// Store key prefix of the kind in one namespace, ending in `/`. For a cluster-scoped kind the same as
    /// [`Resource::prefix`].
    pub fn prefix_in(&self, namespace: &str) -> String {
        if self.namespaced {
            format!("{}{namespace}/", self.prefix())
        } else {
            self.prefix()
        }
    }
}
