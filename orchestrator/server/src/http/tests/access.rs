//! Who may do what through the API: ServiceAccounts with tokens and roles, reviews, standing in for others.

use super::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

impl Api {
    /// As somebody else than the administrator.
    async fn by(&self, token: &str, request: http::request::Builder, body: &Value) -> (u16, Value) {
        let request = request
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        read(self.router.clone().oneshot(request).await.unwrap()).await
    }

    async fn account(&self, name: &str) -> String {
        let account = json!({"metadata": {"name": name}});
        assert_eq!(self.post(ACCOUNTS, &account).await.0, 201);
        let (code, answer) = self
            .post(&format!("{ACCOUNTS}/{name}/token"), &json!({"spec": {}}))
            .await;
        assert_eq!(code, 201, "{answer}");
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    async fn bind(&self, role: &str, account: &str) {
        let binding = json!({"metadata": {"name": format!("{account}-{role}")},
            "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": "default"}]});
        let (code, answer) = self
            .post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
            .await;
        assert_eq!(code, 201, "{answer}");
    }
}

#[tokio::test]
async fn a_service_account_may_what_its_roles_say() {
    let api = api().await;
    let token = api.account("ci").await;
    let list = |path: &'static str| Request::get(path);
    let nothing = json!({});
    let (code, refused) = api.by(&token, list(CONFIGS), &nothing).await;
    assert_eq!(
        (code, refused["message"].as_str().unwrap()),
        (
            403,
            "configmaps is forbidden: User \"system:serviceaccount:default:ci\" cannot list resource \"configmaps\" \
             in API group \"\" in the namespace \"default\""
        )
    );
    api.bind("edit", "ci").await;
    assert_eq!(api.by(&token, list(CONFIGS), &nothing).await.0, 200);
    assert_eq!(
        api.by(&token, list("/api/v1/configmaps"), &nothing).await.0,
        403
    );
    assert_eq!(api.by(&token, list("/apis/apps/v1"), &nothing).await.0, 200);
    let map = json!({"metadata": {"name": "made"}});
    assert_eq!(api.by(&token, Request::post(CONFIGS), &map).await.0, 201);
    // Gone with its account.
    let (_, account) = api.get(&format!("{ACCOUNTS}/ci")).await;
    assert_eq!(
        api.delete(&format!("{ACCOUNTS}/ci"), &json!({})).await.0,
        200
    );
    assert_eq!(
        api.by(&token, list(CONFIGS), &nothing).await.0,
        401,
        "{account}"
    );
}

#[tokio::test]
async fn reviews_say_who_may_what() {
    let api = api().await;
    let token = api.account("ci").await;
    api.bind("view", "ci").await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let ask = |verb: &str, resource: &str| json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": resource}}});
    let own = format!("{authorization}/selfsubjectaccessreviews");
    for (verb, resource, expect) in [
        ("get", "pods", true),
        ("delete", "pods", false),
        ("get", "secrets", false),
    ] {
        let (code, answer) = api
            .by(&token, Request::post(&own), &ask(verb, resource))
            .await;
        assert_eq!(
            (code, &answer["status"]["allowed"]),
            (201, &json!(expect)),
            "{verb} {resource}: {answer}"
        );
    }
    let mut of_other = ask("get", "pods");
    of_other["spec"]["user"] = "system:serviceaccount:default:ci".into();
    let other = format!("{authorization}/subjectaccessreviews");
    assert_eq!(
        api.post(&other, &of_other).await.1["status"]["allowed"],
        true
    );
    assert_eq!(
        api.by(&token, Request::post(&other), &of_other).await.0,
        403
    );
    let rules = format!("{authorization}/selfsubjectrulesreviews");
    let (_, rules) = api
        .by(
            &token,
            Request::post(&rules),
            &json!({"spec": {"namespace": "default"}}),
        )
        .await;
    assert!(
        rules["status"]["resourceRules"].as_array().unwrap().len() > 3,
        "{rules}"
    );
    let authentication = "/apis/authentication.k8s.io/v1";
    let who = format!("{authentication}/selfsubjectreviews");
    let (_, who) = api.by(&token, Request::post(&who), &json!({})).await;
    assert_eq!(
        who["status"]["userInfo"]["username"],
        "system:serviceaccount:default:ci"
    );
    let review = format!("{authentication}/tokenreviews");
    let (_, known) = api.post(&review, &json!({"spec": {"token": token}})).await;
    assert_eq!(known["status"]["authenticated"], true, "{known}");
    let (_, wrong) = api.post(&review, &json!({"spec": {"token": "x"}})).await;
    assert_eq!(wrong["status"]["authenticated"], false);
}

