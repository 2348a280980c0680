//! Volumes that outlive pods: claims are bound to volumes that fit, volumes are made where a claim's first user will be,
//! and given back when their claim is gone. What a node does with them is the agent's.

mod claims;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, PersistentVolumeStatus, VolumeNodeAffinity,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ownership::{delete, json};
use crate::write::{EventDraft, Propagation};
use crate::{Plan, Snapshot, Write, pod};

pub(crate) use claims::{ClaimFault, PodClaims};
pub use claims::{PROVISIONER, SELECTED_NODE, claims_of, volume_of};
use claims::{class_of, default_class, fits, is_for, reaches, selected_node};

/// Annotation of a node: its folder for local volumes.
pub const VOLUMES_FOLDER: &str = "waggle.dev/volumes";
/// Finalizer of a volume whose data is still on its node.
pub const DATA: &str = "waggle.dev/local-path";
/// Finalizer of a claim that a pod may use.
const IN_USE: &str = "kubernetes.io/pvc-protection";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const COMPONENT: &str = "persistentvolume-controller";

/// Brings claims and volumes together, and apart. The time decides nothing here.
pub fn plan(snapshot: &Snapshot, _now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    for claim in snapshot.persistent_volume_claims.iter() {
        if claim.metadata.deletion_timestamp.is_some() {
            release_claim(snapshot, claim, &mut plan);
        } else {
            bind(snapshot, claim, &mut plan);
        }
    }
    for volume in snapshot.persistent_volumes.iter() {
        keep(snapshot, volume, &mut plan);
    }
    plan
}

/// Lets a claim go that nobody uses any more.
fn release_claim(snapshot: &Snapshot, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let guarded = claim
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|one| one == IN_USE);
    let used = || {
        let mut pods = snapshot.pods.in_namespace(namespace);
        pods.any(|pod| !pod::is_terminated(pod) && claims_of(pod).any(|one| one == name))
    };
    if guarded && !used() {
        plan.writes.push(Write::RemoveFinalizer {
            object: pod::object("v1", "PersistentVolumeClaim", &claim.metadata),
            finalizer: IN_USE.to_owned(),
        });
    }
}

/// The next step of a claim towards its volume.
fn bind(snapshot: &Snapshot, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let Some(spec) = &claim.spec else { return };
    if spec.storage_class_name.is_none()
        && let Some(class) = default_class(snapshot)
    {
        let mut classed = claim.clone();
        classed.spec.get_or_insert_default().storage_class_name = Some(class.to_owned());
        return plan.writes.push(Write::Update(json(&classed)));
    }
    if let Some(name) = spec.volume_name.as_deref().filter(|name| !name.is_empty()) {
        return match snapshot.persistent_volumes.get("", name) {
            Some(volume) if is_for(volume, claim) => complete(claim, volume, plan),
            Some(volume) if fits(volume, claim) => take(volume, claim, plan),
            Some(_) => {}
            None if phase(claim) == "Bound" => lose(claim, plan),
            None => {}
        };
    }
    let own = |volume: &&std::sync::Arc<PersistentVolume>| is_for(volume, claim);
    if let Some(volume) = snapshot.persistent_volumes.iter().find(own) {
        return name_volume(claim, volume, plan);
    }
    let (provisioner, waits) = class_of(snapshot, claim);
    let selected = selected_node(claim).and_then(|name| snapshot.nodes.get("", name));
    if waits && selected.is_none() {
        return;
    }
    let here = |volume: &PersistentVolume| {
        selected.is_none_or(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            reaches(volume, name, node.metadata.labels.as_ref())
        })
    };
    let taken: Vec<String> = plan.writes.iter().filter_map(updated_volume).collect();
    let fitting = snapshot.persistent_volumes.iter().filter(|volume| {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        fits(volume, claim) && here(volume) && !taken.iter().any(|one| one == name)
    });
    // One that was set aside for this claim comes first, then the smallest.
    let set_aside = |volume: &PersistentVolume| {
        volume
            .spec
            .as_ref()
            .is_some_and(|spec| spec.claim_ref.is_some())
    };
    let best = fitting.min_by_key(|volume| {
        (
            !set_aside(volume),
            claims::capacity(volume),
            volume.metadata.name.clone(),
        )
    });
    if let Some(volume) = best {
        take(volume, claim, plan);
    } else if provisioner == PROVISIONER {
        let node = selected.map(AsRef::as_ref).or_else(|| emptiest(snapshot));
        if let Some(node) = node {
            provision(snapshot, claim, node, plan);
        }
    }
}

