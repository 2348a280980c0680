//! Committing what a planner decided. Neighbouring writes of one sort share commits; a run of bindings is one
//! transaction.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use waggle_api::life::{Preconditions, time_text};
use waggle_api::patch::Patch;
use waggle_api::{DeleteOptions, Part, Propagation, Resource, Status, find, prepare_update};
use waggle_plan::{ObjectRef, Write};
use waggle_store::{Error, Expect, Revision};

use super::commit::encoded;
use super::own_write::Expected;
use super::store_status::refused;
use super::{Object, Objects, WriteOptions};

const STORED: WriteOptions = WriteOptions::STORED;

/// One binding: the pod as it is and as it should be.
struct Binding<'a> {
    pod: Arc<Object>,
    text: Bytes,
    _expected: Expected<'a>,
}

impl Objects {
    /// Commits the writes in order and answers each. One that no longer applies is a conflict or not found, and does
    /// not hold up the others.
    pub async fn apply_plan(&self, writes: Vec<Write>) -> Vec<Result<(), Status>> {
        let mut answers = Vec::with_capacity(writes.len());
        let mut rest = writes.as_slice();
        while let Some(first) = rest.first() {
            let sort = std::mem::discriminant(first);
            let run = rest
                .iter()
                .take_while(|write| std::mem::discriminant(*write) == sort)
                .count();
            let (now, later) = rest.split_at(run);
            match first {
                Write::Bind { .. } => {
                    let most = self.store.largest_transaction().min(now.len());
                    for batch in now.chunks(most.max(1)) {
                        answers.extend(self.bind_all(batch).await);
                    }
                }
                // Polled in order, so queued in order, and committed together.
                _ => answers.extend(join_all(now.iter().map(|write| self.apply(write))).await),
            }
            rest = later;
        }
        answers
    }

