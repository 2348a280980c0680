//! How a scheduler decides: profiles by name. How they are read from a KubeSchedulerConfiguration is in `read`.

mod read;

use std::collections::{BTreeMap, BTreeSet};

use super::NAME;
use super::plugin::Plugin;
use crate::pod::Pod;
use k8s_openapi::api::core::v1::TopologySpreadConstraint;
pub use read::ConfigError;
pub use waggle_api::PLACEMENT;

/// Seconds of the first and the longest pause of a pod that fits nowhere.
const BACKOFF: (i64, i64) = (1, 10);

/// Every profile of a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    profiles: Vec<Profile>,
    /// Seconds after which a pod that fits nowhere is tried again at the soonest; twice as long each time, up to the
    /// second figure.
    backoff: (i64, i64),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            backoff: BACKOFF,
        }
    }
}

impl Settings {
    /// The profile that answers to a pod's `spec.schedulerName`; none does when the pod is another scheduler's.
    pub fn profile_of(&self, pod: &Pod) -> Option<&Profile> {
        let name = pod.spec.as_ref()?.scheduler_name.as_deref();
        let name = name.filter(|name| !name.is_empty()).unwrap_or(NAME);
        self.profiles.iter().find(|one| one.name == name)
    }

    /// Seconds after which a pod that was tried so many times may be tried again.
    pub(super) fn backoff(&self, times: u32) -> i64 {
        let (first, longest) = self.backoff;
        let doubled = 2i64.saturating_pow(times.saturating_sub(1));
        first.saturating_mul(doubled).min(longest)
    }

    /// The first profile.
    pub(super) fn usual(&self) -> &Profile {
        &self.profiles[0]
    }
}

/// One way to place pods.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What pods call it by.
    pub name: String,
    filters: BTreeSet<Plugin>,
    weights: BTreeMap<Plugin, i64>,
    preempts: bool,
    /// How full nodes are compared.
    pub(super) fit: Fit,
    /// Pods of one owner are kept apart though they don't ask for it.
    pub(super) spreads: bool,
    /// Constraints of pods that have none of their own.
    pub(super) constraints: Vec<TopologySpreadConstraint>,
    /// What a required affinity of pods that are there counts for.
    pub(super) hard_affinity: i64,
    /// Preferences of pods that are there don't count.
    pub(super) ignores_existing: bool,
    /// How many of a hundred nodes are compared; chosen by the size of the cluster when absent.
    pub(super) percentage: Option<usize>,
}

/// Those that keep pods off nodes.
const FILTERS: [Plugin; 10] = [
    Plugin::NodeUnschedulable,
    Plugin::TaintToleration,
    Plugin::NodeAffinity,
    Plugin::NodePorts,
    Plugin::NodeResourcesFit,
    Plugin::VolumeRestrictions,
    Plugin::VolumeBinding,
    Plugin::VolumeZone,
    Plugin::PodTopologySpread,
    Plugin::InterPodAffinity,
];

/// Those that compare nodes, by Kubernetes' weights.
const SCORES: [(Plugin, i64); 7] = [
    (Plugin::NodeResourcesFit, 1),
    (Plugin::NodeResourcesBalancedAllocation, 1),
    (Plugin::ImageLocality, 1),
    (Plugin::NodeAffinity, 2),
    (Plugin::TaintToleration, 3),
    (Plugin::PodTopologySpread, 2),
    (Plugin::InterPodAffinity, 2),
];

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: NAME.to_owned(),
            filters: FILTERS.into(),
            weights: SCORES.into(),
            preempts: true,
            fit: Fit::default(),
            spreads: true,
            constraints: Vec::new(),
            hard_affinity: 1,
            ignores_existing: false,
            percentage: None,
        }
    }
}

impl Profile {
    /// Whether this filter is asked.
    pub(super) fn filters_by(&self, plugin: Plugin) -> bool {
        self.filters.contains(&plugin)
    }

    /// What the plugin's score counts for; 0 when it is not asked.
    pub(super) fn weight(&self, plugin: Plugin) -> i64 {
        self.weights.get(&plugin).copied().unwrap_or(0)
    }

    /// Whether less important pods make room.
    pub(super) fn preempts(&self) -> bool {
        self.preempts
    }

    /// How full nodes are compared for this pod, and whether it is kept apart from others of its owner.
    pub(super) fn for_pod(&self, pod: &Pod) -> (Fit, bool) {
        let annotations = pod.metadata.annotations.as_ref();
        let by = |kind| Fit {
            kind,
            ..self.fit.clone()
        };
        match annotations
            .and_then(|all| all.get(PLACEMENT))
            .map(String::as_str)
        {
            Some("pack") => (by(FitKind::Fullest), false),
            Some("spread") => (by(FitKind::Emptiest), true),
            _ => (self.fit.clone(), self.spreads),
        }
    }
}

/// How full nodes are compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fit {
    pub(super) kind: FitKind,
    /// By which resources, and how much each counts.
    pub(super) resources: Vec<(String, i64)>,
}

/// What is better.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FitKind {
    /// LeastAllocated.
    Emptiest,
    /// MostAllocated.
    Fullest,
    /// RequestedToCapacityRatio: what a share that is used (0 to 100) is worth (0 to 100), in order.
    Shape(Vec<(i64, i64)>),
}

impl Default for Fit {
    fn default() -> Self {
        Self {
            kind: FitKind::Emptiest,
            resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let settings = Settings::default();
        let pauses = [1, 2, 4, 5, 63, 64, 65, u32::MAX].map(|times| settings.backoff(times));
        assert_eq!(pauses, [1, 2, 8, 10, 10, 10, 10, 10]);
    }
}
