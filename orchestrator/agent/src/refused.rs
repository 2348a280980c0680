//! What found no room in the datapath's tables, in the words of those it belongs to: told to the server, which knows the
//! objects, and put into the node's own condition.

use std::collections::BTreeMap;

use waggle_datapath::{CapacityFault, Claimant, Refusal};
use waggle_model::IdentityId;
use waggle_model::network::{NetworkState, Policy};
use waggle_wire::v1;

/// Objects that are told one by one; others are counted.
const TOLD: usize = 5000;
/// Objects that the node's condition names; others are counted.
const NAMED: usize = 5;

/// What has no room, of a state that is in the kernel but for that.
pub(crate) fn left_out(refusals: &[Refusal], state: &NetworkState) -> v1::Refusals {
    let mut all = BTreeMap::new();
    for refusal in refusals {
        if let Claimant::Identity(identity) = &refusal.claimant {
            for policy in policies_of(*identity, state) {
                let owner = (
                    "NetworkPolicy",
                    policy.namespace.clone(),
                    policy.name.clone(),
                );
                note(&mut all, owner, refusal.fault);
            }
        }
        let owner = match &refusal.claimant {
            Claimant::Service(id) => state
                .services
                .get(id)
                .map(|service| ("Service", service.namespace.clone(), service.name.clone())),
            Claimant::Endpoint(address) => state
                .endpoints
                .get(address)
                .map(|pod| ("Pod", pod.namespace.clone(), pod.pod.clone())),
            Claimant::Node(name) => Some(("Node", String::new(), name.clone())),
            _ => None,
        };
        if let Some(owner) = owner {
            note(&mut all, owner, refusal.fault);
        }
    }
    let faults = refusals.iter().map(|refusal| refusal.fault);
    told(all, faults)
}

fn policies_of(identity: IdentityId, state: &NetworkState) -> impl Iterator<Item = &Policy> {
    let policies = state.policies.values();
    policies.filter(move |policy| policy.subjects.contains(&identity))
}

type Owner = (&'static str, String, String);
type Refused = BTreeMap<(Owner, String), CapacityFault>;

/// Each object once for each table; the largest need counts.
fn note(all: &mut Refused, owner: Owner, fault: CapacityFault) {
    let known = all.entry((owner, fault.table.to_string())).or_insert(fault);
    known.needed = known.needed.max(fault.needed);
}

fn told(all: Refused, faults: impl Iterator<Item = CapacityFault>) -> v1::Refusals {
    let mut tables: BTreeMap<String, CapacityFault> = BTreeMap::new();
    for fault in faults {
        let known = tables.entry(fault.table.to_string()).or_insert(fault);
        known.needed = known.needed.max(fault.needed);
    }
    let others = all.len().saturating_sub(TOLD) as u64;
    let one = |((owner, _), fault): ((Owner, String), CapacityFault)| v1::Refused {
        kind: owner.0.to_owned(),
        namespace: owner.1,
        name: owner.2,
        fault: fault.to_string(),
    };
    v1::Refusals {
        refused: all.into_iter().take(TOLD).map(one).collect(),
        others,
        faults: tables.values().map(ToString::to_string).collect(),
    }
}

/// What the node says of itself; `None` while everything fits.
pub(crate) fn condition(refusals: &v1::Refusals) -> Option<String> {
    if refusals.faults.is_empty() {
        return None;
    }
    let mut text = refusals.faults.join("; ");
    let title = |one: &v1::Refused| match one.namespace.as_str() {
        "" => format!("{} {}", one.kind, one.name),
        namespace => format!("{} {namespace}/{}", one.kind, one.name),
    };
    let named: Vec<String> = refusals.refused.iter().take(NAMED).map(title).collect();
    if !named.is_empty() {
        text.push_str(". Left out, and denied: ");
        text.push_str(&named.join(", "));
    }
    let others = refusals.refused.len().saturating_sub(NAMED) as u64 + refusals.others;
    if others > 0 {
        text.push_str(&format!(" and {others} more"));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waggle_datapath::Table;
    use waggle_model::network::Service;
    use waggle_model::{PolicyId, ServiceId};

    fn fault(table: Table, needed: usize) -> CapacityFault {
        CapacityFault {
            table,
            needed,
            limit: 2,
        }
    }

    #[test]
    fn a_full_table_is_told_with_its_count_and_those_left_out() {
        let service = |id: u32| Service {
            id: ServiceId(id),
            namespace: "shop".into(),
            name: format!("s{id}"),
            ..Service::default()
        };
        let state = NetworkState {
            services: (1..=7).map(service).map(|one| (one.id, one)).collect(),
            ..NetworkState::default()
        };
        let refusal = |(id, needed): (u32, usize)| Refusal {
            claimant: Claimant::Service(ServiceId(id)),
            fault: fault(Table::Service, needed),
        };
        let refusals: Vec<_> = (1..=7)
            .map(|id| (id, 9))
            .chain([(7, 8)])
            .map(refusal)
            .collect();
        let told = left_out(&refusals, &state);
        assert_eq!((told.refused.len(), told.others), (7, 0));
        assert_eq!(
            condition(&told).unwrap(),
            "9 service ports are needed but this node's datapath has room for 2. Left out, and denied: Service shop/s1, \
             Service shop/s2, Service shop/s3, Service shop/s4, Service shop/s5 and 2 more"
        );
        assert_eq!(condition(&left_out(&[], &state)), None);
    }

    #[test]
    fn rules_that_do_not_fit_are_told_to_the_policies_of_those_pods() {
        let policy = |id: u32| Policy {
            id: PolicyId(id),
            namespace: "shop".into(),
            name: format!("of-{id}"),
            subjects: [IdentityId(id)].into(),
            ..Policy::default()
        };
        let state = NetworkState {
            policies: [10, 11].map(|id| (PolicyId(id), policy(id))).into(),
            ..NetworkState::default()
        };
        let refusal = Refusal {
            claimant: Claimant::Identity(IdentityId(10)),
            fault: fault(Table::Rule, 9),
        };
        let told = left_out(&[refusal], &state);
        let names: Vec<_> = told.refused.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["of-10"]);
        assert!(
            condition(&told)
                .unwrap()
                .starts_with("9 policy rules are needed")
        );
    }
}
