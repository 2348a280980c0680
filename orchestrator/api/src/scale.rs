//! The scale subresource: `autoscaling/v1` Scale of the kinds whose pods are counted in `spec.replicas`.

use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::{Value, json};

use crate::table::{Column, age, name};
use crate::walk::{at, number, set, text};
use crate::{Cell, Fault, Resource, Status, selector};

/// How a Scale is shown.
pub static ROW: Resource = Resource {
    columns: &[
        Column::NAME,
        Column::number("Desired", "Number of desired pods."),
        Column::number(
            "Available",
            "Number of observed pods that match the selector.",
        ),
        Column::AGE,
    ],
    cells,
    ..Resource::of::<Scale>("scale", true)
};

fn cells(scale: &Value, now: i64) -> Vec<Cell> {
    let count = |part| number(scale, &[part, "replicas"]).unwrap_or(0).into();
    vec![name(scale), count("spec"), count("status"), age(scale, now)]
}

/// The Scale of an object.
pub fn get(resource: &Resource, object: &Value) -> Value {
    let paths = resource.custom().and_then(|custom| custom.scale());
    let count = |path: Option<&Vec<String>>, own: [&str; 2]| match path {
        Some(path) => path
            .iter()
            .fold(object, |value, step| &value[step])
            .as_i64(),
        None => number(object, &own),
    };
    let wanted = count(paths.map(|paths| &paths.spec), ["spec", "replicas"]);
    let seen = count(paths.map(|paths| &paths.status), ["status", "replicas"]);
    // A custom kind has no replicas unless it says so.
    let wanted = wanted.unwrap_or(i64::from(paths.is_none()));
    let meta = &object["metadata"];
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": { "replicas": wanted },
        "status": { "replicas": seen.unwrap_or(0) },
    });
    if let Some(paths) = paths {
        let found = paths.selector.iter().flatten();
        let found = found.fold(object, |value, step| &value[step]);
        if let (true, Some(selector)) = (paths.selector.is_some(), found.as_str()) {
            set(&mut scale, &["status"], "selector", selector);
        }
        return scale;
    }
    let selector = at(object, &["spec", "selector"]);
    let selector = if text(object, &["kind"]) == "ReplicationController" {
        Ok(selector::LabelSelector::from_map(selector))
    } else {
        selector::LabelSelector::from_object(selector)
    };
    if let Ok(selector) = selector {
        set(&mut scale, &["status"], "selector", selector.to_string());
    }
    scale
}

/// The object with the replicas of `scale`, for [`crate::prepare_update`].
///
/// # Errors
/// 409 when the Scale carries another resourceVersion, 422 for a missing or negative number.
pub fn apply(resource: &Resource, object: &Value, scale: &Value) -> Result<Value, Status> {
    let name = text(object, &["metadata", "name"]);
    let given = text(scale, &["metadata", "resourceVersion"]);
    if !given.is_empty() && given != text(object, &["metadata", "resourceVersion"]) {
        return Err(Status::modified(resource, name));
    }
    let replicas = &scale["spec"]["replicas"];
    let count = match replicas {
        Value::Null => Some(0),
        other => other.as_i64(),
    };
    let fault = match count {
        Some(0..=2_147_483_647) => None,
        Some(count) => Some(Fault::invalid(
            "spec.replicas",
            count,
            "must be greater than or equal to 0",
        )),
        None => Some(Fault::invalid(
            "spec.replicas",
            replicas.clone(),
            "must be a whole number",
        )),
    };
    if let Some(fault) = fault {
        let message = format!("Scale.autoscaling {name:?} is invalid: {fault}");
        return Err(Status::failure(422, "Invalid", message));
    }
    let mut value = object.clone();
    let paths = resource.custom().and_then(|custom| custom.scale());
    match paths.and_then(|paths| paths.spec.split_last()) {
        Some((last, parents)) => {
            let parents: Vec<&str> = parents.iter().map(String::as_str).collect();
            set(&mut value, &parents, last, count);
        }
        None => set(&mut value, &["spec"], "replicas", count),
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup_name;

    #[test]
    fn a_scale_shows_and_sets_replicas() {
        let row = lookup_name("deploy").unwrap();
        let object = json!({
            "metadata": {"name": "d", "namespace": "n", "resourceVersion": "7"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}}, "status": {"replicas": 2},
        });
        let mut scale = get(row, &object);
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "app=d"}));
        scale["spec"]["replicas"] = json!(10);
        assert_eq!(apply(row, &object, &scale).unwrap()["spec"]["replicas"], 10);
        for (replicas, code) in [
            (json!(-1), 422),
            (json!("x"), 422),
            (json!(1i64 << 40), 422),
        ] {
            scale["spec"]["replicas"] = replicas;
            assert_eq!(apply(row, &object, &scale).unwrap_err().code, code);
        }
        scale["metadata"]["resourceVersion"] = json!("6");
        assert!(apply(row, &object, &scale).unwrap_err().is_conflict());
    }
}
