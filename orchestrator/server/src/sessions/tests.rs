//! Sessions over the real protocol: joining, being told, telling, and the order in which pods end.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;
use waggle_api::{DeleteOptions, Part};
use waggle_wire::v1;
use waggle_wire::v1::enrolment_client::EnrolmentClient;
use waggle_wire::v1::from_agent::Message as Up;
use waggle_wire::v1::node_client::NodeClient;

use super::fixture::{Agent, Cluster, request, soon};
use super::kind;

fn running(ip: &str) -> Value {
    json!({
        "phase": "Running", "podIP": ip,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "image": "web:1", "imageID": "",
                               "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}],
    })
}

fn ready(status: &Value) -> Option<&str> {
    let rows = status["conditions"].as_array()?;
    rows.iter().find(|row| row["type"] == "Ready")?["status"].as_str()
}

#[tokio::test]
async fn a_machine_joins_with_the_token_and_only_with_it() {
    let cluster = Cluster::start().await;
    let (_, csr_pem) = request();
    let join = |token: &str, node: &str, csr_pem: &str| v1::JoinRequest {
        token: token.into(),
        node: node.into(),
        csr_pem: csr_pem.into(),
    };
    let mut desk = EnrolmentClient::new(cluster.stranger().await);
    let token = cluster.pki.join_token().to_owned();
    let wrong = desk
        .join(join("wrong", "node1", &csr_pem))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::Unauthenticated);
    assert!(
        wrong.message().contains("join token is wrong"),
        "{}",
        wrong.message()
    );
    let name = desk
        .join(join(&token, "Node_1", &csr_pem))
        .await
        .unwrap_err();
    assert!(name.message().contains("Node_1"), "{}", name.message());
    let nonsense = desk
        .join(join(&token, "node1", "nonsense"))
        .await
        .unwrap_err();
    assert_eq!(nonsense.code(), Code::InvalidArgument);
    assert!(
        desk.join(join(&token, "node1", &csr_pem))
            .await
            .unwrap()
            .into_inner()
            .ca_pem
            .contains("BEGIN")
    );
}

