//! A batch of pods: the cluster as it fills up with them, and why the rest has no place.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::class::{Class, ClassKey};
use super::cluster::Cluster;
use super::config::Settings;
use super::ledger::Ledger;
use super::plugin::Plugin;
use super::preempt::{self, Search};
use super::queue::Hints;
use super::{Refusal, bind, displace, reason, refuse, score};
use crate::ownership::json;
use crate::pod::Pod;
use crate::resources::Amounts;
use crate::{Plan, Snapshot, Write, pod};

/// So many nodes that fit are compared at least, if there are as many.
const ENOUGH_NODES: usize = 100;

/// What became of a pod that is placed by itself.
pub(super) enum Settled {
    /// It is bound, or its claims know where it will be.
    Placed,
    /// It waits for those who leave its node.
    Promised,
    /// It fits nowhere yet.
    Left,
}

/// One batch: the cluster as it fills up.
pub(super) struct Batch<'a> {
    pub(super) cluster: Cluster<'a>,
    pub(super) classes: Vec<Class<'a>>,
    /// Classes that may be of one template; a pod belongs to the first whose template is its own.
    by_key: HashMap<ClassKey, Vec<usize>>,
    /// Pods that go for more important ones.
    pub(super) ledger: Ledger<'a>,
    /// How often a node was judged for a pod.
    pub(super) judged: usize,
    /// Where the next search begins, so that searches which end early don't crowd the first nodes.
    pub(super) start: usize,
    settings: &'a Settings,
    /// Pods that are bound, or whose claims know their node.
    pub(super) placed: Vec<&'a Arc<Pod>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, settings: &'a Settings) -> Self {
        let cluster = Cluster::new(snapshot);
        let start = snapshot.pods.len() % cluster.nodes.len().max(1);
        Self {
            cluster,
            classes: Vec::new(),
            by_key: HashMap::new(),
            ledger: Ledger::new(snapshot),
            judged: 0,
            start,
            settings,
            placed: Vec::new(),
        }
    }

    /// Finds a place for a pod that needs no others.
    pub(super) fn settle(&mut self, pod: &'a Arc<Pod>, plan: &mut Plan) -> Settled {
        if let Some((_, node)) = self.place(pod) {
            self.placed.push(pod);
            let node = self.cluster.nodes[node].name;
            // Its claims come first: they get their volumes where the pod will be.
            match self.claims_to_tell(pod, node) {
                Some(claims) => plan.writes.extend(claims),
                None => {
                    let write = bind(pod, node, &mut plan.events);
                    plan.writes.push(write);
                }
            }
            return Settled::Placed;
        }
        if self.promised(pod).is_none() {
            return Settled::Left;
        }
        // It waits for those who leave its node; less important pods must not slip in.
        self.keep_promise(pod);
        Settled::Promised
    }

    /// Says why a pod has no node, and makes room for it where less important pods have it. Answers what may help.
    pub(super) fn refuse(&mut self, pod: &'a Arc<Pod>, now: Timestamp, plan: &mut Plan) -> Hints {
        let (mut message, hints) = self.explain(pod);
        let promised = self.promised(pod);
        let promised = promised.map(|node| self.cluster.nodes[node].name.to_owned());
        let promise = if self.awaited(pod).is_some() {
            promised
        } else {
            let made = self.preempt(pod, now, plan);
            if let Err(why) = &made
                && !self.cluster.nodes.is_empty()
            {
                message.push_str(&format!(" preemption: {why}"));
            }
            made.ok().or(promised)
        };
        let verdict = Refusal {
            reason: "Unschedulable",
            message,
            promise,
        };
        refuse(pod, verdict, now, plan);
        hints
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
        if !self.classes[index].profile.preempts() {
            return Err("not asked for by the scheduler's profile.".to_owned());
        }
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
        let mut search = Search::default();
        let mut patience = usize::MAX;
        let found = search.next(
            &self.cluster,
            class,
            (pod, own),
            &self.ledger,
            &mut patience,
        );
        let choice = match found {
            Ok(choice) => choice,
            Err(why) => {
                self.classes[index].hopeless = Some((own, why.clone()));
                return Err(why);
            }
        };
        self.vacate(&choice.victims);
        let class = &self.classes[index];
        let node = &mut self.cluster.nodes[choice.node];
        node.take(&class.requests, class.usual, &class.ports);
        let name = node.name.to_owned();
        for victim in choice.victims {
            displace(victim, pod, &name, now, plan);
        }
        Ok(name)
    }

    /// These pods go: what they take of their nodes is free for those who win it.
    pub(super) fn vacate(&mut self, victims: &[&'a Arc<Pod>]) {
        for victim in victims {
            if let Some(node) = self.cluster.index_of(victim) {
                let (freed, usual) = preempt::together(&[victim]);
                self.cluster.nodes[node].give_back(&freed, usual);
            }
        }
        self.ledger.doom(victims);
    }

    /// The node that was promised to a pod, unless the pod may not be there any more, whoever leaves.
    pub(super) fn promised(&mut self, pod: &'a Arc<Pod>) -> Option<usize> {
        let node = self.cluster.index_named(preempt::nominated(pod)?)?;
        let class = self.class_of(pod);
        let may = self.classes[class].may_ever(&self.cluster, node);
        may.then_some(node)
    }

    /// The same, while less important pods are on their way out of it.
    pub(super) fn awaited(&mut self, pod: &'a Arc<Pod>) -> Option<usize> {
        let node = self.promised(pod)?;
        let name = self.cluster.nodes[node].name;
        let leaving = preempt::leaving(self.cluster.snapshot, name, preempt::priority(pod));
        (!leaving.is_empty()).then_some(node)
    }

    /// Keeps room for a pod on the node that was promised to it, until those who leave it are gone.
    pub(super) fn keep_promise(&mut self, pod: &'a Arc<Pod>) {
        let Some(node) = self.promised(pod) else {
            return;
        };
        let index = self.class_of(pod);
        let class = &self.classes[index];
        self.cluster.nodes[node].take(&class.requests, class.usual, &class.ports);
    }

    /// Writes by which the pod's claims learn of its node; `None` when all have their volumes.
    pub(super) fn claims_to_tell(&mut self, pod: &'a Arc<Pod>, node: &str) -> Option<Vec<Write>> {
        let index = self.class_of(pod);
        let claims = self.classes[index].claims.to_tell(node)?;
        Some(
            claims
                .iter()
                .map(|claim| Write::Update(json(claim)))
                .collect(),
        )
    }

    /// The pod's class and the node that fits it best, with the pod counted there.
    pub(super) fn place(&mut self, pod: &'a Arc<Pod>) -> Option<(usize, usize)> {
        let index = self.class_of(pod);
        if self.classes[index].refused {
            return None;
        }
        self.classes[index].prepare();
        let (cluster, class) = (&self.cluster, &self.classes[index]);
        let count = cluster.nodes.len();
        let enough = enough(count, class.profile.percentage);
        let mut fitting = Vec::new();
        for step in 0..count {
            let node = (self.start + step) % count;
            self.judged += 1;
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
        self.shift(index, best, 1);
        Some((index, best))
    }

    /// Gives another chance to refused classes that look at other pods; false when there are none.
    pub(super) fn forgive(&mut self) -> bool {
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

    pub(super) fn class_of(&mut self, pod: &'a Arc<Pod>) -> usize {
        let key = ClassKey::of(pod);
        let known = self.by_key.entry(key).or_default();
        if let Some(&index) = known.iter().find(|&&index| self.classes[index].is_for(pod)) {
            return index;
        }
        let index = self.classes.len();
        known.push(index);
        let settings = self.settings;
        let profile = settings.profile_of(pod).unwrap_or_else(|| settings.usual());
        let mut class = Class::new(pod, profile, &mut self.cluster);
        // What this batch has bound already is not in the snapshot.
        for (earlier, nodes) in self
            .classes
            .iter()
            .map(|earlier| (earlier.pod, &earlier.placed))
        {
            nodes
                .iter()
                .for_each(|&node| class.notice(earlier, node, 1, &self.cluster));
        }
        self.classes.push(class);
        index
    }

    /// Takes note everywhere of a pod of this class that comes to this node (`change` 1), or goes from it again (-1).
    pub(super) fn shift(&mut self, index: usize, node: usize, change: i64) {
        let class = &mut self.classes[index];
        let (requests, usual, ports) = (class.requests.clone(), class.usual, class.ports.clone());
        let state = &mut self.cluster.nodes[node];
        let siblings = &mut self.cluster.siblings[class.siblings][node];
        if change > 0 {
            let volumes =
                class
                    .claims
                    .volumes_on(state.name, state.labels, &self.cluster.volumes_taken);
            let taken = &mut self.cluster.volumes_taken;
            taken.extend(volumes.into_iter().flatten());
            class.placed.push(node);
            state.take(&requests, usual, &ports);
            *siblings += 1;
        } else {
            let last = class.placed.iter().rposition(|one| *one == node);
            if let Some(at) = last {
                class.placed.remove(at);
            }
            state.untake(&requests, usual, &ports);
            *siblings = siblings.saturating_sub(1);
        }
        for key in &class.exclusive {
            let users = self.cluster.exclusive.entry(key.clone()).or_default();
            *users = users.saturating_add_signed(if change > 0 { 1 } else { -1 });
        }
        let (pod, matters) = (class.pod, class.matters);
        for class in self
            .classes
            .iter_mut()
            .filter(|class| matters || class.watches)
        {
            class.notice(pod, node, change, &self.cluster);
        }
    }

    /// Takes note everywhere that the pod of this class that is on this node already is not there. One that is to end was
    /// counted as what it takes of the node only.
    pub(super) fn leave(&mut self, index: usize, node: usize) {
        let class = &self.classes[index];
        if pod::is_active(class.pod) {
            return self.shift(index, node, -1);
        }
        let (requests, usual, ports) = (class.requests.clone(), class.usual, class.ports.clone());
        self.cluster.nodes[node].untake(&requests, usual, &ports);
    }

    /// Why the pod found no node, as the cluster is after the whole batch.
    fn explain(&mut self, pod: &'a Arc<Pod>) -> (String, Hints) {
        let index = self.class_of(pod);
        let class = &mut self.classes[index];
        if let Some(message) = &class.message {
            return message.clone();
        }
        let message = self.reasons(index);
        self.classes[index].message = Some(message.clone());
        message
    }

    /// Why no node takes a pod of this class now, and what may help.
    pub(super) fn reasons(&mut self, index: usize) -> (String, Hints) {
        self.classes[index].prepare();
        let class = &self.classes[index];
        let count = self.cluster.nodes.len();
        if let Some(why) = class.claims.fault().filter(|_| count > 0) {
            // What keeps a pod off every node is said once.
            let hints = Hints::of(Plugin::VolumeBinding);
            return (reason::whole(count, why), hints);
        }
        let nothing = Amounts::default();
        let mut found = Vec::new();
        let mut hints = Hints::ALWAYS;
        for node in 0..count {
            if let Some(reason) = class.judge(&self.cluster, node) {
                hints = hints.and(Hints::of(reason.plugin()));
                found.extend(class.told(&self.cluster, node, &reason, &nothing));
            }
        }
        (reason::message(count, found.into_iter()), hints)
    }
}

/// How many nodes that fit are compared, of `count`: all of a small cluster, a part of a large one that shrinks from a
/// half to a twentieth; or the part that was chosen.
fn enough(count: usize, chosen: Option<usize>) -> usize {
    let shrinking = 50usize.saturating_sub(count / 125).max(5);
    let percent = chosen
        .filter(|part| *part > 0)
        .unwrap_or(shrinking)
        .min(100);
    (count * percent / 100).max(ENOUGH_NODES)
}
