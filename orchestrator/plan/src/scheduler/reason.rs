//! Why a pod can't be on a node, in the words that Kubernetes' users know.

use std::collections::BTreeMap;
use std::fmt;

use super::plugin::Plugin;

/// Why not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Cordoned.
    Unschedulable,
    /// A taint, as `key: value`.
    Taint(String),
    /// Node selector or required node affinity.
    NodeAffinity,
    /// Its claims let it be nowhere yet; why.
    Claims(String),
    /// A volume of a claim is elsewhere.
    VolumeElsewhere,
    /// A volume of a claim is in another zone.
    VolumeZone,
    /// A claim that one pod alone may use is in use.
    ClaimInUse,
    /// No volume for a claim is here.
    NoVolume,
    /// A host port is taken.
    Ports,
    /// Not enough of some resource; `Amounts::shortages` says of which.
    Resources,
    /// A DoNotSchedule constraint's skew would be too large.
    Spread,
    /// A DoNotSchedule constraint's topology label is missing.
    SpreadLabel,
    /// Required pod affinity.
    PodAffinity,
    /// Required pod anti-affinity.
    PodAntiAffinity,
    /// Required pod anti-affinity of a pod that is there.
    ExistingAntiAffinity,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Taint(taint) => return write!(f, "node(s) had untolerated taint {{{taint}}}"),
            Self::Claims(why) => return f.write_str(why),
            Self::VolumeZone => "node(s) had no available volume zone",
            Self::ClaimInUse => {
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            }
            Self::VolumeElsewhere => "node(s) had volume node affinity conflict",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Resources => "Insufficient resources",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => {
                "node(s) didn't satisfy existing pods anti-affinity rules"
            }
        })
    }
}

impl Reason {
    /// The filter that says so.
    pub(super) fn plugin(&self) -> Plugin {
        match self {
            Self::Unschedulable => Plugin::NodeUnschedulable,
            Self::Taint(_) => Plugin::TaintToleration,
            Self::NodeAffinity => Plugin::NodeAffinity,
            Self::Claims(_) | Self::VolumeElsewhere | Self::NoVolume => Plugin::VolumeBinding,
            Self::VolumeZone => Plugin::VolumeZone,
            Self::ClaimInUse => Plugin::VolumeRestrictions,
            Self::Ports => Plugin::NodePorts,
            Self::Resources => Plugin::NodeResourcesFit,
            Self::Spread | Self::SpreadLabel => Plugin::PodTopologySpread,
            Self::PodAffinity | Self::PodAntiAffinity | Self::ExistingAntiAffinity => {
                Plugin::InterPodAffinity
            }
        }
    }
}

/// `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.`
pub(super) fn message(nodes: usize, reasons: impl Iterator<Item = String>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut parts: Vec<String> = counts
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort_unstable();
    whole(nodes, &parts.join(", "))
}

/// The same when one thing keeps a pod off every node.
pub(super) fn whole(nodes: usize, why: &str) -> String {
    format!("0/{nodes} nodes are available: {why}.")
}
