//! What the API machinery knows of a kind. The rows themselves are in the registry.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::custom::{self, Custom};
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
    /// Where the kind comes from, and in which form its objects are stored.
    pub source: Source,
}

/// Where a kind comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// The registry. Its objects are stored as they are served.
    Registry,
    /// The registry, as another version or group of a kind that is stored.
    View(&'static View),
    /// A CustomResourceDefinition: the functions of the row are not used, its schema is.
    Custom(&'static Custom),
}

/// How a version that is served comes from the stored one, and leads back to it.
#[derive(Debug)]
pub struct View {
    /// Group, version and plural of the stored kind.
    pub of: (&'static str, &'static str, &'static str),
    /// From a stored object to a served one.
    pub show: fn(&Value) -> Value,
    /// From a served object to the one to be stored in place of `old`.
    pub keep: fn(served: &Value, old: Option<&Value>) -> Value,
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
            source: Source::Registry,
        }
    }

    /// A row of a definition, without its names. None of its functions is used.
    pub(crate) const fn of_custom() -> Self {
        Self {
            group: "",
            version: "",
            kind: "",
            plural: "",
            singular: "",
            short_names: &[],
            categories: &[],
            namespaced: false,
            subresources: &[],
            defaults: crate::defaults::nothing,
            decode: |_| Decoded {
                value: None,
                faults: Vec::new(),
            },
            validate: crate::validate::metadata_only,
            columns: &[],
            cells: crate::table::name_and_age,
            selectable: &[],
            schema: |_| Schema::default(),
            source: Source::Registry,
        }
    }

    /// What a definition says of the kind, if it comes from one.
    pub(crate) fn custom(&self) -> Option<&'static Custom> {
        match self.source {
            Source::Custom(custom) => Some(custom),
            _ => None,
        }
    }

    /// Whether a CustomResourceDefinition adds the kind.
    pub fn is_custom(&self) -> bool {
        self.custom().is_some()
    }

    /// The row of the version in which the kind is stored; often this one.
    pub fn stored(&'static self) -> &'static Self {
        match self.source {
            Source::Registry => self,
            Source::View(view) => {
                let (group, version, plural) = view.of;
                crate::find(group, version, plural).unwrap_or(self)
            }
            Source::Custom(custom) => custom.stored.unwrap_or(self),
        }
    }

    /// A stored object in the form of this row's version.
    pub fn show<'a>(&self, stored: &'a Value) -> Cow<'a, Value> {
        match self.source {
            Source::View(view) => Cow::Owned((view.show)(stored)),
            Source::Custom(custom) if custom.stored.is_some() => {
                Cow::Owned(custom.shown(self, stored))
            }
            _ => Cow::Borrowed(stored),
        }
    }

    /// `spec.conversion.webhook` of the kind's definition, when a webhook converts between its versions.
    pub fn converter(&self) -> Option<&'static Value> {
        self.custom().and_then(|custom| custom.converter.as_ref())
    }

    /// An object that is in this version already, with what the version's schema says.
    pub fn formed(&self, value: &Value) -> Value {
        match self.custom() {
            Some(custom) => custom.shown(self, value),
            None => value.clone(),
        }
    }

    /// An object from the store, in the form of the version that is stored now.
    pub fn settle(&self, value: &mut Value) {
        if let Some(custom) = self.custom() {
            custom::settle(self, custom, value);
        }
    }

    /// Fills in defaults.
    pub(crate) fn fill_in(&self, value: &mut Value) {
        match self.custom() {
            Some(custom) => custom.fill_in(value),
            None => (self.defaults)(value),
        }
    }

    /// Every fault of a new object (`old` is `None`) or of a change.
    pub(crate) fn faults(&self, value: &Value, old: Option<&Value>) -> Vec<Fault> {
        match self.custom() {
            Some(custom) => custom.faults(value, old),
            None => (self.validate)(value, old),
        }
    }

    /// The object as the kind's type has it.
    pub(crate) fn decoded(&self, value: &Value) -> Decoded {
        match self.custom() {
            Some(custom) => custom.decode(value),
            None => (self.decode)(value),
        }
    }

    /// A table row's cells, one a column. `now` is seconds since the epoch.
    pub fn row_cells(&self, object: &Value, now: i64) -> Vec<Cell> {
        match self.custom() {
            Some(custom) => custom.cells(object, now),
            None => (self.cells)(object, now),
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
