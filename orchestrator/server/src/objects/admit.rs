//! What a namespace asks of new objects: limit ranges, Pod Security, quotas. The rules are `waggle-api`'s; here are the
//! namespace's objects, and the books of what is being created just now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use waggle_api::admission::pod_security::{self, Level, Mode};
use waggle_api::admission::{Amount, limit_range, quota};
use waggle_api::{Resource, Status, find};

use super::commit::text;
use super::{Object, Objects};

/// Objects that a quota has let pass and that the cache does not show so yet: new ones, and changes.
#[derive(Debug, Default)]
pub(super) struct Reserved(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    issued: u64,
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    uid: String,
    resource: &'static Resource,
    value: Value,
}

/// Keeps an object's share of its quotas until the cache shows it, or it came to nothing.
#[derive(Debug)]
pub(super) struct Reservation {
    number: u64,
    books: Arc<Mutex<Books>>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.pending.retain(|one| one.number != self.number);
    }
}

impl Objects {
    /// The objects of a core kind in a namespace.
    fn of_namespace(&self, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
        match find("", "v1", plural) {
            Some(kind) if !namespace.is_empty() => self.list(kind, Some(namespace)).objects,
            _ => Vec::new(),
        }
    }

    /// Fills in what limit ranges say of a new pod.
    pub(super) fn settle_limits(&self, resource: &Resource, namespace: &str, value: &mut Value) {
        if resource.kind != "Pod" || !resource.group.is_empty() {
            return;
        }
        let ranges = self.of_namespace("limitranges", namespace);
        let ranges: Vec<&Value> = ranges.iter().map(|one| &*one.value).collect();
        limit_range::fill_in(&ranges, value);
    }

    /// Whether its namespace takes a new object; quotas are asked apart.
    ///
    /// # Errors
    /// 403 with everything that it breaks.
    pub(super) fn admit(&self, resource: &Resource, value: &Value) -> Result<(), Status> {
        let core = resource.group.is_empty();
        if !core || !matches!(resource.kind, "Pod" | "PersistentVolumeClaim") {
            return Ok(());
        }
        let (namespace, name) = (text(value, "namespace"), text(value, "name"));
        let ranges = self.of_namespace("limitranges", namespace);
        let ranges: Vec<&Value> = ranges.iter().map(|one| &*one.value).collect();
        let broken = limit_range::faults(&ranges, resource.kind, value);
        match broken.as_slice() {
            [] => {}
            [one] => return Err(Status::forbidden(resource, name, one)),
            all => {
                let why = format!("[{}]", all.join(", "));
                return Err(Status::forbidden(resource, name, &why));
            }
        }
        self.secure(resource, value)
    }

    /// Whether a pod, new or changed, is as secure as its namespace asks. Limits are for new ones only.
    ///
    /// # Errors
    /// 403 with everything that it breaks.
    pub(super) fn secure(&self, resource: &Resource, value: &Value) -> Result<(), Status> {
        if resource.kind != "Pod" || !resource.group.is_empty() {
            return Ok(());
        }
        match self.insecurities(Mode::Enforce, resource, value) {
            Some(broken) => {
                let why = format!("violates {broken}");
                Err(Status::forbidden(resource, text(value, "name"), &why))
            }
            None => Ok(()),
        }
    }

    /// What an object's pods break of the standard that its namespace asks for in this mode:
    /// `PodSecurity "baseline:latest": privileged (...)`.
    pub(crate) fn insecurities(
        &self,
        mode: Mode,
        resource: &Resource,
        value: &Value,
    ) -> Option<String> {
        let (metadata, spec) = pod_security::template_of(resource.kind, value)?;
        let namespaces = find("", "v1", "namespaces")?;
        let namespace = self.get(namespaces, "", text(value, "namespace"))?;
        let (level, version) = pod_security::level_of(&namespace.value, mode);
        if level == Level::Privileged {
            return None;
        }
        let broken = pod_security::violations(level, metadata, spec);
        let standard = format!("PodSecurity \"{}:{version}\"", level.name());
        (!broken.is_empty()).then(|| format!("{standard}: {}", broken.join(", ")))
    }

    /// Takes an object's share of its namespace's quotas, a new one's or, beyond what it has, that of one that changes.
    ///
    /// # Errors
    /// 403 for a share that is not there, with what is asked for, used and allowed.
    pub(super) fn reserve(
        &self,
        resource: &'static Resource,
        value: &Value,
        old: Option<&Value>,
    ) -> Result<Option<Reservation>, Status> {
        let namespace = text(value, "namespace");
        let stays = |old| !quota::may_need_more(resource, old, value);
        if !resource.namespaced || old.is_some_and(stays) {
            return Ok(None);
        }
        let mut quotas = self.of_namespace("resourcequotas", namespace);
        quotas.retain(|one| quota::concerns(&one.value, resource));
        if quotas.is_empty() {
            return Ok(None);
        }
        let mut books = self
            .reserved
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let there = self.list(resource, Some(namespace)).objects;
        let uid = text(value, "uid");
        let coming = books.pending.iter().filter(|one| {
            std::ptr::eq(one.resource, resource)
                && one.uid != uid
                && text(&one.value, "namespace") == namespace
        });
        let mut coming: HashMap<&str, &Value> =
            coming.map(|one| (one.uid.as_str(), &one.value)).collect();
        let mut all: Vec<&Value> = there
            .iter()
            .map(|object| coming.remove(object.uid.as_str()).unwrap_or(&*object.value))
            .collect();
        all.extend(coming.into_values());
        for one in &quotas {
            let used = quota::used(&one.value, all.iter().map(|value| (resource, *value)));
            if let Some(why) = quota::refusal(&one.value, &used, resource, value, old) {
                return Err(Status::forbidden(resource, text(value, "name"), &why));
            }
        }
        books.issued += 1;
        let number = books.issued;
        books.pending.push(Pending {
            number,
            uid: uid.to_owned(),
            resource,
            value: value.clone(),
        });
        let books = Arc::clone(&self.reserved.0);
        Ok(Some(Reservation { number, books }))
    }

    /// What is used now of a quota's resources.
    pub(crate) fn used_of(&self, quota: &Value) -> Vec<(String, Amount)> {
        let namespace = text(quota, "namespace");
        let kinds = self.kinds();
        let kinds = kinds
            .stored()
            .filter(|kind| kind.namespaced && quota::concerns(quota, kind));
        let objects: Vec<Arc<Object>> = kinds
            .flat_map(|kind| self.list(kind, Some(namespace)).objects)
            .collect();
        quota::used(quota, objects.iter().map(|one| (one.resource, &*one.value)))
    }
}
