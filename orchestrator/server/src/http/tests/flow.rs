//! Priority and fairness at the API's door.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use waggle_api::access::{Action, User};

use super::*;

const CLIENTS: usize = 64;

async fn api_of(seats: u32) -> Api {
    let mut api = api().await;
    api.state.flow = FlowControl::new(Some(seats));
    api.router = super::super::router(api.state.clone());
    let binding = json!({
        "metadata": {"name": "everybody-views"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:authenticated"}],
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(api.post(path, &binding).await.0, 201);
    api
}

impl Api {
    async fn get_as(&self, user: &str, group: Option<&str>, path: &str) -> Response {
        let mut request = Request::get(path).header("Impersonate-User", user);
        if let Some(group) = group {
            request = request.header("Impersonate-Group", group);
        }
        self.send(request, Body::empty()).await
    }

    fn load(&self, level: &str) -> String {
        let lines = crate::metrics::render(&self.state.flow.families());
        let of = format!("{{priority_level=\"{level}\"");
        lines
            .lines()
            .filter(|line| line.contains(&of))
            .map(|line| line.trim_start_matches("apiserver_flowcontrol_"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn gauge(&self, name: &str, level: &str) -> u32 {
        let load = self.load(level);
        let line = load.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap()
    }

    /// Takes a seat as `user` would for a list.
    async fn occupy(&self, user: &str) -> Option<crate::flow::Seat> {
        let user = User {
            name: user.into(),
            groups: vec!["system:authenticated".into()],
            ..User::default()
        };
        let action = Action {
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..Action::default()
        };
        let (control, objects) = (&self.state.flow, &self.state.objects);
        let flow = control.flow(objects, Some(&user), &action);
        let entered = tokio::time::timeout(Duration::from_millis(20), control.enter(&flow, 1));
        entered.await.ok()?.ok()
    }
}

#[tokio::test]
async fn levels_and_schemas_are_objects_and_answers_name_theirs() {
    let api = api_of(245).await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let (_, schemas) = api.get(&format!("{group}/flowschemas")).await;
    assert_eq!(schemas["items"].as_array().unwrap().len(), 13);
    let (_, level) = api
        .get(&format!(
            "{group}/prioritylevelconfigurations/global-default"
        ))
        .await;
    let (_, schema) = api
        .get(&format!("{group}/flowschemas/global-default"))
        .await;
    let response = api
        .get_as("ann", None, "/api/v1/namespaces/default/pods")
        .await;
    assert_eq!(response.status(), 200);
    for (header, object) in [
        ("x-kubernetes-pf-flowschema-uid", &schema),
        ("x-kubernetes-pf-prioritylevel-uid", &level),
    ] {
        let uid = response.headers()[header].to_str().unwrap();
        assert_eq!(object["metadata"]["uid"], uid, "{header}");
    }
    drop(response);
    let load = api.load("global-default");
    for line in [
        "current_executing_seats{priority_level=\"global-default\"} 0",
        "nominal_limit_seats{priority_level=\"global-default\"} 20",
        "dispatched_requests_total{priority_level=\"global-default\",flow_schema=\"global-default\"} 1",
    ] {
        assert!(load.contains(line), "{line} is not in\n{load}");
    }
    let (code, status) = api
        .patch(
            &format!("{group}/prioritylevelconfigurations/catch-all"),
            "application/merge-patch+json",
            &json!({"spec": {"limited": {"nominalConcurrencyShares": 500}}}),
        )
        .await;
    assert_eq!(code, 422, "{status}");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .contains("cannot be changed")
    );
    let bad = json!({"metadata": {"name": "x"}, "spec": {"type": "Limited", "limited": {
        "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 5}}}}});
    let (code, status) = api
        .post(&format!("{group}/prioritylevelconfigurations"), &bad)
        .await;
    assert_eq!(code, 422, "{status}");
    let field = &status["details"]["causes"][0]["field"];
    assert_eq!(field, "spec.limited.limitResponse.queuing.handSize");
}

#[tokio::test]
async fn a_new_level_takes_effect_at_once() {
    let api = api_of(100).await;
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({"metadata": {"name": "slow"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let schema = json!({"metadata": {"name": "eve"}, "spec": {
        "priorityLevelConfiguration": {"name": "slow"}, "matchingPrecedence": 600,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "eve"}}], "resourceRules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    assert!(api.occupy("eve").await.is_some());
    assert_eq!(
        api.post(&format!("{group}/prioritylevelconfigurations"), &level)
            .await
            .0,
        201
    );
    assert_eq!(
        api.post(&format!("{group}/flowschemas"), &schema).await.0,
        201
    );
    let seat = api.occupy("eve").await.expect("the level has one seat");
    let response = api
        .get_as("eve", None, "/api/v1/namespaces/default/pods")
        .await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let (_, status) = read(response).await;
    assert_eq!(status["reason"], "TooManyRequests");
    let other = api
        .get_as("ann", None, "/api/v1/namespaces/default/pods")
        .await;
    assert_eq!(other.status(), 200);
    drop(seat);
    let response = api
        .get_as("eve", None, "/api/v1/namespaces/default/pods")
        .await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_flood_leaves_nodes_their_seats_and_its_neighbours_their_turn() {
    let api = api_of(49).await;
    let mut flood = Vec::new();
    while let Some(seat) = api.occupy("eve").await {
        flood.push(seat);
    }
    let node = ("system:node:n1", Some("system:nodes"));
    let beat = api.get_as(node.0, node.1, "/api/v1/services").await;
    assert_eq!(beat.status(), 200);
    assert_eq!(api.gauge("current_executing_seats", "system"), 1);
    drop(beat);
    // A watch has a seat until it has begun, not while it goes on.
    let watch = api.get_as(node.0, node.1, "/api/v1/services?watch=1").await;
    assert_eq!(watch.status(), 200);
    assert_eq!(api.gauge("current_executing_seats", "system"), 0);
    // Whoever hangs up waits no longer.
    let waiting = || api.gauge("current_inqueue_requests", "global-default");
    assert_eq!(waiting(), 0);
    let list = api.get_as("ann", None, "/api/v1/namespaces/default/pods");
    let mut list = std::pin::pin!(list);
    let early = tokio::time::timeout(Duration::from_millis(50), list.as_mut()).await;
    assert!(early.is_err(), "ann waits");
    assert_eq!(waiting(), 1);
    flood.pop();
    assert_eq!(list.await.status(), 200);
    assert_eq!(waiting(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_lists_is_bounded_and_heartbeats_do_not_wait() {
    let api = Arc::new(api_of(49).await);
    for number in 0..150 {
        let config = json!({"metadata": {"name": format!("c{number}")}});
        assert_eq!(api.post(CONFIGS, &config).await.0, 201);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut flood = Vec::new();
    for _ in 0..CLIENTS {
        let (api, stop) = (Arc::clone(&api), Arc::clone(&stop));
        flood.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let response = api.get_as("eve", None, CONFIGS).await;
                assert!(matches!(response.status().as_u16(), 200 | 429));
                // As over a network: an answer is not read in no time.
                tokio::time::sleep(Duration::from_millis(2)).await;
                response.into_body().collect().await.unwrap();
            }
        }));
    }
    // Its own 4, and what system, node-high, workload-high and workload-low lend.
    let most = 4 + 1 + 2 + 4 + 18;
    let (mut fullest, mut longest) = (0, Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(20);
    while fullest < most - 1 {
        assert!(Instant::now() < until, "the flood is none: {fullest}");
        let began = Instant::now();
        let beat = api.get_as("system:node:n1", Some("system:nodes"), "/api/v1/services");
        assert_eq!(beat.await.status(), 200);
        longest = longest.max(began.elapsed());
        let ann = format!("{CONFIGS}/c1");
        assert_eq!(api.get_as("ann", None, &ann).await.status(), 200);
        let seats = api.gauge("current_executing_seats", "global-default");
        assert!(seats <= most, "{seats} of {most}");
        fullest = fullest.max(seats);
        assert_eq!(api.gauge("current_inqueue_requests", "system"), 0);
    }
    eprintln!("heartbeats took {longest:?} at most while lists had {fullest} seats");
    stop.store(true, Ordering::Relaxed);
    for client in flood {
        client.await.unwrap();
    }
    assert_eq!(api.gauge("current_executing_seats", "global-default"), 0);
}
