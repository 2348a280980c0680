//! Specs that pods share: those of one owner are mostly alike, and there are many.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::pod::{self, Pod, PodSpec};

/// Different specs that are remembered of one owner. A Deployment has two during a rollout; where each pod has its own
/// (a DaemonSet aims each at its node) it is no use to look at many.
const REMEMBERED: usize = 4;

/// Specs of pods that are there, by their owners' uids; those that nobody owns by none.
#[derive(Debug, Clone, Default)]
pub(super) struct Specs {
    by_owner: HashMap<String, Vec<Weak<PodSpec>>>,
}

impl Specs {
    /// Gives the pod the spec that another pod of its owner has already, when it is the same.
    pub(super) fn share(&mut self, pod: &mut Pod) {
        let owner = pod::controller(&pod.metadata).map_or("", |owner| owner.uid.as_str());
        let Some(spec) = &mut pod.spec else { return };
        if !self.by_owner.contains_key(owner) {
            self.by_owner.insert(owner.to_owned(), Vec::new());
        }
        let Some(known) = self.by_owner.get_mut(owner) else {
            return;
        };
        known.retain(|one| one.strong_count() > 0);
        let mut there = known.iter().filter_map(Weak::upgrade);
        if let Some(same) = there.find(|one| one == spec) {
            *spec = same;
            return;
        }
        if known.len() == REMEMBERED {
            known.remove(0);
        }
        known.push(Arc::downgrade(spec));
    }

    /// An owner has no pods any more.
    pub(super) fn forget(&mut self, owner: &str) {
        self.by_owner.remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(image: &str, node: &str) -> Pod {
        let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": image}]});
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true});
        Pod::of(&json!({"metadata": {"ownerReferences": [owner]}, "spec": spec})).unwrap()
    }

    #[test]
    fn pods_of_a_template_share_it() {
        let mut specs = Specs::default();
        let (mut first, mut second, mut third) = (pod("a", "n1"), pod("a", "n2"), pod("b", "n1"));
        for pod in [&mut first, &mut second, &mut third] {
            specs.share(pod);
        }
        let spec = |pod: &Pod| Arc::clone(pod.spec.as_ref().unwrap());
        assert!(Arc::ptr_eq(&spec(&first), &spec(&second)));
        assert!(!Arc::ptr_eq(&spec(&first), &spec(&third)));
        assert_eq!(second.place.node_name.as_deref(), Some("n2"));
        specs.forget("u");
        assert!(specs.by_owner.is_empty());
    }

    #[test]
    fn many_different_ones_are_not_remembered() {
        let mut specs = Specs::default();
        let mut pods: Vec<Pod> = (0..9).map(|n| pod(&n.to_string(), "n")).collect();
        pods.iter_mut().for_each(|pod| specs.share(pod));
        assert_eq!(specs.by_owner["u"].len(), REMEMBERED);
        drop(pods);
        specs.share(&mut pod("last", "n"));
        assert_eq!(specs.by_owner["u"].len(), 1);
    }
}
