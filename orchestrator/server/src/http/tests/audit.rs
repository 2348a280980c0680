//! The audit log, as requests leave it.

use super::*;
use crate::audit::{AuditLog, AuditOptions};

async fn audited(rules: &Value) -> (Api, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules});
    std::fs::write(&policy, text.to_string()).unwrap();
    let log = folder.path().join("audit.log");
    let options = AuditOptions {
        policy,
        log: log.clone(),
        largest: 1 << 20,
        kept: 1,
    };
    let audit = AuditLog::open(options).unwrap();
    (api_with(folder, Some(audit)).await, log)
}

fn events(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn what_the_policy_names_is_noted_as_far_as_it_says() {
    let rules = json!([
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}], "omitStages": ["RequestReceived"]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["configmaps"]}], "verbs": ["create"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["configmaps", "pods"]}],
         "omitStages": ["RequestReceived"]},
    ]);
    let (api, log) = audited(&rules).await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "hidden"}});
    let (code, _) = api
        .post("/api/v1/namespaces/default/secrets", &secret)
        .await;
    assert_eq!(code, 201);
    let (code, made) = api.post(CONFIGS, &config("a", "web")).await;
    assert_eq!(code, 201);
    assert_eq!(api.get(&format!("{CONFIGS}/absent")).await.0, 404);
    assert_eq!(api.get("/api/v1/namespaces/default/services").await.0, 200);
    let events = events(&log);
    let seen: Vec<_> = events
        .iter()
        .map(|one| {
            let word = |field: &str| one[field].as_str().unwrap().to_owned();
            (word("stage"), word("verb"), word("level"))
        })
        .collect();
    let expect = [
        ("ResponseComplete", "create", "Metadata"),
        ("RequestReceived", "create", "RequestResponse"),
        ("ResponseComplete", "create", "RequestResponse"),
        ("ResponseComplete", "get", "Metadata"),
    ];
    let expect = expect.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
    assert_eq!(seen, expect);
    assert!(!events[0].to_string().contains("hidden"));
    assert_eq!(events[0]["objectRef"]["resource"], "secrets");
    assert_eq!(events[1]["auditID"], events[2]["auditID"]);
    let complete = &events[2];
    assert_eq!(complete["user"]["username"], "waggle-admin");
    assert_eq!(complete["requestObject"]["data"]["x"], "1");
    assert_eq!(
        complete["responseObject"]["metadata"]["uid"],
        made["metadata"]["uid"]
    );
    assert_eq!(complete["responseStatus"]["code"], 201);
    assert_eq!(
        complete["annotations"]["authorization.k8s.io/decision"],
        "allow"
    );
    let missing = &events[3]["responseStatus"];
    assert_eq!(
        (&missing["code"], &missing["reason"]),
        (&json!(404), &json!("NotFound"))
    );
}

#[tokio::test]
async fn refusals_stand_ins_and_insecure_pods_are_noted() {
    let rules = json!([{"level": "Metadata", "resources": [{"group": ""}], "omitStages": ["RequestReceived"]}]);
    let (api, log) = audited(&rules).await;
    let labels =
        json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    let path = "/api/v1/namespaces/default";
    assert_eq!(
        api.patch(path, "application/merge-patch+json", &labels)
            .await
            .0,
        200
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "shop/web:1"}]}});
    assert_eq!(
        api.post("/api/v1/namespaces/default/pods", &pod).await.0,
        201
    );
    let request = Request::get(CONFIGS).header("impersonate-user", "ann");
    assert_eq!(api.send(request, Body::empty()).await.status(), 403);
    let request = Request::get(CONFIGS).body(Body::empty()).unwrap();
    let nobody = api.router.clone().oneshot(request).await.unwrap();
    assert_eq!(nobody.status(), 401);
    let events = events(&log);
    let violated = &events[1]["annotations"]["pod-security.kubernetes.io/audit-violations"];
    let text = violated.as_str().unwrap();
    assert!(
        text.starts_with("would violate PodSecurity \"restricted:latest\""),
        "{text}"
    );
    assert_eq!(events[2]["user"]["username"], "waggle-admin");
    assert_eq!(events[2]["impersonatedUser"]["username"], "ann");
    assert_eq!(
        events[2]["annotations"]["authorization.k8s.io/decision"],
        "forbid"
    );
    assert_eq!(events[3]["user"]["username"], "system:anonymous");
    assert_eq!(events[3]["responseStatus"]["code"], 401);
}
