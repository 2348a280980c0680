//! Policies in, rows out.

use std::net::IpAddr;

use proptest::prelude::*;
use waggle_model::TenantId;
use waggle_model::network::NamedPort;

use super::*;

fn identity(id: u32, ports: &[(&str, u16)]) -> Identity {
    Identity {
        id: IdentityId(id),
        tenant: TenantId(2),
        namespace: "shop".to_owned(),
        ports: ports
            .iter()
            .map(|(name, port)| NamedPort {
                name: (*name).to_owned(),
                protocol: Protocol::Tcp,
                port: *port,
            })
            .collect(),
        ..Identity::default()
    }
}

/// Identity 10 is governed; 11 and 12 are its peers, and both serve "http", at different ports.
fn state(policies: Vec<Policy>) -> NetworkState {
    let identities = [
        identity(10, &[("http", 8080)]),
        identity(11, &[("http", 9090)]),
        identity(12, &[("http", 7070)]),
    ];
    NetworkState {
        identities: identities.into_iter().map(|one| (one.id, one)).collect(),
        policies: policies.into_iter().map(|one| (one.id, one)).collect(),
        ..NetworkState::default()
    }
}

fn policy(id: u32, ingress: Option<Vec<PolicyRule>>, egress: Option<Vec<PolicyRule>>) -> Policy {
    Policy {
        id: PolicyId(id),
        subjects: [IdentityId(10)].into(),
        ingress,
        egress,
        ..Policy::default()
    }
}

fn port(port: PortMatch) -> PolicyPort {
    PolicyPort {
        protocol: Protocol::Tcp,
        port,
    }
}

fn pods(ids: &[u32]) -> Peers {
    Peers::Of {
        identities: ids.iter().map(|id| IdentityId(*id)).collect(),
        blocks: vec![],
    }
}

