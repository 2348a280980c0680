//! Reads a KubeSchedulerConfiguration. What is written there and would do nothing here is refused, with the name of the
//! field.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use serde::Deserialize;
use serde_json::Value;

use super::{BACKOFF, FILTERS, Fit, FitKind, NAME, Plugin, Profile, SCORES, Settings};

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scheduler configuration, {field}: {cause}")]
pub struct ConfigError {
    /// Where.
    pub field: String,
    /// What, and what would be right.
    pub cause: String,
}

fn wrong(field: impl Into<String>, cause: impl Into<String>) -> ConfigError {
    let (field, cause) = (field.into(), cause.into());
    ConfigError { field, cause }
}

impl Settings {
    /// Reads a KubeSchedulerConfiguration, and the names of its fields that say nothing of how pods are placed.
    ///
    /// # Errors
    /// [`ConfigError`] with the field that is wrong or that this scheduler has no use for.
    pub fn read(value: Value) -> Result<(Self, Vec<String>), ConfigError> {
        let whole: Configuration =
            serde_json::from_value(value).map_err(|cause| wrong("the file", cause.to_string()))?;
        if whole.kind != "KubeSchedulerConfiguration"
            || !whole
                .api_version
                .starts_with("kubescheduler.config.k8s.io/v1")
        {
            let cause = "must be KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1";
            return Err(wrong("kind", cause));
        }
        let mut profiles: Vec<Profile> = Vec::new();
        for (index, spec) in whole.profiles.into_iter().enumerate() {
            let mut profile = spec.read(&format!("profiles[{index}]"))?;
            profile.percentage = profile.percentage.or(whole.percentage_of_nodes_to_score);
            if profiles.iter().any(|one| one.name == profile.name) {
                let cause = format!("{:?} is there twice", profile.name);
                return Err(wrong(format!("profiles[{index}].schedulerName"), cause));
            }
            profiles.push(profile);
        }
        if profiles.is_empty() {
            profiles.push(Profile {
                percentage: whole.percentage_of_nodes_to_score,
                ..Profile::default()
            });
        }
        let backoff = (
            whole.pod_initial_backoff_seconds.unwrap_or(BACKOFF.0),
            whole.pod_max_backoff_seconds.unwrap_or(BACKOFF.1),
        );
        if backoff.0 < 1 || backoff.1 < backoff.0 {
            let cause = "must be at least 1, and podMaxBackoffSeconds no less";
            return Err(wrong("podInitialBackoffSeconds", cause));
        }
        let settings = Self { profiles, backoff };
        Ok((settings, whole.rest.into_keys().collect()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<ProfileSpec>,
    percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileSpec {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugins {
    #[serde(default)]
    multi_point: PluginSet,
    #[serde(default)]
    filter: PluginSet,
    #[serde(default)]
    post_filter: PluginSet,
    #[serde(default)]
    score: PluginSet,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<Named>,
    #[serde(default)]
    disabled: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

impl ProfileSpec {
    fn read(self, field: &str) -> Result<Profile, ConfigError> {
        let mut profile = Profile {
            name: self.scheduler_name.unwrap_or_else(|| NAME.to_owned()),
            percentage: self.percentage_of_nodes_to_score,
            ..Profile::default()
        };
        let sets = [
            ("multiPoint", self.plugins.multi_point, [true, true, true]),
            ("filter", self.plugins.filter, [true, false, false]),
            ("score", self.plugins.score, [false, true, false]),
            ("postFilter", self.plugins.post_filter, [false, false, true]),
        ];
        for (point, set, at) in sets {
            set.change(&mut profile, &format!("{field}.plugins.{point}"), at)?;
        }
        for (index, config) in self.plugin_config.into_iter().enumerate() {
            config.change(&mut profile, &format!("{field}.pluginConfig[{index}]"))?;
        }
        Ok(profile)
    }
}

impl PluginSet {
    /// `at` says whether it is about filters, scores and preemption.
    fn change(
        self,
        profile: &mut Profile,
        field: &str,
        [filters, scores, preempts]: [bool; 3],
    ) -> Result<(), ConfigError> {
        for (index, one) in self.disabled.into_iter().enumerate() {
            let all = one.name == "*";
            let plugin = (!all).then(|| known(&one.name, &format!("{field}.disabled[{index}]")));
            let plugin = plugin.transpose()?;
            let meant = |other: Plugin| plugin.is_none_or(|plugin| plugin == other);
            if filters {
                profile.filters.retain(|one| !meant(*one));
            }
            if scores {
                profile.weights.retain(|one, _| !meant(*one));
            }
            profile.preempts &= !(preempts && meant(Plugin::DefaultPreemption));
        }
        for (index, one) in self.enabled.into_iter().enumerate() {
            let field = format!("{field}.enabled[{index}]");
            let plugin = known(&one.name, &field)?;
            let usual = SCORES.iter().find(|(other, _)| *other == plugin);
            let (filter, score) = (
                filters && FILTERS.contains(&plugin),
                usual.filter(|_| scores),
            );
            let preempt = preempts && plugin == Plugin::DefaultPreemption;
            if filter {
                profile.filters.insert(plugin);
            }
            if let Some((_, usual)) = score {
                let weight = one.weight.filter(|weight| *weight != 0).unwrap_or(*usual);
                if !(1..=100).contains(&weight) {
                    return Err(wrong(format!("{field}.weight"), "must be 1 to 100"));
                }
                profile.weights.insert(plugin, weight);
            }
            profile.preempts |= preempt;
            if !filter && score.is_none() && !preempt {
                return Err(wrong(field, format!("{plugin} does nothing at this point")));
            }
        }
        Ok(())
    }
}

fn known(name: &str, field: &str) -> Result<Plugin, ConfigError> {
    Plugin::named(name).ok_or_else(|| {
        let all: Vec<&str> = Plugin::ALL.into_iter().map(Plugin::name).collect();
        let cause = format!(
            "{name:?} is none of this scheduler's plugins: {}",
            all.join(", ")
        );
        wrong(field, cause)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FitArgs {
    scoring_strategy: Option<ScoringStrategy>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    kind: Option<String>,
    resources: Option<Vec<ResourceWeight>>,
    requested_to_capacity_ratio: Option<Shape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceWeight {
    name: String,
    weight: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    shape: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SpreadArgs {
    defaulting_type: Option<String>,
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AffinityArgs {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

impl PluginConfig {
    fn change(mut self, profile: &mut Profile, field: &str) -> Result<(), ConfigError> {
        let field = format!("{field}.args");
        if let Some(args) = self.args.as_object_mut() {
            args.remove("apiVersion");
            args.remove("kind");
        }
        fn args<T: serde::de::DeserializeOwned>(
            value: Value,
            field: &str,
        ) -> Result<T, ConfigError> {
            serde_json::from_value(value).map_err(|cause| wrong(field, cause.to_string()))
        }
        match self.name.as_str() {
            "NodeResourcesFit" => {
                let own: FitArgs = args(self.args, &field)?;
                if let Some(strategy) = own.scoring_strategy {
                    profile.fit = strategy.read(&format!("{field}.scoringStrategy"))?;
                }
            }
            "PodTopologySpread" => {
                let own: SpreadArgs = args(self.args, &field)?;
                match own.defaulting_type.as_deref() {
                    Some("List") => profile.spreads = false,
                    None | Some("System") if own.default_constraints.is_empty() => {}
                    _ => {
                        let cause = "must be List when there are defaultConstraints, or System";
                        return Err(wrong(format!("{field}.defaultingType"), cause));
                    }
                }
                profile.constraints = own.default_constraints;
            }
            "InterPodAffinity" => {
                let own: AffinityArgs = args(self.args, &field)?;
                profile.hard_affinity = own.hard_pod_affinity_weight.unwrap_or(1);
                if !(0..=100).contains(&profile.hard_affinity) {
                    let field = format!("{field}.hardPodAffinityWeight");
                    return Err(wrong(field, "must be 0 to 100"));
                }
                profile.ignores_existing = own.ignore_preferred_terms_of_existing_pods;
            }
            other => {
                let cause = format!(
                    "{other:?} takes none here; NodeResourcesFit, PodTopologySpread and InterPodAffinity do"
                );
                return Err(wrong(field, cause));
            }
        }
        Ok(())
    }
}

impl ScoringStrategy {
    fn read(self, field: &str) -> Result<Fit, ConfigError> {
        let kind = match self.kind.as_deref() {
            None | Some("LeastAllocated") => FitKind::Emptiest,
            Some("MostAllocated") => FitKind::Fullest,
            Some("RequestedToCapacityRatio") => {
                let points = self.requested_to_capacity_ratio;
                FitKind::Shape(shape(
                    points.map(|one| one.shape).unwrap_or_default(),
                    field,
                )?)
            }
            Some(other) => {
                let cause = format!(
                    "{other:?} is none of LeastAllocated, MostAllocated, RequestedToCapacityRatio"
                );
                return Err(wrong(format!("{field}.type"), cause));
            }
        };
        let mut fit = Fit {
            kind,
            ..Fit::default()
        };
        let given = self.resources.filter(|given| !given.is_empty());
        if let Some(resources) = given {
            let rows = resources.into_iter();
            let rows = rows.map(|one| {
                (
                    one.name,
                    one.weight.filter(|weight| *weight != 0).unwrap_or(1),
                )
            });
            fit.resources = rows.collect();
        }
        if let Some((name, _)) = fit
            .resources
            .iter()
            .find(|(_, weight)| !(1..=100).contains(weight))
        {
            let cause = format!("the weight of {name} must be 1 to 100");
            return Err(wrong(format!("{field}.resources"), cause));
        }
        Ok(fit)
    }
}

fn shape(points: Vec<Point>, field: &str) -> Result<Vec<(i64, i64)>, ConfigError> {
    let field = format!("{field}.requestedToCapacityRatio.shape");
    let rises = points
        .windows(2)
        .all(|pair| pair[0].utilization < pair[1].utilization);
    let inside = points
        .iter()
        .all(|one| (0..=100).contains(&one.utilization) && (0..=10).contains(&one.score));
    if points.is_empty() || !rises || !inside {
        let cause = "must have points of rising utilization, 0 to 100, with scores of 0 to 10";
        return Err(wrong(field, cause));
    }
    let scaled = points
        .into_iter()
        .map(|one| (one.utilization, one.score * 10));
    Ok(scaled.collect())
}
