//! Deployments, ReplicaSets, StatefulSets, DaemonSets, ReplicationControllers and the past of the two in between.

use serde_json::{Value, json};

use super::{at_least, meta, one_of, pod};
use crate::Fault;
use crate::selector::LabelSelector;
use crate::walk::{at, has, list, text};

/// Faults of a Deployment.
pub(crate) fn deployment(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("Deployment", value, old, &mut out);
    replicated(value, old, &mut out);
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

/// Faults of a StatefulSet.
pub(crate) fn stateful_set(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("StatefulSet", value, old, &mut out);
    replicated(&with_claims(value), old, &mut out);
    let spec = at(value, &["spec"]);
    let policies = ["OrderedReady", "Parallel"];
    let path = "spec.podManagementPolicy";
    one_of(&spec["podManagementPolicy"], &policies, path, &mut out);
    let path = "spec.updateStrategy.type";
    let types = ["RollingUpdate", "OnDelete"];
    one_of(
        at(spec, &["updateStrategy", "type"]),
        &types,
        path,
        &mut out,
    );
    let rolling = at(spec, &["updateStrategy", "rollingUpdate"]);
    if at(spec, &["updateStrategy", "type"]) == "OnDelete" && !rolling.is_null() {
        let detail = "only allowed for updateStrategy 'RollingUpdate'";
        let path = "spec.updateStrategy.rollingUpdate";
        out.push(Fault::invalid(path, rolling.clone(), detail));
    }
    let path = "spec.updateStrategy.rollingUpdate.partition";
    at_least(&rolling["partition"], 0, path, &mut out);
    let path = "spec.updateStrategy.rollingUpdate.maxUnavailable";
    bounded_share(&rolling["maxUnavailable"], path, &mut out);
    if share(&rolling["maxUnavailable"]) == Ok(Some(0)) {
        out.push(Fault::invalid(path, 0, "cannot be 0"));
    }
    at_least(
        at(spec, &["ordinals", "start"]),
        0,
        "spec.ordinals.start",
        &mut out,
    );
    for field in ["whenDeleted", "whenScaled"] {
        let given = at(spec, &["persistentVolumeClaimRetentionPolicy", field]);
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        one_of(given, &["Retain", "Delete"], &path, &mut out);
    }
    if let Some(old) = old {
        stateful_changes(value, old, &mut out);
    }
    out
}

/// The set with the volumes that its pods get from its claim templates.
fn with_claims(value: &Value) -> Value {
    let mut value = value.clone();
    let templates = list(&value, &["spec", "volumeClaimTemplates"]).to_vec();
    let spec = value.pointer_mut("/spec/template/spec");
    let Some(spec) = spec.filter(|spec| spec.is_object()) else {
        return value;
    };
    for template in templates {
        let name = text(&template, &["metadata", "name"]);
        let volume = json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        match spec["volumes"].as_array_mut() {
            Some(volumes) => {
                volumes.retain(|one| one["name"] != name);
                volumes.push(volume);
            }
            None => spec["volumes"] = json!([volume]),
        }
    }
    value
}

fn stateful_changes(value: &Value, old: &Value, out: &mut Vec<Fault>) {
    const MAY: [&str; 8] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
        "selector",
    ];
    let fixed = |value: &Value| {
        let mut spec = value["spec"].clone();
        for field in MAY {
            crate::walk::remove(&mut spec, &[], field);
        }
        spec
    };
    if fixed(value) != fixed(old) {
        let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                      'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                      'minReadySeconds' are forbidden";
        out.push(Fault::forbidden("spec", detail));
    }
}

/// Faults of a DaemonSet.
pub(crate) fn daemon_set(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("DaemonSet", value, old, &mut out);
    replicated(value, old, &mut out);
    let strategy = at(value, &["spec", "updateStrategy"]);
    let types = ["RollingUpdate", "OnDelete"];
    one_of(
        &strategy["type"],
        &types,
        "spec.updateStrategy.type",
        &mut out,
    );
    let rolling = &strategy["rollingUpdate"];
    let path = "spec.updateStrategy.rollingUpdate";
    let mut set = 0;
    for field in ["maxUnavailable", "maxSurge"] {
        bounded_share(&rolling[field], &format!("{path}.{field}"), &mut out);
        set += usize::from(share(&rolling[field]).is_ok_and(|amount| amount.unwrap_or(0) > 0));
    }
    if strategy["type"] == "RollingUpdate" && set != 1 {
        let detail = if set == 0 {
            "cannot be 0 when maxSurge is 0"
        } else {
            "may not be set when maxSurge is set"
        };
        let path = format!("{path}.maxUnavailable");
        out.push(Fault::invalid(
            path,
            rolling["maxUnavailable"].clone(),
            detail,
        ));
    }
    out
}

/// Faults of a ReplicationController.
pub(crate) fn replication_controller(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ReplicationController", value, old, &mut out);
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return out;
    }
    for field in ["replicas", "minReadySeconds"] {
        let path = format!("spec.{field}");
        at_least(at(value, &["spec", field]), 0, &path, &mut out);
    }
    let selector = at(value, &["spec", "selector"]);
    meta::labels(selector, "spec.selector", &mut out);
    let parsed = LabelSelector::from_map(selector);
    if parsed.is_empty() {
        out.push(Fault::required("spec.selector", ""));
    }
    let template = at(value, &["spec", "template"]);
    running_template(template, &parsed, &mut out);
    out
}

