//! Pods in the order of their namespaces and names, which are read off them: a group holds no names of its own.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pod::Pod;
use crate::scheduler::Demand;

/// Pods of one owner, node or label, each with what it takes of its node: that is worked out once for all of a template.
#[derive(Debug, Clone, Default)]
pub(super) struct Group(BTreeMap<ByName, Arc<Demand>>);

impl Group {
    pub(super) fn insert(&mut self, pod: &Arc<Pod>, demand: &Arc<Demand>) {
        self.0.insert(ByName(Arc::clone(pod)), Arc::clone(demand));
    }

    /// Takes out the pod of the same name.
    pub(super) fn remove(&mut self, pod: &Arc<Pod>) {
        self.0.remove(&ByName(Arc::clone(pod)));
    }

    /// The pods with their demands.
    pub(super) fn demands(&self) -> impl Iterator<Item = (&Arc<Pod>, &Demand)> {
        self.0.iter().map(|(pod, demand)| (&pod.0, demand.as_ref()))
    }

    /// The pods.
    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.0.keys().map(|pod| &pod.0)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A pod that stands where its names put it. They never change while it is in a group.
#[derive(Debug, Clone)]
struct ByName(Arc<Pod>);

impl ByName {
    fn names(&self) -> (&str, &str) {
        let meta = &self.0.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        (namespace.unwrap_or_default(), name.unwrap_or_default())
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.names().cmp(&other.names())
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for ByName {}