#[tokio::test]
async fn a_session_needs_the_nodes_own_certificate() {
    let cluster = Cluster::start().await;
    let hello = |node: &str| v1::Hello {
        node: node.into(),
        ..v1::Hello::default()
    };
    let stranger = Agent::dial(cluster.stranger().await, hello("node1"))
        .await
        .unwrap_err();
    assert_eq!(stranger.code(), Code::Unauthenticated);
    let (_up, mut down) = Agent::dial(cluster.joined("node1").await, hello("node2"))
        .await
        .unwrap();
    let refused = soon("a refusal", down.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (_, csr_pem) = request();
    let mut node = NodeClient::new(cluster.joined("node1").await);
    let renewed = node
        .renew(v1::RenewRequest { csr_pem })
        .await
        .unwrap()
        .into_inner();
    assert!(renewed.certificate_pem.contains("BEGIN CERTIFICATE"));
}

#[tokio::test]
async fn a_node_is_registered_once_and_keeps_its_range() {
    let cluster = Cluster::start().await;
    let one = cluster.agent("node1").await;
    let two = cluster.agent("node2").await;
    assert_eq!(
        (one.welcome.pod_cidr.as_str(), two.welcome.pod_cidr.as_str()),
        ("10.244.0.0/24", "10.244.1.0/24")
    );
    assert_eq!(one.welcome.cluster.as_ref().unwrap().dns_vip, "10.96.0.10");
    one.heartbeat().await;
    let nodes = kind("v1", "Node").unwrap();
    let node = cluster
        .eventually("node1 is ready", |cluster| {
            let node = cluster.objects.get(nodes, "", "node1")?;
            let labelled = node.value["metadata"]["labels"]["kubernetes.io/arch"] == "amd64";
            (ready(&node.value["status"]) == Some("True") && labelled).then_some(node)
        })
        .await;
    assert_eq!(
        node.value["status"]["addresses"][0]["address"],
        "172.30.0.11"
    );
    assert_eq!(
        node.value["metadata"]["labels"]["kubernetes.io/hostname"],
        "node1"
    );
    let lease = cluster.objects.get(
        kind("coordination.k8s.io/v1", "Lease").unwrap(),
        "kube-node-lease",
        "node1",
    );
    assert!(lease.unwrap().value["spec"]["renewTime"].is_string());
    let (channel, memory) = one.hang_up();
    let again = Agent::connect(channel, "node1", memory).await;
    assert_eq!(again.welcome.pod_cidr, "10.244.0.0/24");
}

#[tokio::test]
async fn a_node_that_is_deleted_while_connected_has_to_say_hello_again() {
    let cluster = Cluster::start().await;
    let hello = v1::Hello {
        node: "node1".into(),
        address: "172.30.0.11".into(),
        ..v1::Hello::default()
    };
    let channel = cluster.joined("node1").await;
    let (_up, mut down) = Agent::dial(channel.clone(), hello).await.unwrap();
    soon("a welcome", down.message()).await.unwrap();
    let nodes = kind("v1", "Node").unwrap();
    let before = cluster.objects.get(nodes, "", "node1").unwrap();
    cluster
        .objects
        .delete(nodes, "", "node1", &DeleteOptions::default())
        .await
        .unwrap();
    let ended = soon("the end of the session", async {
        loop {
            if let Err(status) = down.message().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(ended.code(), Code::Aborted);
    let again = cluster.agent("node1").await;
    let node = cluster.objects.get(nodes, "", "node1").unwrap();
    assert_ne!(node.uid, before.uid);
    assert_eq!(
        node.value["spec"]["podCIDR"],
        again.welcome.pod_cidr.as_str()
    );
    again.heartbeat().await;
    cluster
        .eventually("node1 is ready again", |cluster| {
            let node = cluster.objects.get(nodes, "", "node1")?;
            (ready(&node.value["status"]) == Some("True")).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_pod_is_told_with_all_it_needs_and_again_when_that_changes() {
    let cluster = Cluster::start().await;
    let mut agent = cluster.agent("node1").await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "settings"},
                       "data": {"k": "1"}}))
        .await;
    cluster
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"containers": [{"name": "main", "image": "web:1",
                                     "envFrom": [{"configMapRef": {"name": "settings"}}]}]},
        }))
        .await;
    cluster
        .objects
        .bind("shop", "web", "", "node1")
        .await
        .unwrap();
    let pod = agent
        .until("the pod", |agent| agent.memory.pods.get("web").cloned())
        .await;
    assert_eq!(pod.address, "10.244.0.2");
    assert!(
        pod.identity > 1 && pod.tenant > 1,
        "{} {}",
        pod.identity,
        pod.tenant
    );
    assert!(String::from_utf8_lossy(&pod.config_maps_json[0]).contains("\"k\":\"1\""));
    assert_eq!(
        cluster.pod("web").unwrap().value["status"]["podIP"],
        "10.244.0.2",
        "written before it is told"
    );
    let told = agent.pod_messages.len();
    agent.report("web", &pod.uid, running("10.244.0.2")).await;
    cluster
        .eventually("the status is taken in", |cluster| {
            (cluster.pod("web")?.value["status"]["phase"] == "Running").then_some(())
        })
        .await;
    cluster
        .change("v1", "ConfigMap", ("shop", "settings"), Part::Main, |map| {
            map["data"]["k"] = json!("2")
        })
        .await;
    agent
        .until("the new ConfigMap", |agent| {
            let map = agent.memory.pods.get("web")?.config_maps_json.first()?;
            String::from_utf8_lossy(map)
                .contains("\"k\":\"2\"")
                .then_some(())
        })
        .await;
    assert_eq!(
        agent.pod_messages.len(),
        told + 1,
        "its own status was not told back to it"
    );
}

