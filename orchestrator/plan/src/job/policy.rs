//! A Job's policies: which failures end it, its index or nothing, and which successes are enough.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};

use super::indexes::Indexes;
use crate::pod::{ContainerStatus, Pod};

/// What a failed pod means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One failure more.
    Count,
    /// Nothing.
    Ignore,
    /// The end of its index.
    FailIndex,
    /// The end of the Job, with why.
    FailJob(String),
}

/// What the first matching rule says of a failed pod.
pub(super) fn failure(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec
        .pod_failure_policy
        .iter()
        .flat_map(|policy| &policy.rules);
    for (index, rule) in rules.enumerate() {
        let Some(why) = matches(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{why} matching FailJob rule at index {index}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// Why a rule is about this pod.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = |field: &Option<String>| field.clone().unwrap_or_default();
    let named = format!(
        "{}/{}",
        name(&pod.metadata.namespace),
        name(&pod.metadata.name)
    );
    if let Some(codes) = &rule.on_exit_codes {
        let init = status.init_container_statuses.iter().flatten();
        let mut all = init.chain(status.container_statuses.iter().flatten());
        let (container, code) = all.find_map(|one| exit_code(codes, one))?;
        return Some(format!(
            "Container {container} for pod {named} failed with exit code {code}"
        ));
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let mut patterns = rule.on_pod_conditions.iter().flatten();
    let found = patterns.find(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        conditions
            .iter()
            .any(|one| one.type_ == pattern.type_ && one.status == wanted)
    })?;
    Some(format!("Pod {named} has condition {}", found.type_))
}

fn exit_code<'a>(
    wanted: &PodFailurePolicyOnExitCodesRequirement,
    one: &'a ContainerStatus,
) -> Option<(&'a str, i32)> {
    if wanted
        .container_name
        .as_ref()
        .is_some_and(|name| *name != one.name)
    {
        return None;
    }
    let code = one.state.as_ref()?.terminated.as_ref()?.exit_code;
    let listed = wanted.values.contains(&code);
    let meant = if wanted.operator == "NotIn" {
        !listed
    } else {
        listed
    };
    (code != 0 && meant).then_some((one.name.as_str(), code))
}

/// Index of the first rule of the success policy that the completed indexes satisfy.
pub(super) fn success(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let end = spec.completions.unwrap_or(0);
    let rules = &spec.success_policy.as_ref()?.rules;
    rules.iter().position(|rule| {
        let wanted = rule
            .succeeded_indexes
            .as_ref()
            .map(|text| Indexes::parse(text, end));
        let done = wanted
            .as_ref()
            .map_or(completed.len(), |wanted| wanted.common(completed));
        let enough = rule
            .succeeded_count
            .and_then(|count| usize::try_from(count).ok());
        match (enough, wanted) {
            (Some(enough), _) => done >= enough,
            (None, Some(wanted)) => done == wanted.len(),
            (None, None) => false,
        }
    })
}
