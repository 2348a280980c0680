//! The past templates of a StatefulSet or DaemonSet, as ControllerRevisions: which one is the present one, and which
//! may be forgotten.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::json;

use crate::ids::{fnv32, safe_text};
use crate::ownership::{self, controller_reference, delete};
use crate::write::{ObjectRef, Propagation};
use crate::{Plan, Snapshot, Write};

/// Label of pods: the revision that they were made from.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// The revisions of one owner.
pub(crate) struct History<'a> {
    /// Oldest first.
    past: Vec<&'a Arc<ControllerRevision>>,
    owner: ObjectRef,
}

/// The present template's revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    /// Name of the ControllerRevision.
    pub(crate) name: String,
    /// The part of the name that stands for the template.
    pub(crate) hash: String,
}

impl<'a> History<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot, owner: &ObjectRef) -> Self {
        let named = snapshot.dependents_of(&owner.uid).filter_map(|meta| {
            let object = &meta.key;
            let is_one = *object.kind == *"ControllerRevision";
            let rows = &snapshot.controller_revisions;
            is_one
                .then(|| rows.get(&object.namespace, &object.name))
                .flatten()
        });
        let mut past: Vec<_> = named.collect();
        past.sort_by_key(|one| (one.revision, one.metadata.name.clone()));
        Self {
            past,
            owner: owner.clone(),
        }
    }

    /// The revision of `template`; one that is missing is made, an earlier one that is wanted again becomes the newest.
    pub(crate) fn present(
        &self,
        snapshot: &Snapshot,
        template: &PodTemplateSpec,
        plan: &mut Plan,
    ) -> Present {
        let data = data(template);
        let last = self.past.last().map_or(0, |one| one.revision.unwrap_or(0));
        let known = self.past.iter().rev().find(|one| one.data.0 == data);
        if let Some(known) = known {
            if known.revision.unwrap_or(0) < last {
                plan.writes
                    .push(Write::Update(ownership::json(&ControllerRevision {
                        revision: Some(last + 1),
                        ..ControllerRevision::clone(known)
                    })));
            }
            return self.named(known.metadata.name.clone().unwrap_or_default());
        }
        let mut attempt = 0u32;
        loop {
            let name = format!("{}-{}", self.owner.name, hash(&data, attempt));
            let rows = &snapshot.controller_revisions;
            if rows.get(&self.owner.namespace, &name).is_none() {
                let made = self.make(&name, data, last + 1, template);
                plan.writes.push(Write::Create(ownership::json(&made)));
                return self.named(name);
            }
            attempt += 1;
        }
    }

    fn named(&self, name: String) -> Present {
        let prefix = format!("{}-", self.owner.name);
        let hash = name.strip_prefix(&prefix).unwrap_or(&name).to_owned();
        Present { name, hash }
    }

    fn make(
        &self,
        name: &str,
        data: serde_json::Value,
        revision: i64,
        template: &PodTemplateSpec,
    ) -> ControllerRevision {
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone());
        let mut labels = labels.unwrap_or_default();
        let hash = self.named(name.to_owned()).hash;
        labels.insert(REVISION_LABEL.to_owned(), hash);
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.owner.namespace.clone()),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(&self.owner)]),
                ..ObjectMeta::default()
            },
            data: RawExtension(data),
            revision: Some(revision),
        }
    }

    /// The template of an earlier revision.
    pub(crate) fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let found = self
            .past
            .iter()
            .find(|one| one.metadata.name.as_deref() == Some(name))?;
        let mut template = found.data.0["spec"]["template"].clone();
        template.as_object_mut()?.remove("$patch");
        serde_json::from_value(template).ok()
    }

    /// Deletes the oldest revisions beyond `limit` that none of `live` names.
    pub(crate) fn forget(&self, limit: i32, live: &BTreeSet<String>, plan: &mut Plan) {
        let idle = self.past.iter().filter(|one| {
            let name = one.metadata.name.as_deref().unwrap_or_default();
            !live.contains(name) && one.metadata.deletion_timestamp.is_none()
        });
        let idle: Vec<_> = idle.collect();
        let surplus = idle
            .len()
            .saturating_sub(usize::try_from(limit).unwrap_or(0));
        for one in idle.into_iter().take(surplus) {
            let object = crate::pod::object("apps/v1", "ControllerRevision", &one.metadata);
            plan.writes
                .push(delete(object, None, Propagation::Background));
        }
    }
}

/// What a revision keeps of an owner: a strategic merge patch that sets its template.
fn data(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = ownership::json(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

fn hash(data: &serde_json::Value, attempt: u32) -> String {
    let attempt = if attempt == 0 {
        Vec::new()
    } else {
        attempt.to_le_bytes().to_vec()
    };
    safe_text(fnv32(&[data.to_string().as_bytes(), &attempt]))
}
