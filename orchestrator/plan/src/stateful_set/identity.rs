//! What makes a pod of a StatefulSet that pod: its ordinal, name, host name and claims.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    self as core, PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume,
};
use serde_json::Value;

use crate::history::REVISION_LABEL;
use crate::ownership::json;
use crate::pod::Pod;
use crate::template::put;
use crate::write::ObjectRef;
use crate::{Snapshot, template};

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The number at the end of a pod's name, if it is one of this set's names.
pub(super) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let digits = name.strip_prefix(set)?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    (ordinal >= 0 && ordinal.to_string() == digits).then_some(ordinal)
}

/// The pod of an ordinal, from a template of the named revision.
pub(super) fn pod(
    set: &StatefulSet,
    owner: &ObjectRef,
    ordinal: i32,
    revision: &str,
    template: &PodTemplateSpec,
) -> core::Pod {
    let name = format!("{}-{ordinal}", owner.name);
    let mut pod = template::pod(owner, template, name.clone());
    let labels = &mut pod.metadata.labels;
    put(labels, NAME_LABEL, name.clone());
    put(labels, INDEX_LABEL, ordinal.to_string());
    put(labels, REVISION_LABEL, revision);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set
        .spec
        .service_name
        .clone()
        .filter(|name| !name.is_empty());
    for claim in set.spec.volume_claim_templates.iter().flatten() {
        let volume_name = claim.metadata.name.clone().unwrap_or_default();
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|one| one.name != volume_name);
        volumes.push(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(&volume_name, &owner.name, ordinal),
                read_only: None,
            }),
            name: volume_name,
            ..Volume::default()
        });
    }
    pod
}

fn claim_name(template: &str, set: &str, ordinal: i32) -> String {
    format!("{template}-{set}-{ordinal}")
}

/// Claims that a pod of this ordinal needs and that are not there.
pub(super) fn missing_claims(snapshot: &Snapshot, set: &StatefulSet, ordinal: i32) -> Vec<Value> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let name = set.metadata.name.clone().unwrap_or_default();
    let templates = set.spec.volume_claim_templates.iter().flatten();
    let claims = templates.map(|template| {
        let mut claim: PersistentVolumeClaim = template.clone();
        let own = template.metadata.name.clone().unwrap_or_default();
        claim.metadata.name = Some(claim_name(&own, &name, ordinal));
        claim.metadata.namespace = Some(namespace.clone());
        let chosen = set.spec.selector.match_labels.clone().unwrap_or_default();
        claim.metadata.labels.get_or_insert_default().extend(chosen);
        claim.status = None;
        json(&claim)
    });
    claims
        .filter(|claim| {
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            let kind = "PersistentVolumeClaim";
            snapshot.covers("v1", kind) && snapshot.named("v1", kind, &namespace, name).is_none()
        })
        .collect()
}
