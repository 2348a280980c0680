//! The entries of `metadata.managedFields`: read, written, given to and taken from.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::FieldSet;
use crate::life::time_text;

/// How a manager came to its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// By server-side apply: what it leaves out next time is removed.
    Apply,
    /// By any other write.
    Update,
}

/// One manager's fields.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) time: Option<Timestamp>,
    pub(super) subresource: String,
    pub(super) fields: FieldSet,
}

impl Entry {
    /// Whether it is the same manager writing in the same way.
    pub(super) fn same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.api_version == other.api_version
            && self.subresource == other.subresource
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let operation = match value["operation"].as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            time: text("time").parse().ok(),
            subresource: text("subresource"),
            fields: FieldSet::read(&value["fieldsV1"]),
        })
    }

    fn to_value(&self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut value = json!({
            "manager": self.manager,
            "operation": operation,
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_value(),
        });
        if let Some(time) = self.time {
            value["time"] = time_text(time).into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }
}

/// Whether every entry can be read; there may be none.
pub(super) fn are_valid(value: &Value) -> bool {
    let valid = |entry: &Value| {
        let whole = ["manager", "apiVersion"]
            .iter()
            .all(|field| entry[*field].as_str().is_some_and(|text| !text.is_empty()));
        whole && entry["fieldsType"] == "FieldsV1" && entry["fieldsV1"].is_object()
    };
    match value {
        Value::Null => true,
        Value::Array(entries) => entries
            .iter()
            .all(|one| valid(one) && Entry::read(one).is_some()),
        _ => false,
    }
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Managers {
    pub(super) entries: Vec<Entry>,
}

impl Managers {
    pub(super) fn read(value: &Value) -> Self {
        let entries = value.as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            entries: entries.iter().filter_map(Entry::read).collect(),
        }
    }

    pub(super) fn to_value(&self) -> Value {
        self.entries
            .iter()
            .filter(|entry| !entry.fields.is_empty())
            .map(Entry::to_value)
            .collect()
    }

    /// Takes the fields away from everybody.
    pub(super) fn release(&mut self, fields: &FieldSet) {
        for entry in &mut self.entries {
            entry.fields = entry.fields.difference(fields);
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }

    /// Gives the fields to the manager that `as_who` describes, beside what it has.
    pub(super) fn add(&mut self, as_who: &Entry, fields: &FieldSet) {
        if fields.is_empty() {
            return;
        }
        match self
            .entries
            .iter_mut()
            .find(|entry| entry.same_manager(as_who))
        {
            Some(entry) => {
                entry.fields = entry.fields.union(fields);
                entry.time = as_who.time;
            }
            None => self.entries.push(Entry {
                fields: fields.clone(),
                ..as_who.clone()
            }),
        }
    }
}
