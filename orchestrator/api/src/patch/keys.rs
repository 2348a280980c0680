//! How the lists of each type merge: one table, used by strategic merge patches and by the OpenAPI documents that
//! kubectl makes its patches from.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a list, or a map with members that exclude each other, merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListRule {
    /// Items are objects, told apart by the first key; the second one (with its default) tells apart items that
    /// share the first.
    Keyed {
        /// Field that names an item.
        key: &'static str,
        /// Field and its default that tells items of one name apart.
        second: Option<(&'static str, &'static str)>,
        /// An item keeps only the fields that the patch lists in `$retainKeys`.
        retain: bool,
    },
    /// Items are plain values; merging adds the missing ones.
    Set,
    /// Not a list: an object that keeps only the fields that the patch lists in `$retainKeys`.
    Retain,
}

impl ListRule {
    /// `x-kubernetes-patch-strategy`.
    pub fn strategy(self) -> &'static str {
        match self {
            Self::Keyed { retain: true, .. } => "merge,retainKeys",
            Self::Retain => "retainKeys",
            Self::Keyed { .. } | Self::Set => "merge",
        }
    }
}

const fn by(key: &'static str) -> ListRule {
    ListRule::Keyed {
        key,
        second: None,
        retain: false,
    }
}

const fn retaining(key: &'static str) -> ListRule {
    ListRule::Keyed {
        key,
        second: None,
        retain: true,
    }
}

const fn port(key: &'static str) -> ListRule {
    ListRule::Keyed {
        key,
        second: Some(("protocol", "TCP")),
        retain: false,
    }
}

/// (type, field, rule). Lists that aren't here are replaced as a whole.
const RULES: &[(&str, &str, ListRule)] = &[
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "finalizers",
        ListRule::Set,
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        by("uid"),
    ),
    ("io.k8s.api.core.v1.PodSpec", "containers", by("name")),
    ("io.k8s.api.core.v1.PodSpec", "initContainers", by("name")),
    (
        "io.k8s.api.core.v1.PodSpec",
        "ephemeralContainers",
        by("name"),
    ),
    ("io.k8s.api.core.v1.PodSpec", "volumes", retaining("name")),
    ("io.k8s.api.core.v1.PodSpec", "imagePullSecrets", by("name")),
    ("io.k8s.api.core.v1.PodSpec", "hostAliases", by("ip")),
    (
        "io.k8s.api.core.v1.PodSpec",
        "topologySpreadConstraints",
        by("topologyKey"),
    ),
    ("io.k8s.api.core.v1.PodSpec", "schedulingGates", by("name")),
    (
        "io.k8s.api.core.v1.PodSpec",
        "resourceClaims",
        retaining("name"),
    ),
    (
        "io.k8s.api.core.v1.Container",
        "ports",
        port("containerPort"),
    ),
    ("io.k8s.api.core.v1.Container", "env", by("name")),
    (
        "io.k8s.api.core.v1.Container",
        "volumeMounts",
        by("mountPath"),
    ),
    (
        "io.k8s.api.core.v1.Container",
        "volumeDevices",
        by("devicePath"),
    ),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "ports",
        port("containerPort"),
    ),
    ("io.k8s.api.core.v1.EphemeralContainer", "env", by("name")),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "volumeMounts",
        by("mountPath"),
    ),
    (
        "io.k8s.api.core.v1.EphemeralContainer",
        "volumeDevices",
        by("devicePath"),
    ),
    ("io.k8s.api.core.v1.PodStatus", "conditions", by("type")),
    ("io.k8s.api.core.v1.PodStatus", "podIPs", by("ip")),
    ("io.k8s.api.core.v1.ServiceSpec", "ports", port("port")),
    ("io.k8s.api.core.v1.ServiceStatus", "conditions", by("type")),
    ("io.k8s.api.core.v1.NodeSpec", "podCIDRs", ListRule::Set),
    ("io.k8s.api.core.v1.NodeStatus", "conditions", by("type")),
    ("io.k8s.api.core.v1.NodeStatus", "addresses", by("type")),
    (
        "io.k8s.api.core.v1.NamespaceStatus",
        "conditions",
        by("type"),
    ),
    ("io.k8s.api.core.v1.ServiceAccount", "secrets", by("name")),
    (
        "io.k8s.api.core.v1.PersistentVolumeClaimStatus",
        "conditions",
        by("type"),
    ),
    (
        "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
        "webhooks",
        by("name"),
    ),
    (
        "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
        "webhooks",
        by("name"),
    ),
    (
        "io.k8s.api.apps.v1.DeploymentSpec",
        "strategy",
        ListRule::Retain,
    ),
    (
        "io.k8s.api.apps.v1.DeploymentStatus",
        "conditions",
        by("type"),
    ),
    (
        "io.k8s.api.apps.v1.ReplicaSetStatus",
        "conditions",
        by("type"),
    ),
    ("dev.waggle.v1.TenantStatus", "conditions", by("type")),
];

static TABLE: LazyLock<BTreeMap<(&'static str, &'static str), ListRule>> = LazyLock::new(|| {
    RULES
        .iter()
        .map(|&(definition, field, rule)| ((definition, field), rule))
        .collect()
});

/// The rule of a field of a type, named as in OpenAPI (`io.k8s.api.core.v1.PodSpec`).
pub fn list_rule(definition: &str, field: &str) -> Option<ListRule> {
    TABLE.get(&(definition, field)).copied()
}

/// Every (type, field) that has a rule.
#[cfg(test)]
pub(crate) fn fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES
        .iter()
        .map(|&(definition, field, _)| (definition, field))
}
