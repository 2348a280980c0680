//! Certificates by signing request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DnType, KeyPair};

use super::*;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request(name: &str, group: &str) -> Value {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "ann");
    params
        .distinguished_name
        .push(DnType::OrganizationName, group);
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"], "username": "somebody else", "groups": ["system:masters"]}})
}

#[tokio::test]
async fn who_asks_is_written_down_and_power_is_not_asked_for() {
    let api = api().await;
    let (code, made) = api.post(REQUESTS, &request("ann", "devs")).await;
    assert_eq!(
        (code, &made["spec"]["username"]),
        (201, &json!("waggle-admin")),
        "{made}"
    );
    for group in ["system:masters", "system:waggle-servers", "system:nodes"] {
        let (code, refused) = api.post(REQUESTS, &request("eve", group)).await;
        assert_eq!(code, 403, "{group}: {refused}");
    }
    let mut broken = request("eve", "devs");
    broken["spec"]["request"] = STANDARD.encode("nothing").into();
    assert_eq!(api.post(REQUESTS, &broken).await.0, 422);
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test"}],
        "certificate": "eA=="}, "spec": {"username": "eve"}});
    let merge = "application/merge-patch+json";
    let path = format!("{REQUESTS}/ann");
    let (code, made) = api
        .patch(&format!("{path}/approval"), merge, &approved)
        .await;
    assert_eq!(
        (code, &made["status"]["conditions"][0]["type"]),
        (200, &json!("Approved")),
        "{made}"
    );
    assert!(
        made["status"]["certificate"].is_null(),
        "an approval is no certificate"
    );
    assert_eq!(made["spec"]["username"], "waggle-admin");
    let taken_back = json!({"status": {"conditions": [{"type": "Denied", "status": "True"}]}});
    assert_eq!(
        api.patch(&format!("{path}/approval"), merge, &taken_back)
            .await
            .0,
        422
    );
}

#[tokio::test]
async fn an_approval_needs_its_signers_right() {
    let api = api().await;
    api.post(REQUESTS, &request("ann", "devs")).await;
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    let group = "certificates.k8s.io";
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "approver"},
        "rules": [rule(group, "certificatesigningrequests/approval", &["update", "patch"])]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    assert_eq!(api.post(roles, &role).await.0, 201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "approver"}, "roleRef": {"kind": "ClusterRole", "name": "approver"},
        "subjects": [{"kind": "User", "name": "bob"}]});
    assert_eq!(
        api.post(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            &binding
        )
        .await
        .0,
        201
    );
    let approve = || async {
        let body = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}]}});
        let request = Request::patch(format!("{REQUESTS}/ann/approval"))
            .header(CONTENT_TYPE, "application/merge-patch+json")
            .header("impersonate-user", "bob");
        read(api.send(request, body.to_string()).await).await
    };
    let (code, refused) = approve().await;
    assert_eq!(code, 403);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("not permitted to approve"),
        "{refused}"
    );
    role["rules"]
        .as_array_mut()
        .unwrap()
        .push(rule(group, "signers", &["approve"]));
    let rules = json!({"rules": role["rules"]});
    let (code, _) = api
        .patch(
            &format!("{roles}/approver"),
            "application/merge-patch+json",
            &rules,
        )
        .await;
    assert_eq!(code, 200);
    assert_eq!(approve().await.0, 200);
}