fn block(range: &str, except: &[&str]) -> IpBlock {
    IpBlock {
        range: range.parse().unwrap(),
        except: except.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn ranges(blocks: Vec<IpBlock>) -> Peers {
    Peers::Of {
        identities: BTreeSet::new(),
        blocks,
    }
}

fn rule(peers: Peers, ports: Vec<PolicyPort>) -> PolicyRule {
    PolicyRule { peers, ports }
}

fn ingress(rules: Vec<PolicyRule>) -> Ruleset {
    let state = state(vec![policy(1, Some(rules), None)]);
    compile(&state, IdentityId(10), Direction::Ingress).unwrap()
}

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

const OUTSIDE: IdentityId = IdentityId(0);
const TCP: u8 = 6;

#[test]
fn who_is_not_selected_is_not_governed() {
    let state = state(vec![policy(1, Some(vec![]), None)]);
    assert_eq!(compile(&state, IdentityId(11), Direction::Ingress), None);
    assert_eq!(compile(&state, IdentityId(10), Direction::Egress), None);
    let ruleset = compile(&state, IdentityId(10), Direction::Ingress).unwrap();
    assert!(ruleset.is_empty());
}

#[test]
fn a_rule_without_peers_and_ports_allows_everything() {
    let all = ingress(vec![rule(Peers::Everyone, vec![])]);
    assert_eq!(all.len(), (1, 0));
    for protocol in [1, 6, 17, 132] {
        let allowed = all.allows(OUTSIDE, addr("192.0.2.1"), protocol, 7);
        assert_eq!(allowed, Some(PolicyId(1)));
    }
}

#[test]
fn policies_add_up() {
    let state = state(vec![
        policy(
            1,
            Some(vec![rule(
                pods(&[11]),
                vec![port(PortMatch::Range(80, 80))],
            )]),
            None,
        ),
        policy(2, Some(vec![rule(pods(&[12]), vec![])]), None),
        policy(3, Some(vec![]), None),
    ]);
    let both = compile(&state, IdentityId(10), Direction::Ingress).unwrap();
    let asks = |id: u32, port: u16| both.allows(IdentityId(id), addr("10.244.0.9"), TCP, port);
    assert_eq!(asks(11, 80), Some(PolicyId(1)));
    assert_eq!(asks(11, 81), None);
    assert_eq!(asks(12, 81), Some(PolicyId(2)));
    assert_eq!(asks(0, 80), None);
}

#[test]
fn names_are_the_receivers() {
    let http = || vec![port(PortMatch::Named("http".to_owned()))];
    let coming = ingress(vec![rule(pods(&[11]), http())]);
    let place = addr("10.244.0.9");
    assert!(coming.allows(IdentityId(11), place, TCP, 8080).is_some());
    assert!(coming.allows(IdentityId(11), place, TCP, 9090).is_none());
    for peers in [pods(&[11, 12]), Peers::Everyone] {
        let state = state(vec![policy(1, None, Some(vec![rule(peers, http())]))]);
        let going = compile(&state, IdentityId(10), Direction::Egress).unwrap();
        assert!(going.allows(IdentityId(11), place, TCP, 9090).is_some());
        assert!(going.allows(IdentityId(12), place, TCP, 7070).is_some());
        assert!(going.allows(IdentityId(11), place, TCP, 7070).is_none());
        assert!(
            going
                .allows(OUTSIDE, addr("192.0.2.1"), TCP, 9090)
                .is_none()
        );
    }
    let everywhere = ranges(vec![block("0.0.0.0/0", &[])]);
    let state = state(vec![policy(1, None, Some(vec![rule(everywhere, http())]))]);
    let going = compile(&state, IdentityId(10), Direction::Egress).unwrap();
    assert!(going.is_empty(), "addresses have no names for ports");
    let nameless = ingress(vec![rule(
        Peers::Everyone,
        vec![port(PortMatch::Named("none".to_owned()))],
    )]);
    assert!(nameless.is_empty(), "a name that nobody has allows nothing");
}

#[test]
fn holes_in_ranges_are_denied_unless_another_range_allows_them() {
    let one = rule(
        ranges(vec![block("10.0.0.0/8", &["10.1.0.0/16"])]),
        vec![port(PortMatch::Range(80, 80))],
    );
    let other = rule(ranges(vec![block("10.1.2.0/24", &[])]), vec![]);
    let ruleset = ingress(vec![one, other]);
    for (text, port, expect) in [
        ("10.2.0.1", 80, true),
        ("10.2.0.1", 81, false),
        ("10.1.0.1", 80, false),
        ("10.1.2.1", 80, true),
        ("10.1.2.1", 81, true),
        ("11.0.0.1", 80, false),
        ("::a00:1", 80, false),
    ] {
        let allowed = ruleset.allows(OUTSIDE, addr(text), TCP, port).is_some();
        assert_eq!(allowed, expect, "{text} {port}");
    }
    let pod = ruleset.allows(IdentityId(11), addr("10.2.0.1"), TCP, 80);
    assert!(pod.is_some(), "a pod's address is an address");
    let six = ingress(vec![rule(
        ranges(vec![block("fd00::/8", &["fd00:1::/32"])]),
        vec![],
    )]);
    assert!(six.allows(OUTSIDE, addr("fd01::1"), TCP, 1).is_some());
    assert!(six.allows(OUTSIDE, addr("fd00:1::1"), TCP, 1).is_none());
    let any = ingress(vec![rule(ranges(vec![block("0.0.0.0/0", &[])]), vec![])]);
    assert!(any.allows(OUTSIDE, addr("192.0.2.1"), TCP, 1).is_some());
    assert!(any.allows(OUTSIDE, addr("fd01::1"), TCP, 1).is_none());
}

#[test]
fn rows_come_back_from_the_kernel_as_they_went_in() {
    let ruleset = ingress(vec![
        rule(
            pods(&[11]),
            vec![port(PortMatch::Range(1, 65535)), port(PortMatch::Every)],
        ),
        rule(ranges(vec![block("10.0.0.0/8", &["10.1.0.0/16"])]), vec![]),
    ]);
    let mut again = Ruleset::default();
    for (bits, key, policy) in ruleset.rule_rows(7) {
        assert_eq!(key.ruleset, 7);
        again.adopt_rule(bits, key, policy);
    }
    for (bits, key, class) in ruleset.block_rows(7) {
        again.adopt_block(bits, key, class);
    }
    assert_eq!(again, ruleset);
}

proptest! {
    #[test]
    fn a_range_is_cut_into_prefixes_that_hold_it_and_nothing_else(
        first in any::<u16>(), more in any::<u16>(), probe in any::<u16>(),
    ) {
        let last = first.saturating_add(more);
        let cut = prefixes(Protocol::Tcp, first, last);
        prop_assert!(cut.len() <= 30);
        for port in [first, last, probe, first.wrapping_sub(1), last.wrapping_add(1)] {
            let holding = cut.iter().filter(|ports| ports.hold(TCP, port)).count();
            prop_assert_eq!(holding, usize::from((first..=last).contains(&port)), "{}", port);
            prop_assert!(!cut.iter().any(|ports| ports.hold(17, port)));
        }
    }
}
