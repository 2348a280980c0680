//! Preemption: which less important pods would have to go for a pod that fits nowhere, and on which node that does the
//! least harm. A gang that would be left too small to be of use goes whole, and so costs more than pods by themselves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use jiff::Timestamp;

use super::class::Class;
use super::cluster::{Cluster, host_ports};
use super::ledger::{Company, Ledger};
use super::{gang, reason};
use crate::Snapshot;
use crate::pod::{self, Pod};
use crate::resources::{self, Amounts};

/// So many nodes are compared at most, beyond a tenth of all.
const MOST_CANDIDATES: usize = 100;

/// `spec.priority`, 0 when absent.
pub(super) fn priority(pod: &Pod) -> i32 {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.priority)
        .unwrap_or(0)
}

/// The node that a pod was promised.
pub(super) fn nominated(pod: &Pod) -> Option<&str> {
    let name = pod.status.as_ref()?.nominated_node_name.as_deref()?;
    Some(name).filter(|name| !name.is_empty())
}

/// Who goes, not all of them from the node that is won.
pub(super) struct Choice<'a> {
    pub(super) node: usize,
    pub(super) victims: Vec<&'a Arc<Pod>>,
}

/// Whether the pod says that nobody is to make room for it.
pub(super) fn is_polite(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never")
}

/// Pods that are less important than `own` and on their way out of a node.
pub(super) fn leaving<'a>(snapshot: &'a Snapshot, node: &str, own: i32) -> Vec<&'a Arc<Pod>> {
    let pods = snapshot.pods_on(node);
    pods.filter(|one| pod::is_deleted(one) && !pod::is_terminated(one) && priority(one) < own)
        .collect()
}

/// What it costs; compared in this order.
type Harm = (usize, usize, i32, i64, usize, Reverse<Option<Timestamp>>);

/// A search for nodes where room can be made for pods of one class, the least harm first. A place that was seen is looked
/// at again only when it is the next: those who went meanwhile seldom make another one better.
#[derive(Default)]
pub(super) struct Search {
    /// The first node that was not looked at.
    next: usize,
    found: BinaryHeap<Reverse<(Harm, usize)>>,
    reasons: Vec<String>,
}

impl Search {
    /// The node where the least harm is done for a pod that is as important as `own`; why there is none, when less important
    /// pods can't make room. Takes what it looked at from `patience`, and gives up when nothing is left of it.
    pub(super) fn next<'a>(
        &mut self,
        cluster: &Cluster<'a>,
        class: &Class<'_>,
        (pod, own): (&Pod, i32),
        ledger: &Ledger<'a>,
        patience: &mut usize,
    ) -> Result<Choice<'a>, String> {
        let count = cluster.nodes.len();
        let most = (count / 10).max(MOST_CANDIDATES);
        let mut look = |node: usize| {
            let there = cluster.snapshot.pods_on(cluster.nodes[node].name).count();
            let left = patience.checked_sub(1 + there);
            *patience = left.ok_or("too many nodes to look at for so many pods.")?;
            Ok::<_, String>(victims_on(cluster, class, node, (pod, own), ledger))
        };
        loop {
            while self.found.len() < most && self.next < count {
                let node = self.next;
                self.next += 1;
                if !class.may_ever(cluster, node) {
                    let why = "Preemption is not helpful for scheduling";
                    self.reasons.push(why.to_owned());
                    continue;
                }
                match look(node)? {
                    Ok((harm, _)) => self.found.push(Reverse((harm, node))),
                    Err(why) => self.reasons.extend(why),
                }
            }
            let Some(Reverse((_, node))) = self.found.pop() else {
                return Err(reason::message(count, self.reasons.iter().cloned()));
            };
            match look(node)? {
                Err(why) => self.reasons.extend(why),
                Ok((harm, victims)) => {
                    let place = (harm, node);
                    let better = self
                        .found
                        .peek()
                        .is_some_and(|Reverse(other)| *other < place);
                    self.found.push(Reverse(place));
                    if !better {
                        return Ok(Choice { node, victims });
                    }
                }
            }
        }
    }
}

