//! Flow logs of nodes that speak the real protocol, read over HTTP.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prost::Message as _;
use serde_json::{Value, json};
use waggle_wire::v1;
use waggle_wire::v1::flow_item::Item;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use super::*;
use crate::sessions::fixture::{Cluster, soon};
use crate::streams::router;
use crate::streams::tests::{Served, ask};

/// The routes of this room on a loopback port, for one user.
async fn serve(cluster: &Cluster, user: Option<User>) -> SocketAddr {
    let streams = Streams {
        objects: cluster.objects.clone(),
        leading: crate::leading::Leading::alone(cluster.sessions.clone()),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(streams).layer(Extension(Arc::new(Caller::new(user))));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn user(name: &str, group: &str) -> User {
    User {
        name: name.into(),
        groups: vec![group.into()],
        ..User::default()
    }
}

fn flow(time_ns: u64) -> Item {
    let end = |kind: v1::FlowEndKind, namespace: &str, name: &str, address: &str, port| {
        Some(v1::FlowEnd {
            address: address.into(),
            port,
            tenant: 1,
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        })
    };
    Item::Flow(v1::Flow {
        time_ns,
        verdict: v1::FlowVerdict::Drop.into(),
        reason: "tenant_wall".into(),
        message: "other tenant".into(),
        hook: "connect".into(),
        protocol: 6,
        source: end(v1::FlowEndKind::Pod, "shop", "web", "10.244.0.5", 0),
        destination: end(v1::FlowEndKind::Service, "till", "cart", "10.96.0.9", 80),
    })
}

fn items(items: impl IntoIterator<Item = Item>) -> Frame {
    let items = items
        .into_iter()
        .map(|item| v1::FlowItem { item: Some(item) });
    let items = v1::FlowItems {
        items: items.collect(),
    };
    Frame::Stdout(items.encode_to_vec().into())
}

/// Reads lines from a body as they come.
struct Reader {
    body: Incoming,
    rest: Vec<u8>,
}

impl Reader {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = soon("a line", self.body.frame()).await?.unwrap();
            let data: Bytes = frame.into_data().unwrap();
            self.rest.extend_from_slice(&data);
        }
    }

    async fn all(mut self) -> Vec<Value> {
        let mut lines = Vec::new();
        while let Some(line) = self.next().await {
            lines.push(line);
        }
        lines
    }
}

fn reader(answer: http::Response<Incoming>) -> Reader {
    assert_eq!(answer.status(), 200);
    Reader {
        body: answer.into_body(),
        rest: Vec::new(),
    }
}

const FLOWS: &str = "/apis/waggle.dev/v1/flows";

