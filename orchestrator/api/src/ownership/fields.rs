//! A set of fields, as `fieldsV1` writes it: a tree whose steps are `f:<field>`, `k:<keys of an item>` and
//! `v:<value>`; `.` says that the place itself is in the set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields, by the path that leads to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// The place where the tree stands is in the set.
    pub(super) own: bool,
    /// Further in.
    pub(super) below: BTreeMap<String, FieldSet>,
}

/// Steps deeper than this are not read.
const DEEPEST: usize = 64;

impl FieldSet {
    /// Just the place itself.
    pub(super) fn leaf() -> Self {
        Self {
            own: true,
            below: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.below.values().all(Self::is_empty)
    }

    /// Puts a tree at a step unless there is nothing in it.
    pub(super) fn put(&mut self, step: &str, tree: Self) {
        if !tree.is_empty() {
            self.below.insert(step.to_owned(), tree);
        }
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let nothing = Self::default();
        let steps = self.below.keys().chain(other.below.keys());
        let mut all = Self {
            own: keep(self.own, other.own),
            below: BTreeMap::new(),
        };
        for step in steps {
            if all.below.contains_key(step) {
                continue;
            }
            let (mine, theirs) = (self.below.get(step), other.below.get(step));
            let tree = mine
                .unwrap_or(&nothing)
                .combine(theirs.unwrap_or(&nothing), keep);
            all.put(step, tree);
        }
        all
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine || theirs)
    }

    /// What is in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && theirs)
    }

    /// What is in this one only.
    pub(super) fn difference(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| mine && !theirs)
    }

    /// From `fieldsV1`.
    pub(super) fn read(value: &Value) -> Self {
        Self::read_at(value, 0, true)
    }

    fn read_at(value: &Value, depth: usize, root: bool) -> Self {
        let Some(map) = value.as_object().filter(|_| depth < DEEPEST) else {
            return Self::default();
        };
        let mut set = Self {
            own: (map.is_empty() && !root) || map.contains_key("."),
            below: BTreeMap::new(),
        };
        for (step, inner) in map.iter().filter(|(step, _)| *step != ".") {
            set.below
                .insert(step.clone(), Self::read_at(inner, depth + 1, false));
        }
        set
    }

    /// As `fieldsV1`.
    pub(super) fn to_value(&self) -> Value {
        let mut map = Map::new();
        let inner = self.below.iter().filter(|(_, tree)| !tree.is_empty());
        for (step, tree) in inner {
            map.insert(step.clone(), tree.to_value());
        }
        if self.own && !map.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }

    /// Every path in the set, as people read it: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.collect(String::new(), &mut all);
        all
    }

    fn collect(&self, path: String, all: &mut Vec<String>) {
        for (step, tree) in &self.below {
            tree.collect(format!("{path}{}", readable(step)), all);
        }
        if self.own {
            all.push(path);
        }
    }
}

fn readable(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let pairs: Vec<String> = keys
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{step}]"),
    }
}
