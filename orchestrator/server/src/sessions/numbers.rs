//! The cluster's numbers (tenants, identities, Services), kept as one record among the objects so that they are the
//! same after a restart. Who gets which is decided in `waggle_plan::identity`.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::json;
use waggle_api::{Part, Resource, Status};
use waggle_plan::identity::{Registry, Wanted, assign};

use crate::objects::{Object, Objects, WriteOptions};

/// Where the record is kept: a ConfigMap of the system's.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "waggle-numbers";
const FIELD: &str = "registry";

/// The numbers in use. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Numbers {
    objects: Arc<Objects>,
    registry: Arc<RwLock<Arc<Registry>>>,
}

impl Numbers {
    /// Reads the record; without one, nobody has a number yet.
    ///
    /// # Errors
    /// A [`Status`] when there is a record that can't be read: going on would give numbers twice.
    pub fn open(objects: &Arc<Objects>) -> Result<Self, Status> {
        let registry = match objects.get(kind()?, NAMESPACE, NAME) {
            None => Registry::default(),
            Some(record) => {
                let text = record.value["data"][FIELD].as_str().unwrap_or_default();
                serde_json::from_str(text).map_err(|error| {
                    Status::internal(format!(
                        "ConfigMap {NAMESPACE}/{NAME} holds no valid numbers: {error}"
                    ))
                })?
            }
        };
        Ok(Self {
            objects: Arc::clone(objects),
            registry: Arc::new(RwLock::new(Arc::new(registry))),
        })
    }

    /// The numbers, now.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a number to whoever wants one, durably before anybody can see it. One caller at a time.
    ///
    /// # Errors
    /// The [`Status`] of the write; the numbers are then unchanged.
    pub(crate) async fn provide(&self, wanted: &Wanted) -> Result<(), Status> {
        let mut next = Registry::clone(&self.registry());
        let changes = assign(&next, wanted);
        if changes.is_empty() {
            return Ok(());
        }
        next.apply(changes);
        let text = serde_json::to_string(&next).map_err(Status::internal)?;
        self.write(&text).await?;
        *self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    async fn write(&self, text: &str) -> Result<(), Status> {
        let (kind, options) = (kind()?, &WriteOptions::default());
        if self.objects.get(kind, NAMESPACE, NAME).is_none() {
            let record = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": NAMESPACE, "name": NAME},
                "data": {FIELD: text},
            });
            return self.objects.create(kind, record, options).await.map(drop);
        }
        let change = |old: &Object| {
            let mut record = old.value.clone();
            record["data"] = json!({FIELD: text});
            Ok(record)
        };
        self.objects
            .modify(kind, NAMESPACE, NAME, Part::Main, options, change)
            .await
            .map(drop)
    }
}

fn kind() -> Result<&'static Resource, Status> {
    super::kind("v1", "ConfigMap")
}
