//! Label and node selectors over typed objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};
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

/// Whether a node of this name and labels satisfies a term. A term that asks for nothing matches nothing.
pub fn matches_node(term: &NodeSelectorTerm, name: &str, labels: Option<&Labels>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let on_labels = expressions
        .iter()
        .all(|one| node_satisfies(one, get(labels, &one.key).map(String::as_str)));
    on_labels
        && fields
            .iter()
            .all(|one| one.key == "metadata.name" && node_satisfies(one, Some(name)))
}

fn node_satisfies(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |text: &str| values.iter().any(|value| value == text);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = values.first().and_then(|text| number(text));
    match requirement.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => found.is_none_or(|text| !listed(text)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found > bound),
        "Lt" => found
            .and_then(number)
            .zip(bound)
            .is_some_and(|(found, bound)| found < bound),
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

    #[test]
    fn node_terms_compare_labels_and_names() {
        use serde_json::json;
        let labels: Labels = serde_json::from_value(json!({"zone": "a", "cores": "8"})).unwrap();
        for (term, expect) in [
            (json!({}), false),
            (
                json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["8"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "zone", "operator": "Gt", "values": ["4"]}]}),
                false,
            ),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node1"]}]}),
                true,
            ),
            (
                json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node2"]}]}),
                false,
            ),
        ] {
            let typed: NodeSelectorTerm = serde_json::from_value(term.clone()).unwrap();
            assert_eq!(
                matches_node(&typed, "node1", Some(&labels)),
                expect,
                "{term}"
            );
        }
    }
}
