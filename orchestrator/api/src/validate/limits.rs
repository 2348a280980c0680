//! Disruption budgets, autoscalers and priority classes.

use serde_json::Value;
use waggle_model::Quantity;

use super::batch::object_name;
use super::workload::share;
use super::{at_least, meta, one_of};
use crate::Fault;
use crate::walk::{at, has, list, number, text};

/// Names that start so are the cluster's own.
const SYSTEM: &str = "system-";
const SYSTEM_CLASSES: [&str; 2] = ["system-cluster-critical", "system-node-critical"];
/// Largest priority of a class that is not the cluster's own.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// Faults of a PodDisruptionBudget.
pub(crate) fn pod_disruption_budget(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PodDisruptionBudget", value, old, &mut out);
    let fields = ["minAvailable", "maxUnavailable"];
    if fields.iter().all(|field| has(value, &["spec", field])) {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        out.push(Fault::invalid("spec", value["spec"].clone(), detail));
    }
    for field in fields {
        let given = at(value, &["spec", field]);
        let place = format!("spec.{field}");
        match share(given) {
            Ok(Some(percent)) if given.is_string() && percent > 100 => {
                out.push(Fault::invalid(
                    place,
                    given.clone(),
                    "must not be greater than 100%",
                ));
            }
            Ok(_) => {}
            Err(detail) => out.push(Fault::invalid(place, given.clone(), detail)),
        }
    }
    meta::selector(at(value, &["spec", "selector"]), "spec.selector", &mut out);
    one_of(
        at(value, &["spec", "unhealthyPodEvictionPolicy"]),
        &["IfHealthyBudget", "AlwaysAllow"],
        "spec.unhealthyPodEvictionPolicy",
        &mut out,
    );
    out
}

/// Faults of a PodGroup.
pub(crate) fn pod_group(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PodGroup", value, old, &mut out);
    let policy = at(value, &["spec", "schedulingPolicy"]);
    let place = "spec.schedulingPolicy";
    if has(policy, &["basic"]) == has(policy, &["gang"]) {
        let detail = "must have exactly one of `basic` and `gang`";
        out.push(Fault::invalid(place, policy.clone(), detail));
    } else if has(policy, &["gang"]) && number(policy, &["gang", "minCount"]).unwrap_or(0) < 1 {
        let given = at(policy, &["gang", "minCount"]).clone();
        let place = format!("{place}.gang.minCount");
        out.push(Fault::invalid(place, given, "must be greater than 0"));
    }
    out
}

/// Faults of a PriorityClass.
pub(crate) fn priority_class(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PriorityClass", value, old, &mut out);
    let (name, priority) = (
        text(value, &["metadata", "name"]),
        number(value, &["value"]).unwrap_or(0),
    );
    if name.starts_with(SYSTEM) {
        if !SYSTEM_CLASSES.contains(&name) {
            let detail =
                "priority class names with 'system-' prefix are reserved for system use only";
            out.push(Fault::forbidden("metadata.name", detail));
        }
    } else if priority > HIGHEST_USER_PRIORITY {
        let detail =
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        out.push(Fault::forbidden("value", detail));
    }
    one_of(
        &value["preemptionPolicy"],
        &["PreemptLowerPriority", "Never"],
        "preemptionPolicy",
        &mut out,
    );
    if let Some(old) = old {
        meta::immutable(value, old, &["value"], &mut out);
        meta::immutable(value, old, &["preemptionPolicy"], &mut out);
    }
    out
}

/// Faults of a HorizontalPodAutoscaler.
pub(crate) fn horizontal_pod_autoscaler(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("HorizontalPodAutoscaler", value, old, &mut out);
    if !has(value, &["spec"]) {
        out.push(Fault::required("spec", ""));
        return out;
    }
    let most = number(value, &["spec", "maxReplicas"]).unwrap_or(0);
    let least = number(value, &["spec", "minReplicas"]);
    if least.is_some_and(|least| least < 1) {
        let detail = "must be greater than or equal to 1";
        out.push(Fault::invalid("spec.minReplicas", least, detail));
    }
    if most < 1 {
        out.push(Fault::invalid(
            "spec.maxReplicas",
            most,
            "must be greater than 0",
        ));
    } else if least.is_some_and(|least| most < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        out.push(Fault::invalid("spec.maxReplicas", most, detail));
    }
    for field in ["kind", "name"] {
        let place = format!("spec.scaleTargetRef.{field}");
        if text(value, &["spec", "scaleTargetRef", field]).is_empty() {
            out.push(Fault::required(place, ""));
        }
    }
    for (index, metric) in list(value, &["spec", "metrics"]).iter().enumerate() {
        self::metric(metric, &format!("spec.metrics[{index}]"), &mut out);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = at(value, &["spec", "behavior", direction]);
        scaling_rules(rules, &format!("spec.behavior.{direction}"), &mut out);
    }
    out
}

fn metric(metric: &Value, path: &str, out: &mut Vec<Fault>) {
    let (source, utilization) = match text(metric, &["type"]) {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        "" => {
            return out.push(Fault::required(
                format!("{path}.type"),
                "must specify a metric source type",
            ));
        }
        _ => {
            let known = [
                "ContainerResource",
                "External",
                "Object",
                "Pods",
                "Resource",
            ];
            return one_of(&metric["type"], &known, &format!("{path}.type"), out);
        }
    };
    let path = format!("{path}.{source}");
    let body = &metric[source];
    if body.is_null() {
        return out.push(Fault::required(
            path,
            "must populate information for the given metric source",
        ));
    }
    if utilization {
        object_name(text(body, &["name"]), &format!("{path}.name"), out);
    } else if text(body, &["metric", "name"]).is_empty() {
        out.push(Fault::required(
            format!("{path}.metric.name"),
            "must specify a metric name",
        ));
    }
    if source == "containerResource" && text(body, &["container"]).is_empty() {
        out.push(Fault::required(
            format!("{path}.container"),
            "must specify a container",
        ));
    }
    target(&body["target"], utilization, &format!("{path}.target"), out);
}