#[tokio::test]
async fn rights_are_not_given_away_that_one_lacks() {
    let api = api().await;
    let token = api.account("chief").await;
    api.bind("admin", "chief").await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let role = |resource: &str| json!({"metadata": {"name": resource}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]});
    assert_eq!(
        api.by(&token, Request::post(&roles), &role("pods")).await.0,
        201
    );
    let (code, refused) = api.by(&token, Request::post(&roles), &role("nodes")).await;
    assert!(
        code == 403
            && refused["message"]
                .as_str()
                .unwrap()
                .contains("not currently held"),
        "{refused}"
    );
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let all = json!({"metadata": {"name": "all"}, "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "ann"}]});
    assert_eq!(api.by(&token, Request::post(&bindings), &all).await.0, 403);
}

#[tokio::test]
async fn an_administrator_may_stand_in_for_others() {
    let api = api().await;
    let token = api.account("ci").await;
    let as_ann = |request: http::request::Builder| request.header("Impersonate-User", "ann");
    assert_eq!(
        read(api.send(as_ann(Request::get(CONFIGS)), Body::empty()).await)
            .await
            .0,
        403
    );
    let staff = as_ann(Request::get(CONFIGS)).header("Impersonate-Group", "system:masters");
    assert_eq!(read(api.send(staff, Body::empty()).await).await.0, 200);
    let sly = Request::get(CONFIGS).header("Impersonate-User", "waggle-admin");
    assert_eq!(api.by(&token, sly, &json!({})).await.0, 403);
}

#[tokio::test]
async fn tokens_are_bound_to_pods() {
    let api = api().await;
    api.account("web").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "a:1"}]}});
    assert_eq!(api.post(pods, &pod).await.0, 201);
    let path = format!("{ACCOUNTS}/web/token");
    let bound = |name: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": name}, "expirationSeconds": 600}});
    assert_eq!(api.post(&path, &bound("other")).await.0, 404);
    let (_, answer) = api.post(&path, &bound("p")).await;
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let who = || Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let (code, me) = api.by(&token, who(), &json!({})).await;
    let extra = &me["status"]["userInfo"]["extra"];
    assert_eq!(
        (code, &extra["authentication.kubernetes.io/pod-name"]),
        (201, &json!(["p"]))
    );
    assert_eq!(api.delete(&format!("{pods}/p"), &json!({})).await.0, 200);
    assert_eq!(api.by(&token, who(), &json!({})).await.0, 401);
    let short = json!({"spec": {"expirationSeconds": 60}});
    assert_eq!(api.post(&path, &short).await.0, 422);
}

