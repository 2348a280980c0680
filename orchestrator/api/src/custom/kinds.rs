//! All the kinds that are served at one moment: those of the registry, and those that definitions add.

use std::collections::BTreeMap;

use serde_json::Value;

use super::rows;
use crate::openapi::Documents;
use crate::registry::{RESOURCES, VIEWS};
use crate::resource::Resource;
use crate::walk::{list, text};

/// The kinds of a cluster. Cheap to clone, but for its OpenAPI documents, which are made anew.
#[derive(Debug, Default)]
pub struct Kinds {
    /// By the definition's name, `widgets.example.com`.
    defined: BTreeMap<String, Defined>,
    /// Counts changes.
    generation: u64,
    pub(crate) documents: Documents,
}

/// What a definition comes to.
#[derive(Debug, Clone)]
struct Defined {
    /// What the rows were made from.
    spec: Value,
    /// One a version, the stored one first.
    rows: Vec<&'static Resource>,
    /// Versions that are served: none unless the definition is established.
    served: Vec<String>,
    /// It is being deleted: nothing new may come.
    ending: bool,
}

impl Clone for Kinds {
    fn clone(&self) -> Self {
        Self {
            defined: self.defined.clone(),
            generation: self.generation,
            documents: Documents::default(),
        }
    }
}

impl Kinds {
    /// Takes in a CustomResourceDefinition, new or changed. True when anything about its kinds is another now.
    pub fn define(&mut self, definition: &Value) -> bool {
        let name = text(definition, &["metadata", "name"]).to_owned();
        let spec = &definition["spec"];
        let before = self.defined.get(&name);
        let rows = match before {
            Some(before) if before.spec == *spec => before.rows.clone(),
            _ => rows(definition).unwrap_or_default(),
        };
        let served = if is_established(definition) {
            let versions = list(spec, &["versions"]).iter();
            let served = versions.filter(|one| one["served"] == true);
            served.map(|one| text(one, &["name"]).to_owned()).collect()
        } else {
            Vec::new()
        };
        let ending = !definition["metadata"]["deletionTimestamp"].is_null();
        if before.is_some_and(|before| {
            before.spec == *spec && before.served == served && before.ending == ending
        }) {
            return false;
        }
        let spec = spec.clone();
        let defined = Defined {
            spec,
            rows,
            served,
            ending,
        };
        self.defined.insert(name, defined);
        self.generation += 1;
        true
    }

    /// Forgets a definition that is gone.
    pub fn forget(&mut self, name: &str) {
        if self.defined.remove(name).is_some() {
            self.generation += 1;
        }
    }

    /// Another number after every change.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Rows that definitions add and that are served.
    pub fn custom(&self) -> impl Iterator<Item = &'static Resource> {
        self.defined.values().flat_map(|one| {
            let served =
                |row: &&&'static Resource| one.served.iter().any(|name| name == row.version);
            one.rows.iter().filter(served).copied()
        })
    }

    /// Every row that is served.
    pub fn served(&self) -> impl Iterator<Item = &'static Resource> {
        RESOURCES.iter().chain(VIEWS).chain(self.custom())
    }

    /// The row of every kind that is stored, served or not.
    pub fn stored(&self) -> impl Iterator<Item = &'static Resource> {
        let custom = self
            .defined
            .values()
            .filter_map(|one| one.rows.first().copied());
        RESOURCES.iter().chain(custom)
    }

    /// By path: `("apps", "v1", "deployments")`; the group is empty for core.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
        let own = crate::registry::find(group, version, plural);
        own.or_else(|| {
            self.custom()
                .find(|row| row.group == group && row.version == version && row.plural == plural)
        })
    }

    /// By what an object says it is: `("apps/v1", "Deployment")`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Resource> {
        let own = crate::registry::by_kind(api_version, kind);
        own.or_else(|| {
            let rows = self
                .defined
                .values()
                .flat_map(|one| one.rows.iter().copied());
            let mut rows = rows.filter(|row| row.kind == kind);
            rows.find(|row| row.api_version() == api_version)
        })
    }

    /// The row of the kind that is stored under this group and plural name.
    pub fn in_store(&self, group: &str, plural: &str) -> Option<&'static Resource> {
        let mut own = RESOURCES.iter();
        own.find(|row| row.group == group && row.plural == plural)
            .or_else(|| {
                let one = self.defined.get(&format!("{plural}.{group}"))?;
                one.rows.first().copied()
            })
    }

    /// Whether the definition of a row's kind is being deleted.
    pub fn is_ending(&self, row: &Resource) -> bool {
        let one = self.defined.get(&row.qualified());
        row.custom().is_some() && one.is_some_and(|one| one.ending)
    }
}

fn is_established(definition: &Value) -> bool {
    list(definition, &["status", "conditions"])
        .iter()
        .any(|one| one["type"] == "Established" && one["status"] == "True")
}
