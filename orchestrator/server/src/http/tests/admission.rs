//! What namespaces ask of what comes into them.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "shop/web:1", "resources": resources}]}})
}

#[tokio::test]
async fn a_quota_holds_however_many_come_at_once() {
    let api = api().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "3", "count/configmaps": "1"}}});
    assert_eq!(
        api.post("/api/v1/namespaces/default/resourcequotas", &quota)
            .await
            .0,
        201
    );
    let names: Vec<String> = (0..12).map(|number| format!("p{number}")).collect();
    let create = |name: &String| {
        let (api, pod) = (&api, pod(name, json!({})));
        async move { api.post(PODS, &pod).await }
    };
    let answers = futures::future::join_all(names.iter().map(create)).await;
    let made = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(made, 3, "{answers:?}");
    let (_, refused) = answers.iter().find(|(code, _)| *code == 403).unwrap();
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("exceeded quota: few, requested: pods=1, used: pods=3, limited: pods=3"),
        "{message}"
    );
    assert_eq!(api.post(CONFIGS, &config("a", "x")).await.0, 201);
    assert_eq!(api.post(CONFIGS, &config("b", "x")).await.0, 403);
    // What goes makes room.
    assert_eq!(api.delete(&format!("{CONFIGS}/a"), &json!({})).await.0, 200);
    assert_eq!(api.post(CONFIGS, &config("b", "x")).await.0, 201);
    let row = waggle_api::lookup_name("quota").unwrap();
    let quota = api.state.objects.get(row, "default", "few").unwrap();
    let used = api.state.objects.used_of(&quota.value);
    let used: Vec<String> = used
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    assert_eq!(used, ["count/configmaps=1", "pods=3"]);
}

#[tokio::test]
async fn a_quota_holds_for_what_changes() {
    let api = api().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
        "spec": {"hard": {"requests.cpu": "1", "services.nodeports": "1", "services": "9"}}});
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    assert_eq!(api.post(quotas, &quota).await.0, 201);
    for name in ["a", "b"] {
        let cpu = json!({"requests": {"cpu": "400m"}, "limits": {"cpu": "2"}});
        let (code, made) = api.post(PODS, &pod(name, cpu)).await;
        assert_eq!(code, 201, "{made}");
    }
    let resize = async |name: &str, cpu: &str| {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
        let media_type = "application/strategic-merge-patch+json";
        api.patch(&format!("{PODS}/{name}/resize"), media_type, &patch)
            .await
    };
    let (code, refused) = resize("a", "700m").await;
    assert_eq!(code, 403, "{refused}");
    let message = refused["message"].as_str().unwrap();
    assert!(
        message
            .contains("exceeded quota: few, requested: requests.cpu=300m, used: requests.cpu=800m"),
        "{message}"
    );
    // Two at once that fit one by one.
    let (one, two) = futures::join!(resize("a", "550m"), resize("b", "550m"));
    let mut codes = [one.0, two.0];
    codes.sort_unstable();
    assert_eq!(codes, [200, 403], "{one:?} {two:?}");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}});
    let services = "/api/v1/namespaces/default/services";
    assert_eq!(api.post(services, &service).await.0, 201);
    let patch = json!({"spec": {"type": "NodePort"}});
    let (code, refused) = api
        .patch(
            &format!("{services}/web"),
            "application/merge-patch+json",
            &patch,
        )
        .await;
    assert_eq!(code, 403, "{refused}");
}

#[tokio::test]
async fn limit_ranges_fill_in_and_refuse() {
    let api = api().await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "usual"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "200m"}, "max": {"cpu": "1"}}]}});
    assert_eq!(
        api.post("/api/v1/namespaces/default/limitranges", &range)
            .await
            .0,
        201
    );
    let (code, made) = api.post(PODS, &pod("a", json!({}))).await;
    assert_eq!(code, 201, "{made}");
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(
        *resources,
        json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}})
    );
    let (code, refused) = api
        .post(PODS, &pod("b", json!({"limits": {"cpu": "2"}})))
        .await;
    assert_eq!(code, 403);
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{message}"
    );
}

#[tokio::test]
async fn pod_security_refuses_and_warns() {
    let api = api().await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted"}}});
    let path = "/api/v1/namespaces/default";
    assert_eq!(
        api.patch(path, "application/merge-patch+json", &labels)
            .await
            .0,
        200
    );
    let mut privileged = pod("a", json!({}));
    privileged["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let (code, refused) = api.post(PODS, &privileged).await;
    assert_eq!(code, 403);
    let message = refused["message"].as_str().unwrap();
    let expect = "violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set securityContext.privileged=true)";
    assert!(message.contains(expect), "{message}");
    for (path, body) in [(PODS, pod("b", json!({}))), (DEPLOYMENTS, deployment("d"))] {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        let response = api.send(request, body.to_string()).await;
        assert_eq!(response.status(), StatusCode::CREATED);
        let warning = response.headers()["warning"].to_str().unwrap();
        assert!(warning.contains("would violate PodSecurity"), "{warning}");
    }
}
