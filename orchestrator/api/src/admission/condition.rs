//! Conditions of admission that are expressions (`matchConditions`): whether a webhook that is about a request is asked
//! about it. The language is [`crate::cel`]'s.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value;

use crate::cel::{Budget, Evaluation, Expression, Failure, Type, of_json};
use crate::walk::{list, text};

/// Expressions that are kept compiled.
const KEPT: usize = 1024;

static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Expression>>>> = LazyLock::new(Mutex::default);

/// The condition, compiled.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn compiled(source: &str) -> Result<Arc<Expression>, String> {
    let kept = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(one) = kept().get(source) {
        return Ok(Arc::clone(one));
    }
    let scope = ["object", "oldObject", "request"].map(|name| (name, Type::Dyn));
    let made = Arc::new(Expression::compile(source, &scope, &Type::Bool)?);
    let mut kept = kept();
    if kept.len() >= KEPT {
        kept.clear();
    }
    kept.insert(source.to_owned(), Arc::clone(&made));
    Ok(made)
}

/// Whether all conditions of `hook` hold for what `review` is to ask. One that doesn't hold is enough for no, whatever
/// else fails.
///
/// # Errors
/// The conditions that can't be evaluated, when no other says no.
pub fn hold(hook: &Value, review: &Value) -> Result<bool, String> {
    let conditions = list(hook, &["matchConditions"]);
    if conditions.is_empty() {
        return Ok(true);
    }
    let request = &review["request"];
    let mut attributes = request.clone();
    if let Some(map) = attributes.as_object_mut() {
        map.retain(|name, _| !matches!(name.as_str(), "object" | "oldObject" | "uid"));
    }
    let mut evaluation = Evaluation::new(&Budget::default());
    evaluation.bind("object", of_json(&request["object"]));
    evaluation.bind("oldObject", of_json(&request["oldObject"]));
    evaluation.bind("request", of_json(&attributes));
    let mut failed = Vec::new();
    for condition in conditions {
        let evaluated = compiled(text(condition, &["expression"]))
            .map_err(Failure::Error)
            .and_then(|expression| evaluation.holds(&expression));
        let name = text(condition, &["name"]);
        match evaluated {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(Failure::OutOfBudget) => failed.push(format!("{name}: cost budget exceeded")),
            Err(Failure::Error(why)) => failed.push(format!("{name}: {why}")),
        }
    }
    if failed.is_empty() {
        return Ok(true);
    }
    Err(format!(
        "matchConditions can't be evaluated: {}",
        failed.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_that_does_not_hold_decides() {
        let review = json!({"request": {"operation": "UPDATE", "namespace": "shop", "dryRun": false,
            "userInfo": {"username": "ann", "groups": ["a"]},
            "object": {"metadata": {"name": "x", "labels": {"a-b": "c"}}}, "oldObject": null}});
        for (conditions, expect) in [
            (&[][..], Some(true)),
            (
                &[
                    "object.metadata.name == 'x'",
                    "request.operation == 'UPDATE'",
                ],
                Some(true),
            ),
            (
                &["object.metadata.labels['a-b'] == 'c' && oldObject == null"],
                Some(true),
            ),
            (
                &["!('system:nodes' in request.userInfo.groups)"],
                Some(true),
            ),
            (
                &["request.userInfo.username.startsWith('system:')"],
                Some(false),
            ),
            (&["object.spec.x == 1"], None),
            (&["object.spec.x == 1", "false"], Some(false)),
            (&["has(object.spec) && object.spec.x == 1"], Some(false)),
            (&["has(request.object)"], Some(false)),
        ] {
            let all: Vec<_> = conditions
                .iter()
                .map(|one| json!({"name": "n", "expression": one}))
                .collect();
            let seen = hold(&json!({"matchConditions": all}), &review);
            assert_eq!(
                seen.as_ref().ok().copied(),
                expect,
                "{conditions:?}: {seen:?}"
            );
        }
    }
}
