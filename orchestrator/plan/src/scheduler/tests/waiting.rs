//! When pods that fit nowhere are tried again.

use super::*;

struct Waiting {
    world: World,
    queue: Queue,
}

impl Waiting {
    /// A pod `p` that these nodes have no place for.
    fn new(nodes: &[Value], pods: &[Value]) -> Self {
        let (world, queue) = (world(nodes, pods), Queue::default());
        let mut waiting = Self { world, queue };
        waiting.plan();
        assert_eq!(place(&waiting.world, "p"), "");
        waiting
    }

    fn plan(&mut self) -> Plan {
        let (settings, now) = (Settings::default(), self.world.now);
        let plan = plan(&self.world.snapshot, &settings, &mut self.queue, now);
        self.world.apply(&plan);
        plan
    }

    fn is_due(&self) -> bool {
        let pod = self.world.snapshot.pods.get("shop", "p").unwrap();
        let (settings, now) = (Settings::default(), self.world.now);
        let mut plan = Plan::default();
        self.queue
            .is_due(pod, &self.world.snapshot, &settings, now, &mut plan)
    }
}

type Event = fn(&mut World);

const LABEL: Event = |world| {
    world.edit("Node", "", "a", |node| {
        node["metadata"]["labels"]["new"] = json!("yes")
    });
};
const LEAVE: Event = |world| world.remove("Pod", "shop", "x");
const GROW: Event = |world| {
    world.edit("Node", "", "a", |node| {
        node["status"]["allocatable"]["cpu"] = json!("3")
    });
};
const HEARTBEAT: Event = |world| {
    world.edit("Node", "", "a", |node| {
        node["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:00:10Z");
    });
};
const JOIN: Event = |world| world.put(node("z", "4", "4Gi"));
const CLAIM: Event = |world| {
    world.put(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "shop"}, "spec": {}}));
};
const NAMESPACE: Event = |world| {
    world.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}}));
};
const CHANGE: Event = |world| {
    world.edit("Pod", "shop", "p", |pod| {
        pod["spec"]["tolerations"] = json!([{"operator": "Exists"}])
    });
};
const NOTHING: Event = |_| ();

/// Whether each of the events leads to another try of the pod.
fn check(pod: &Value, expect: &[(Event, bool)]) {
    for (index, (event, due)) in expect.iter().enumerate() {
        let nodes = [node("a", "2", "4Gi")];
        let mut waiting = Waiting::new(&nodes, &[bound("x", "1", "a"), pod.clone()]);
        waiting.world.pass(20);
        event(&mut waiting.world);
        assert_eq!(waiting.is_due(), *due, "event {index} for {pod}");
    }
}

#[test]
fn only_what_may_help_leads_to_another_try() {
    check(
        &pod("p", "2", "1Mi"),
        &[
            (LABEL, false),
            (LEAVE, true),
            (GROW, true),
            (JOIN, true),
            (HEARTBEAT, false),
            (CLAIM, false),
            (NAMESPACE, false),
            (CHANGE, true),
            (NOTHING, false),
        ],
    );
    let picky = with(
        pod("p", "0", "0"),
        "/spec/nodeSelector",
        json!({"disk": "fast"}),
    );
    check(
        &picky,
        &[
            (LABEL, true),
            (LEAVE, false),
            (GROW, false),
            (JOIN, true),
            (NOTHING, false),
        ],
    );
    let claims = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]);
    let keeper = with(pod("p", "0", "0"), "/spec/volumes", claims);
    check(
        &keeper,
        &[
            (CLAIM, true),
            (LEAVE, false),
            (NAMESPACE, false),
            (NOTHING, false),
        ],
    );
}

#[test]
fn a_pod_waits_longer_after_each_try() {
    let mut waiting = Waiting::new(&[node("a", "2", "4Gi")], &[pod("p", "3", "1Mi")]);
    for pause in [1, 2, 4, 8, 10, 10] {
        GROW(&mut waiting.world);
        waiting.world.edit("Node", "", "a", |node| {
            node["status"]["allocatable"]["cpu"] = json!("2")
        });
        waiting.world.pass(pause - 1);
        assert!(!waiting.is_due(), "{pause}");
        assert_eq!(waiting.plan().again_after, Some(2), "{pause}");
        waiting.world.pass(1);
        assert!(waiting.is_due(), "{pause}");
        waiting.plan();
    }
    waiting.world.pass(299);
    assert!(!waiting.is_due());
    waiting.world.pass(1);
    assert!(waiting.is_due(), "after five minutes whatever happened");
    GROW(&mut waiting.world);
    waiting.plan();
    assert_eq!(place(&waiting.world, "p"), "a");
}