#[tokio::test]
async fn a_namespace_changes_its_tenant_only_by_who_may_use_it() {
    let api = api().await;
    let token = api.account("ops").await;
    let role = json!({"metadata": {"name": "spaces"},
        "rules": [{"apiGroups": [""], "resources": ["namespaces"], "verbs": ["*"]}]});
    assert_eq!(
        api.post(&format!("{RBAC}/clusterroles"), &role).await.0,
        201
    );
    let binding = json!({"metadata": {"name": "spaces"}, "roleRef": {"kind": "ClusterRole", "name": "spaces"},
        "subjects": [{"kind": "ServiceAccount", "name": "ops", "namespace": "default"}]});
    assert_eq!(
        api.post(&format!("{RBAC}/clusterrolebindings"), &binding)
            .await
            .0,
        201
    );
    let space = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let spaces = "/api/v1/namespaces";
    let plain = space("plain", json!({}));
    assert_eq!(api.by(&token, Request::post(spaces), &plain).await.0, 201);
    let moved = space("moved", json!({"waggle.dev/tenant": "billing"}));
    assert_eq!(api.by(&token, Request::post(spaces), &moved).await.0, 403);
    // The administrator may, and hears that the tenant is not there.
    let request = Request::post(spaces).header(CONTENT_TYPE, "application/json");
    let response = api.send(request, moved.to_string()).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("billing"), "{warning}");
    let merge = "application/merge-patch+json";
    let request =
        Request::patch(format!("{spaces}/moved")).header(AUTHORIZATION, format!("Bearer {token}"));
    let request = request.header(CONTENT_TYPE, merge);
    let body = Body::from(json!({"metadata": {"labels": {"waggle.dev/tenant": null}}}).to_string());
    let response = api
        .router
        .clone()
        .oneshot(request.body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_node_reads_what_its_own_pods_need() {
    let api = api().await;
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name}, "spec": {"nodeName": node,
            "containers": [{"name": "a", "image": "a:1",
                "envFrom": [{"secretRef": {"name": format!("{name}-env")}}]}],
            "volumes": [
                {"name": "v", "projected": {"sources": [{"configMap": {"name": format!("{name}-map")}}]}},
                {"name": "d", "persistentVolumeClaim": {"claimName": format!("{name}-claim")}}]}})
    };
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let (code, made) = api
            .post("/api/v1/namespaces/default/pods", &pod(name, node))
            .await;
        assert_eq!(code, 201, "{made}");
    }
    let node = async |path: &str| {
        let request = Request::get(path)
            .header("Impersonate-User", "system:node:n1")
            .header("Impersonate-Group", "system:nodes");
        api.send(request, Body::empty()).await.status().as_u16()
    };
    let own = "/api/v1/namespaces/default";
    for (path, allowed) in [
        ("/secrets/mine-env", true),
        ("/secrets/other-env", false),
        ("/secrets", false),
        ("/secrets?fieldSelector=metadata.name%3Dmine-env", true),
        (
            "/secrets?watch=1&fieldSelector=metadata.name%3Dmine-env",
            true,
        ),
        (
            "/secrets?watch=1&fieldSelector=metadata.name%3Dother-env",
            false,
        ),
        (
            "/secrets?fieldSelector=metadata.name%3Dmine-env&fieldSelector=metadata.name%21%3Dx",
            false,
        ),
        ("/configmaps/mine-map", true),
        ("/configmaps/other-map", false),
        ("/persistentvolumeclaims/mine-claim", true),
        ("/persistentvolumeclaims/other-claim", false),
        ("/serviceaccounts/default", true),
        ("/pods/mine", true),
        ("/pods/other", false),
        ("/pods", false),
        ("/pods?fieldSelector=spec.nodeName%3Dn1", true),
        ("/pods?fieldSelector=spec.nodeName%3Dn2", false),
        ("/pods/mine/log", false),
        ("/services", true),
        ("/events", false),
    ] {
        let code = node(&format!("{own}{path}")).await;
        assert_eq!(code != 403, allowed, "{path}: {code}");
    }
    for (path, allowed) in [
        ("/api/v1/nodes/n1", true),
        ("/api/v1/nodes/n2", false),
        ("/api/v1/nodes", false),
        ("/api/v1/nodes?fieldSelector=metadata.name%3Dn1", true),
        (
            "/api/v1/secrets?fieldSelector=metadata.name%3Dmine-env",
            false,
        ),
    ] {
        let code = node(path).await;
        assert_eq!(code != 403, allowed, "{path}: {code}");
    }
}
