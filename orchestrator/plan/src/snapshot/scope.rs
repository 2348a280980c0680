//! What a planner has to look at when it is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::Resource;

use super::journal::Touched;
use super::meta::Meta;
use super::table::Table;
use super::{ObjectKey, Snapshot};

/// What a planner looks at: everything, or what was touched since it was asked last. Both must come to the same: what was
/// not touched has nothing to be done about, or has a time at which its planner wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(Option<u64>);

/// What objects of a kind hang on beside what touches themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Also {
    /// What nobody controls in their namespace: they may adopt it.
    Orphans,
    /// What nodes are to pods.
    Placement,
    /// Where nodes are.
    Zones,
}

impl Scope {
    /// Every object.
    pub const EVERYTHING: Self = Self(None);

    /// What was touched from a [`position`](Snapshot::position) on.
    pub fn since(position: u64) -> Self {
        Self(Some(position))
    }
}

impl Snapshot {
    /// The rows of a scope, some more than once; `None` for everything.
    fn rows(&self, scope: Scope) -> Option<impl Iterator<Item = &Touched> + Clone> {
        let rows = self.journal.rows_since(scope.0?)?;
        let kinds_changed = rows.clone().any(|row| *row == Touched::Kinds);
        (!kinds_changed).then_some(rows)
    }

    /// Objects of one kind that a planner looks at, by namespace and name.
    pub(crate) fn in_scope<'a, T: Resource>(
        &'a self,
        scope: Scope,
        table: &'a Table<T>,
        also: &[Also],
    ) -> Vec<&'a Arc<T>> {
        let Some(rows) = self.rows(scope) else {
            return table.iter().collect();
        };
        let (mut named, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            match row {
                Touched::Object(key) if key.is(T::API_VERSION, T::KIND) => {
                    named.insert((&*key.namespace, key.name.as_str()));
                }
                Touched::Orphan(namespace) if also.contains(&Also::Orphans) => {
                    namespaces.insert(namespace.as_str());
                }
                Touched::Placement if also.contains(&Also::Placement) => {
                    return table.iter().collect();
                }
                Touched::Zones if also.contains(&Also::Zones) => return table.iter().collect(),
                _ => {}
            }
        }
        for namespace in namespaces {
            let names = table.namespace(namespace).into_iter().flatten();
            named.extend(names.map(|(name, _)| (namespace, name.as_str())));
        }
        let found = named.into_iter();
        found
            .filter_map(|(namespace, name)| table.get(namespace, name))
            .collect()
    }

    /// Whether it is everything that a planner looks at.
    pub(crate) fn is_whole(&self, scope: Scope) -> bool {
        self.rows(scope).is_none()
    }

    /// Whether what nodes are to pods was touched.
    pub(crate) fn is_placement_in(&self, scope: Scope) -> bool {
        self.rows(scope)
            .is_none_or(|mut rows| rows.any(|row| *row == Touched::Placement))
    }

    /// Metadata of the objects that a planner looks at.
    pub(crate) fn metas_in_scope(&self, scope: Scope) -> Vec<&Arc<Meta>> {
        let Some(rows) = self.rows(scope) else {
            return self.metas.values().collect();
        };
        let keys = rows.filter_map(|row| match row {
            Touched::Object(key) => Some(key),
            _ => None,
        });
        let keys: BTreeSet<&Arc<ObjectKey>> = keys.collect();
        let found = keys.into_iter();
        found
            .filter_map(|key| self.metas.get(key.as_ref()))
            .collect()
    }

    /// Namespaces that are touched themselves, or something in them; `None` for all.
    pub(crate) fn namespaces_in_scope(&self, scope: Scope) -> Option<BTreeSet<&str>> {
        let rows = self.rows(scope)?;
        let touched = rows.filter_map(|row| match row {
            Touched::Object(key) if key.is("v1", "Namespace") => Some(key.name.as_str()),
            Touched::Object(key) => Some(&*key.namespace),
            _ => None,
        });
        Some(touched.collect())
    }
}