fn target(target: &Value, utilization: bool, path: &str, out: &mut Vec<Fault>) {
    let place = format!("{path}.type");
    if text(target, &["type"]).is_empty() {
        out.push(Fault::required(place, "must specify a metric target type"));
    } else {
        one_of(
            &target["type"],
            &["Utilization", "Value", "AverageValue"],
            &place,
            out,
        );
    }
    at_least(
        &target["averageUtilization"],
        1,
        &format!("{path}.averageUtilization"),
        out,
    );
    let mut given = usize::from(has(target, &["averageUtilization"]) && utilization);
    for field in ["value", "averageValue"] {
        let Some(text) = target[field].as_str() else {
            continue;
        };
        given += 1;
        if !text
            .parse::<Quantity>()
            .is_ok_and(|amount| amount.milli() > 0)
        {
            out.push(Fault::invalid(
                format!("{path}.{field}"),
                text,
                "must be positive",
            ));
        }
    }
    if given == 0 {
        let detail =
            "must set either a target value, a target average value or a target utilization";
        out.push(Fault::required(path, detail));
    }
}

fn scaling_rules(rules: &Value, path: &str, out: &mut Vec<Fault>) {
    if rules.is_null() {
        return;
    }
    let window = &rules["stabilizationWindowSeconds"];
    at_least(
        window,
        0,
        &format!("{path}.stabilizationWindowSeconds"),
        out,
    );
    if window.as_i64().is_some_and(|seconds| seconds > 3600) {
        let detail = "must be less than or equal to 3600";
        out.push(Fault::invalid(
            format!("{path}.stabilizationWindowSeconds"),
            window.clone(),
            detail,
        ));
    }
    one_of(
        &rules["selectPolicy"],
        &["Disabled", "Max", "Min"],
        &format!("{path}.selectPolicy"),
        out,
    );
    let policies = list(rules, &["policies"]);
    if policies.is_empty() {
        out.push(Fault::required(
            format!("{path}.policies"),
            "must specify at least one Policy",
        ));
    }
    for (index, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{index}]");
        one_of(
            &policy["type"],
            &["Percent", "Pods"],
            &format!("{path}.type"),
            out,
        );
        at_least(&policy["value"], 1, &format!("{path}.value"), out);
        let period = &policy["periodSeconds"];
        at_least(period, 1, &format!("{path}.periodSeconds"), out);
        if period.as_i64().is_some_and(|seconds| seconds > 1800) {
            let detail = "must be less than or equal to 1800";
            out.push(Fault::invalid(
                format!("{path}.periodSeconds"),
                period.clone(),
                detail,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, faults};
    use serde_json::json;

    #[test]
    fn budgets_have_one_bound() {
        let good =
            json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"minAvailable": 1}});
        check(
            "pdb",
            &good,
            "/spec/minAvailable",
            json!("120%"),
            &["spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%"],
        );
        check(
            "pdb",
            &good,
            "/spec/minAvailable",
            json!("half"),
            &[
                "spec.minAvailable: Invalid value: \"half\": must be an integer or a percentage (such as '5%')",
            ],
        );
        let both = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"minAvailable": 1, "maxUnavailable": 1}});
        assert_eq!(faults("pdb", both).len(), 1);
    }

    #[test]
    fn pod_groups_have_one_policy() {
        let group = |policy: serde_json::Value| json!({"metadata": {"name": "g", "namespace": "n"}, "spec": {"schedulingPolicy": policy}});
        check(
            "pg",
            &group(json!({"gang": {"minCount": 2}})),
            "/spec/schedulingPolicy/gang/minCount",
            json!(0),
            &["spec.schedulingPolicy.gang.minCount: Invalid value: 0: must be greater than 0"],
        );
        assert_eq!(faults("pg", group(json!({"basic": {}}))).len(), 0);
        assert_eq!(faults("pg", group(json!({}))).len(), 1);
        let both = json!({"basic": {}, "gang": {"minCount": 2}});
        assert_eq!(faults("pg", group(both)).len(), 1);
    }

    #[test]
    fn autoscalers_name_a_target_and_bounds() {
        let good = json!({"metadata": {"name": "h", "namespace": "n"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}}});
        check(
            "hpa",
            &good,
            "/spec/maxReplicas",
            json!(0),
            &["spec.maxReplicas: Invalid value: 0: must be greater than 0"],
        );
        check(
            "hpa",
            &good,
            "/spec/minReplicas",
            json!(5),
            &["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
        );
        check(
            "hpa",
            &good,
            "/spec/scaleTargetRef/name",
            json!(""),
            &["spec.scaleTargetRef.name: Required value"],
        );
        check(
            "hpa",
            &good,
            "/spec/behavior",
            json!({"scaleDown": {"stabilizationWindowSeconds": 4000}}),
            &[
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 4000: must be less than or equal to 3600",
            ],
        );
    }

    #[test]
    fn priorities_of_users_are_bounded() {
        let good = json!({"metadata": {"name": "high"}, "value": 1000});
        check(
            "pc",
            &good,
            "/value",
            json!(2_000_000_000),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        assert_eq!(
            faults("pc", json!({"metadata": {"name": "system-x"}, "value": 1})).len(),
            1
        );
    }
}