fn updated_volume(write: &Write) -> Option<String> {
    match write {
        Write::Update(value) if value["kind"] == "PersistentVolume" => {
            value["metadata"]["name"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    phase.unwrap_or("Pending")
}

fn reference(claim: &PersistentVolumeClaim) -> ObjectReference {
    let ObjectMeta {
        namespace,
        name,
        uid,
        ..
    } = claim.metadata.clone();
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace,
        name,
        uid,
        ..ObjectReference::default()
    }
}

/// The volume becomes the claim's.
fn take(volume: &PersistentVolume, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let mut taken = volume.clone();
    taken.spec.get_or_insert_default().claim_ref = Some(reference(claim));
    plan.writes.push(Write::Update(json(&taken)));
}

/// The claim says which volume is its own.
fn name_volume(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let mut bound = claim.clone();
    let spec = bound.spec.get_or_insert_default();
    spec.volume_name.clone_from(&volume.metadata.name);
    let annotations = bound.metadata.annotations.get_or_insert_default();
    annotations.insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
    let finalizers = bound.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|one| one == IN_USE) {
        finalizers.push(IN_USE.to_owned());
    }
    plan.writes.push(Write::Update(json(&bound)));
}

/// Both sides agree: the claim says what it has got.
fn complete(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let has = volume.spec.as_ref();
    let status = PersistentVolumeClaimStatus {
        phase: Some("Bound".to_owned()),
        access_modes: has.and_then(|spec| spec.access_modes.clone()),
        capacity: has.and_then(|spec| spec.capacity.clone()),
        ..claim.status.clone().unwrap_or_default()
    };
    if claim.status.as_ref() != Some(&status) {
        let mut bound = claim.clone();
        bound.status = Some(status);
        plan.writes.push(Write::UpdateStatus(json(&bound)));
    }
}

fn lose(claim: &PersistentVolumeClaim, plan: &mut Plan) {
    let mut lost = claim.clone();
    lost.status.get_or_insert_default().phase = Some("Lost".to_owned());
    plan.writes.push(Write::UpdateStatus(json(&lost)));
    plan.events.push(EventDraft {
        object: pod::object("v1", "PersistentVolumeClaim", &claim.metadata),
        warning: true,
        reason: "ClaimLost",
        message: "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            .to_owned(),
        component: COMPONENT,
    });
}

/// The node with the fewest volumes of ours, for claims that don't wait for their first user.
fn emptiest(snapshot: &Snapshot) -> Option<&Node> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for volume in snapshot.persistent_volumes.iter() {
        if let Some(node) = node_of(volume) {
            *counts.entry(node).or_default() += 1;
        }
    }
    let open = |node: &&std::sync::Arc<Node>| {
        let spec = node.spec.as_ref();
        folder_of(node).is_some() && spec.and_then(|spec| spec.unschedulable) != Some(true)
    };
    let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
    snapshot
        .nodes
        .iter()
        .filter(open)
        .min_by_key(|node| (counts.get(name(node).as_str()).copied(), name(node)))
        .map(AsRef::as_ref)
}

fn folder_of(node: &Node) -> Option<&str> {
    let annotations = node.metadata.annotations.as_ref()?;
    annotations.get(VOLUMES_FOLDER).map(String::as_str)
}

/// The node that a volume of ours is on.
pub fn node_of(volume: &PersistentVolume) -> Option<&str> {
    let annotations = volume.metadata.annotations.as_ref()?;
    if annotations.get(PROVISIONED_BY)? != PROVISIONER {
        return None;
    }
    annotations.get(SELECTED_NODE).map(String::as_str)
}

