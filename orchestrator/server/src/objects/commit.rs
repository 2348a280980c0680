//! Creating and changing objects: from what a writer wants to a committed transaction, and back through the cache so
//! that whoever wrote reads their own write.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng as _;
use serde_json::Value;
use waggle_api::admission::webhook::Operation;
use waggle_api::body::is_deeper;
use waggle_api::life::may_go;
use waggle_api::ownership::{Writer, track};
use waggle_api::{
    CreateContext, DeleteOptions, Part, Resource, Source, Status, find, prepare_create,
    prepare_update,
};
use waggle_store::{Error, Expect, Revision, Write};

use super::passage::Passage;
use super::store_status::refused;
use super::{Object, Objects, Ownership, WriteOptions};

/// How often an unconditional change is tried against other writers before it is given up.
const ATTEMPTS: usize = 32;
/// Levels of an object that is stored.
const DEEPEST: usize = 110;
/// Letters of generated names: no vowels, nothing that looks like something else.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;

impl Objects {
    /// Creates an object, as [`Resource::read`] answered it; its namespace is in its metadata. The answer is in the
    /// version that is stored.
    ///
    /// # Errors
    /// 404 for a missing namespace, 403 for one that is being deleted, 409 for a name that is taken, 422 with every
    /// fault, 507 when the store's disk is full.
    pub async fn create(
        &self,
        resource: &'static Resource,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let namespace = text(&value, "namespace").to_owned();
        let generated = text(&value, "name").is_empty();
        loop {
            let wanted = if generated {
                value.clone()
            } else {
                std::mem::take(&mut value)
            };
            let made = self
                .prepare_new(resource, wanted, &namespace, options)
                .await?;
            // Held until the object is in the cache, where everybody counts it.
            let made = self.to_be_stored(resource, made).await?;
            let _held = self.reserve(resource.stored(), &made, None)?;
            match self.create_prepared(resource.stored(), made, options).await {
                Err(status) if generated && status.is_already_exists() => {}
                answer => return answer,
            }
        }
    }

