//! Names, revisions and annotations of a Deployment's ReplicaSets, and the making of a new one.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Rollout, Set};
use crate::ids::{fnv32, safe_text};
use crate::ownership::{controller_reference, json};

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Longest revision history kept in the annotation, in bytes.
const HISTORY_BYTES: usize = 2000;
/// Annotations of a Deployment that its sets don't get.
const OWN: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];

/// Revision number of an object, 0 when it has none.
pub(super) fn of(meta: &ObjectMeta) -> i64 {
    annotation(meta, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// (wanted, wanted plus surge) of the Deployment when a set was last scaled.
pub(super) fn scale_of(meta: &ObjectMeta) -> (Option<i32>, Option<i32>) {
    let number = |key: &str| annotation(meta, key).and_then(|text| text.parse().ok());
    (number(DESIRED), number(MAX))
}

fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a String> {
    meta.annotations.as_ref()?.get(key)
}

/// Whether a set makes pods of this template.
pub(super) fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set.spec
        .template
        .as_ref()
        .is_some_and(|own| without_hash(own) == without_hash(template))
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template
        .metadata
        .as_mut()
        .and_then(|meta| meta.labels.as_mut())
    {
        labels.remove(HASH_LABEL);
    }
    template
}

/// The value of [`HASH_LABEL`]: of the template and of how often that hash was already taken by another.
fn hash(template: &PodTemplateSpec, collisions: u32) -> String {
    let text = json(&without_hash(template)).to_string();
    let attempt = if collisions == 0 {
        Vec::new()
    } else {
        collisions.to_le_bytes().to_vec()
    };
    safe_text(fnv32(&[text.as_bytes(), &attempt]))
}

impl Rollout<'_> {
    /// Brings the new set's revision and annotations up to date; makes the set if it is missing and `create` is true.
    pub(super) fn revise(&mut self, create: bool) {
        let last = self
            .old
            .iter()
            .map(|row| of(&row.set.metadata))
            .max()
            .unwrap_or(0);
        match &mut self.new {
            Some(row) => {
                row.set.spec.min_ready_seconds = self.deployment.spec.min_ready_seconds;
                let annotations = row.set.metadata.annotations.get_or_insert_default();
                copy_annotations(self.deployment, annotations);
                advance(annotations, last + 1);
            }
            None if create => {
                let size = self.room_for_new(0);
                self.new = Some(self.make_set(last + 1, size));
            }
            None => {}
        }
    }

    fn make_set<'s>(&self, revision: i64, size: i32) -> Set<'s> {
        let spec = &self.deployment.spec;
        let (name, hash) = self.free_name();
        let mut template = spec.template.clone();
        template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(HASH_LABEL.into(), hash.clone());
        let mut selector = spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(HASH_LABEL.into(), hash);
        let mut annotations = BTreeMap::new();
        copy_annotations(self.deployment, &mut annotations);
        advance(&mut annotations, revision);
        let metadata = ObjectMeta {
            name: Some(name),
            namespace: self.deployment.metadata.namespace.clone(),
            labels: template
                .metadata
                .as_ref()
                .and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(&self.owner)]),
            ..ObjectMeta::default()
        };
        let spec = ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(size),
            selector,
            template: Some(template),
        };
        let set = ReplicaSet {
            metadata,
            spec,
            status: None,
        };
        let mut row = Set {
            before: None,
            set,
            active: 0,
            ready: 0,
            available: 0,
            terminating: 0,
        };
        self.note_scale(&mut row);
        row
    }

    /// The first name of the template that no other ReplicaSet has, and its hash.
    fn free_name(&self) -> (String, String) {
        let mut collisions = 0;
        loop {
            let hash = hash(&self.deployment.spec.template, collisions);
            let name = format!("{}-{hash}", self.owner.name);
            if self
                .snapshot
                .replica_sets
                .get(&self.owner.namespace, &name)
                .is_none()
            {
                return (name, hash);
            }
            collisions += 1;
        }
    }

    /// Writes down in a set what the Deployment wanted when it was scaled.
    pub(super) fn note_scale(&self, row: &mut Set<'_>) {
        let annotations = row.set.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED.into(), self.replicas.to_string());
        annotations.insert(MAX.into(), self.most().to_string());
    }

    /// The Deployment with the revision of its new set, if it does not carry it yet.
    pub(super) fn new_metadata(&self) -> Option<Deployment> {
        let revision = annotation(&self.new.as_ref()?.set.metadata, REVISION)?;
        if self.deployment.metadata.deletion_timestamp.is_some()
            || annotation(&self.deployment.metadata, REVISION) == Some(revision)
        {
            return None;
        }
        let mut deployment = self.deployment.clone();
        deployment
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(REVISION.into(), revision.clone());
        Some(deployment)
    }
}

fn copy_annotations(from: &Deployment, to: &mut BTreeMap<String, String>) {
    for (key, value) in from.metadata.annotations.iter().flatten() {
        if !OWN.contains(&key.as_str()) {
            to.insert(key.clone(), value.clone());
        }
    }
}

/// Raises the revision; a set that had one before, as after a rollback, remembers it.
fn advance(annotations: &mut BTreeMap<String, String>, revision: i64) {
    let before = annotations.get(REVISION).cloned();
    if before
        .as_ref()
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(0)
        >= revision
    {
        return;
    }
    annotations.insert(REVISION.into(), revision.to_string());
    if let Some(before) = before {
        let history = annotations.entry(HISTORY.into()).or_default();
        if !history.is_empty() {
            history.push(',');
        }
        history.push_str(&before);
        while history.len() > HISTORY_BYTES {
            let cut = history.find(',').map_or(history.len(), |comma| comma + 1);
            history.drain(..cut);
        }
    }
}