/// A new volume in a node's own folder.
fn provision(snapshot: &Snapshot, claim: &PersistentVolumeClaim, node: &Node, plan: &mut Plan) {
    let (Some(folder), Some(spec)) = (folder_of(node), &claim.spec) else {
        return;
    };
    let node = node.metadata.name.clone().unwrap_or_default();
    let name = format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default());
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    let policy = snapshot.storage_classes.get("", class);
    let policy = policy.and_then(|class| class.reclaim_policy.clone());
    let here = NodeSelectorRequirement {
        key: "kubernetes.io/hostname".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.clone()]),
    };
    let volume = PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(BTreeMap::from([
                (PROVISIONED_BY.to_owned(), PROVISIONER.to_owned()),
                (SELECTED_NODE.to_owned(), node.clone()),
            ])),
            finalizers: Some(vec![DATA.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: spec.resources.as_ref().and_then(|all| all.requests.clone()),
            claim_ref: Some(reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{folder}/{name}"),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![here]),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: Some(policy.unwrap_or_else(|| "Delete".to_owned())),
            storage_class_name: spec.storage_class_name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    };
    plan.writes.push(Write::Create(json(&volume)));
    plan.events.push(EventDraft {
        object: pod::object("v1", "PersistentVolumeClaim", &claim.metadata),
        warning: false,
        reason: "ProvisioningSucceeded",
        message: format!("Successfully provisioned volume {name} on node {node}"),
        component: COMPONENT,
    });
}

/// What becomes of a volume: its phase, and its end.
fn keep(snapshot: &Snapshot, volume: &PersistentVolume, plan: &mut Plan) {
    let spec = volume.spec.clone().unwrap_or_default();
    let claimed = spec.claim_ref.as_ref().filter(|one| one.uid.is_some());
    let claim = claimed.and_then(|one| {
        let namespace = one.namespace.as_deref().unwrap_or_default();
        let name = one.name.as_deref().unwrap_or_default();
        snapshot
            .persistent_volume_claims
            .get(namespace, name)
            .filter(|claim| is_for(volume, claim))
    });
    let phase = match (claimed, claim) {
        (None, _) => "Available",
        (Some(_), Some(_)) => "Bound",
        (Some(_), None) => "Released",
    };
    let now = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if now != Some(phase) {
        let mut changed = volume.clone();
        changed.status = Some(PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            ..volume.status.clone().unwrap_or_default()
        });
        return plan.writes.push(Write::UpdateStatus(json(&changed)));
    }
    if claim.is_some() {
        return;
    }
    let Some(node) = node_of(volume) else { return };
    let object = pod::object("v1", "PersistentVolume", &volume.metadata);
    let deletes = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
    let ending = volume.metadata.deletion_timestamp.is_some();
    let guarded = volume
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|one| one == DATA);
    if !ending && deletes && claimed.is_some() {
        plan.writes
            .push(delete(object, None, Propagation::Background));
    } else if ending && guarded && (!deletes || snapshot.nodes.get("", node).is_none()) {
        // Its data stays, or is gone with its node.
        plan.writes.push(Write::RemoveFinalizer {
            object,
            finalizer: DATA.to_owned(),
        });
    }
}

/// Volumes of a node whose data is to be removed.
pub fn to_remove<'a>(snapshot: &'a Snapshot, node: &'a str) -> impl Iterator<Item = &'a str> {
    let volumes = snapshot.persistent_volumes.iter().filter(move |volume| {
        let status = volume
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let policy = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        volume.metadata.deletion_timestamp.is_some()
            && status == Some("Released")
            && policy == Some("Delete")
            && node_of(volume) == Some(node)
            && volume
                .metadata
                .finalizers
                .iter()
                .flatten()
                .any(|one| one == DATA)
    });
    volumes.filter_map(|volume| volume.metadata.name.as_deref())
}