    fn kind_of(&self, value: &Value) -> Result<&'static Resource, Status> {
        let word = |field: &str| value[field].as_str().unwrap_or_default();
        self.resource_of(word("apiVersion"), word("kind"))
    }

    fn resource_of(&self, api_version: &str, kind: &str) -> Result<&'static Resource, Status> {
        self.kinds().by_kind(api_version, kind).ok_or_else(|| {
            Status::bad_request(format!(
                "no kind {kind:?} is registered for version {api_version:?}"
            ))
        })
    }

    async fn apply(&self, write: &Write) -> Result<(), Status> {
        match write {
            Write::Create(value) => self
                .create(self.kind_of(value)?, value.clone(), &STORED)
                .await
                .map(drop),
            Write::Update(value) => self
                .update(self.kind_of(value)?, value.clone(), Part::Main, &STORED)
                .await
                .map(drop),
            Write::UpdateStatus(value) => self
                .update(self.kind_of(value)?, value.clone(), Part::Status, &STORED)
                .await
                .map(drop),
            Write::Patch {
                object,
                version,
                patch,
            } => self.patch_seen(object, version, patch).await,
            Write::Bind {
                namespace,
                name,
                uid,
                node,
            } => self.bind(namespace, name, uid, node).await,
            Write::Gang(binds) => self.bind_gang(binds).await,
            Write::Delete {
                api_version,
                kind,
                namespace,
                name,
                uid,
                grace_seconds,
                propagation,
            } => {
                let options = DeleteOptions {
                    grace_period_seconds: *grace_seconds,
                    propagation_policy: Some(propagation_of(*propagation)),
                    preconditions: Some(Preconditions {
                        uid: Some(uid.clone()),
                        resource_version: None,
                    }),
                    ..DeleteOptions::default()
                };
                self.delete(
                    self.resource_of(api_version, kind)?,
                    namespace,
                    name,
                    &options,
                )
                .await
                .map(drop)
            }
            Write::RemoveFinalizer { object, finalizer } => {
                let spec = object.kind == "Namespace";
                self.change(object, |value| {
                    without(&mut value["metadata"], "finalizers", |one| {
                        one == finalizer.as_str()
                    });
                    if spec {
                        without(&mut value["spec"], "finalizers", |one| {
                            one == finalizer.as_str()
                        });
                    }
                })
                .await
            }
            Write::RemoveOwner { object, owner_uid } => {
                let mine = |owner: &Value| owner["uid"] == owner_uid.as_str();
                self.change(object, |value| {
                    without(&mut value["metadata"], "ownerReferences", mine)
                })
                .await
            }
        }
    }

    async fn change(
        &self,
        object: &ObjectRef,
        change: impl Fn(&mut Value) + Send + Sync,
    ) -> Result<(), Status> {
        let resource = self.resource_of(&object.api_version, &object.kind)?;
        let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
        let changed = self.modify(resource, namespace, name, Part::Main, &STORED, |old| {
            check_uid(old, &object.uid)?;
            let mut value = old.value.clone();
            change(&mut value);
            Ok(value)
        });
        changed.await.map(drop)
    }

    /// Applies a merge patch to an object, if it is the one, and the version of it, that a planner saw.
    async fn patch_seen(
        &self,
        object: &ObjectRef,
        version: &str,
        patch: &Value,
    ) -> Result<(), Status> {
        let resource = self.resource_of(&object.api_version, &object.kind)?;
        let (namespace, name) = (object.namespace.as_str(), object.name.as_str());
        let part = if patch.get("status").is_some() {
            Part::Status
        } else {
            Part::Main
        };
        let patch = Patch::Merge(patch.clone());
        let patched = self.modify(resource, namespace, name, part, &STORED, |old| {
            check_uid(old, &object.uid)?;
            if old.value["metadata"]["resourceVersion"] != *version {
                return Err(Status::modified(resource, name));
            }
            patch.apply(resource, &old.value)
        });
        patched.await.map(drop)
    }

    /// All bindings in one transaction; one by one when somebody else changed one of the pods.
    async fn bind_all(&self, writes: &[Write]) -> Vec<Result<(), Status>> {
        let prepared: Vec<_> = writes.iter().map(|write| self.binding(write)).collect();
        let whole: Vec<&Binding<'_>> = prepared
            .iter()
            .filter_map(|one| one.as_ref().ok())
            .collect();
        let transaction = whole.iter().map(|binding| binding.write()).collect();
        match self.store.commit(transaction).await {
            Ok(revision) => {
                let reached = self.reached(revision.0).await;
                prepared
                    .into_iter()
                    .map(|one| one.and(reached.clone()))
                    .collect()
            }
            Err(Error::Conflict { .. } | Error::Twice { .. }) => {
                join_all(writes.iter().map(|write| self.apply(write))).await
            }
            Err(error) => {
                let status = refused(error);
                prepared
                    .into_iter()
                    .map(|one| one.and(Err(status.clone())))
                    .collect()
            }
        }
    }

    /// All bindings, or none when one of the pods can't be bound. More than the store takes at once go in by parts.
    async fn bind_gang(&self, binds: &[Write]) -> Result<(), Status> {
        let prepared: Result<Vec<Binding<'_>>, Status> =
            binds.iter().map(|write| self.binding(write)).collect();
        let prepared = prepared?;
        for part in prepared.chunks(self.store.largest_transaction().max(1)) {
            let transaction = part.iter().map(Binding::write).collect();
            let revision = self.store.commit(transaction).await.map_err(refused)?;
            self.reached(revision.0).await?;
        }
        Ok(())
    }

    fn binding(&self, write: &Write) -> Result<Binding<'_>, Status> {
        let Write::Bind {
            namespace,
            name,
            uid,
            node,
        } = write
        else {
            return Err(Status::internal("a run of bindings holds something else"));
        };
        let pods = pods()?;
        let pod = self
            .get(pods, namespace, name)
            .ok_or_else(|| Status::not_found(pods, name))?;
        let mut bound = self.bound(&pod, uid, node)?;
        let text = encoded(&mut bound);
        Ok(Binding {
            _expected: self.cache.expect(&text, bound),
            pod,
            text,
        })
    }

    /// Binds a pod to a node, if it is still unbound; `uid` may be empty for whichever pod has the name.
    ///
    /// # Errors
    /// 404, and 409 when it is bound already or another pod by now.
    pub async fn bind(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        node: &str,
    ) -> Result<(), Status> {
        loop {
            let pods = pods()?;
            let pod = self
                .get(pods, namespace, name)
                .ok_or_else(|| Status::not_found(pods, name))?;
            let bound = self.bound(&pod, uid, node)?;
            if self.replace(&pod, bound, &STORED).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Whether [`Objects::bind`] would do it.
    ///
    /// # Errors
    /// As there.
    pub fn may_bind(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        node: &str,
    ) -> Result<(), Status> {
        let pods = pods()?;
        let pod = self.get(pods, namespace, name);
        let pod = pod.ok_or_else(|| Status::not_found(pods, name))?;
        self.bound(&pod, uid, node).map(drop)
    }

    /// The pod with its node, which no ordinary update may give it, and its condition.
    fn bound(&self, pod: &Object, uid: &str, node: &str) -> Result<Value, Status> {
        check_uid(pod, uid)?;
        if let Some(there) = pod.value["spec"]["nodeName"]
            .as_str()
            .filter(|there| !there.is_empty())
        {
            let why = format!("pod {} is already assigned to node {there:?}", pod.name);
            return Err(Status::conflict(pod.resource, &pod.name, &why));
        }
        if !pod.value["metadata"]["deletionTimestamp"].is_null() {
            let why = format!(
                "pod {} is being deleted, cannot be assigned to a host",
                pod.name
            );
            return Err(Status::conflict(pod.resource, &pod.name, &why));
        }
        let mut wanted = pod.value.clone();
        let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": time_text(self.now())});
        without(&mut wanted["status"], "conditions", |one| {
            one["type"] == "PodScheduled"
        });
        match wanted["status"]["conditions"].as_array_mut() {
            Some(list) => list.push(condition),
            None => wanted["status"]["conditions"] = json!([condition]),
        }
        let mut bound = prepare_update(pod.resource, &pod.value, wanted, Part::Status)?;
        bound["spec"]["nodeName"] = node.into();
        Ok(bound)
    }
}

impl Binding<'_> {
    fn write(&self) -> waggle_store::Write {
        waggle_store::Write {
            key: self.pod.resource.key(&self.pod.namespace, &self.pod.name),
            expect: Expect::Modified(Revision(self.pod.revision)),
            value: Some(self.text.clone()),
        }
    }
}

fn pods() -> Result<&'static Resource, Status> {
    find("", "v1", "pods").ok_or_else(Status::unknown_path)
}

fn check_uid(object: &Object, uid: &str) -> Result<(), Status> {
    if uid.is_empty() || uid == object.uid {
        return Ok(());
    }
    let why = format!(
        "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
        object.uid
    );
    Err(Status::conflict(object.resource, &object.name, &why))
}

fn propagation_of(propagation: waggle_plan::Propagation) -> Propagation {
    match propagation {
        waggle_plan::Propagation::Background => Propagation::Background,
        waggle_plan::Propagation::Foreground => Propagation::Foreground,
        waggle_plan::Propagation::Orphan => Propagation::Orphan,
    }
}

/// Takes items out of the list `field` of `parent`; a list that is empty then is taken away.
fn without(parent: &mut Value, field: &str, unwanted: impl Fn(&Value) -> bool) {
    let Some(parent) = parent.as_object_mut() else {
        return;
    };
    let Some(items) = parent.get_mut(field).and_then(Value::as_array_mut) else {
        return;
    };
    items.retain(|item| !unwanted(item));
    if items.is_empty() {
        parent.remove(field);
    }
}
