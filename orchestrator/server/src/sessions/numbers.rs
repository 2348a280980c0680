//! The cluster's numbers (tenants, identities, Services), kept as one record among the objects so that they are the
//! same after a restart. Who gets which is decided in `waggle_plan::identity`.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::json;
use waggle_api::{Part, Resource, Status};
use waggle_model::Generation;
use waggle_plan::identity::{Registry, Wanted, assign};

use crate::objects::{Object, Objects, WriteOptions};

/// Where the record is kept: a ConfigMap of the system's.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "waggle-numbers";
const FIELD: &str = "registry";
/// After which network generations start next time.
const BASE: &str = "generations-after";
/// More generations than one term can make.
const LEAP: u64 = 1 << 32;

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
        let record = objects.get(kind()?, NAMESPACE, NAME);
        let text = record.and_then(|record| record.value["data"].get(FIELD).cloned());
        let registry = match text {
            None => Registry::default(),
            Some(text) => {
                let text = text.as_str().unwrap_or_default();
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
        self.write(FIELD, &text).await?;
        *self
            .registry
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(())
    }

    /// What the network generations of this server start after: above any that another server, or this one before it was
    /// started again, has reached, whatever their clocks say. Durable when it returns.
    ///
    /// # Errors
    /// The [`Status`] of the write.
    pub async fn begin_term(&self) -> Result<Generation, Status> {
        let record = self.objects.get(kind()?, NAMESPACE, NAME);
        let before = record.and_then(|record| record.value["data"][BASE].as_str()?.parse().ok());
        let least = before.map_or(0, |before: u64| before.saturating_add(LEAP));
        let base = super::from_clock(self.objects.now()).0.max(least);
        self.write(BASE, &base.to_string()).await?;
        Ok(Generation(base))
    }

    async fn write(&self, field: &str, text: &str) -> Result<(), Status> {
        let (kind, options) = (kind()?, &WriteOptions::default());
        if self.objects.get(kind, NAMESPACE, NAME).is_none() {
            let record = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": NAMESPACE, "name": NAME},
                "data": {field: text},
            });
            return self.objects.create(kind, record, options).await.map(drop);
        }
        let change = |old: &Object| {
            let mut record = old.value.clone();
            record["data"][field] = json!(text);
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
