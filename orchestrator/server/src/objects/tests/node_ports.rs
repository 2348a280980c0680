//! Node ports of Services over a real store.

use super::*;

fn with_ports(name: &str, spec: Value) -> Value {
    let mut value = service(name, None);
    for (key, one) in spec.as_object().into_iter().flatten() {
        value["spec"][key] = one.clone();
    }
    value
}

fn of(value: &Value) -> Vec<i64> {
    let ports = value["spec"]["ports"].as_array().unwrap();
    let number = |port: &Value| port["nodePort"].as_i64().unwrap_or(0);
    ports.iter().map(number).collect()
}

/// Two ports of one number over TCP and UDP.
fn both(kind: &str) -> Value {
    json!({"type": kind, "ports": [{"name": "t", "port": 53, "protocol": "TCP"},
        {"name": "u", "port": 53, "protocol": "UDP"}]})
}

#[tokio::test]
async fn node_ports_are_given_kept_and_taken_back() {
    let Fixture { objects, folder } = fixture().await;
    let kind = kind("svc");
    let create = |objects: Arc<Objects>, name: &str, spec: Value| {
        let value = with_ports(name, spec);
        async move { objects.create(kind, value, &STORED).await }
    };
    let dns = create(objects.clone(), "dns", both("NodePort"))
        .await
        .unwrap();
    assert_eq!(
        of(&dns.value),
        [30_000, 30_000],
        "one number for both transports"
    );
    let wish =
        json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30_080}]});
    create(objects.clone(), "a", wish.clone()).await.unwrap();
    let taken = create(objects.clone(), "b", wish).await.unwrap_err();
    assert_eq!(taken.code, 422);
    assert!(
        taken.message.contains(
            "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"
        ),
        "{taken}"
    );
    let wrong = json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30_000},
        {"name": "b", "port": 81, "nodePort": 80}]});
    let wrong = create(objects.clone(), "b", wrong).await.unwrap_err();
    assert!(
        wrong.message.contains("already allocated")
            && wrong.message.contains("spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"),
        "both at once: {wrong}"
    );
    // Neither a dry run nor a refused Service keeps anything.
    let next = with_ports("next", both("NodePort"));
    let dry = objects.create(kind, next.clone(), &DRY).await.unwrap();
    let port = of(&dry.value)[0];
    let claim = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    create(objects.clone(), "claims", claim).await.unwrap();
    // An update keeps them, by name; what is left out is free again.
    let wanted = with_ports(
        "dns",
        json!({"type": "NodePort", "ports": [{"name": "u", "port": 54, "protocol": "UDP"}]}),
    );
    let changed = objects
        .update(kind, wanted, Part::Main, &STORED)
        .await
        .unwrap();
    assert_eq!(of(&changed.value), [30_000]);
    let tcp = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30_000}]});
    create(objects.clone(), "tcp", tcp.clone()).await.unwrap();
    // A restart knows whose they are.
    drop(objects);
    let objects = objects_in(&folder).await;
    let refused = create(objects.clone(), "again", tcp.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code, 422, "{refused}");
    // Another type gives them back, and so does a deletion.
    let mut inside = objects.get(kind, "default", "tcp").unwrap().value.clone();
    inside["spec"]["type"] = json!("ClusterIP");
    let inside = objects
        .update(kind, inside, Part::Main, &STORED)
        .await
        .unwrap();
    assert_eq!(of(&inside.value), [0]);
    create(objects.clone(), "again", tcp.clone()).await.unwrap();
    objects
        .delete(kind, "default", "again", &deletion(None))
        .await
        .unwrap();
    create(objects, "heir", tcp).await.unwrap();
}

#[tokio::test]
async fn a_load_balancer_gets_node_ports_and_a_health_check_port() {
    let Fixture { objects, .. } = fixture().await;
    let kind = kind("svc");
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = objects
        .create(kind, with_ports("lb", spec.clone()), &STORED)
        .await
        .unwrap();
    let check = made.value["spec"]["healthCheckNodePort"].as_i64().unwrap();
    let node_port = of(&made.value)[0];
    assert!(node_port >= 30_000 && check >= 30_000 && check != node_port);
    let mut wish = spec.clone();
    wish["healthCheckNodePort"] = check.into();
    let status = objects
        .create(kind, with_ports("b", wish), &STORED)
        .await
        .unwrap_err();
    assert!(
        status
            .message
            .contains("spec.healthCheckNodePort: Invalid value"),
        "{status}"
    );
    // Without the policy it has none; with it again, another.
    let mut value = made.value.clone();
    value["spec"]["externalTrafficPolicy"] = json!("Cluster");
    let value = objects
        .update(kind, value, Part::Main, &STORED)
        .await
        .unwrap()
        .value
        .clone();
    assert!(value["spec"]["healthCheckNodePort"].is_null(), "{value}");
    assert_eq!(of(&value), [node_port]);
    let bare = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let bare = objects
        .create(kind, with_ports("bare", bare), &STORED)
        .await
        .unwrap();
    assert_eq!(of(&bare.value), [0]);
    // Its own health check port is not its node port.
    let twice = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30_500,
        "ports": [{"port": 80, "nodePort": 30_500}]});
    let twice = objects
        .create(kind, with_ports("twice", twice), &STORED)
        .await
        .unwrap_err();
    assert!(twice.message.contains("already allocated"), "{twice}");
}
