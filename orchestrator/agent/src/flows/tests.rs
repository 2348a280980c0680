use super::*;
use waggle_model::network::{Endpoint, NodeNetwork, Service};
use waggle_model::{Generation, IdentityId, ServiceId};

fn state() -> NetworkState {
    let mut state = NetworkState {
        generation: Generation(1),
        ..NetworkState::default()
    };
    let address = "10.244.0.5".parse().unwrap();
    let endpoint = Endpoint {
        address,
        identity: IdentityId(1),
        tenant: TenantId(2),
        node: "node1".into(),
        namespace: "shop".into(),
        pod: "web".into(),
        host_ports: Vec::new(),
    };
    state.endpoints.insert(address, endpoint);
    let node = NodeNetwork {
        name: "node1".into(),
        addresses: vec!["172.30.0.11".parse().unwrap()],
        ..NodeNetwork::default()
    };
    state.nodes.insert("node1".into(), node);
    put_service(&mut state, 7, "cart", "10.96.0.9");
    state
}

fn put_service(state: &mut NetworkState, id: u32, name: &str, vip: &str) {
    let service = Service {
        id: ServiceId(id),
        namespace: "shop".into(),
        name: name.into(),
        tenant: TenantId(2),
        vips: vec![vip.parse().unwrap()],
        ..Service::default()
    };
    state.services.insert(service.id, service);
}

#[test]
fn an_end_has_the_name_of_whoever_has_the_address() {
    let (mut state, mut names, now) = (state(), Names::default(), Instant::now());
    let check = |names: &mut Names, state: &NetworkState, later: Duration, address: &str| {
        let address = SocketAddr::new(address.parse().unwrap(), 80);
        let end = names.end(address, TenantId(0), state, now + later).unwrap();
        format!(
            "{:?} {}/{} {}",
            end.kind(),
            end.namespace,
            end.name,
            end.tenant
        )
    };
    let at_once = Duration::ZERO;
    assert_eq!(
        check(&mut names, &state, at_once, "10.244.0.5"),
        "Pod shop/web 2"
    );
    assert_eq!(
        check(&mut names, &state, at_once, "10.96.0.9"),
        "Service shop/cart 2"
    );
    assert_eq!(
        check(&mut names, &state, at_once, "172.30.0.11"),
        "Node /node1 1"
    );
    assert_eq!(
        check(&mut names, &state, at_once, "192.0.2.1"),
        "Outside / 0"
    );
    state.services.clear();
    put_service(&mut state, 8, "till", "10.96.0.9");
    state.generation = Generation(2);
    assert_eq!(
        check(&mut names, &state, at_once, "10.96.0.9"),
        "Outside / 0",
        "an old name is not told"
    );
    let later = Duration::from_secs(1);
    assert_eq!(
        check(&mut names, &state, later, "10.96.0.9"),
        "Service shop/till 2"
    );
}

#[test]
fn a_flood_is_cut_off_and_counted() {
    let (mut rate, start) = (Rate::QUIET, Instant::now());
    let allowed = (0..5 * MOST)
        .filter(|_| rate.allows(Verdict::Drop, start))
        .count();
    assert_eq!(allowed as u64, MOST);
    assert_eq!(rate.skipped, 4 * MOST);
    assert_eq!(rate.ends(), Some(start + WINDOW));
    assert!(
        rate.allows(Verdict::Forward, start),
        "room is left for the others"
    );
}

#[test]
fn the_time_of_a_flow_is_when_it_was_decided() {
    let drop = FlowEvent {
        time: Duration::from_secs(10),
        reason: Reason::TenantWall,
        hook: "connect",
        source: None,
        destination: Some("10.96.0.9:80".parse().unwrap()),
        protocol: 6,
        source_tenant: TenantId(3),
        destination_tenant: TenantId(0),
        ifindex: 0,
    };
    let boot = (Duration::from_secs(12), 100_000_000_000);
    let mut names = Names::default();
    let Some(Item::Flow(flow)) = described(&drop, boot, &state(), &mut names, Instant::now())
    else {
        panic!("a drop is a flow")
    };
    assert_eq!(flow.time_ns, 98_000_000_000);
    assert_eq!(
        (flow.verdict(), flow.reason.as_str()),
        (v1::FlowVerdict::Drop, "tenant_wall")
    );
    assert_eq!(
        (flow.source, flow.destination.unwrap().name.as_str()),
        (None, "cart")
    );
}

