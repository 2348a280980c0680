//! Label selectors over typed objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy `selector`. An empty selector matches everything; one with an unknown operator nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let exact = selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| get(labels, key) == Some(value));
    exact
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|one| satisfies(one, labels))
}

/// Whether `labels` hold every pair of `wanted`; false for an empty `wanted` (a Service without selector has no pods).
pub fn contains(labels: Option<&Labels>, wanted: &Labels) -> bool {
    !wanted.is_empty()
        && wanted
            .iter()
            .all(|(key, value)| get(labels, key) == Some(value))
}

fn get<'a>(labels: Option<&'a Labels>, key: &str) -> Option<&'a String> {
    labels?.get(key)
}

fn satisfies(requirement: &LabelSelectorRequirement, labels: Option<&Labels>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let found = get(labels, &requirement.key);
    match requirement.operator.as_str() {
        "In" => found.is_some_and(|value| values.contains(value)),
        "NotIn" => found.is_none_or(|value| !values.contains(value)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: serde_json::Value, labels: serde_json::Value, expect: bool) {
        let typed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        let labels: Labels = serde_json::from_value(labels).unwrap();
        assert_eq!(
            matches(&typed, Some(&labels)),
            expect,
            "{selector} on {labels:?}"
        );
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        use serde_json::json;
        let web = json!({"app": "web", "tier": "front"});
        check(json!({}), web.clone(), true);
        check(json!({"matchLabels": {"app": "web"}}), web.clone(), true);
        check(json!({"matchLabels": {"app": "db"}}), web.clone(), false);
        for (operator, key, values, expect) in [
            ("In", "app", json!(["web", "db"]), true),
            ("In", "none", json!(["web"]), false),
            ("NotIn", "app", json!(["web"]), false),
            ("NotIn", "none", json!(["web"]), true),
            ("Exists", "tier", json!([]), true),
            ("DoesNotExist", "tier", json!([]), false),
            ("Like", "tier", json!([]), false),
        ] {
            let one = json!({"key": key, "operator": operator, "values": values});
            check(json!({"matchExpressions": [one]}), web.clone(), expect);
        }
        assert!(!contains(Some(&Labels::new()), &Labels::new()));
    }
}
