//! Numbers of rulesets.

use waggle_model::PolicyId;
use waggle_model::network::{Identity, Peers, Policy, PolicyRule};

use super::*;

/// Two governed identities, 10 and 11, which may be reached by whoever `peers` names.
fn state(peers: &[u32]) -> NetworkState {
    let identity = |id: u32| {
        let identity = Identity {
            id: IdentityId(id),
            ..Identity::default()
        };
        (identity.id, identity)
    };
    let rule = PolicyRule {
        peers: Peers::Of {
            identities: peers.iter().map(|id| IdentityId(*id)).collect(),
            blocks: vec![],
        },
        ports: vec![],
    };
    let policy = Policy {
        id: PolicyId(1),
        subjects: [IdentityId(10), IdentityId(11)].into(),
        ingress: Some(vec![rule]),
        ..Policy::default()
    };
    NetworkState {
        identities: [10, 11, 12].map(identity).into(),
        policies: [(policy.id, policy)].into(),
        ..NetworkState::default()
    }
}

fn asked(ids: &[u32]) -> BTreeSet<IdentityId> {
    ids.iter().map(|id| IdentityId(*id)).collect()
}

/// Enforces `state` and notes what it takes as done.
fn settle(state: &NetworkState, ids: &[u32], rulesets: &mut Rulesets) -> Enforcement {
    let made = enforce(state, &asked(ids), rulesets, &Capacity::default());
    assert_eq!(made.refused, []);
    for (number, ruleset) in &made.new {
        rulesets.adopt(*number, Arc::clone(ruleset));
    }
    made
}

#[test]
fn equal_content_shares_a_number_and_keeps_it() {
    let mut rulesets = Rulesets::default();
    let first = settle(&state(&[12]), &[10, 11, 12], &mut rulesets);
    assert_eq!(first.new.len(), 1);
    let number = first.new[0].0;
    let governed = |id: u32| first.governed[&IdentityId(id)];
    assert_eq!(governed(10), governed(11));
    assert_eq!(
        governed(10),
        Governed {
            ingress: number,
            egress: 0
        }
    );
    assert_eq!(governed(12), Governed::default());
    let again = settle(&state(&[12]), &[10, 11, 12], &mut rulesets);
    assert!(again.new.is_empty());
    assert_eq!(again.governed, first.governed);
    let changed = settle(&state(&[12, 11]), &[10], &mut rulesets);
    assert_ne!(changed.governed[&IdentityId(10)].ingress, number);
    let used = [changed.governed[&IdentityId(10)].ingress].into();
    assert_eq!(rulesets.unused(&used), [number]);
    rulesets.forget(number);
    let back = settle(&state(&[12]), &[10], &mut rulesets);
    assert_ne!(back.new[0].0, number, "flows may remember the old one");
}

#[test]
fn numbers_go_on_where_an_earlier_agent_stopped() {
    let mut rulesets = Rulesets::default();
    rulesets.resume(41);
    let made = settle(&state(&[12]), &[10], &mut rulesets);
    assert_eq!((made.new[0].0, rulesets.next()), (41, 42));
    rulesets.resume(u32::MAX);
    let made = settle(&state(&[11]), &[10], &mut rulesets);
    assert_eq!(made.new[0].0, 1, "neither the locked one nor none");
}

#[test]
fn who_is_unknown_is_locked_and_nothing_allowed_is_locked_too() {
    let mut rulesets = Rulesets::default();
    let made = settle(&state(&[12]), &[99, 0], &mut rulesets);
    assert_eq!(made.governed[&IdentityId(99)], Governed::LOCKED);
    assert_eq!(made.governed[&IdentityId(0)], Governed::LOCKED);
    let mut deny = state(&[]);
    deny.policies
        .values_mut()
        .for_each(|policy| policy.ingress = Some(vec![]));
    let made = settle(&deny, &[10], &mut rulesets);
    assert_eq!(
        made.governed[&IdentityId(10)],
        Governed {
            ingress: RULESET_LOCKED,
            egress: 0
        }
    );
    assert!(made.new.is_empty());
}

#[test]
fn what_does_not_fit_beside_the_old_rules_is_locked_and_said() {
    let capacity = Capacity {
        policy: 3,
        ..Capacity::default()
    };
    let mut rulesets = Rulesets::default();
    settle(&state(&[11, 12]), &[10], &mut rulesets);
    let before = rulesets.contents().keys().copied().next().unwrap();
    let made = enforce(
        &state(&[10, 12]),
        &asked(&[10, 12]),
        &mut rulesets,
        &capacity,
    );
    assert_eq!(made.new, []);
    assert_eq!(
        made.governed[&IdentityId(10)],
        Governed {
            ingress: RULESET_LOCKED,
            egress: 0
        }
    );
    assert_eq!(made.governed[&IdentityId(12)], Governed::default());
    let [refusal] = made.refused.as_slice() else {
        panic!("one is refused: {:?}", made.refused);
    };
    assert_eq!(refusal.claimant, Claimant::Identity(IdentityId(10)));
    assert_eq!(
        refusal.fault.to_string(),
        "4 policy rules are needed but this node's datapath has room for 3"
    );
    rulesets.forget(before);
    let made = enforce(&state(&[10, 12]), &asked(&[10]), &mut rulesets, &capacity);
    assert_eq!((made.new.len(), made.refused.len()), (1, 0), "now it fits");
}
