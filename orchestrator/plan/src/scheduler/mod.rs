//! The scheduler: a node for every pod that waits for one. Nodes and what they hold are in `cluster`, what pods of one
//! template share in `class`, where pods of a kind already are in `topology`, the comparison of nodes in `score`, and
//! what a user reads when nothing fits in `reason`.

mod class;
mod cluster;
mod preempt;
mod reason;
mod score;
#[cfg(test)]
mod tests;
mod topology;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ownership::delete;
use crate::ownership::json;
use crate::resources::Amounts;
use crate::write::{EventDraft, Propagation};
use crate::{Plan, Snapshot, Write, pod};

use class::{Class, ClassKey};
use cluster::Cluster;

pub(crate) use cluster::Demand;

/// The value of `spec.schedulerName` that this scheduler answers to; an absent one too.
pub const NAME: &str = "default-scheduler";
/// So many nodes that fit are compared at least, if there are as many.
const ENOUGH_NODES: usize = 100;

/// Binds every pod that waits for a node and can have one; says of the others why not.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let waiting = waiting(snapshot, now, &mut plan);
    if waiting.is_empty() {
        return plan;
    }
    let mut batch = Batch::new(snapshot);
    let mut left = waiting;
    let mut promised = Vec::new();
    loop {
        let before = left.len();
        left.retain(|pod| match batch.place(pod) {
            Some(node) => {
                // Its claims come first: they get their volumes where the pod will be.
                match batch.claims_to_tell(pod, node) {
                    Some(claims) => plan.writes.extend(claims),
                    None => bind(pod, node, &mut plan),
                }
                false
            }
            // It waits for those who leave its node; less important pods must not slip in.
            None if preempt::nominated(pod).is_some() => {
                batch.keep_promise(pod);
                promised.push(*pod);
                false
            }
            None => true,
        });
        // A pod that waits for others, or for an even spread, may fit after them.
        if left.len() == before || !batch.forgive() {
            break;
        }
    }
    for pod in promised.into_iter().chain(left) {
        let mut message = batch.explain(pod);
        let promise = if preempt::is_under_way(snapshot, pod) {
            preempt::nominated(pod).map(str::to_owned)
        } else {
            let made = batch.preempt(pod, now, &mut plan);
            if let Err(why) = &made
                && !snapshot.nodes.is_empty()
            {
                message.push_str(&format!(" preemption: {why}"));
            }
            let promised = made.ok();
            promised.or_else(|| preempt::nominated(pod).map(str::to_owned))
        };
        let verdict = Refusal {
            reason: "Unschedulable",
            message,
            promise,
        };
        refuse(pod, verdict, now, &mut plan);
    }
    plan
}

/// Pods without a node that this scheduler is asked to place: the most important first, then the oldest.
fn waiting<'a>(snapshot: &'a Snapshot, now: Timestamp, plan: &mut Plan) -> Vec<&'a Arc<Pod>> {
    let mut pods = Vec::new();
    for pod in snapshot.unbound_pods().filter(|pod| pod::is_active(pod)) {
        let Some(spec) = &pod.spec else { continue };
        if spec
            .scheduler_name
            .as_deref()
            .is_some_and(|name| !name.is_empty() && name != NAME)
        {
            continue;
        }
        if spec
            .scheduling_gates
            .as_ref()
            .is_some_and(|gates| !gates.is_empty())
        {
            let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            let verdict = Refusal {
                reason: "SchedulingGated",
                message,
                promise: None,
            };
            refuse(pod, verdict, now, plan);
        } else {
            pods.push(pod);
        }
    }
    pods.sort_by_cached_key(|pod| {
        let priority = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.priority)
            .unwrap_or(0);
        (Reverse(priority), pod.metadata.creation_timestamp.clone())
    });
    pods
}

fn bind(pod: &Pod, node: &str, plan: &mut Plan) {
    let object = pod::reference(pod);
    plan.events.push(EventDraft {
        message: format!(
            "Successfully assigned {}/{} to {node}",
            object.namespace, object.name
        ),
        object: object.clone(),
        warning: false,
        reason: "Scheduled",
        component: NAME,
    });
    let (namespace, name, uid) = (object.namespace, object.name, object.uid);
    plan.writes.push(Write::Bind {
        namespace,
        name,
        uid,
        node: node.to_owned(),
    });
}

/// Why a pod waits, and for which node.
struct Refusal {
    reason: &'static str,
    message: String,
    /// The node that less important pods leave for it.
    promise: Option<String>,
}

