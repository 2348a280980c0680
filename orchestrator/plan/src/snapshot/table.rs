//! Objects of one kind by namespace and name, shared with whoever else holds them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Objects of one kind. Cluster-scoped ones live in the namespace "".
#[derive(Debug, Clone)]
pub struct Table<T> {
    namespaces: BTreeMap<String, BTreeMap<String, Arc<T>>>,
    len: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T> Table<T> {
    /// The object of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.namespaces.get(namespace)?.get(name)
    }

    /// All, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.namespaces.values().flat_map(BTreeMap::values)
    }

    /// Those of a namespace, by name.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        self.namespaces
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    pub(super) fn namespace(&self, namespace: &str) -> Option<&BTreeMap<String, Arc<T>>> {
        self.namespaces.get(namespace)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn insert(&mut self, namespace: &str, name: &str, object: Arc<T>) -> Option<Arc<T>> {
        let rows = self.namespaces.entry(namespace.to_owned()).or_default();
        let previous = rows.insert(name.to_owned(), object);
        self.len += usize::from(previous.is_none());
        previous
    }

    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<T>> {
        let rows = self.namespaces.get_mut(namespace)?;
        let previous = rows.remove(name);
        if rows.is_empty() {
            self.namespaces.remove(namespace);
        }
        self.len -= usize::from(previous.is_some());
        previous
    }
}
