//! What decides and compares, by the names that Kubernetes' users know from scheduler configurations.

use std::fmt;

/// A part of scheduling that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    /// Cordoned nodes.
    NodeUnschedulable,
    /// Taints, and taints to be avoided.
    TaintToleration,
    /// Node selectors and node affinity; also `spec.nodeName`, which is bound already.
    NodeAffinity,
    /// Host ports.
    NodePorts,
    /// Requests.
    NodeResourcesFit,
    /// Processors and memory used evenly.
    NodeResourcesBalancedAllocation,
    /// Claims that one pod alone may use.
    VolumeRestrictions,
    /// Claims and their volumes.
    VolumeBinding,
    /// Zones of volumes.
    VolumeZone,
    /// Topology spread constraints.
    PodTopologySpread,
    /// Pod affinity and anti-affinity.
    InterPodAffinity,
    /// Images that are there already.
    ImageLocality,
    /// Less important pods that make room.
    DefaultPreemption,
}

impl Plugin {
    /// In the order in which they are asked.
    pub const ALL: [Self; 13] = [
        Self::NodeUnschedulable,
        Self::TaintToleration,
        Self::NodeAffinity,
        Self::NodePorts,
        Self::NodeResourcesFit,
        Self::NodeResourcesBalancedAllocation,
        Self::VolumeRestrictions,
        Self::VolumeBinding,
        Self::VolumeZone,
        Self::PodTopologySpread,
        Self::InterPodAffinity,
        Self::ImageLocality,
        Self::DefaultPreemption,
    ];

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// `NodeResourcesFit`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeUnschedulable => "NodeUnschedulable",
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodePorts => "NodePorts",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::VolumeRestrictions => "VolumeRestrictions",
            Self::VolumeBinding => "VolumeBinding",
            Self::VolumeZone => "VolumeZone",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::ImageLocality => "ImageLocality",
            Self::DefaultPreemption => "DefaultPreemption",
        }
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
