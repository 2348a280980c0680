//! Strategic merge: a merge patch whose lists merge by key, with directives.
//!
//! Semantics:
//! <https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md>.

use serde_json::{Map, Value};

use super::keys::{ListRule, list_rule};
use crate::openapi::schema;

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `value`, an object of the type named `definition` in OpenAPI; unknown types merge as plain
/// maps. The error completes a sentence.
pub(super) fn merge(
    definition: Option<&str>,
    value: &mut Value,
    patch: &Value,
) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return Ok(());
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(target) = value else {
        return Ok(());
    };
    match patch
        .get(PATCH)
        .map(|directive| directive.as_str().unwrap_or_default())
    {
        None | Some("merge") => merge_fields(definition, target, patch),
        Some("replace") => {
            target.clear();
            let rest: Map<_, _> = patch
                .iter()
                .filter(|(key, _)| *key != PATCH)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            merge_fields(definition, target, &rest)
        }
        Some("delete") => {
            target.clear();
            Ok(())
        }
        Some(other) => Err(format!(
            "unknown directive $patch: {other:?}: use replace, merge or delete"
        )),
    }
}

fn merge_fields(
    definition: Option<&str>,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    if let Some(retained) = patch.get(RETAIN) {
        let retained = retained
            .as_array()
            .ok_or("$retainKeys must be a list of field names")?;
        target.retain(|key, _| retained.iter().any(|one| one == key.as_str()));
    }
    for (key, wanted) in patch {
        if key == PATCH || key == RETAIN || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_values(target, field, wanted)?;
        } else if wanted.is_null() {
            target.remove(key);
        } else {
            merge_field(
                definition,
                target,
                key,
                wanted,
                patch.get(&format!("{ORDER}{key}")),
            )?;
        }
    }
    // An order may come without a patch of its list.
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER)
            && let Some(Value::Array(items)) = target.get_mut(field)
        {
            let before = items.clone();
            let rule = definition.and_then(|definition| list_rule(definition, field));
            arrange(rule, items, order, &before);
        }
    }
    Ok(())
}

fn delete_values(
    target: &mut Map<String, Value>,
    field: &str,
    unwanted: &Value,
) -> Result<(), String> {
    let unwanted = unwanted
        .as_array()
        .ok_or_else(|| format!("{DELETE_FROM}{field} must be a list"))?;
    if let Some(Value::Array(items)) = target.get_mut(field) {
        items.retain(|item| !unwanted.contains(item));
    }
    Ok(())
}

fn merge_field(
    definition: Option<&str>,
    target: &mut Map<String, Value>,
    key: &str,
    wanted: &Value,
    order: Option<&Value>,
) -> Result<(), String> {
    let child = definition.and_then(|definition| schema::field_type(definition, key));
    let rule = definition.and_then(|definition| list_rule(definition, key));
    match (wanted, rule) {
        (Value::Object(_), _) => merge(child, target.entry(key).or_insert(Value::Null), wanted),
        (Value::Array(items), Some(rule @ (ListRule::Keyed { .. } | ListRule::Set))) => {
            let slot = target.entry(key).or_insert(Value::Null);
            if !slot.is_array() {
                *slot = Value::Array(Vec::new());
            }
            let Value::Array(list) = slot else {
                return Ok(());
            };
            let before = list.clone();
            match rule {
                ListRule::Keyed {
                    key: name, second, ..
                } => {
                    let how = Keyed {
                        name,
                        second,
                        child,
                        order,
                    };
                    merge_list(&how, list, items).map_err(|error| format!("{key}: {error}"))?;
                }
                _ => merge_set(list, items),
            }
            if let Some(order) = order {
                arrange(Some(rule), list, order, &before);
            }
            Ok(())
        }
        _ => {
            target.insert(key.to_owned(), wanted.clone());
            Ok(())
        }
    }
}

fn merge_set(list: &mut Vec<Value>, items: &[Value]) {
    for item in items {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

struct Keyed<'a> {
    name: &'static str,
    second: Option<(&'static str, &'static str)>,
    child: Option<&'a str>,
    order: Option<&'a Value>,
}

fn merge_list(how: &Keyed<'_>, list: &mut Vec<Value>, items: &[Value]) -> Result<(), String> {
    if items
        .iter()
        .any(|item| item[PATCH] == "replace" && item[how.name].is_null())
    {
        list.clear();
    }
    for item in items {
        let directive = item[PATCH].as_str();
        if item[how.name].is_null() {
            if directive == Some("replace") {
                continue;
            }
            return Err(format!(
                "an item of the patch lacks the merge key {:?}",
                how.name
            ));
        }
        match (how.find(list, item), directive) {
            (found, Some("delete")) => {
                if found.is_some() {
                    list.retain(|old| !how.same(old, item));
                }
            }
            (Some(index), Some("replace")) => {
                list[index] = Value::Null;
                merge(how.child, &mut list[index], item)?;
            }
            (Some(index), _) => merge(how.child, &mut list[index], item)?,
            (None, _) => {
                let mut new = Value::Null;
                merge(how.child, &mut new, item)?;
                list.push(new);
            }
        }
    }
    Ok(())
}

impl Keyed<'_> {
    /// Whether `old` is what `item` names: by the first key, and by the second one if the item gives it.
    fn same(&self, old: &Value, item: &Value) -> bool {
        old[self.name] == item[self.name] && self.second_agrees(old, item)
    }

    fn second_agrees(&self, old: &Value, item: &Value) -> bool {
        self.second.is_none_or(|(field, fallback)| {
            item[field].is_null() || item[field] == *old[field].as_str().unwrap_or(fallback)
        })
    }

    /// Which of `list` the item is for. One name with another second key is a change of that item, unless the
    /// wanted order shows that there are to be more items of the name than there are.
    fn find(&self, list: &[Value], item: &Value) -> Option<usize> {
        let exact = list.iter().position(|old| self.same(old, item));
        if exact.is_some() {
            return exact;
        }
        let named = |one: &&Value| one[self.name] == item[self.name];
        let wanted = self
            .order
            .and_then(Value::as_array)
            .map_or(0, |order| order.iter().filter(named).count());
        if wanted > list.iter().filter(named).count() {
            return None;
        }
        list.iter()
            .position(|old| old[self.name] == item[self.name])
    }
}

/// Brings the items that `order` names into that order; the others keep their place relative to where the named ones
/// were in `before`.
fn arrange(rule: Option<ListRule>, list: &mut Vec<Value>, order: &Value, before: &[Value]) {
    let Some(order) = order.as_array() else {
        return;
    };
    let key = match rule {
        Some(ListRule::Keyed { key, .. }) => Some(key),
        _ => None,
    };
    let name = |item: &Value| key.map_or_else(|| item.clone(), |key| item[key].clone());
    let rank = |item: &Value| order.iter().position(|one| name(one) == name(item));
    let was = |item: &Value| before.iter().position(|one| name(one) == name(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        list.drain(..).partition(|item| rank(item).is_some());
    named.sort_by_key(|item| rank(item));
    let mut named = named.into_iter().peekable();
    for other in others {
        while let Some(next) = named.peek() {
            match (was(next), was(&other)) {
                (Some(next), Some(other)) if other < next => break,
                _ => list.extend(named.next()),
            }
        }
        list.push(other);
    }
    list.extend(named);
}