/// Faults of a ControllerRevision.
pub(crate) fn controller_revision(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("ControllerRevision", value, old, &mut out);
    at_least(&value["revision"], 0, "revision", &mut out);
    if !has(value, &["data"]) {
        out.push(Fault::required("data", "data is mandatory"));
    }
    if let Some(old) = old {
        meta::immutable(value, old, &["data"], &mut out);
    }
    out
}

/// Replicas, selector and template, which all but ReplicationControllers have.
fn replicated(value: &Value, old: Option<&Value>, out: &mut Vec<Fault>) {
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return;
    }
    for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        let path = format!("spec.{field}");
        at_least(at(value, &["spec", field]), 0, &path, out);
    }
    let parsed = required_selector(value, out);
    if let Some(old) = old {
        meta::immutable(value, old, &["spec", "selector"], out);
    }
    let template = at(value, &["spec", "template"]);
    running_template(template, &parsed.unwrap_or_default(), out);
}

/// The selector in `spec.selector`, if it is there and chooses something.
pub(super) fn required_selector(value: &Value, out: &mut Vec<Fault>) -> Option<LabelSelector> {
    let selector = at(value, &["spec", "selector"]);
    let parsed = LabelSelector::from_object(selector);
    // Reading an object can't tell a missing selector from an empty one; neither chooses any pods.
    if selector.is_null() || parsed.as_ref().is_ok_and(LabelSelector::is_empty) {
        out.push(Fault::required("spec.selector", ""));
        return None;
    }
    meta::selector(selector, "spec.selector", out);
    parsed.ok()
}

/// A template whose pods run for ever, at `spec.template`.
fn running_template(template: &Value, selector: &LabelSelector, out: &mut Vec<Fault>) {
    if template.is_null() {
        out.push(Fault::required("spec.template", ""));
        return;
    }
    let labels = at(template, &["metadata", "labels"]);
    if !selector.is_empty() && !selector.matches(labels) {
        let detail = "`selector` does not match template `labels`";
        out.push(Fault::invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            detail,
        ));
    }
    contained_template(template, "spec.template", out);
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

/// Metadata and spec of a template at `path`.
pub(super) fn contained_template(template: &Value, path: &str, out: &mut Vec<Fault>) {
    meta::labels_and_annotations(template, &format!("{path}.metadata"), out);
    pod::spec(&template["spec"], &format!("{path}.spec"), out);
}

/// A fault unless it is a number or a percentage up to 100.
fn bounded_share(value: &Value, path: &str, out: &mut Vec<Fault>) {
    match share(value) {
        Ok(Some(percent)) if value.is_string() && percent > 100 => {
            let detail = "must not be greater than 100%";
            out.push(Fault::invalid(path, value.clone(), detail));
        }
        Ok(_) => {}
        Err(detail) => out.push(Fault::invalid(path, value.clone(), detail)),
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
pub(super) fn share(value: &Value) -> Result<Option<i64>, &'static str> {
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

#[cfg(test)]
mod tests {
    use super::super::tests::{check, faults};
    use serde_json::{Value, json};

    fn set() -> Value {
        json!({"metadata": {"name": "db", "namespace": "n"}, "spec": {"serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}}}})
    }

    #[test]
    fn stateful_sets_are_judged() {
        check(
            "sts",
            &set(),
            "/spec/podManagementPolicy",
            json!("Random"),
            &[
                "spec.podManagementPolicy: Unsupported value: \"Random\": supported values: \"OrderedReady\", \"Parallel\"",
            ],
        );
        check(
            "sts",
            &set(),
            "/spec/updateStrategy",
            json!({"rollingUpdate": {"partition": -1}}),
            &[
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ],
        );
    }

    #[test]
    fn mounts_of_claim_templates_are_found() {
        let mut set = set();
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/data"}]);
        let lost = "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"";
        assert_eq!(faults("sts", set.clone()), [lost]);
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}}]);
        assert_eq!(faults("sts", set), [""; 0]);
    }

    #[test]
    fn daemon_sets_surge_or_go_without() {
        let both = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}});
        check(
            "ds",
            &set(),
            "/spec/updateStrategy",
            both,
            &[
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 1: may not be set when maxSurge is set",
            ],
        );
        let neither = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}});
        check(
            "ds",
            &set(),
            "/spec/updateStrategy",
            neither,
            &[
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0 when maxSurge is 0",
            ],
        );
    }

    #[test]
    fn controllers_of_old_select_by_equality() {
        let good = json!({"metadata": {"name": "rc", "namespace": "n"}, "spec": {"template": set()["spec"]["template"]}});
        check(
            "rc",
            &good,
            "/spec/selector",
            json!({"app": "other"}),
            &[
                "spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not match template `labels`",
            ],
        );
        assert_eq!(
            faults("rc", json!({"metadata": {"name": "x"}, "spec": {}})).len(),
            2
        );
    }
}
