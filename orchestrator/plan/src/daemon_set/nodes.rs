//! Which nodes a DaemonSet's pods are for, and how a pod is aimed at one.

use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, PodTemplateSpec, Toleration,
};

use crate::pod::{self, Pod};
use crate::selector::matches_node;
use crate::taint;

/// What is tolerated beside what the template tolerates: daemons stay where others must go.
const TOLERATED: [(&str, &str); 6] = [
    (taint::NOT_READY, "NoExecute"),
    (taint::UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (taint::UNSCHEDULABLE, "NoSchedule"),
];
const NO_NETWORK: &str = "node.kubernetes.io/network-unavailable";

/// Whether a node is to run a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fit {
    /// A missing pod is made.
    pub(super) runs: bool,
    /// A pod that is there may stay.
    pub(super) stays: bool,
}

/// Whether pods of the template run on the node.
pub(super) fn fit(template: &PodTemplateSpec, node: &Node) -> Fit {
    let nowhere = Fit::default();
    let Some(spec) = &template.spec else {
        return nowhere;
    };
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let aimed = spec.node_name.as_deref().filter(|name| !name.is_empty());
    if node.metadata.deletion_timestamp.is_some() || aimed.is_some_and(|other| other != name) {
        return nowhere;
    }
    let labels = node.metadata.labels.as_ref();
    let mut selected = spec.node_selector.iter().flatten();
    let selected =
        selected.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    let terms = required_terms(spec.affinity.as_ref());
    let near = terms.is_none_or(|terms| terms.iter().any(|term| matches_node(term, name, labels)));
    if !selected || !near {
        return nowhere;
    }
    let tolerations = tolerations(spec);
    let repelled = |effects: &[&str]| {
        let mut taints = taint::of(node)
            .iter()
            .filter(|one| effects.contains(&one.effect.as_str()));
        taints.any(|one| !taint::tolerated(one, &tolerations))
    };
    Fit {
        runs: !repelled(&["NoSchedule", "NoExecute"]),
        stays: !repelled(&["NoExecute"]),
    }
}

fn required_terms(affinity: Option<&Affinity>) -> Option<&[NodeSelectorTerm]> {
    let affinity = affinity?.node_affinity.as_ref()?;
    let required = affinity
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    Some(&required.node_selector_terms)
}

fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some((NO_NETWORK, "NoSchedule"));
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let one = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// Makes a pod one that only this node can run, and that stays there.
pub(super) fn aim(spec: &mut PodSpec, node: &str) {
    spec.tolerations = Some(tolerations(spec));
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let required = affinity
        .node_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required
            .node_selector_terms
            .push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node that a pod is on or for.
pub(super) fn target(pod: &Pod) -> Option<String> {
    if let Some(node) = pod::node_name(pod) {
        return Some(node.to_owned());
    }
    let terms = required_terms(pod.spec.as_ref()?.affinity.as_deref())?;
    let mut fields = terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    let field = fields.find(|one| one.key == "metadata.name" && one.operator == "In")?;
    field.values.as_ref()?.first().cloned()
}
