//! FlowSchemas and PriorityLevelConfigurations.

use serde_json::Value;

use super::{meta, one_of};
use crate::Fault;
use crate::flow::{self, MOST_QUEUES, can_deal};
use crate::walk::{has, list, number, text};

/// Faults of a FlowSchema.
pub(crate) fn flow_schema(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("FlowSchema", value, old, &mut out);
    kept(value, &mut out);
    let spec = &value["spec"];
    if text(spec, &["priorityLevelConfiguration", "name"]).is_empty() {
        let path = "spec.priorityLevelConfiguration.name";
        out.push(Fault::required(path, "must reference a priority level"));
    }
    between(spec, &["matchingPrecedence"], 1, 10_000, &mut out);
    if number(spec, &["matchingPrecedence"]) == Some(1)
        && text(value, &["metadata", "name"]) != flow::EXEMPT
    {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        out.push(Fault::invalid("spec.matchingPrecedence", 1, detail));
    }
    one_of(
        &spec["distinguisherMethod"]["type"],
        &["ByNamespace", "ByUser"],
        "spec.distinguisherMethod.type",
        &mut out,
    );
    for (index, rule) in list(spec, &["rules"]).iter().enumerate() {
        rules(rule, &format!("spec.rules[{index}]"), &mut out);
    }
    out
}

fn rules(rule: &Value, path: &str, out: &mut Vec<Fault>) {
    if list(rule, &["subjects"]).is_empty() {
        let detail = "subjects must contain at least one value";
        out.push(Fault::required(format!("{path}.subjects"), detail));
    }
    for (index, subject) in list(rule, &["subjects"]).iter().enumerate() {
        subject_of(subject, &format!("{path}.subjects[{index}]"), out);
    }
    if list(rule, &["resourceRules"]).is_empty() && list(rule, &["nonResourceRules"]).is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        out.push(Fault::required(path, detail));
    }
    let needs = |rule: &Value, fields: &[&str], path: String, out: &mut Vec<Fault>| {
        for field in fields
            .iter()
            .filter(|field| list(rule, &[field]).is_empty())
        {
            out.push(Fault::required(format!("{path}.{field}"), ""));
        }
    };
    for (index, one) in list(rule, &["resourceRules"]).iter().enumerate() {
        let path = format!("{path}.resourceRules[{index}]");
        needs(one, &["verbs", "apiGroups", "resources"], path.clone(), out);
        if list(one, &["namespaces"]).is_empty() && one["clusterScope"] != true {
            let detail =
                "resource rules that are not cluster scoped must supply at least one namespace";
            out.push(Fault::required(format!("{path}.namespaces"), detail));
        }
    }
    for (index, one) in list(rule, &["nonResourceRules"]).iter().enumerate() {
        let path = format!("{path}.nonResourceRules[{index}]");
        needs(one, &["verbs", "nonResourceURLs"], path, out);
    }
}

fn subject_of(subject: &Value, path: &str, out: &mut Vec<Fault>) {
    let (field, names): (&str, &[&str]) = match text(subject, &["kind"]) {
        "User" => ("user", &["name"]),
        "Group" => ("group", &["name"]),
        "ServiceAccount" => ("serviceAccount", &["namespace", "name"]),
        other => {
            let kinds = ["Group", "ServiceAccount", "User"];
            return out.push(Fault::not_supported(format!("{path}.kind"), other, &kinds));
        }
    };
    for name in names {
        if text(subject, &[field, name]).is_empty() {
            out.push(Fault::required(format!("{path}.{field}.{name}"), ""));
        }
    }
}

/// Faults of a PriorityLevelConfiguration.
pub(crate) fn priority_level(value: &Value, old: Option<&Value>) -> Vec<Fault> {
    let mut out = Vec::new();
    meta::check("PriorityLevelConfiguration", value, old, &mut out);
    kept(value, &mut out);
    let spec = &value["spec"];
    let exempt = text(value, &["metadata", "name"]) == flow::EXEMPT;
    match text(spec, &["type"]) {
        "Exempt" if !exempt => {
            let detail = "only the level named 'exempt' may be exempt";
            out.push(Fault::invalid("spec.type", "Exempt", detail));
        }
        "Exempt" if has(spec, &["limited"]) => {
            let detail = "must be nil if the type is not Limited";
            out.push(Fault::forbidden("spec.limited", detail));
        }
        "Exempt" => {}
        "Limited" if !has(spec, &["limited"]) => {
            let detail = "must not be empty when type is Limited";
            out.push(Fault::required("spec.limited", detail));
        }
        "Limited" => limited(spec, &mut out),
        other => {
            let types = ["Exempt", "Limited"];
            out.push(Fault::not_supported("spec.type", other, &types));
        }
    }
    out
}

fn limited(spec: &Value, out: &mut Vec<Fault>) {
    let limited = &spec["limited"];
    for (field, most) in [
        ("nominalConcurrencyShares", 1_000_000),
        ("lendablePercent", 100),
        ("borrowingLimitPercent", 1_000_000),
    ] {
        between(spec, &["limited", field], 0, most, out);
    }
    let (response, path) = (&limited["limitResponse"], "spec.limited.limitResponse");
    let queuing = &response["queuing"];
    match text(response, &["type"]) {
        "Queue" => {
            let queues = number(queuing, &["queues"]).unwrap_or(0);
            let hand = number(queuing, &["handSize"]).unwrap_or(0);
            for (field, most) in [("queues", MOST_QUEUES), ("queueLengthLimit", 1_000_000)] {
                let place = ["limited", "limitResponse", "queuing", field];
                between(spec, &place, 1, most, out);
            }
            if hand < 1 || !can_deal(queues, hand) {
                let detail = "must be at least 1, at most the number of queues, and small enough that hands can be \
                              told apart by 60 bits";
                out.push(Fault::invalid(
                    format!("{path}.queuing.handSize"),
                    hand,
                    detail,
                ));
            }
        }
        "Reject" if !queuing.is_null() => {
            let detail = "must be nil if limited.limitResponse.type is not Queue";
            out.push(Fault::forbidden(format!("{path}.queuing"), detail));
        }
        "Reject" => {}
        other => {
            let types = ["Queue", "Reject"];
            out.push(Fault::not_supported(format!("{path}.type"), other, &types));
        }
    }
}

/// A fault when a number of the spec that is given is outside.
fn between(spec: &Value, path: &[&str], least: i64, most: i64, out: &mut Vec<Fault>) {
    if let Some(given) = number(spec, path).filter(|given| !(least..=most).contains(given)) {
        let detail = format!("must be between {least} and {most}, inclusive");
        out.push(Fault::invalid(
            format!("spec.{}", path.join(".")),
            given,
            detail,
        ));
    }
}

/// What every cluster goes by keeps its spec.
fn kept(value: &Value, out: &mut Vec<Fault>) {
    if !flow::is_mandatory(value) {
        return;
    }
    let builtin = flow::objects();
    let same = |one: &&Value| {
        one["kind"] == value["kind"] && one["metadata"]["name"] == value["metadata"]["name"]
    };
    if builtin
        .iter()
        .find(same)
        .is_some_and(|one| one["spec"] != value["spec"])
    {
        let detail = format!(
            "spec of '{}' cannot be changed",
            text(value, &["metadata", "name"])
        );
        out.push(Fault::invalid("spec", Value::Null, detail));
    }
}
