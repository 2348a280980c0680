//! Laying an applied configuration over an object, and taking out what its manager no longer wants.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::fields::FieldSet;
use super::shape::{Shape, Split, value_step};

/// `config` laid over `value`, both objects of the type: fields of `config` win, keyed lists merge.
pub(super) fn lay_over(shape: Shape<'_>, value: &mut Value, config: &Value) {
    let Value::Object(config) = config else {
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(target) = value else {
        return;
    };
    for (name, wanted) in config {
        if wanted.is_null() {
            continue;
        }
        match target.get_mut(name) {
            Some(present) if !present.is_null() => field(shape, name, present, wanted),
            _ => {
                target.insert(name.clone(), wanted.clone());
            }
        }
    }
}

fn field(shape: Shape<'_>, name: &str, present: &mut Value, wanted: &Value) {
    match (shape.split(name, present), shape.split(name, wanted)) {
        (Split::Fields(inner), Split::Fields(_)) => lay_over(inner, present, wanted),
        (Split::Items(keys, inner), Split::Items(..)) => {
            items(
                present,
                wanted,
                |one| keys.step(one),
                |old, new| {
                    lay_over(inner, old, new);
                },
            );
        }
        (Split::Values, Split::Values) => items(present, wanted, value_step, |_, _| {}),
        _ => *present = wanted.clone(),
    }
}

/// Merges two lists. Items that both have come in the order of `wanted`; others keep their place after those before
/// them.
fn items(
    present: &mut Value,
    wanted: &Value,
    step: impl Fn(&Value) -> String,
    merge: impl Fn(&mut Value, &Value),
) {
    let (Value::Array(present), Value::Array(wanted)) = (present, wanted) else {
        return;
    };
    let steps: Vec<String> = wanted.iter().map(&step).collect();
    let mut old: VecDeque<(String, Value)> =
        present.drain(..).map(|one| (step(&one), one)).collect();
    for (name, item) in steps.iter().zip(wanted) {
        if !old.iter().any(|(other, _)| other == name) {
            present.push(item.clone());
            continue;
        }
        let mut later = Vec::new();
        while let Some((other, mut one)) = old.pop_front() {
            if other == *name {
                merge(&mut one, item);
                present.push(one);
                break;
            }
            if steps.contains(&other) {
                later.push((other, one));
            } else {
                present.push(one);
            }
        }
        later.into_iter().rev().for_each(|one| old.push_front(one));
    }
    present.extend(old.into_iter().map(|(_, one)| one));
}

/// Takes the fields of `unwanted` out of `value`. A map or item goes only when its own place is named and nothing
/// else is left in it.
pub(super) fn take_out(shape: Shape<'_>, value: &mut Value, unwanted: &FieldSet) {
    let Value::Object(map) = value else {
        return;
    };
    for (step, tree) in &unwanted.below {
        let Some(name) = step.strip_prefix("f:") else {
            continue;
        };
        let Some(present) = map.get_mut(name) else {
            continue;
        };
        let split = shape.split(name, present);
        if is_whole(split) || tree.below.is_empty() {
            // An item of a kept map may have been added by others since.
            let kept = tree.own && tree.below.is_empty() && has_content(split, present);
            if tree.own && !kept {
                map.remove(name);
            }
            continue;
        }
        inside(split, present, tree);
        if is_hollow(present) {
            map.remove(name);
        }
    }
}

fn is_whole(split: Split<'_>) -> bool {
    matches!(split, Split::Whole)
}

fn has_content(split: Split<'_>, value: &Value) -> bool {
    !is_whole(split) && !is_hollow(value)
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn inside(split: Split<'_>, present: &mut Value, tree: &FieldSet) {
    match (split, present) {
        (Split::Fields(shape), present @ Value::Object(_)) => take_out(shape, present, tree),
        (Split::Items(keys, shape), Value::Array(items)) => {
            items.retain_mut(|item| match tree.below.get(&keys.step(item)) {
                // The item itself is given up, and what others own in it was spared: only its keys would be left.
                Some(tree) if tree.own => false,
                Some(tree) => {
                    take_out(shape, item, tree);
                    true
                }
                None => true,
            });
        }
        (Split::Values, Value::Array(items)) => {
            items.retain(|item| {
                !tree
                    .below
                    .get(&value_step(item))
                    .is_some_and(|tree| tree.own)
            });
        }
        _ => {}
    }
}