/// Who would go for a pod of this class on this node, none of its own gang, and what that costs; or why nobody's end helps.
fn victims_on<'a>(
    cluster: &Cluster<'a>,
    class: &Class<'_>,
    node: usize,
    (pod, own): (&Pod, i32),
    ledger: &Ledger<'a>,
) -> Result<(Harm, Vec<&'a Arc<Pod>>), Vec<String>> {
    let name = cluster.nodes[node].name;
    let lesser = cluster
        .snapshot
        .pods_on(name)
        .filter(|one| priority(one) < own && ledger.stays(one) && !gang::are_one(one, pod));
    let mut lesser: Vec<&'a Arc<Pod>> = lesser.collect();
    // The most important and longest running ones are spared first.
    lesser.sort_by_key(|one| (Reverse(priority(one)), started(one)));
    let companies = companies(&mut lesser, own, ledger);
    let nobody = || vec!["No preemption victims found for incoming pod".to_owned()];
    if lesser.is_empty() {
        return Err(nobody());
    }
    if let Some(reason) = class.judge_without(cluster, node, &lesser) {
        return Err(class.told(cluster, node, &reason, &together(&lesser).0));
    }
    let broken = ledger.broken(lesser.iter().copied());
    let too_many = |going: &BTreeSet<usize>| -> BTreeSet<(&str, &str)> {
        let torn = companies.iter().filter(|(key, company)| {
            let own = going.iter().filter(|index| is_of(lesser[**index], **key));
            own.count() > company.spare
        });
        torn.map(|(key, _)| *key).collect()
    };
    // Those under a used-up budget are spared before all, then those whose gang would not be whole.
    let mut going: BTreeSet<usize> = (0..lesser.len()).collect();
    let at_risk = too_many(&going);
    let mut in_order: Vec<usize> = (0..lesser.len()).collect();
    in_order.sort_by_key(|index| {
        let tears = at_risk.iter().any(|key| is_of(lesser[*index], *key));
        (!broken.contains(index), !tears, *index)
    });
    let spare = |going: &mut BTreeSet<usize>, torn: &BTreeSet<(&str, &str)>| {
        for index in &in_order {
            let falls = torn.iter().any(|key| is_of(lesser[*index], *key));
            if falls || !going.remove(index) {
                continue;
            }
            let rest: Vec<&Arc<Pod>> = going.iter().map(|&index| lesser[index]).collect();
            if class.judge_without(cluster, node, &rest).is_some() {
                going.insert(*index);
            }
        }
    };
    spare(&mut going, &BTreeSet::new());
    let torn = too_many(&going);
    if !torn.is_empty() {
        // What is of no use any more goes too, and may spare others.
        let falls = |index: &usize| torn.iter().any(|key| is_of(lesser[*index], *key));
        going.extend((0..lesser.len()).filter(falls));
        spare(&mut going, &torn);
    }
    let elsewhere = torn.iter().flat_map(|key| &companies[key].fellows);
    let elsewhere = elsewhere.filter(|one| pod::node_name(one) != Some(name));
    let elsewhere: Vec<&'a Arc<Pod>> = elsewhere.copied().collect();
    let both = lesser.iter().chain(&elsewhere).copied();
    let broken = ledger.broken(both);
    let violations = broken
        .iter()
        .filter(|index| **index >= lesser.len() || going.contains(index));
    let violations = violations.count();
    let mut victims: Vec<&'a Arc<Pod>> = going.iter().map(|&index| lesser[index]).collect();
    victims.extend(elsewhere);
    let highest = victims.iter().map(|one| priority(one)).max();
    let highest = highest.ok_or_else(nobody)?;
    let sum = victims
        .iter()
        .map(|one| i64::from(priority(one)) + (1 << 31))
        .sum();
    let top = victims.iter().filter(|one| priority(one) == highest);
    let earliest = Reverse(top.filter_map(|one| started(one)).min());
    let count = victims.len();
    let harm = (violations, torn.len(), highest, sum, count, earliest);
    Ok((harm, victims))
}

fn is_of(pod: &Pod, group: (&str, &str)) -> bool {
    gang::group_of(pod).is_some() && gang::key_of(pod) == group
}

/// The gangs of these pods. Of one that can't go whole, for somebody in it matters too much, no more are left among the
/// pods than it can do without.
fn companies<'a>(
    lesser: &mut Vec<&'a Arc<Pod>>,
    own: i32,
    ledger: &Ledger<'a>,
) -> BTreeMap<(&'a str, &'a str), Company<'a>> {
    let mut companies = BTreeMap::new();
    let mut known = BTreeSet::new();
    for &pod in lesser.iter() {
        if gang::group_of(pod).is_some() && known.insert(gang::key_of(pod)) {
            let found = ledger.company(pod);
            companies.extend(found.map(|company| (gang::key_of(pod), company)));
        }
    }
    for (key, company) in &companies {
        if company.fellows.iter().any(|one| priority(one) >= own) {
            let mut there = lesser.iter().filter(|one| is_of(one, *key)).count();
            lesser.retain(|one| {
                let over = is_of(one, *key) && there > company.spare;
                there -= usize::from(over);
                !over
            });
        }
    }
    companies
}

fn started(pod: &Pod) -> Option<Timestamp> {
    let start = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    start
        .or(pod.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}

/// What these pods ask for together.
pub(super) fn together(pods: &[&Arc<Pod>]) -> (Amounts, (i64, i64)) {
    let mut sum = (Amounts::default(), (0, 0));
    for one in pods {
        sum.0.add(&resources::requests(one));
        let usual = resources::usual_requests(one);
        sum.1 = (sum.1.0 + usual.0, sum.1.1 + usual.1);
    }
    sum
}

/// Host ports that stay taken on a node without these pods.
pub(super) fn ports_without(
    cluster: &Cluster<'_>,
    node: usize,
    gone: &[&Arc<Pod>],
) -> BTreeSet<super::cluster::HostPort> {
    let mut ports = cluster.nodes[node].ports.clone();
    for port in gone.iter().flat_map(|one| host_ports(one)) {
        ports.remove(&port);
    }
    ports
}