#[tokio::test]
async fn a_node_is_believed_about_its_own_pods_only() {
    let cluster = Cluster::start().await;
    let mut one = cluster.agent("node1").await;
    let two = cluster.agent("node2").await;
    let pod = cluster.bound_pod("web", "node1").await;
    one.until("the pod", |agent| agent.memory.pods.get("web").cloned())
        .await;
    two.report("web", &pod.uid, json!({"phase": "Failed"}))
        .await;
    one.report("web", "another uid", json!({"phase": "Failed"}))
        .await;
    one.report("web", &pod.uid, running("10.9.9.9")).await;
    let pod = cluster
        .eventually("the status", |cluster| {
            let pod = cluster.pod("web")?;
            (pod.value["status"]["phase"] != "Pending").then_some(pod)
        })
        .await;
    let status = &pod.value["status"];
    assert_eq!(
        (status["phase"].as_str(), status["podIP"].as_str()),
        (Some("Running"), Some("10.244.0.2"))
    );
    let scheduled = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .any(|row| row["type"] == "PodScheduled");
    assert!(scheduled, "conditions of others stay: {status}");
}

#[tokio::test]
async fn events_and_usage_arrive_and_repetition_is_counted() {
    let cluster = Cluster::start().await;
    let agent = cluster.agent("node1").await;
    let event = json!({
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u"},
        "type": "Warning", "reason": "BackOff", "message": "again",
    });
    for _ in 0..3 {
        agent
            .say(Up::Event(v1::Event {
                event_json: event.to_string().into(),
            }))
            .await;
    }
    let events = kind("v1", "Event").unwrap();
    let counted = cluster
        .eventually("three in one", |cluster| {
            let listed = cluster.objects.list(events, Some("shop")).objects;
            listed.into_iter().find(|event| event.value["count"] == 3)
        })
        .await;
    assert_eq!(
        counted.value["source"],
        json!({"component": "waggle-agent", "host": "node1"})
    );
    agent
        .say(Up::Usage(v1::Usage {
            cpu_nanocores: 5,
            time_ns: 1,
            ..v1::Usage::default()
        }))
        .await;
    soon("the figures", async {
        while cluster.usage.node_metrics().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn all_nodes_get_the_same_bytes_and_resume_by_them() {
    let cluster = Cluster::start().await;
    let mut one = cluster.agent("node1").await;
    let mut two = cluster.agent("node2").await;
    let knows = |name: &'static str| {
        move |agent: &Agent| agent.memory.network.nodes.contains_key(name).then_some(())
    };
    one.until("node2 in the network", knows("node2")).await;
    two.until("node2 in the network", knows("node2")).await;
    let (seen_one, seen_two) = (one.network_messages.len(), two.network_messages.len());
    let _three = cluster.agent("node3").await;
    one.until("node3", knows("node3")).await;
    two.until("node3", knows("node3")).await;
    let (mut news_one, mut news_two) = (
        one.network_messages.split_off(seen_one),
        two.network_messages.split_off(seen_two),
    );
    assert_eq!(news_one.pop(), news_two.pop());
    let (channel, memory) = two.hang_up();
    let before = memory.network.generation;
    let _four = cluster.agent("node4").await;
    one.until("node4", knows("node4")).await;
    let mut two = Agent::connect(channel, "node2", memory).await;
    two.until("node4", knows("node4")).await;
    assert!(two.memory.network.generation > before);
    assert!(
        two.network_messages
            .iter()
            .all(|(kind, _)| *kind == "delta"),
        "resumed without a snapshot"
    );
    assert!(two.pod_messages.is_empty(), "nothing new about pods");
    assert_eq!(two.memory.network, one.memory.network);
}

#[tokio::test]
async fn a_restarted_server_says_the_same_under_a_later_generation() {
    let cluster = Cluster::start().await;
    let mut agent = cluster.agent("node1").await;
    let pod = cluster.bound_pod("web", "node1").await;
    let before = agent
        .until("the pod", |agent| agent.memory.pods.get("web").cloned())
        .await;
    agent
        .until("its endpoint", |agent| {
            agent
                .memory
                .network
                .endpoints
                .values()
                .any(|endpoint| endpoint.pod == "web")
                .then_some(())
        })
        .await;
    let (_, memory) = agent.hang_up();
    let cluster = cluster.restart().await;
    let channel = cluster.joined("node1").await;
    let mut agent = Agent::connect(channel, "node1", memory.clone()).await;
    agent.memory.pods.clear();
    let after = agent
        .until("the pod again", |agent| {
            agent.memory.pods.get("web").cloned()
        })
        .await;
    assert_eq!(after.uid, pod.uid);
    let told = |pod: &v1::PodAssignment| (pod.address.clone(), pod.identity, pod.tenant);
    assert_eq!(told(&after), told(&before));
    assert_ne!(agent.memory.epoch, memory.epoch);
    assert!(agent.memory.network.generation > memory.network.generation);
    assert_eq!(agent.memory.network.endpoints, memory.network.endpoints);
    cluster.bound_pod("other", "node1").await;
    let other = agent
        .until("another pod", |agent| {
            agent.memory.pods.get("other").cloned()
        })
        .await;
    assert_ne!(other.address, after.address);
}

/// A Service whose only ready backend is the pod.
async fn serve(cluster: &Cluster, pod: &str, address: &str) {
    cluster
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "web"},
                       "spec": {"ports": [{"port": 80, "targetPort": 8080}], "selector": {"app": "web"}}}))
        .await;
    cluster
        .create(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080, "protocol": "TCP", "name": ""}],
            "endpoints": [{"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
                           "nodeName": "node1",
                           "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}}],
        }))
        .await;
}

