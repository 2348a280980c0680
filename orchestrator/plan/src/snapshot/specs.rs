//! Specs that pods share, and what each takes of a node: those of one owner are mostly alike, and there are many.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use crate::pod::{self, Pod, PodSpec};
use crate::scheduler::Demand;

/// Different specs that are remembered of one owner. A Deployment has two during a rollout; where each pod has its own
/// (a DaemonSet aims each at its node) it is no use to look at many.
const REMEMBERED: usize = 4;

/// Specs of pods that are there, by their owners' uids; those that nobody owns by none.
#[derive(Debug, Clone, Default)]
pub(super) struct Specs {
    by_owner: HashMap<String, Vec<Known>>,
}

type Known = (Weak<PodSpec>, Weak<Demand>);

impl Specs {
    /// Gives a pod that nobody else has yet the spec that another of its owner has already, when it is the same; answers what
    /// it takes.
    pub(super) fn share(&mut self, pod: &mut Arc<Pod>) -> Arc<Demand> {
        let Some(spec) = &pod.spec else {
            return Arc::new(Demand::of(pod));
        };
        let owner = pod::controller(&pod.metadata).map_or("", |owner| owner.uid.as_str());
        let known = self.by_owner.entry(owner.to_owned()).or_default();
        known.retain(|(spec, demand)| spec.strong_count() > 0 && demand.strong_count() > 0);
        let there = |(spec, demand): &Known| Some((spec.upgrade()?, demand.upgrade()?));
        let mut there = known.iter().filter_map(there);
        if let Some((same, demand)) = there.find(|(one, _)| one == spec) {
            if let Some(own) = Arc::get_mut(pod) {
                own.spec = Some(same);
            }
            return demand;
        }
        if known.len() == REMEMBERED {
            known.remove(0);
        }
        let demand = Arc::new(Demand::of(pod));
        known.push((Arc::downgrade(spec), Arc::downgrade(&demand)));
        demand
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

    fn pod(image: &str, node: &str) -> Arc<Pod> {
        let spec = json!({"nodeName": node, "containers": [{"name": "main", "image": image}]});
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u", "controller": true});
        Arc::new(Pod::of(&json!({"metadata": {"ownerReferences": [owner]}, "spec": spec})).unwrap())
    }

    #[test]
    fn pods_of_a_template_share_it() {
        let mut specs = Specs::default();
        let (mut first, mut second, mut third) = (pod("a", "n1"), pod("a", "n2"), pod("b", "n1"));
        let [one, other, _] = [&mut first, &mut second, &mut third].map(|pod| specs.share(pod));
        assert!(Arc::ptr_eq(&one, &other));
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
        let mut pods: Vec<Arc<Pod>> = (0..9).map(|n| pod(&n.to_string(), "n")).collect();
        let demands: Vec<_> = pods.iter_mut().map(|pod| specs.share(pod)).collect();
        assert_eq!(specs.by_owner["u"].len(), REMEMBERED);
        drop((pods, demands));
        let _last = specs.share(&mut pod("last", "n"));
        assert_eq!(specs.by_owner["u"].len(), 1);
    }
}
