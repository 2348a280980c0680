//! Deleting objects: gone at once, or marked until their node, their finalizers or what they own let them go.

use std::sync::Arc;

use waggle_api::admission::webhook::Operation;
use waggle_api::{DeleteOptions, Deletion, Part, Resource, Status, prepare_delete};

use super::passage::Passage;
use super::{Caller, Deleted, Objects, WriteOptions};

/// How often a deletion is tried against other writers before it is given up.
const ATTEMPTS: usize = 32;

impl Objects {
    /// [`Objects::delete_for`] the server itself.
    ///
    /// # Errors
    /// As there.
    pub async fn delete(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        self.delete_for(None, resource, namespace, name, options)
            .await
    }

    /// Deletes an object, or marks it for deletion, on behalf of `caller`.
    ///
    /// # Errors
    /// 404, 409 when a precondition does not hold, 422 for a negative grace period, 507 when the store's disk is full; what
    /// a webhook says.
    pub async fn delete_for(
        &self,
        caller: Option<Arc<Caller>>,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let dry_run = options
            .dry_run
            .as_ref()
            .is_some_and(|what| !what.is_empty());
        let write = WriteOptions {
            dry_run,
            caller,
            ..WriteOptions::STORED
        };
        let asked = resource;
        let resource = resource.stored();
        for _ in 0..ATTEMPTS {
            let old = self
                .get(resource, namespace, name)
                .ok_or_else(|| Status::not_found(resource, name))?;
            let deletion = prepare_delete(resource, &old.value, options, self.now())?;
            // Whoever has a say sees it in the version that is asked for.
            let seen = match asked.converter() {
                Some(_) => self.converted_one(&old, asked).await?,
                None => Arc::clone(&old),
            };
            let passage = Passage {
                about: None,
                operation: Operation::Delete,
                resource: asked,
                part: Part::Main,
                old: Some(&seen),
                options: &write,
            };
            self.validated(&passage, None).await?;
            let answer = match deletion {
                Deletion::Remove => self.remove(&old, &write).await?.map(Deleted::Gone),
                Deletion::Unchanged => Some(Deleted::Marked(Arc::clone(&old))),
                Deletion::Mark(value) => self
                    .replace(&old, value, &write)
                    .await?
                    .map(Deleted::Marked),
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Err(Status::modified(resource, name))
    }
}