fn backends(agent: &Agent) -> usize {
    let services = agent.memory.network.services.values();
    services
        .flat_map(|service| &service.ports)
        .map(|port| port.backends.len())
        .sum()
}

#[tokio::test]
async fn a_pod_is_told_to_end_only_after_every_datapath_has_forgotten_it() {
    let cluster = Cluster::start().await;
    let mut one = cluster.agent("node1").await;
    let mut two = cluster.agent("node2").await;
    for agent in [&one, &two] {
        agent.heartbeat().await;
    }
    let pod = cluster.bound_pod("web", "node1").await;
    let told = one
        .until("the pod", |agent| agent.memory.pods.get("web").cloned())
        .await;
    one.report("web", &pod.uid, running(&told.address)).await;
    serve(&cluster, "web", &told.address).await;
    let one_backend = |agent: &Agent| (backends(agent) == 1).then_some(());
    one.until("the backend", one_backend).await;
    two.until("the backend", one_backend).await;
    cluster
        .eventually("both ready and the pod running", |cluster| {
            let nodes = cluster
                .objects
                .list(kind("v1", "Node").unwrap(), None)
                .objects;
            let ready = nodes
                .iter()
                .filter(|node| ready(&node.value["status"]) == Some("True"))
                .count();
            (ready == 2 && cluster.pod("web")?.value["status"]["phase"] == "Running").then_some(())
        })
        .await;
    two.acknowledges = false;
    let started = std::time::Instant::now();
    cluster
        .objects
        .delete(
            kind("v1", "Pod").unwrap(),
            "shop",
            "web",
            &DeleteOptions::default(),
        )
        .await
        .unwrap();
    let marked = cluster.pod("web").unwrap();
    assert!(marked.value["metadata"]["deletionTimestamp"].is_string());
    cluster
        .change(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            ("shop", "web-1"),
            Part::Main,
            |slice| {
                slice["endpoints"] = json!([]);
            },
        )
        .await;
    let no_backend = |agent: &Agent| (backends(agent) == 0).then_some(());
    one.until("no backend", no_backend).await;
    two.until("no backend", no_backend).await;
    let ending = |agent: &Agent| {
        agent.pod("web")?["metadata"]["deletionTimestamp"]
            .as_str()
            .map(str::to_owned)
    };
    let early =
        tokio::time::timeout(Duration::from_millis(300), one.until("nothing", ending)).await;
    assert!(early.is_err(), "node2 still sends to the pod");
    two.acknowledge().await;
    one.until("its end", ending).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "not by the bound"
    );
    one.say(Up::PodGone(v1::PodGone {
        namespace: "shop".into(),
        name: "web".into(),
        uid: pod.uid.clone(),
    }))
    .await;
    cluster
        .eventually("the object is removed", |cluster| {
            cluster.pod("web").is_none().then_some(())
        })
        .await;
    one.until("it is taken off the node", |agent| {
        agent.memory.pods.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_or_silent_does_not_hold_up_an_end() {
    let cluster = Cluster::start().await;
    let mut one = cluster.agent("node1").await;
    let mut two = cluster.agent("node2").await;
    for agent in [&one, &two] {
        agent.heartbeat().await;
    }
    two.acknowledges = false;
    let pods = kind("v1", "Pod").unwrap();
    let mut started = Vec::new();
    for name in ["silent", "gone"] {
        let pod = cluster.bound_pod(name, "node1").await;
        let told = one
            .until("the pod", |agent| agent.memory.pods.get(name).cloned())
            .await;
        one.report(name, &pod.uid, running(&told.address)).await;
        cluster
            .eventually("it runs", |cluster| {
                (cluster.pod(name)?.value["status"]["phase"] == "Running").then_some(())
            })
            .await;
        started.push(pod);
    }
    let ending = |name: &'static str| {
        move |agent: &Agent| {
            agent.pod(name)?["metadata"]["deletionTimestamp"]
                .as_str()
                .map(drop)
        }
    };
    let two_seconds = DeleteOptions {
        grace_period_seconds: Some(2),
        ..DeleteOptions::default()
    };
    let clock = std::time::Instant::now();
    cluster
        .objects
        .delete(pods, "shop", "silent", &two_seconds)
        .await
        .unwrap();
    one.until("the end in spite of node2", ending("silent"))
        .await;
    assert!(
        clock.elapsed() >= Duration::from_millis(1500),
        "held back for the grace period"
    );
    drop(two);
    soon("node2 is away", async {
        while cluster.sessions.connected() != ["node1"] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let clock = std::time::Instant::now();
    cluster
        .objects
        .delete(pods, "shop", "gone", &DeleteOptions::default())
        .await
        .unwrap();
    one.until("the end without node2", ending("gone")).await;
    assert!(clock.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_only() {
    let cluster = Cluster::start().await;
    cluster.agent("node1").await;
    let pod = cluster.bound_pod("web", "node1").await;
    cluster
        .create(json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": pod.namespace}}))
        .await;
    let mounts = &pod.value["spec"]["containers"][0]["volumeMounts"];
    let place = "/var/run/secrets/kubernetes.io/serviceaccount";
    assert_eq!(mounts[0]["mountPath"], place, "{mounts}");
    let ask = |uid: &str, audience: &str| v1::TokenRequest {
        pod: Some(v1::PodRef {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: uid.to_owned(),
        }),
        audience: audience.into(),
        seconds: 3607,
    };
    let mut own = NodeClient::new(cluster.joined("node1").await);
    let mut other = NodeClient::new(cluster.joined("node2").await);
    let reply = own.token(ask(&pod.uid, "")).await.unwrap().into_inner();
    assert_eq!(reply.seconds, 3607);
    let api = [crate::auth::ISSUER.to_owned()];
    let tokens = cluster.pki.tokens();
    let claims = tokens
        .verify(&reply.token, &api, cluster.objects.now())
        .unwrap();
    assert_eq!(claims.objects.pod.unwrap().uid, pod.uid);
    for (answer, code) in [
        (other.token(ask(&pod.uid, "")).await, Code::PermissionDenied),
        (
            own.token(ask(&pod.uid, "vault")).await,
            Code::PermissionDenied,
        ),
        (own.token(ask("another", "")).await, Code::NotFound),
    ] {
        assert_eq!(answer.unwrap_err().code(), code);
    }
}

#[tokio::test]
async fn nodes_are_told_to_speak_less_often_when_there_are_many() {
    let cluster = Cluster::start().await;
    let mut agent = cluster.agent("node1").await;
    assert_eq!(agent.welcome.heartbeat_seconds, 3);
    cluster.sessions.inner.cadence.count(5000);
    let epoch = agent.welcome.epoch.clone();
    agent
        .until("a welcome with another pause", |agent| {
            (agent.welcome.heartbeat_seconds == 10).then_some(())
        })
        .await;
    assert_eq!(agent.welcome.epoch, epoch, "it is the same session");
    assert_eq!(cluster.sessions.beats().grace().as_secs(), 40);
}