    async fn prepare_new(
        &self,
        resource: &'static Resource,
        value: Value,
        namespace: &str,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let given = value["metadata"]["managedFields"].clone();
        let uid = uuid::Uuid::new_v4().to_string();
        let suffix = suffix();
        let context = CreateContext {
            now: self.now(),
            uid: &uid,
            name_suffix: &suffix,
            namespace,
        };
        if self.kinds().is_ending(resource) {
            let name = text(&value, "name");
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Status {
                code: 405,
                reason: "MethodNotAllowed".into(),
                ..Status::forbidden(resource, name, why)
            });
        }
        let prepare = |row: &'static Resource, mut value: Value| {
            self.settle_priority(row, &mut value)?;
            self.settle_limits(row, namespace, &mut value);
            self.settle_account(row, namespace, &mut value, &suffix, options.dry_run)?;
            prepare_create(row, value, &context)
        };
        let mut made = prepare(resource, value)?;
        let noted = noted_as(resource);
        options.note(None, &mut made, &given, context.now, Part::Main, noted);
        self.check_namespace(resource, &made)?;
        let passage = Passage {
            about: None,
            operation: Operation::Create,
            resource,
            part: Part::Main,
            old: None,
            options,
        };
        let made = self.mutated(&passage, made, &prepare).await?;
        self.admit(resource, &made)?;
        self.validated(&passage, Some(&made)).await?;
        Ok(made)
    }

    async fn create_prepared(
        &self,
        resource: &'static Resource,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let (namespace, name) = (
            text(&value, "namespace").to_owned(),
            text(&value, "name").to_owned(),
        );
        if self.get(resource, &namespace, &name).is_some() {
            return Err(Status::already_exists(resource, &name));
        }
        check_depth(resource, &value)?;
        let addresses = self.addresses.settle(resource, &mut value)?;
        let ports = self.node_ports.settle(resource, &mut value)?;
        if options.dry_run {
            return Ok(Arc::new(unstored(resource, value)));
        }
        let text = encoded(&mut value);
        let _expected = self.cache.expect(&text, value);
        let write = Write {
            key: resource.key(&namespace, &name),
            expect: Expect::Absent,
            value: Some(text.clone()),
        };
        let committed = self.store.commit(vec![write]).await;
        let revision = committed.map_err(|error| match error {
            Error::Conflict { .. } => Status::already_exists(resource, &name),
            other => refused(other),
        })?;
        if let Some(addresses) = addresses {
            addresses.keep();
        }
        if let Some(ports) = ports {
            ports.keep();
        }
        let written = (namespace.as_str(), name.as_str(), &text);
        self.own_write(resource, written, revision).await
    }

    /// A namespaced object needs its namespace, and not one that is being deleted.
    fn check_namespace(&self, resource: &Resource, value: &Value) -> Result<(), Status> {
        let (Some(namespaces), true) = (find("", "v1", "namespaces"), resource.namespaced) else {
            return Ok(());
        };
        let (namespace, name) = (text(value, "namespace"), text(value, "name"));
        let Some(found) = self.get(namespaces, "", namespace) else {
            return Err(Status::not_found(namespaces, namespace));
        };
        // What records or winds down a namespace's end may still be written into it.
        if found.value["metadata"]["deletionTimestamp"].is_null() || resource.kind == "Event" {
            return Ok(());
        }
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        Err(Status::forbidden(resource, name, &why))
    }

    /// Replaces a part of an object. With a resourceVersion in `value`, only if the object is still at it.
    ///
    /// # Errors
    /// 404, 409 when it was changed in the meantime, 422 with every fault, 507 when the store's disk is full.
    pub async fn update(
        &self,
        resource: &'static Resource,
        value: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let (namespace, name) = (
            text(&value, "namespace").to_owned(),
            text(&value, "name").to_owned(),
        );
        self.modify(resource, &namespace, &name, part, options, |_| {
            Ok(value.clone())
        })
        .await
    }

    /// Changes a part of an object: `change` makes what it should be from what it is, both in the version of
    /// `resource`; the answer is in the version that is stored. Tried again when somebody else
    /// was faster, unless the result carries an older resourceVersion.
    ///
    /// # Errors
    /// What `change` says; 404, 409, 422, 507 as for [`Objects::update`].
    pub async fn modify(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        mut change: impl FnMut(&Object) -> Result<Value, Status> + Send,
    ) -> Result<Arc<Object>, Status> {
        for _ in 0..ATTEMPTS {
            let old = self
                .get(resource.stored(), namespace, name)
                .ok_or_else(|| Status::not_found(resource, name))?;
            let seen = self.converted_one(&old, resource).await?;
            let wanted = change(&seen)?;
            let given = wanted["metadata"]["managedFields"].clone();
            let now = self.now();
            // Only a webhook could make of the stored object what was seen.
            let before = if resource.converter().is_some() {
                &seen
            } else {
                &old
            };
            let prepare = |row: &'static Resource, wanted: Value| {
                prepare_update(row, &before.value, wanted, part)
            };
            let passage = Passage {
                about: None,
                operation: Operation::Update,
                resource,
                part,
                old: Some(before),
                options,
            };
            let mut new = prepare(resource, wanted)?;
            let (old_value, noted) = (Some(&*before.value), noted_as(resource));
            options.note(old_value, &mut new, &given, now, part, noted);
            let new = self.mutated(&passage, new, &prepare).await?;
            if resource.kind == "Pod" && new["spec"] != old.value["spec"] {
                self.secure(resource, &new)?;
            }
            self.validated(&passage, Some(&new)).await?;
            let new = self.to_be_stored(resource, new).await?;
            // Held until the change is in the cache.
            let _held = self.reserve(resource.stored(), &new, Some(&old.value))?;
            if let Some(object) = self.replace(&old, new, options).await? {
                return Ok(object);
            }
        }
        Err(Status::modified(resource, name))
    }

    /// Stores `new` in place of `old`; `None` when somebody else was faster (the cache then shows what they did). An
    /// object that is being deleted and has nothing left to wait for is removed instead.
    pub(super) async fn replace(
        &self,
        old: &Arc<Object>,
        mut new: Value,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        let resource = old.resource;
        if may_go(resource, &new) {
            return self.remove(old, options).await;
        }
        check_depth(resource, &new)?;
        let addresses = self.addresses.settle(resource, &mut new)?;
        let ports = self.node_ports.settle(resource, &mut new)?;
        if new == old.value {
            return Ok(Some(Arc::clone(old)));
        }
        if options.dry_run {
            return Ok(Some(Arc::new(Object::new(resource, new, old.revision))));
        }
        let kept_address =
            new["spec"]["type"] != "ExternalName" && new["spec"]["clusterIP"] != "None";
        let text = encoded(&mut new);
        let _expected = self.cache.expect(&text, new);
        let Some(revision) = self.commit_over(old, Some(text.clone())).await? else {
            return Ok(None);
        };
        if let Some(addresses) = addresses {
            addresses.keep();
        }
        if let Some(ports) = ports {
            ports.keep();
        }
        if resource.kind == "Service" && !kept_address {
            self.addresses.release(&old.uid);
        }
        let written = (old.namespace.as_str(), old.name.as_str(), &text);
        self.own_write(resource, written, revision).await.map(Some)
    }

    /// Removes `old` from the store; `None` when somebody else was faster.
    pub(super) async fn remove(
        &self,
        old: &Arc<Object>,
        options: &WriteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        if options.dry_run {
            return Ok(Some(Arc::clone(old)));
        }
        let Some(revision) = self.commit_over(old, None).await? else {
            return Ok(None);
        };
        if old.resource.kind == "Service" {
            self.addresses.release(&old.uid);
            self.node_ports.release(&old.uid);
        }
        self.reached(revision.0).await?;
        if old.resource.kind == "Service" {
            self.remove_endpoints(old).await;
        }
        Ok(Some(Arc::new(old.at_revision(revision.0))))
    }

    /// A Service's Endpoints, whoever wrote them: they have its name and no owner.
    async fn remove_endpoints(&self, service: &Object) {
        let Some(kind) = find("", "v1", "endpoints") else {
            return;
        };
        let options = DeleteOptions::default();
        let delete = self.delete(kind, &service.namespace, &service.name, &options);
        // The Service is gone, whatever becomes of them.
        if let Err(status) = Box::pin(delete).await
            && status.code != 404
        {
            tracing::warn!(service = service.name, error = %status, "its Endpoints stay");
        }
    }

    async fn commit_over(
        &self,
        old: &Object,
        value: Option<Bytes>,
    ) -> Result<Option<Revision>, Status> {
        let key = old.resource.key(&old.namespace, &old.name);
        let write = Write {
            key,
            expect: Expect::Modified(Revision(old.revision)),
            value,
        };
        match self.store.commit(vec![write]).await {
            Ok(revision) => Ok(Some(revision)),
            Err(Error::Conflict { .. }) => {
                let now = self.store.revision().await.map_err(refused)?;
                self.reached(now.0).await?;
                Ok(None)
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// The object as it was committed at `revision`, once the cache shows it.
    async fn own_write(
        &self,
        resource: &'static Resource,
        (namespace, name, text): (&str, &str, &Bytes),
        revision: Revision,
    ) -> Result<Arc<Object>, Status> {
        self.reached(revision.0).await?;
        if let Some(seen) = self.cache.at(resource, namespace, name, revision.0) {
            return Ok(seen);
        }
        let value: Value = serde_json::from_slice(text).map_err(Status::internal)?;
        Ok(Arc::new(Object::new(resource, value, revision.0)))
    }
}

/// The row by which fields are told apart: a definition's versions have the same ones, a view has others than what is
/// stored.
fn noted_as(resource: &'static Resource) -> &'static Resource {
    match resource.source {
        Source::View(_) => resource.stored(),
        _ => resource,
    }
}

/// Whom the server calls itself as the owner of fields.
const SERVER: &str = "waggle-server";

impl WriteOptions {
    /// Writes into `new` who owns its fields; `given` is what the writer's own object said of that.
    fn note(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        given: &Value,
        now: jiff::Timestamp,
        part: Part,
        resource: &Resource,
    ) {
        let writer = match &self.ownership {
            Ownership::Settled => {
                new["metadata"]["managedFields"] = given.clone();
                return;
            }
            Ownership::Client {
                manager,
                subresource,
            } => Writer {
                manager,
                subresource,
                now,
            },
            Ownership::Server => {
                let noted = old.is_some_and(|old| !old["metadata"]["managedFields"].is_null());
                if part != Part::Main || !noted {
                    return;
                }
                Writer {
                    manager: SERVER,
                    subresource: "",
                    now,
                }
            }
        };
        track(resource, old, new, given, writer);
    }
}

/// Refuses what could be written, but not read again: JSON has 127 levels here, and lists and reviews put some around it.
fn check_depth(resource: &Resource, value: &Value) -> Result<(), Status> {
    if !is_deeper(value, DEEPEST) {
        return Ok(());
    }
    let why = format!("it nests values deeper than {DEEPEST} levels, its managedFields included");
    Err(Status::forbidden(resource, text(value, "name"), &why))
}

/// The text of a metadata field, empty when absent.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value["metadata"][field].as_str().unwrap_or_default()
}

/// An object that is not in the store: no resourceVersion.
fn unstored(resource: &'static Resource, mut value: Value) -> Object {
    drop_revision(&mut value);
    Object::of(resource, value, 0)
}

fn drop_revision(value: &mut Value) {
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
}

/// As it is stored: without resourceVersion, which is the store's to know.
pub(super) fn encoded(value: &mut Value) -> Bytes {
    drop_revision(value);
    // A Value always serializes.
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

fn suffix() -> String {
    let mut random = rand::rng();
    (0..SUFFIX_LENGTH)
        .map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]))
        .collect()
}
