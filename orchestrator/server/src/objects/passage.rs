//! A write on its way through the webhooks: what they are told of it, and in which form they see its object.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;
use waggle_api::access::User;
use waggle_api::admission::webhook::{Attempt, Operation};
use waggle_api::{FieldValidation, Part, Resource, Status, scale};

use super::commit::text;
use super::{Object, Ownership, WriteOptions, caller};

/// A write on its way through the webhooks.
pub(super) struct Passage<'a> {
    /// Namespace and name, where what is sent does not say them.
    pub(super) about: Option<(&'a str, &'a str)>,
    pub(super) operation: Operation,
    /// The kind in the version of the request.
    pub(super) resource: &'static Resource,
    pub(super) part: Part,
    pub(super) old: Option<&'a Arc<Object>>,
    pub(super) options: &'a WriteOptions,
}

impl Passage<'_> {
    pub(super) fn subresource(&self) -> &str {
        match (&self.options.ownership, self.part) {
            (Ownership::Client { subresource, .. }, _) if !subresource.is_empty() => subresource,
            (_, Part::Main) => "",
            (_, Part::Status) => "status",
            (_, Part::Ephemeral) => "ephemeralcontainers",
            (_, Part::Resize) => "resize",
            (_, Part::Approval) => "approval",
        }
    }

    pub(super) fn attempt<'s>(&'s self, object: &'s Value, user: &'s User) -> Attempt<'s> {
        let manager = match &self.options.ownership {
            Ownership::Client { manager, .. } => manager,
            _ => "",
        };
        Attempt {
            operation: self.operation,
            resource: self.resource,
            subresource: self.subresource(),
            namespace: self.namespace(object),
            name: self.about.map_or(text(object, "name"), |about| about.1),
            user,
            manager,
            dry_run: self.options.dry_run,
        }
    }

    pub(super) fn namespace<'s>(&'s self, object: &'s Value) -> &'s str {
        self.about
            .map_or(text(object, "namespace"), |about| about.0)
    }

    pub(super) fn user(&self) -> User {
        match &self.options.caller {
            Some(caller) => caller.user().cloned().unwrap_or_default(),
            None => caller::server(),
        }
    }

    /// An object in the version of `row` as a webhook sees it.
    pub(super) fn shown<'v>(&self, row: &'static Resource, object: &'v Value) -> Cow<'v, Value> {
        if self.subresource() == "scale" {
            Cow::Owned(scale::get(row, object))
        } else {
            Cow::Borrowed(object)
        }
    }

    /// The object of the kind from what a webhook made of what it saw of `object`.
    pub(super) fn taken(
        &self,
        row: &'static Resource,
        object: &Value,
        made: Value,
    ) -> Result<Value, Status> {
        if self.subresource() == "scale" {
            return scale::apply(row, object, &made);
        }
        Ok(row.read(made, FieldValidation::Ignore, Vec::new())?.value)
    }

    /// Whether another webhook has to make the object that one is asked about in this version.
    pub(super) fn needs_conversion(&self, row: &'static Resource) -> bool {
        row.converter().is_some() && !std::ptr::eq(row, self.resource)
    }
}