#[tokio::test]
async fn logs_of_all_nodes_are_one_and_a_dead_node_costs_a_warning() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster, Some(user("root", "system:masters"))).await;
    let (mut one, mut two) = (cluster.agent("node1").await, cluster.agent("node2").await);
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node3"}}))
        .await;
    let path = format!("{FLOWS}?pod=shop/web&verdict=drop&port=80&protocol=tcp&reason=tenant_wall");
    let (first, second, answer) = tokio::join!(
        Served::next(&mut one),
        Served::next(&mut two),
        ask(address, "GET", &path, None)
    );
    let Request::Flows(request) = &first.request else {
        panic!("{:?}", first.request)
    };
    let filter = request.filter.clone().unwrap();
    assert_eq!(
        (filter.namespace.as_str(), filter.pod.as_str()),
        ("shop", "web")
    );
    assert_eq!(
        (filter.port, filter.protocol, filter.verdict()),
        (80, 6, v1::FlowVerdict::Drop)
    );
    let skipped = Item::Skipped(v1::FlowsSkipped {
        time_ns: 2_500,
        count: 9,
    });
    first.say(items([flow(1_000), skipped, flow(4_000)])).await;
    first.say(items([flow(5_000), Item::PastTold(true)])).await;
    second.say(items([flow(2_000), flow(3_000)])).await;
    first.end(0, "", "").await;
    second.end(0, "", "").await;
    let lines = reader(answer).all().await;
    let brief: Vec<String> = lines
        .iter()
        .map(|line| {
            format!(
                "{} {}",
                line["type"].as_str().unwrap(),
                line["node"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            "warning node3",
            "flow node1",
            "flow node2",
            "skipped node1",
            "flow node2",
            "flow node1",
            "flow node1"
        ]
    );
    assert_eq!(lines[3]["count"], 9);
    assert_eq!(
        lines[1]["source"],
        json!({"address": "10.244.0.5", "kind": "pod", "namespace": "shop", "name": "web",
               "tenant": waggle_model::SYSTEM_TENANT})
    );
}

#[tokio::test]
async fn a_follower_hears_what_comes_and_of_a_node_that_is_lost_and_comes_back() {
    let cluster = Cluster::start().await;
    let address = serve(&cluster, Some(user("root", "system:masters"))).await;
    let mut agent = cluster.agent("node1").await;
    let path = format!("{FLOWS}?watch=true");
    let (served, answer) = tokio::join!(Served::next(&mut agent), ask(address, "GET", &path, None));
    served.say(items([flow(1_000), Item::PastTold(true)])).await;
    let mut reader = reader(answer);
    assert_eq!(reader.next().await.unwrap()["type"], "flow");
    let later = u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap() + (1 << 40);
    served.say(items([flow(later)])).await;
    assert_eq!(reader.next().await.unwrap()["type"], "flow");
    served.end(0, "the ring is gone", "InternalError").await;
    let lost = reader.next().await.unwrap();
    assert_eq!(lost["type"], "warning");
    assert!(
        lost["message"]
            .as_str()
            .unwrap()
            .contains("the ring is gone"),
        "{lost}"
    );
    let mut again = Served::next(&mut agent).await;
    let Request::Flows(request) = &again.request else {
        panic!("{:?}", again.request)
    };
    assert_eq!(request.since_ns, later + 1, "nothing is told twice");
    again.say(items([Item::PastTold(true)])).await;
    assert_eq!(reader.next().await.unwrap()["type"], "note");
    drop(reader);
    assert!(again.hear().await.is_none(), "nobody listens any more");
}

#[tokio::test]
async fn names_in_other_namespaces_are_not_shown() {
    let cluster = Cluster::start().await;
    for object in [
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
               "metadata": {"namespace": "shop", "name": "sight"},
               "rules": [{"apiGroups": ["waggle.dev"], "resources": ["flows"], "verbs": ["list", "watch"]}]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
               "metadata": {"namespace": "shop", "name": "sight"},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "sight"},
               "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]}),
    ] {
        cluster.create(object).await;
    }
    let address = serve(&cluster, Some(user("ann", "shop"))).await;
    let mut agent = cluster.agent("node1").await;
    let path = "/apis/waggle.dev/v1/namespaces/shop/flows?node=node1";
    let (served, answer) = tokio::join!(Served::next(&mut agent), ask(address, "GET", path, None));
    served.say(items([flow(1_000), Item::PastTold(true)])).await;
    served.end(0, "", "").await;
    let lines = reader(answer).all().await;
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["source"]["name"], "web");
    assert_eq!(
        lines[0]["destination"],
        json!({"address": "10.96.0.9", "kind": "service", "port": 80, "tenant": waggle_model::SYSTEM_TENANT})
    );
}

#[tokio::test]
async fn what_can_not_be_asked_for_is_said_clearly() {
    let cluster = Cluster::start().await;
    let nobody = serve(&cluster, None).await;
    assert_eq!(ask(nobody, "GET", FLOWS, None).await.status(), 401);
    let address = serve(&cluster, Some(user("root", "system:masters"))).await;
    for (path, code, words) in [
        (
            format!("{FLOWS}?verdict=eaten"),
            400,
            "drop, forward or translate",
        ),
        (format!("{FLOWS}?protocol=0"), 400, "protocol must be"),
        (format!("{FLOWS}?pod=web"), 400, "write NAMESPACE/NAME"),
        (format!("{FLOWS}?tenant=nobody"), 400, "tenant"),
        (format!("{FLOWS}?node=node9"), 404, "node9"),
        (format!("{FLOWS}?colour=red"), 400, "colour"),
        (
            "/apis/waggle.dev/v1/namespaces/shop/flows?pod=till/web".to_owned(),
            400,
            "not in namespace",
        ),
    ] {
        let answer = ask(address, "GET", &path, None).await;
        assert_eq!(answer.status().as_u16(), code, "{path}");
        let body = soon("a body", answer.into_body().collect()).await.unwrap();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        assert!(text.contains(words), "{path}: {text}");
    }
}