/// Writes PodScheduled=False and the promised node, unless the pod says so already.
fn refuse(pod: &Pod, refusal: Refusal, now: Timestamp, plan: &mut Plan) {
    let Refusal {
        reason,
        message,
        promise,
    } = refusal;
    let before = pod::condition(pod, "PodScheduled");
    let said = |one: &PodCondition| {
        one.status == "False"
            && one.reason.as_deref() == Some(reason)
            && one.message.as_ref() == Some(&message)
    };
    if before.is_some_and(said) && preempt::nominated(pod) == promise.as_deref() {
        return;
    }
    let since = before
        .filter(|one| one.status == "False")
        .and_then(|one| one.last_transition_time.clone());
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.clone()),
        last_transition_time: Some(since.unwrap_or(Time(now))),
        ..PodCondition::default()
    };
    let mut status: PodStatus = pod.status.clone().unwrap_or_default();
    status.phase.get_or_insert_with(|| "Pending".to_owned());
    status.nominated_node_name = promise;
    let rows = status.conditions.get_or_insert_default();
    rows.retain(|one| one.type_ != "PodScheduled");
    rows.push(condition);
    plan.writes.push(Write::UpdateStatus(json(&Pod {
        status: Some(status),
        ..pod.clone()
    })));
    if reason == "Unschedulable" {
        let object = pod::reference(pod);
        plan.events.push(EventDraft {
            object,
            warning: true,
            reason: "FailedScheduling",
            message,
            component: NAME,
        });
    }
}

/// Ends a pod for a more important one: marked as disrupted, so that its owner knows why, then deleted.
fn displace(victim: &Pod, by: &Pod, node: &str, now: Timestamp, plan: &mut Plan) {
    let uid = by.metadata.uid.as_deref().unwrap_or_default();
    let mut status: PodStatus = victim.status.clone().unwrap_or_default();
    let rows = status.conditions.get_or_insert_default();
    rows.retain(|one| one.type_ != "DisruptionTarget");
    rows.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("PreemptionByScheduler".to_owned()),
        message: Some(format!(
            "{NAME}: preempting to accommodate a higher priority pod"
        )),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    plan.writes.push(Write::UpdateStatus(json(&Pod {
        status: Some(status),
        ..victim.clone()
    })));
    let object = pod::reference(victim);
    plan.events.push(EventDraft {
        object: object.clone(),
        warning: false,
        reason: "Preempted",
        message: format!("Preempted by pod {uid} on node {node}"),
        component: NAME,
    });
    plan.writes
        .push(delete(object, None, Propagation::Background));
}

/// One batch: the cluster as it fills up.
struct Batch<'a> {
    cluster: Cluster<'a>,
    classes: Vec<Class<'a>>,
    /// Classes that may be of one template; a pod belongs to the first whose template is its own.
    by_key: HashMap<ClassKey, Vec<usize>>,
    /// Pods that go for more important ones, by uid.
    doomed: BTreeSet<String>,
    /// Where the next search begins, so that searches which end early don't crowd the first nodes.
    start: usize,
}

