//! The cluster's numbers (tenants, identities, Services), kept as records among the objects so that they are the same after a
//! restart. Who gets which is decided in `waggle_plan::identity`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::json;
use waggle_api::{Part, Resource, Status};
use waggle_model::Generation;
use waggle_plan::identity::{Changes, Part as RegistryPart, Registry, Wanted, add, assign};

use crate::objects::{Object, Objects, WriteOptions};

/// Where the records are kept: ConfigMaps of the system's, this one and others whose names go on from it.
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
    /// Every part has its own record; there was one for all once.
    divided: Arc<AtomicBool>,
}

impl Numbers {
    /// Reads the records; without any, nobody has a number yet.
    ///
    /// # Errors
    /// A [`Status`] when there is one that can't be read: going on would give numbers twice.
    pub fn open(objects: &Arc<Objects>) -> Result<Self, Status> {
        let mut registry = Registry::default();
        let mut divided = true;
        for record in objects.list(kind()?, Some(NAMESPACE)).objects {
            let Some(rest) = record.name.strip_prefix(NAME) else {
                continue;
            };
            let Some(text) = record.value["data"][FIELD].as_str() else {
                continue;
            };
            if !rest.is_empty() && !rest.starts_with('-') {
                continue;
            }
            let part: Registry = serde_json::from_str(text).map_err(|error| {
                let name = &record.name;
                Status::internal(format!(
                    "ConfigMap {NAMESPACE}/{name} holds no valid numbers: {error}"
                ))
            })?;
            divided &= !rest.is_empty() || part.parts().len() == 1;
            registry.add(part);
        }
        Ok(Self {
            divided: Arc::new(AtomicBool::new(divided)),
            objects: Arc::clone(objects),
            registry: Arc::new(RwLock::new(Arc::new(registry))),
        })
    }

    /// The numbers, now.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives a number to whoever wants one and takes it from everybody else, durably before anybody can see it. One caller at
    /// a time.
    ///
    /// # Errors
    /// The [`Status`] of the write; the numbers are then unchanged.
    pub(crate) async fn provide(&self, wanted: &Wanted) -> Result<(), Status> {
        self.change(assign(&self.registry(), wanted)).await
    }

    /// The same for those that came; everybody else keeps what they have.
    ///
    /// # Errors
    /// As [`Self::provide`].
    pub(crate) async fn add(&self, wanted: &Wanted) -> Result<(), Status> {
        self.change(add(&self.registry(), wanted)).await
    }

    async fn change(&self, changes: Changes) -> Result<(), Status> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut next = Registry::clone(&self.registry());
        let mut parts = next.changed_parts(&changes);
        next.apply(changes);
        if !self.divided.load(Ordering::Relaxed) {
            parts.append(&mut next.parts());
        }
        for part in parts {
            let name = match part {
                RegistryPart::Rest => NAME.to_owned(),
                run => format!("{NAME}-{run}"),
            };
            let text = serde_json::to_string(&next.part(part)).map_err(Status::internal)?;
            self.write(&name, FIELD, &text).await?;
        }
        self.divided.store(true, Ordering::Relaxed);
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
        self.write(NAME, BASE, &base.to_string()).await?;
        Ok(Generation(base))
    }

    async fn write(&self, name: &str, field: &str, text: &str) -> Result<(), Status> {
        let (kind, options) = (kind()?, &WriteOptions::default());
        if self.objects.get(kind, NAMESPACE, name).is_none() {
            let record = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"namespace": NAMESPACE, "name": name},
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
            .modify(kind, NAMESPACE, name, Part::Main, options, change)
            .await
            .map(drop)
    }
}

fn kind() -> Result<&'static Resource, Status> {
    super::kind("v1", "ConfigMap")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use waggle_store::EmbeddedStore;

    use super::*;

    fn wanted(services: u32) -> Wanted {
        Wanted {
            services: (0..services)
                .map(|number| format!("s{number:05}"))
                .collect(),
            ..Wanted::default()
        }
    }

    #[tokio::test]
    async fn numbers_are_the_same_after_a_restart_and_come_out_of_one_record_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("store.redb")).unwrap();
        let objects = Objects::open(Arc::new(store), Arc::new(Timestamp::now));
        let objects = objects.await.unwrap();
        let system =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let namespaces = super::super::kind("v1", "Namespace").unwrap();
        let options = WriteOptions::default();
        objects.create(namespaces, system, &options).await.unwrap();
        let again = || Numbers::open(&objects).unwrap();
        let first = again();
        first.provide(&wanted(2500)).await.unwrap();
        let before = first.registry();
        assert_eq!(again().registry(), before);
        let names = || {
            let found = objects.list(kind().unwrap(), Some(NAMESPACE)).objects;
            let own = found.iter().filter(|one| one.name.starts_with(NAME));
            own.map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        let parts = ["", "-services-0", "-services-1", "-services-2"];
        assert_eq!(names(), parts.map(|part| format!("{NAME}{part}")));

        // As it was kept once.
        for part in &parts[1..] {
            let name = format!("{NAME}{part}");
            again().write(&name, FIELD, "{}").await.unwrap();
        }
        let whole = serde_json::to_string(&*before).unwrap();
        again().write(NAME, FIELD, &whole).await.unwrap();
        let numbers = again();
        assert_eq!(numbers.registry(), before);
        numbers.provide(&wanted(2501)).await.unwrap();
        let after = numbers.registry();
        assert!(
            (0..2500)
                .map(|number| format!("s{number:05}"))
                .all(|uid| { before.service(&uid) == after.service(&uid) })
        );
        let main = objects.get(kind().unwrap(), NAMESPACE, NAME).unwrap();
        let main = main.value["data"][FIELD].as_str().unwrap();
        assert!(main.len() < 1000, "{main}");
        assert_eq!(again().registry(), after);
    }
}
