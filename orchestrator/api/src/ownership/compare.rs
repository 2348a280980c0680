//! What changed between two states of an object, field by field.

use serde_json::Value;

use super::fields::FieldSet;
use super::shape::{Shape, Split, fields_of, value_step};

/// The difference of two states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Fields that are new or have another value.
    pub(super) set: FieldSet,
    /// Fields that are gone.
    pub(super) removed: FieldSet,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    fn put(&mut self, step: &str, inner: Self) {
        self.set.put(step, inner.set);
        self.removed.put(step, inner.removed);
    }
}

/// What leads from `before` to `after`, both objects of the type.
pub(super) fn changes(shape: Shape<'_>, before: &Value, after: &Value) -> Change {
    let mut change = Change::default();
    let names = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut all = names(before);
    all.extend(names(after));
    all.sort_unstable();
    all.dedup();
    for name in all {
        let (old, new) = (&before[&name], &after[&name]);
        if old != new {
            change.put(&format!("f:{name}"), of_field(shape, &name, old, new));
        }
    }
    change
}

fn of_field(shape: Shape<'_>, name: &str, old: &Value, new: &Value) -> Change {
    match (old.is_null(), new.is_null()) {
        (true, _) => Change {
            set: with_place(shape, name, new),
            removed: FieldSet::default(),
        },
        (_, true) => Change {
            set: FieldSet::default(),
            removed: with_place(shape, name, old),
        },
        _ => match (shape.split(name, old), shape.split(name, new)) {
            (Split::Fields(inner), Split::Fields(_)) => changes(inner, old, new),
            (Split::Items(keys, inner), Split::Items(..)) => {
                let mut change = Change::default();
                let (old, new) = (
                    by_step(old, |one| keys.step(one)),
                    by_step(new, |one| keys.step(one)),
                );
                for (step, item) in &new {
                    match old.iter().find(|(other, _)| other == step) {
                        Some((_, before)) => change.put(step, changes(inner, before, item)),
                        None => change.set.put(step, item_fields(inner, item)),
                    }
                }
                for (step, item) in &old {
                    if !new.iter().any(|(other, _)| other == step) {
                        change.removed.put(step, item_fields(inner, item));
                    }
                }
                change
            }
            (Split::Values, Split::Values) => {
                let mut change = Change::default();
                let (old, new) = (by_step(old, value_step), by_step(new, value_step));
                for (step, _) in &new {
                    if !old.iter().any(|(other, _)| other == step) {
                        change.set.put(step, FieldSet::leaf());
                    }
                }
                for (step, _) in &old {
                    if !new.iter().any(|(other, _)| other == step) {
                        change.removed.put(step, FieldSet::leaf());
                    }
                }
                change
            }
            _ => Change {
                set: with_place(shape, name, new),
                removed: FieldSet::default(),
            },
        },
    }
}

/// The fields of a new value, and its own place when it holds some: whoever makes a map owns that it is there.
fn with_place(shape: Shape<'_>, name: &str, value: &Value) -> FieldSet {
    let wrapped = Value::Object(std::iter::once((name.to_owned(), value.clone())).collect());
    let mut set = fields_of(shape, &wrapped);
    let mut tree = set.below.remove(&format!("f:{name}")).unwrap_or_default();
    if value.is_object() || value.is_array() {
        tree.own = true;
    }
    tree
}

fn item_fields(shape: Shape<'_>, item: &Value) -> FieldSet {
    let mut set = fields_of(shape, item);
    set.own = true;
    set
}

fn by_step(list: &Value, step: impl Fn(&Value) -> String) -> Vec<(String, &Value)> {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(|item| (step(item), item)).collect()
}