impl<'a> Batch<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let cluster = Cluster::new(snapshot);
        let start = snapshot.pods.len() % cluster.nodes.len().max(1);
        Self {
            cluster,
            classes: Vec::new(),
            by_key: HashMap::new(),
            doomed: BTreeSet::new(),
            start,
        }
    }

    /// Ends less important pods where that makes room for this one and does the least harm; answers the node, or why
    /// nobody goes.
    fn preempt(
        &mut self,
        pod: &'a Arc<Pod>,
        now: Timestamp,
        plan: &mut Plan,
    ) -> Result<String, String> {
        if preempt::is_polite(pod) {
            return Err("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let index = self.class_of(pod);
        let own = preempt::priority(pod);
        // The cluster only gets fuller, so what was hopeless for one pod is for the next.
        if let Some((_, why)) = self.classes[index]
            .hopeless
            .as_ref()
            .filter(|(priority, _)| *priority == own)
        {
            return Err(why.clone());
        }
        let class = &self.classes[index];
        let choice = match preempt::choose(&self.cluster, class, own, &self.doomed) {
            Ok(choice) => choice,
            Err(why) => {
                self.classes[index].hopeless = Some((own, why.clone()));
                return Err(why);
            }
        };
        let node = &mut self.cluster.nodes[choice.node];
        let (freed, usual) = preempt::together(&choice.victims);
        node.give_back(&freed, usual);
        node.take(&class.requests, class.usual, &class.ports);
        let name = node.name.to_owned();
        for victim in choice.victims {
            self.doomed.extend(victim.metadata.uid.clone());
            displace(victim, pod, &name, now, plan);
        }
        Ok(name)
    }

    /// Keeps room for a pod on the node that was promised to it, until those who leave it are gone.
    fn keep_promise(&mut self, pod: &'a Arc<Pod>) {
        let Some(node) = preempt::nominated(pod).and_then(|name| self.cluster.index_named(name))
        else {
            return;
        };
        let index = self.class_of(pod);
        let class = &self.classes[index];
        self.cluster.nodes[node].take(&class.requests, class.usual, &class.ports);
    }

    /// Writes by which the pod's claims learn of its node; `None` when all have their volumes.
    fn claims_to_tell(&mut self, pod: &'a Arc<Pod>, node: &str) -> Option<Vec<Write>> {
        let index = self.class_of(pod);
        let claims = self.classes[index].claims.to_tell(node)?;
        Some(
            claims
                .iter()
                .map(|claim| Write::Update(json(claim)))
                .collect(),
        )
    }

    /// The node that fits the pod best, with the pod counted there.
    fn place(&mut self, pod: &'a Arc<Pod>) -> Option<&'a str> {
        let index = self.class_of(pod);
        if self.classes[index].refused {
            return None;
        }
        self.classes[index].prepare();
        let (cluster, class) = (&self.cluster, &self.classes[index]);
        let count = cluster.nodes.len();
        let enough = enough(count);
        let mut fitting = Vec::new();
        for step in 0..count {
            let node = (self.start + step) % count;
            if class.judge(cluster, node).is_none() {
                fitting.push(node);
                if fitting.len() == enough {
                    self.start = (node + 1) % count;
                    break;
                }
            }
        }
        let Some(best) = score::best(cluster, class, &fitting) else {
            self.classes[index].refused = true;
            return None;
        };
        self.count(index, best);
        Some(self.cluster.nodes[best].name)
    }

    /// Gives another chance to refused classes that look at other pods; false when there are none.
    fn forgive(&mut self) -> bool {
        let mut any = false;
        for class in self
            .classes
            .iter_mut()
            .filter(|class| class.refused && class.watches)
        {
            class.refused = false;
            any = true;
        }
        any
    }

    fn class_of(&mut self, pod: &'a Arc<Pod>) -> usize {
        let key = ClassKey::of(pod);
        let known = self.by_key.entry(key).or_default();
        if let Some(&index) = known.iter().find(|&&index| self.classes[index].is_for(pod)) {
            return index;
        }
        let index = self.classes.len();
        known.push(index);
        let mut class = Class::new(pod, &mut self.cluster);
        // What this batch has bound already is not in the snapshot.
        for (earlier, nodes) in self
            .classes
            .iter()
            .map(|earlier| (earlier.pod, &earlier.placed))
        {
            nodes
                .iter()
                .for_each(|&node| class.notice(earlier, node, &self.cluster));
        }
        self.classes.push(class);
        index
    }

    /// Takes note of a pod of this class on this node, everywhere.
    fn count(&mut self, index: usize, node: usize) {
        let pod = self.classes[index].pod;
        let class = &mut self.classes[index];
        class.placed.push(node);
        let (requests, usual, ports) = (class.requests.clone(), class.usual, class.ports.clone());
        let state = &self.cluster.nodes[node];
        let volumes =
            class
                .claims
                .volumes_on(state.name, state.labels, &self.cluster.volumes_taken);
        self.cluster
            .volumes_taken
            .extend(volumes.into_iter().flatten());
        for key in &class.exclusive {
            *self.cluster.exclusive.entry(key.clone()).or_default() += 1;
        }
        self.cluster.nodes[node].take(&requests, usual, &ports);
        self.cluster.siblings[class.siblings][node] += 1;
        let repels = class.repels;
        for class in self
            .classes
            .iter_mut()
            .filter(|class| repels || class.watches)
        {
            class.notice(pod, node, &self.cluster);
        }
    }

    /// Why the pod found no node, as the cluster is after the whole batch.
    fn explain(&mut self, pod: &'a Arc<Pod>) -> String {
        let index = self.class_of(pod);
        let class = &mut self.classes[index];
        if let Some(message) = &class.message {
            return message.clone();
        }
        class.prepare();
        let class = &self.classes[index];
        let count = self.cluster.nodes.len();
        let message = match class.claims.fault() {
            // What keeps a pod off every node is said once.
            Some(why) if count > 0 => reason::whole(count, why),
            _ => {
                let nothing = Amounts::default();
                let found = (0..count).flat_map(|node| {
                    let reason = class.judge(&self.cluster, node);
                    reason.map_or_else(Vec::new, |reason| {
                        class.told(&self.cluster, node, &reason, &nothing)
                    })
                });
                reason::message(count, found)
            }
        };
        self.classes[index].message = Some(message.clone());
        message
    }
}

/// How many nodes that fit are compared, of `count`: all of a small cluster, a part of a large one that shrinks from a
/// half to a twentieth.
fn enough(count: usize) -> usize {
    let percent = 50usize.saturating_sub(count / 125).max(5);
    (count * percent / 100).max(ENOUGH_NODES)
}
