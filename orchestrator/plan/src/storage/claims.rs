//! What claims ask of volumes and of nodes: which volume fits a claim, and on which nodes a pod's claims let it be.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use waggle_model::Quantity;

use crate::Snapshot;
use crate::pod::Pod;
use crate::selector::{Labels, matches, matches_node};

/// The provisioner that every cluster has: a folder of a node's own.
pub const PROVISIONER: &str = "waggle.dev/local-path";
/// The node that a claim's first user will be on, written by the scheduler.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Whose class a claim gets that names none.
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Names of the claims that a pod mounts.
pub fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.place.volumes.iter().flatten();
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// The volume that a claim is bound to, both sides agreeing.
pub fn volume_of<'a>(
    snapshot: &'a Snapshot,
    claim: &PersistentVolumeClaim,
) -> Option<&'a PersistentVolume> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    let volume = snapshot.persistent_volumes.get("", name)?;
    is_for(volume, claim).then_some(volume)
}

/// The volume names this very claim as its own.
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    reference.is_some_and(|one| one.uid.is_some() && one.uid == claim.metadata.uid)
}

/// The volume is nobody's, or was set aside for a claim of this name.
fn is_free_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    reference.is_none_or(|one| {
        one.name == claim.metadata.name
            && one.namespace == claim.metadata.namespace
            && one
                .uid
                .as_ref()
                .is_none_or(|uid| Some(uid) == claim.metadata.uid.as_ref())
    })
}

/// What a volume holds, thousandths of bytes.
pub(super) fn capacity(volume: &PersistentVolume) -> i128 {
    let amounts = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    amount(amounts.and_then(|amounts| amounts.get("storage")))
}

fn amount(quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> i128 {
    quantity
        .and_then(|quantity| quantity.0.parse::<Quantity>().ok())
        .map_or(0, Quantity::milli)
}

/// Whether a volume that exists may be bound to the claim.
pub(super) fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(own), Some(wanted)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let asked = wanted
        .resources
        .as_ref()
        .and_then(|all| all.requests.as_ref());
    let modes = own.access_modes.as_deref().unwrap_or_default();
    let class = |name: &Option<String>| name.clone().unwrap_or_default();
    volume.metadata.deletion_timestamp.is_none()
        && is_free_for(volume, claim)
        && class(&own.storage_class_name) == class(&wanted.storage_class_name)
        && own.volume_mode.as_deref().unwrap_or("Filesystem")
            == wanted.volume_mode.as_deref().unwrap_or("Filesystem")
        && wanted
            .access_modes
            .iter()
            .flatten()
            .all(|mode| modes.contains(mode))
        && capacity(volume) >= amount(asked.and_then(|asked| asked.get("storage")))
        && wanted
            .selector
            .as_ref()
            .is_none_or(|selector| matches(selector, volume.metadata.labels.as_ref()))
}

/// Whether a node may use the volume.
pub(super) fn reaches(volume: &PersistentVolume, node: &str, labels: Option<&Labels>) -> bool {
    let affinity = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|selector| {
        let mut terms = selector.node_selector_terms.iter();
        terms.any(|term| matches_node(term, node, labels))
    })
}

/// Labels of a volume that say where it is, and what they are called today.
const PLACES: [(&str, &str); 4] = [
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
];

/// Whether the volume's zone and region, by its labels, are the node's. A volume in several zones has them joined by
/// `__`; a node that says nothing of where it is takes every volume.
fn is_in_zone(volume: &PersistentVolume, labels: Option<&Labels>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let own = |key: &str| {
        let labels = volume.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(key))
    };
    if PLACES.iter().all(|(key, _)| label(key).is_none()) {
        return true;
    }
    PLACES.iter().all(|(key, today)| {
        own(key).is_none_or(|places| {
            let there = label(key).or_else(|| label(today));
            there.is_some_and(|there| places.split("__").any(|place| place == there))
        })
    })
}

/// The class that a claim gets that names none.
pub(super) fn default_class(snapshot: &Snapshot) -> Option<&str> {
    let classes = snapshot.storage_classes.iter().filter(|class| {
        let annotations = class.metadata.annotations.as_ref();
        annotations
            .and_then(|all| all.get(DEFAULT_CLASS))
            .is_some_and(|value| value == "true")
    });
    classes
        .max_by_key(|class| class.metadata.creation_timestamp.clone())
        .and_then(|class| class.metadata.name.as_deref())
}

/// The node that the scheduler chose for the claim's first user.
pub(super) fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(SELECTED_NODE).map(String::as_str)
}

/// Who makes volumes of the claim's class, and whether they wait for the claim's first user.
pub(super) fn class_of(snapshot: &Snapshot, claim: &PersistentVolumeClaim) -> (String, bool) {
    let name = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.as_deref());
    let class = name.and_then(|name| snapshot.storage_classes.get("", name));
    class.map_or_else(
        || (String::new(), false),
        |class| {
            let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
            (class.provisioner.clone(), waits)
        },
    )
}

/// What a pod's claims say about its node.
#[derive(Debug, Default)]
pub(crate) struct PodClaims<'a> {
    /// Why it can be nowhere yet.
    fault: Option<String>,
    bound: Vec<&'a PersistentVolume>,
    waiting: Vec<Waiting<'a>>,
    /// Claims that one pod alone may use.
    exclusive: Vec<&'a str>,
}

/// A claim that is bound when its first user has a node.
#[derive(Debug)]
struct Waiting<'a> {
    claim: &'a PersistentVolumeClaim,
    /// A volume is made wherever it is wanted.
    made: bool,
    fitting: Vec<&'a PersistentVolume>,
}

