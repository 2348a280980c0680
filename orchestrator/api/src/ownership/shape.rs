//! What the machinery knows of a value's type when it splits it into fields: which lists are merged and by which keys,
//! and which values are taken whole.

use serde_json::{Value, json};

use super::fields::FieldSet;
use crate::openapi::schema;
use crate::patch::{ListRule, list_rule};
use crate::{Resource, custom};

/// A type.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape<'a> {
    /// By its OpenAPI name.
    Named(&'a str),
    /// By a definition's schema.
    Schema(&'a Value),
    /// Nothing is known: objects are split into their fields, lists are whole.
    Free,
}

/// How a value is split.
#[derive(Debug, Clone, Copy)]
pub(super) enum Split<'a> {
    /// An object into its fields.
    Fields(Shape<'a>),
    /// Not at all.
    Whole,
    /// A list into items that are told apart by keys, each with its default.
    Items(Keys<'a>, Shape<'a>),
    /// A list into its values.
    Values,
}

/// Fields that name an item of a list.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys<'a> {
    /// One, and perhaps a second with its default.
    Typed {
        first: &'static str,
        second: Option<(&'static str, &'static str)>,
    },
    /// Those that the schema of a list of a custom kind names; defaults are in the schema of its items.
    Schema(&'a Value),
}

/// Types that are one value, however many fields they have.
const WHOLE: [&str; 5] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
];

/// Fields that are maps and one value.
const WHOLE_MAPS: [(&str, &str); 2] = [
    ("io.k8s.api.core.v1.PodSpec", "nodeSelector"),
    ("io.k8s.api.core.v1.ServiceSpec", "selector"),
];

impl Shape<'static> {
    pub(super) fn of(resource: &Resource) -> Self {
        match resource.custom() {
            Some(custom) => Shape::Schema(&custom.schema),
            None => schema::definition_of(resource).map_or(Shape::Free, Shape::Named),
        }
    }
}

impl<'a> Shape<'a> {
    /// How the value of a field of this type is split.
    pub(super) fn split(self, field: &str, value: &Value) -> Split<'a> {
        let (rule, child) = match self {
            Self::Named(name) => (list_rule(name, field), schema::field_type(name, field)),
            Self::Schema(schema) => return split_custom(schema, field, value),
            Self::Free => (None, None),
        };
        let child_shape = child.map_or(Shape::Free, Shape::Named);
        match value {
            Value::Object(_) => {
                let whole_map =
                    matches!(self, Self::Named(name) if WHOLE_MAPS.contains(&(name, field)));
                if whole_map || child.is_some_and(|child| WHOLE.contains(&child)) {
                    Split::Whole
                } else {
                    Split::Fields(child_shape)
                }
            }
            Value::Array(items) => match rule {
                Some(ListRule::Keyed { key, second, .. }) => {
                    let keys = Keys::Typed { first: key, second };
                    if keys.tell_apart(items) {
                        Split::Items(keys, child_shape)
                    } else {
                        Split::Whole
                    }
                }
                Some(ListRule::Set) => Split::Values,
                _ => Split::Whole,
            },
            _ => Split::Whole,
        }
    }
}

/// As [`Shape::split`], by the schema of a custom kind.
fn split_custom<'a>(schema: &'a Value, field: &str, value: &Value) -> Split<'a> {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    if field == "metadata" && custom::is_embedded(schema) {
        return Split::Fields(Shape::Named(META));
    }
    let inner = custom::field(schema, field);
    let says = |word: &str| inner.and_then(|inner| inner[word].as_str());
    match value {
        Value::Object(_) if says("x-kubernetes-map-type") == Some("atomic") => Split::Whole,
        Value::Object(_) => Split::Fields(inner.map_or(Shape::Free, Shape::Schema)),
        Value::Array(items) => match (says("x-kubernetes-list-type"), inner) {
            (Some("set"), _) => Split::Values,
            (Some("map"), Some(list)) => {
                let keys = Keys::Schema(list);
                if keys.tell_apart(items) {
                    Split::Items(keys, Shape::Schema(&list["items"]))
                } else {
                    Split::Whole
                }
            }
            _ => Split::Whole,
        },
        _ => Split::Whole,
    }
}

impl Keys<'_> {
    /// The step that leads to an item: `k:{"name":"web"}`.
    pub(super) fn step(self, item: &Value) -> String {
        let mut keys = json!({});
        match self {
            Self::Typed { first, second } => {
                keys[first] = item[first].clone();
                if let Some((field, default)) = second {
                    let value = &item[field];
                    keys[field] = if value.is_null() {
                        default.into()
                    } else {
                        value.clone()
                    };
                }
            }
            Self::Schema(list) => {
                let names = list["x-kubernetes-list-map-keys"].as_array();
                for name in names.into_iter().flatten().filter_map(Value::as_str) {
                    let default = &list["items"]["properties"][name]["default"];
                    let given = Some(&item[name]).filter(|one| !one.is_null());
                    keys[name] = given.unwrap_or(default).clone();
                }
            }
        }
        format!("k:{keys}")
    }

    /// Whether every item has a name of its own.
    fn tell_apart(self, items: &[Value]) -> bool {
        let mut seen = std::collections::BTreeSet::new();
        let named = |item: &Value| match self {
            Self::Typed { first, .. } => !item[first].is_null(),
            Self::Schema(_) => item.is_object(),
        };
        items
            .iter()
            .all(|item| named(item) && seen.insert(self.step(item)))
    }
}

/// The step that leads to a value of a set.
pub(super) fn value_step(value: &Value) -> String {
    format!("v:{value}")
}

/// Every field of a value: what an applier who sends it wants to own.
pub(super) fn fields_of(shape: Shape<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    for (name, inner) in value.as_object().into_iter().flatten() {
        set.put(
            &format!("f:{name}"),
            of_split(shape.split(name, inner), inner),
        );
    }
    set
}

fn of_split(split: Split<'_>, value: &Value) -> FieldSet {
    match split {
        Split::Fields(shape) if value.as_object().is_some_and(|map| !map.is_empty()) => {
            fields_of(shape, value)
        }
        Split::Items(keys, shape) if value.as_array().is_some_and(|all| !all.is_empty()) => {
            let mut set = FieldSet::default();
            for item in value.as_array().into_iter().flatten() {
                let mut tree = fields_of(shape, item);
                tree.own = true;
                set.put(&keys.step(item), tree);
            }
            set
        }
        Split::Values if value.as_array().is_some_and(|all| !all.is_empty()) => {
            let mut set = FieldSet::default();
            for item in value.as_array().into_iter().flatten() {
                set.put(&value_step(item), FieldSet::leaf());
            }
            set
        }
        _ => FieldSet::leaf(),
    }
}
