//! What services and policies did, made from the datapath's counts. The kernel counts for numbers, and refusals for the
//! identity that policy kept closed; here they become sums of services and policies, which outlive a change of who a
//! policy selects.

use std::collections::BTreeMap;

use waggle_abi::{ObjectCount, ObjectKey, object_kind};
use waggle_model::network::{NetworkState, Policy};
use waggle_model::{IdentityId, PolicyId, ServiceId};

use crate::ruleset::{Direction, rules_of};

/// What a service did, since the node's counts began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServiceTally {
    /// Calls and datagrams that were sent to a backend.
    pub calls: u64,
    /// Those that found no backend, or came from outside of its source ranges.
    pub refused: u64,
}

/// What a policy did, since the agent began to sum up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyTally {
    /// Flows that one of its rules let through.
    pub allowed: u64,
    /// Packets and calls that none of the policies of a pod that it selects let in.
    pub denied_ingress: u64,
    /// Packets and calls that none of the policies of a pod that it selects let out.
    pub denied_egress: u64,
}

/// Sums by object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tallies {
    seen: BTreeMap<ObjectKey, ObjectCount>,
    services: BTreeMap<ServiceId, ServiceTally>,
    policies: BTreeMap<PolicyId, PolicyTally>,
}

impl Tallies {
    /// Takes in every count that the kernel has. What is new is put down to the objects of `state`: call it before they
    /// change. Returns the keys whose objects are gone.
    pub fn take(
        &mut self,
        counts: impl IntoIterator<Item = (ObjectKey, ObjectCount)>,
        state: &NetworkState,
    ) -> Vec<ObjectKey> {
        let mut gone = Vec::new();
        for (key, count) in counts {
            let before = self.seen.insert(key, count).unwrap_or_default();
            // A row that was removed and made anew began at zero.
            let grown = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let new = ObjectCount {
                passed: grown(count.passed, before.passed),
                refused: grown(count.refused, before.refused),
            };
            if !self.put_down(key, new, state) {
                self.seen.remove(&key);
                gone.push(key);
            }
        }
        self.services
            .retain(|id, _| state.services.contains_key(id));
        self.policies
            .retain(|id, _| state.policies.contains_key(id));
        gone
    }

    /// By service; those that were never called are missing.
    pub fn services(&self) -> &BTreeMap<ServiceId, ServiceTally> {
        &self.services
    }

    /// By policy; those that never decided anything are missing.
    pub fn policies(&self) -> &BTreeMap<PolicyId, PolicyTally> {
        &self.policies
    }

    /// Says whether the object is there.
    fn put_down(&mut self, key: ObjectKey, new: ObjectCount, state: &NetworkState) -> bool {
        match key.kind {
            object_kind::SERVICE if state.services.contains_key(&ServiceId(key.number)) => {
                let tally = self.services.entry(ServiceId(key.number)).or_default();
                tally.calls += new.passed;
                tally.refused += new.refused;
                true
            }
            object_kind::POLICY if state.policies.contains_key(&PolicyId(key.number)) => {
                let tally = self.policies.entry(PolicyId(key.number)).or_default();
                tally.allowed += new.passed;
                true
            }
            object_kind::INGRESS_OF => self.deny(Direction::Ingress, key.number, new, state),
            object_kind::EGRESS_OF => self.deny(Direction::Egress, key.number, new, state),
            _ => false,
        }
    }

    fn deny(
        &mut self,
        direction: Direction,
        identity: u32,
        new: ObjectCount,
        state: &NetworkState,
    ) -> bool {
        let identity = IdentityId(identity);
        if new.refused > 0 {
            let selects = |policy: &&Policy| {
                policy.subjects.contains(&identity) && rules_of(policy, direction).is_some()
            };
            for policy in state.policies.values().filter(selects) {
                let tally = self.policies.entry(policy.id).or_default();
                *match direction {
                    Direction::Ingress => &mut tally.denied_ingress,
                    Direction::Egress => &mut tally.denied_egress,
                } += new.refused;
            }
        }
        state.identities.contains_key(&identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const CLOSED: IdentityId = IdentityId(20);

    fn state(policies: &[(u32, bool, bool)]) -> NetworkState {
        let mut state = NetworkState::default();
        for (number, ingress, egress) in policies {
            let policy = Policy {
                id: PolicyId(*number),
                namespace: "shop".into(),
                name: format!("p{number}"),
                subjects: BTreeSet::from([CLOSED]),
                ingress: ingress.then(Vec::new),
                egress: egress.then(Vec::new),
            };
            state.policies.insert(policy.id, policy);
        }
        let identity = waggle_model::network::Identity {
            id: CLOSED,
            tenant: waggle_model::TenantId(3),
            namespace: "shop".into(),
            labels: BTreeMap::new(),
            ports: Vec::new(),
        };
        state.identities.insert(CLOSED, identity);
        state
    }

    fn count(kind: u32, number: u32, passed: u64, refused: u64) -> (ObjectKey, ObjectCount) {
        (ObjectKey { kind, number }, ObjectCount { passed, refused })
    }

    #[test]
    fn a_refusal_is_put_down_to_every_policy_that_selects_the_pod_in_that_direction() {
        let mut tallies = Tallies::default();
        let state = state(&[(1, true, false), (2, true, true), (3, false, true)]);
        let counts = [
            count(object_kind::INGRESS_OF, CLOSED.0, 0, 5),
            count(object_kind::EGRESS_OF, CLOSED.0, 0, 2),
            count(object_kind::POLICY, 2, 9, 0),
        ];
        assert_eq!(tallies.take(counts, &state), vec![]);
        let of = |number| tallies.policies()[&PolicyId(number)];
        let tally = |allowed, denied_ingress, denied_egress| PolicyTally {
            allowed,
            denied_ingress,
            denied_egress,
        };
        assert_eq!(of(1), tally(0, 5, 0));
        assert_eq!(of(2), tally(9, 5, 2));
        assert_eq!(of(3), tally(0, 0, 2));
    }

    #[test]
    fn sums_keep_what_was_before_a_policy_came_and_after_one_went() {
        let mut tallies = Tallies::default();
        tallies.take(
            [count(object_kind::INGRESS_OF, CLOSED.0, 0, 5)],
            &state(&[(1, true, false)]),
        );
        tallies.take(
            [count(object_kind::INGRESS_OF, CLOSED.0, 0, 8)],
            &state(&[(1, true, false), (2, true, false)]),
        );
        assert_eq!(tallies.policies()[&PolicyId(1)].denied_ingress, 8);
        assert_eq!(tallies.policies()[&PolicyId(2)].denied_ingress, 3);
        tallies.take([], &state(&[(2, true, false)]));
        assert_eq!(tallies.policies().len(), 1);
    }

    #[test]
    fn rows_of_objects_that_are_gone_are_named_and_begin_anew() {
        let mut tallies = Tallies::default();
        let row = count(object_kind::POLICY, 7, 4, 0);
        assert_eq!(tallies.take([row], &state(&[])), vec![row.0]);
        let with = state(&[(7, true, false)]);
        tallies.take([count(object_kind::POLICY, 7, 1, 0)], &with);
        assert_eq!(tallies.policies()[&PolicyId(7)].allowed, 1);
        // Removed and made anew in between: it is less than what was seen.
        tallies.take([count(object_kind::POLICY, 7, 6, 0)], &with);
        tallies.take([count(object_kind::POLICY, 7, 2, 0)], &with);
        assert_eq!(tallies.policies()[&PolicyId(7)].allowed, 8);
    }
}