fn flow(number: u64) -> Item {
    let end = |kind: v1::FlowEndKind, namespace: &str, name: &str, tenant, port| {
        Some(v1::FlowEnd {
            address: "10.0.0.1".into(),
            port,
            tenant,
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        })
    };
    Item::Flow(v1::Flow {
        time_ns: number,
        verdict: v1::FlowVerdict::Drop.into(),
        reason: "tenant_wall".into(),
        protocol: 6,
        source: end(v1::FlowEndKind::Pod, "shop", "web", 2, 40000),
        destination: end(v1::FlowEndKind::Service, "till", "cart", 3, 80),
        ..v1::Flow::default()
    })
}

#[test]
fn a_follower_gets_what_it_asked_for() {
    let check = |filter: v1::FlowFilter, expect: bool| {
        let cursor = Cursor {
            next: 0,
            since_ns: 5,
            filter,
        };
        assert_eq!(wanted(&flow(5), &cursor), expect, "{:?}", cursor.filter);
        assert!(!wanted(&flow(4), &cursor), "too old");
        assert!(
            wanted(&skipped(1, 5), &cursor),
            "what was skipped may be anything"
        );
    };
    let all = v1::FlowFilter::default;
    let in_namespace = |namespace: &str, pod: &str| v1::FlowFilter {
        namespace: namespace.into(),
        pod: pod.into(),
        ..all()
    };
    check(all(), true);
    check(in_namespace("till", ""), true);
    check(in_namespace("shop", "web"), true);
    check(in_namespace("till", "cart"), false);
    check(in_namespace("other", ""), false);
    check(
        v1::FlowFilter {
            tenant: 3,
            port: 80,
            protocol: 6,
            ..all()
        },
        true,
    );
    check(v1::FlowFilter { tenant: 4, ..all() }, false);
    check(v1::FlowFilter { port: 81, ..all() }, false);
    check(
        v1::FlowFilter {
            protocol: 17,
            ..all()
        },
        false,
    );
    check(
        v1::FlowFilter {
            reason: "tenant_wall".into(),
            ..all()
        },
        true,
    );
    check(
        v1::FlowFilter {
            reason: "malformed".into(),
            ..all()
        },
        false,
    );
    check(
        v1::FlowFilter {
            verdict: v1::FlowVerdict::Drop.into(),
            ..all()
        },
        true,
    );
    check(
        v1::FlowFilter {
            verdict: v1::FlowVerdict::Forward.into(),
            ..all()
        },
        false,
    );
}

/// The next frame's items.
async fn next(frames: &mut tokio::sync::mpsc::Receiver<v1::StreamFrame>) -> Vec<Item> {
    let soon = tokio::time::timeout(Duration::from_secs(5), frames.recv());
    let Some(Frame::Stdout(bytes)) = soon.await.unwrap().and_then(|one| one.frame) else {
        panic!("the frames of a flow log are stdout");
    };
    let frame = v1::FlowItems::decode(bytes).unwrap();
    frame.items.into_iter().filter_map(|one| one.item).collect()
}

#[tokio::test]
async fn followers_get_what_is_kept_then_what_comes_and_hear_what_they_missed() {
    let flows = Arc::new(Flows::default());
    let most = KEPT as u64;
    (0..most + 3).for_each(|number| flows.add(flow(number)));
    let (up, mut frames) = tokio::sync::mpsc::channel(1);
    let following = Arc::clone(&flows);
    let task = tokio::spawn(async move {
        let request = v1::FlowsRequest {
            follow: true,
            ..v1::FlowsRequest::default()
        };
        following.tell(request, &up).await;
    });
    let mut kept = Vec::new();
    while kept.last() != Some(&Item::PastTold(true)) {
        kept.extend(next(&mut frames).await);
    }
    assert_eq!((kept.len(), &kept[0]), (KEPT + 1, &flow(3)));
    // More than is kept, before the follower has its turn.
    (0..3 * most).for_each(|number| flows.add(flow(number)));
    let items = next(&mut frames).await;
    let Item::Skipped(missed) = &items[0] else {
        panic!("nothing is said of what was missed: {items:?}")
    };
    assert_eq!((missed.count, &items[1]), (2 * most, &flow(2 * most)));
    drop(frames);
    flows.add(flow(0));
    let ended = tokio::time::timeout(Duration::from_secs(5), task);
    ended.await.unwrap().unwrap();
}