impl<'a> Waiting<'a> {
    /// Volumes that it may get on this node.
    fn free_on(
        &self,
        node: &str,
        labels: Option<&Labels>,
        taken: &BTreeSet<String>,
    ) -> impl Iterator<Item = &'a PersistentVolume> {
        self.fitting.iter().copied().filter(move |volume| {
            reaches(volume, node, labels)
                && is_in_zone(volume, labels)
                && !taken.contains(name_of(volume))
        })
    }
}

fn name_of(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

/// Why a pod's claims keep it off a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ClaimFault {
    /// Off every node.
    Everywhere(String),
    /// A volume is elsewhere.
    Elsewhere,
    /// A volume is in another zone or region.
    OtherZone,
    /// No volume for a claim is here, and none is made.
    NoVolume,
}

impl<'a> PodClaims<'a> {
    /// Looks at a pod's claims.
    pub(crate) fn of(snapshot: &'a Snapshot, pod: &Pod) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut found = Self::default();
        for name in claims_of(pod) {
            let claim = snapshot.persistent_volume_claims.get(namespace, name);
            let Some(claim) = claim else {
                found.fault = Some(format!("persistentvolumeclaim {name:?} not found"));
                continue;
            };
            let modes = claim
                .spec
                .iter()
                .flat_map(|spec| spec.access_modes.iter().flatten());
            if modes.into_iter().any(|mode| mode == "ReadWriteOncePod") {
                found.exclusive.extend(claim.metadata.name.as_deref());
            }
            if claim.metadata.deletion_timestamp.is_some() {
                found.fault = Some(format!("persistentvolumeclaim {name:?} is being deleted"));
            } else if let Some(volume) = volume_of(snapshot, claim) {
                found.bound.push(volume);
            } else {
                let (provisioner, waits) = class_of(snapshot, claim);
                let named = claim
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.volume_name.as_ref());
                if !waits || named.is_some() {
                    let text = "pod has unbound immediate PersistentVolumeClaims";
                    found.fault = Some(text.to_owned());
                    continue;
                }
                let volumes = snapshot.persistent_volumes.iter();
                found.waiting.push(Waiting {
                    claim,
                    made: provisioner == PROVISIONER,
                    fitting: volumes
                        .map(AsRef::as_ref)
                        .filter(|volume| fits(volume, claim))
                        .collect(),
                });
            }
        }
        found
    }

    /// Why the pod can be nowhere yet.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// Claims that one pod alone may use.
    pub(crate) fn exclusive(&self) -> &[&'a str] {
        &self.exclusive
    }

    /// Why the pod can't be on this node for its claims. `nodes` tells the labels of every node that is there; volumes
    /// of `taken` are promised to others.
    pub(crate) fn judge<'n>(
        &self,
        node: &str,
        labels: Option<&Labels>,
        nodes: impl Fn(&str) -> Option<Option<&'n Labels>>,
        taken: &BTreeSet<String>,
    ) -> Option<ClaimFault> {
        if let Some(fault) = &self.fault {
            return Some(ClaimFault::Everywhere(fault.clone()));
        }
        let mut volumes = self.bound.iter();
        if !volumes.all(|volume| reaches(volume, node, labels)) {
            return Some(ClaimFault::Elsewhere);
        }
        if !self.bound.iter().all(|volume| is_in_zone(volume, labels)) {
            return Some(ClaimFault::OtherZone);
        }
        let elsewhere = self.waiting.iter().any(|one| {
            let selected = selected_node(one.claim).filter(|selected| *selected != node);
            // A choice that nothing can come of is no choice.
            selected.is_some_and(|selected| {
                nodes(selected).is_some_and(|labels| {
                    one.made || one.free_on(selected, labels, taken).next().is_some()
                })
            })
        });
        if elsewhere {
            return Some(ClaimFault::Elsewhere);
        }
        let found = self.volumes_on(node, labels, taken);
        found.is_none().then_some(ClaimFault::NoVolume)
    }

    /// Names of the volumes that its claims would get on this node, the smallest that fit, each once; `None` when there
    /// are too few. Claims whose volumes are made have none yet.
    pub(crate) fn volumes_on(
        &self,
        node: &str,
        labels: Option<&Labels>,
        taken: &BTreeSet<String>,
    ) -> Option<Vec<String>> {
        let mut found: Vec<String> = Vec::new();
        for one in &self.waiting {
            let free = one.free_on(node, labels, taken);
            let free = free.filter(|volume| !found.iter().any(|name| name_of(volume) == name));
            let smallest = free.min_by_key(|volume| (capacity(volume), name_of(volume)));
            match smallest {
                Some(volume) => found.push(name_of(volume).to_owned()),
                None if one.made => {}
                None => return None,
            }
        }
        Some(found)
    }

    /// The claims that are to be told the pod's node before it goes there, and those of them that don't know it yet.
    pub(crate) fn to_tell(&self, node: &str) -> Option<Vec<PersistentVolumeClaim>> {
        if self.waiting.is_empty() {
            return None;
        }
        let ignorant = self.waiting.iter().map(|one| one.claim);
        let ignorant = ignorant.filter(|claim| selected_node(claim) != Some(node));
        let told = ignorant.map(|claim| {
            let mut claim = claim.clone();
            let annotations = claim.metadata.annotations.get_or_insert_default();
            annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
            claim
        });
        Some(told.collect())
    }
}
