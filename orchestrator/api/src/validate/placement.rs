//! Where a pod may run: node selector, affinity, tolerations, spread.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{at_least, meta, names, one_of};
use crate::Fault;
use crate::walk::{at, has, list, text};

/// Faults of a pod's placement.
pub(super) fn check(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    meta::labels(&spec["nodeSelector"], &format!("{path}.nodeSelector"), out);
    for (index, one) in list(spec, &["tolerations"]).iter().enumerate() {
        toleration(one, &format!("{path}.tolerations[{index}]"), out);
    }
    spread(spec, path, out);
    node_affinity(
        &spec["affinity"]["nodeAffinity"],
        &format!("{path}.affinity.nodeAffinity"),
        out,
    );
    for field in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(
            &spec["affinity"][field],
            &format!("{path}.affinity.{field}"),
            out,
        );
    }
}

fn toleration(one: &Value, path: &str, out: &mut Vec<Fault>) {
    let (key, operator) = (text(one, &["key"]), text(one, &["operator"]));
    if let Some(rule) = (!key.is_empty())
        .then(|| names::qualified_name(key))
        .flatten()
    {
        out.push(Fault::invalid(format!("{path}.key"), key, rule));
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        out.push(Fault::invalid(format!("{path}.operator"), operator, detail));
    }
    match operator {
        "" | "Equal" => {
            let value = text(one, &["value"]);
            if let Some(rule) = names::label_value(value) {
                out.push(Fault::invalid(format!("{path}.value"), value, rule));
            }
        }
        "Exists" => {
            if !text(one, &["value"]).is_empty() {
                let detail = "value must be empty when `operator` is 'Exists'";
                out.push(Fault::invalid(format!("{path}.operator"), operator, detail));
            }
        }
        other => out.push(Fault::not_supported(
            format!("{path}.operator"),
            other,
            &["Equal", "Exists"],
        )),
    }
    let effect = &one["effect"];
    if *effect != "" {
        one_of(
            effect,
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            &format!("{path}.effect"),
            out,
        );
    }
    if has(one, &["tolerationSeconds"]) && *effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        out.push(Fault::invalid(
            format!("{path}.effect"),
            effect.clone(),
            detail,
        ));
    }
}

fn spread(spec: &Value, path: &str, out: &mut Vec<Fault>) {
    let mut seen = BTreeSet::new();
    for (index, one) in list(spec, &["topologySpreadConstraints"])
        .iter()
        .enumerate()
    {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        let (key, unsatisfiable) = (
            text(one, &["topologyKey"]),
            text(one, &["whenUnsatisfiable"]),
        );
        at_least(&one["maxSkew"], 1, &format!("{path}.maxSkew"), out);
        at_least(&one["minDomains"], 1, &format!("{path}.minDomains"), out);
        if key.is_empty() {
            out.push(Fault::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        }
        one_of(
            &one["whenUnsatisfiable"],
            &["DoNotSchedule", "ScheduleAnyway"],
            &format!("{path}.whenUnsatisfiable"),
            out,
        );
        if !seen.insert((key, unsatisfiable)) {
            let pair = format!("{{{key}, {unsatisfiable}}}");
            out.push(Fault::duplicate(
                format!("{path}.{{topologyKey, whenUnsatisfiable}}"),
                pair,
            ));
        }
        meta::selector(&one["labelSelector"], &format!("{path}.labelSelector"), out);
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(affinity: &Value, path: &str, out: &mut Vec<Fault>) {
    let required = &affinity[REQUIRED];
    if !required.is_null() {
        let path = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        let terms = list(required, &["nodeSelectorTerms"]);
        if terms.is_empty() {
            out.push(Fault::required(
                path.clone(),
                "must have at least one node selector term",
            ));
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{index}]"), out);
        }
    }
    for (index, one) in list(affinity, &[PREFERRED]).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(one, &path, out);
        node_term(&one["preference"], &format!("{path}.preference"), out);
    }
}

fn weight(one: &Value, path: &str, out: &mut Vec<Fault>) {
    if !one["weight"]
        .as_i64()
        .is_some_and(|weight| (1..=100).contains(&weight))
    {
        out.push(Fault::invalid(
            format!("{path}.weight"),
            one["weight"].clone(),
            "must be in the range 1-100",
        ));
    }
}

fn node_term(term: &Value, path: &str, out: &mut Vec<Fault>) {
    for (index, one) in list(term, &["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let key = text(one, &["key"]);
        if let Some(rule) = names::qualified_name(key) {
            out.push(Fault::invalid(format!("{path}.key"), key, rule));
        }
        let values = list(one, &["values"]).len();
        let detail = match text(one, &["operator"]) {
            "In" | "NotIn" if values == 0 => "must be specified when `operator` is 'In' or 'NotIn'",
            "Exists" | "DoesNotExist" if values > 0 => {
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            }
            "Gt" | "Lt" if values != 1 => {
                "must be specified single value when `operator` is 'Lt' or 'Gt'"
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => continue,
            other => {
                out.push(Fault::invalid(
                    format!("{path}.operator"),
                    other,
                    "not a valid selector operator",
                ));
                continue;
            }
        };
        out.push(Fault::required(format!("{path}.values"), detail));
    }
}

fn pod_affinity(affinity: &Value, path: &str, out: &mut Vec<Fault>) {
    for (index, term) in list(affinity, &[REQUIRED]).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{index}]"), out);
    }
    for (index, one) in list(affinity, &[PREFERRED]).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(one, &path, out);
        pod_term(
            at(one, &["podAffinityTerm"]),
            &format!("{path}.podAffinityTerm"),
            out,
        );
    }
}

fn pod_term(term: &Value, path: &str, out: &mut Vec<Fault>) {
    if text(term, &["topologyKey"]).is_empty() {
        out.push(Fault::required(
            format!("{path}.topologyKey"),
            "can not be empty",
        ));
    }
    meta::selector(
        &term["labelSelector"],
        &format!("{path}.labelSelector"),
        out,
    );
}
