//! Deployments and ReplicaSets.

use serde_json::Value;

use super::{at_least, meta, one_of, pod};
use crate::Fault;
use crate::selector::LabelSelector;
use crate::walk::{at, has, text};

/// Faults of a Deployment.
pub(crate) fn deployment(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Deployment", value, old, &mut out);
    replicated(value, old, &mut out);
    at_least(
        at(value, &["spec", "revisionHistoryLimit"]),
        0,
        "spec.revisionHistoryLimit",
        &mut out,
    );
    progress(value, &mut out);
    strategy(at(value, &["spec", "strategy"]), &mut out);
    out
}

/// Faults of a ReplicaSet.
pub(crate) fn replica_set(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ReplicaSet", value, old, &mut out);
    replicated(value, old, &mut out);
    out
}

/// Replicas, selector and template, which both have.
fn replicated(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return;
    }
    at_least(at(value, &["spec", "replicas"]), 0, "spec.replicas", out);
    at_least(
        at(value, &["spec", "minReadySeconds"]),
        0,
        "spec.minReadySeconds",
        out,
    );
    let selector = at(value, &["spec", "selector"]);
    let parsed = LabelSelector::from_object(selector);
    // Reading an object can't tell a missing selector from an empty one; neither chooses any pods.
    if selector.is_null() || parsed.as_ref().is_ok_and(LabelSelector::is_empty) {
        out.push(Fault::required("spec.selector", ""));
    } else {
        meta::selector(selector, "spec.selector", out);
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["spec", "selector"], out);
    }
    let template = at(value, &["spec", "template"]);
    if template.is_null() {
        out.push(Fault::required("spec.template", ""));
        return;
    }
    let labels = at(template, &["metadata", "labels"]);
    if parsed.is_ok_and(|selector| !selector.is_empty() && !selector.matches(labels)) {
        let detail = "`selector` does not match template `labels`";
        out.push(Fault::invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            detail,
        ));
    }
    meta::labels_and_annotations(template, "spec.template.metadata", out);
    pod::spec(&template["spec"], "spec.template.spec", out);
    let restart = at(template, &["spec", "restartPolicy"]);
    if matches!(text(restart, &[]), "OnFailure" | "Never") {
        one_of(
            restart,
            &["Always"],
            "spec.template.spec.restartPolicy",
            out,
        );
    }
    if has(template, &["spec", "activeDeadlineSeconds"]) {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        out.push(Fault::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            detail,
        ));
    }
}

fn progress(value: &Value, out: &mut Vec<Fault>) {
    let Some(deadline) = at(value, &["spec", "progressDeadlineSeconds"]).as_i64() else {
        return;
    };
    at_least(&deadline.into(), 0, "spec.progressDeadlineSeconds", out);
    if deadline
        <= at(value, &["spec", "minReadySeconds"])
            .as_i64()
            .unwrap_or(0)
    {
        out.push(Fault::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            "must be greater than minReadySeconds",
        ));
    }
}

fn strategy(strategy: &Value, out: &mut Vec<Fault>) {
    let path = "spec.strategy";
    one_of(
        &strategy["type"],
        &["Recreate", "RollingUpdate"],
        &format!("{path}.type"),
        out,
    );
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" && !rolling.is_null() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        out.push(Fault::forbidden(format!("{path}.rollingUpdate"), detail));
        return;
    }
    let mut zeros = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        let place = format!("{path}.rollingUpdate.{field}");
        match share(&rolling[field]) {
            Ok(Some(0)) => zeros += 1,
            Ok(Some(percent))
                if field == "maxUnavailable" && rolling[field].is_string() && percent > 100 =>
            {
                out.push(Fault::invalid(
                    place,
                    rolling[field].clone(),
                    "must not be greater than 100%",
                ));
            }
            Ok(_) => {}
            Err(detail) => out.push(Fault::invalid(place, rolling[field].clone(), detail)),
        }
    }
    if zeros == 2 {
        let detail = "may not be 0 when `maxSurge` is 0";
        out.push(Fault::invalid(
            format!("{path}.rollingUpdate.maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            detail,
        ));
    }
}

/// A number, or the number before a percent sign.
fn share(value: &Value) -> Result<Option<i64>, &'static str> {
    const DETAIL: &str = "must be an integer or a percentage (such as '5%')";
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => match number.as_i64() {
            Some(number) if number >= 0 => Ok(Some(number)),
            _ => Err("must be greater than or equal to 0"),
        },
        Value::String(text) => {
            let digits = text.strip_suffix('%').ok_or(DETAIL)?;
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(DETAIL);
            }
            digits.parse().map(Some).map_err(|_| DETAIL)
        }
        _ => Err(DETAIL),
    }
}
