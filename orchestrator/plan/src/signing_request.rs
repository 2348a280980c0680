//! Which approved signing requests get a certificate, and what is told of those that don't. Keys and certificates are
//! the caller's.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ownership::json;
use crate::{Plan, Snapshot, Write};

/// The signer of certificates by which clients are known to the API.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Signs what is approved: `sign` answers the certificate in PEM, or why there is none.
pub fn plan(
    snapshot: &Snapshot,
    sign: &dyn Fn(&CertificateSigningRequestSpec) -> Result<Vec<u8>, String>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    for request in snapshot.signing_requests.iter().filter(|one| waits(one)) {
        let mut status = request.status.clone().unwrap_or_default();
        match usages(&request.spec).and_then(|()| sign(&request.spec)) {
            Ok(certificate) => status.certificate = Some(ByteString(certificate)),
            Err(cause) => {
                let failed = CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(cause),
                    last_update_time: Some(Time(now)),
                    last_transition_time: Some(Time(now)),
                };
                status.conditions.get_or_insert_default().push(failed);
            }
        }
        plan.writes
            .push(Write::UpdateStatus(json(&CertificateSigningRequest {
                status: Some(status),
                ..CertificateSigningRequest::clone(request)
            })));
    }
    plan
}

fn waits(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let has = |kind: &str| {
        let mut all = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        all.any(|one| one.type_ == kind && one.status == "True")
    };
    request.spec.signer_name == CLIENT_SIGNER
        && status.is_none_or(|status| status.certificate.is_none())
        && has("Approved")
        && !has("Denied")
        && !has("Failed")
}

/// What such a certificate may be used for.
fn usages(spec: &CertificateSigningRequestSpec) -> Result<(), String> {
    let wanted = || spec.usages.iter().flatten().map(String::as_str);
    let allowed = ["client auth", "digital signature", "key encipherment"];
    if !wanted().any(|one| one == "client auth") {
        return Err("spec.usages: must contain \"client auth\"".to_owned());
    }
    match wanted().find(|one| !allowed.contains(one)) {
        Some(other) => Err(format!("spec.usages: {other:?} is none of {allowed:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use serde_json::{Value, json};

    fn request(signer: &str, usages: &[&str], condition: Option<&str>) -> World {
        let mut world = World::new();
        let conditions: Vec<Value> = condition
            .map(|kind| json!({"type": kind, "status": "True"}))
            .into_iter()
            .collect();
        world.put(json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "ann"}, "spec": {"request": "eA==", "signerName": signer, "usages": usages},
            "status": {"conditions": conditions}}));
        world
    }

    fn check(signer: &str, usages: &[&str], condition: Option<&str>, expect: &str) {
        let mut world = request(signer, usages, condition);
        let sign = |_: &CertificateSigningRequestSpec| Ok(b"PEM".to_vec());
        world.settle(|world| plan(&world.snapshot, &sign, world.now));
        let found = world.get("CertificateSigningRequest", "", "ann").unwrap();
        let status = &found["status"];
        let failed = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["type"] == "Failed");
        let seen = match (status["certificate"].as_str(), failed) {
            (Some(certificate), _) => certificate.to_owned(),
            (None, Some(failed)) => failed["message"].as_str().unwrap().to_owned(),
            _ => String::new(),
        };
        assert!(
            seen.starts_with(expect) && seen.is_empty() == expect.is_empty(),
            "{seen}"
        );
    }

    #[test]
    fn only_what_is_approved_and_ours_is_signed() {
        let usages = ["client auth", "digital signature"];
        check(CLIENT_SIGNER, &usages, Some("Approved"), "UEVN");
        check(CLIENT_SIGNER, &usages, None, "");
        check(CLIENT_SIGNER, &usages, Some("Denied"), "");
        check("example.com/other", &usages, Some("Approved"), "");
        check(
            CLIENT_SIGNER,
            &["server auth"],
            Some("Approved"),
            "spec.usages: must contain",
        );
        check(
            CLIENT_SIGNER,
            &["client auth", "cert sign"],
            Some("Approved"),
            "spec.usages: \"cert sign\"",
        );
    }
}
