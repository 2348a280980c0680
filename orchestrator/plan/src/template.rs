//! What every controller that owns pods does alike: making a pod from a template, claiming pods by selector, telling
//! of what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self as core, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::ownership::{adopt, controller_reference, delete, json, release};
use crate::pod::{self, Pod};
use crate::write::{EventDraft, ObjectRef, Propagation};
use crate::{Ids, Plan, Snapshot, Write, selector};

/// A pod of this template and name, owned by `owner`.
pub(crate) fn pod(owner: &ObjectRef, template: &PodTemplateSpec, name: String) -> core::Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    core::Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(owner.namespace.clone()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `base`, shortened so that the whole stays a DNS label, a dash and a random end; a name that no pod has.
pub(crate) fn free_name(
    snapshot: &Snapshot,
    namespace: &str,
    base: &str,
    taken: &BTreeSet<String>,
    ids: &mut Ids,
) -> String {
    let base: String = format!("{base}-").chars().take(58).collect();
    loop {
        let name = format!("{base}{}", ids.suffix());
        if snapshot.pods.get(namespace, &name).is_none() && !taken.contains(&name) {
            return name;
        }
    }
}

/// The pods that belong to an owner from now on: its own that still match, and unowned ones that do. Writes what has to
/// be adopted or released. An owner that is `ending` takes in nobody.
pub(crate) fn claim<'a>(
    snapshot: &'a Snapshot,
    wanted: &LabelSelector,
    owner: &ObjectRef,
    ending: bool,
    claimed: &mut BTreeSet<String>,
    plan: &mut Plan,
) -> Vec<&'a Arc<Pod>> {
    let fits = |pod: &Pod| selector::matches(wanted, pod.metadata.labels.as_ref());
    let mut pods = Vec::new();
    for pod in snapshot.pods_of(&owner.uid) {
        if fits(pod) {
            pods.push(pod);
        } else if !pod::is_deleted(pod) {
            plan.writes
                .push(release(pod::reference(pod), &pod.metadata, &owner.uid));
        }
    }
    if ending {
        return pods;
    }
    let exact = wanted.match_labels.as_ref();
    for pod in snapshot.pods_labelled(&owner.namespace, exact) {
        let free = pod::controller(&pod.metadata).is_none() && pod::is_active(pod) && fits(pod);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if free && claimed.insert(uid) {
            plan.writes
                .push(adopt(pod::reference(pod), &pod.metadata, owner));
            pods.push(pod);
        }
    }
    pods
}

/// A controller that makes and removes pods, and tells its owner's readers of it.
pub(crate) struct Hand<'a> {
    pub(crate) owner: &'a ObjectRef,
    /// Component of its events, `statefulset-controller`.
    pub(crate) component: &'static str,
}

impl Hand<'_> {
    pub(crate) fn create(&self, pod: &core::Pod, plan: &mut Plan) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        plan.writes.push(Write::Create(json(pod)));
        self.say("SuccessfulCreate", format!("Created pod: {name}"), plan);
    }

    pub(crate) fn delete(&self, pod: &Pod, plan: &mut Plan) {
        let object = pod::reference(pod);
        self.say(
            "SuccessfulDelete",
            format!("Deleted pod: {}", object.name),
            plan,
        );
        plan.writes
            .push(delete(object, None, Propagation::Background));
    }

    pub(crate) fn say(&self, reason: &'static str, message: String, plan: &mut Plan) {
        self.tell(false, reason, message, plan);
    }

    pub(crate) fn warn(&self, reason: &'static str, message: String, plan: &mut Plan) {
        self.tell(true, reason, message, plan);
    }

    fn tell(&self, warning: bool, reason: &'static str, message: String, plan: &mut Plan) {
        plan.events.push(EventDraft {
            object: self.owner.clone(),
            warning,
            reason,
            message,
            component: self.component,
        });
    }
}

/// A label of an object.
pub(crate) fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation of an object.
pub(crate) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Labels or annotations of an object, for change.
pub(crate) fn put(map: &mut Option<BTreeMap<String, String>>, key: &str, value: impl Into<String>) {
    map.get_or_insert_default().insert(key.into(), value.into());
}
