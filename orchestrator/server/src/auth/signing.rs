//! Signing requests: who asks is written down by the server; who may approve or sign is asked of the signer's name.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use waggle_api::access::{Action, User};
use waggle_api::{Fault, Resource, Status};

use super::decide;
use crate::objects::Objects;
use crate::pki::Subject;

const GROUP: &str = "certificates.k8s.io";

fn is_request(resource: &Resource) -> bool {
    resource.group == GROUP && resource.kind == "CertificateSigningRequest"
}

/// Writes into a new signing request who asks for it, whatever it says of that itself. Other objects stay as they are.
///
/// # Errors
/// 422 for what is no request; 403 for a subject that nobody gets a certificate for.
pub(crate) fn stamp(
    user: Option<&User>,
    resource: &Resource,
    value: &mut Value,
) -> Result<(), Status> {
    if !is_request(resource) {
        return Ok(());
    }
    let name = value["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let Some(spec) = value["spec"].as_object_mut() else {
        return Ok(());
    };
    for field in ["username", "uid", "groups", "extra"] {
        spec.remove(field);
    }
    if let Some(user) = user {
        spec.insert("username".into(), user.name.as_str().into());
        spec.insert("groups".into(), json!(user.groups));
        if !user.uid.is_empty() {
            spec.insert("uid".into(), user.uid.as_str().into());
        }
        if !user.extra.is_empty() {
            let extra = user
                .extra
                .iter()
                .map(|(key, values)| (key.clone(), json!(values)));
            spec.insert("extra".into(), Value::Object(extra.collect()));
        }
    }
    let given = spec
        .get("request")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if given.is_empty() {
        return Ok(());
    }
    let decoded = STANDARD.decode(given).map_err(|error| error.to_string());
    let subject = decoded.and_then(|pem| Subject::of(&pem)).map_err(|cause| {
        let fault = Fault::invalid("spec.request", Value::Null, cause);
        Status::invalid(resource, &name, &[fault])
    })?;
    let ours = spec.get("signerName").and_then(Value::as_str)
        == Some(waggle_plan::signing_request::CLIENT_SIGNER);
    match subject.refusal().filter(|_| ours) {
        Some(why) => Err(Status::forbidden(resource, &name, &why)),
        None => Ok(()),
    }
}

/// Whether `user` may write this part of `old`: an approval needs the right to `approve` for its signer, a status (the
/// certificate is in it) the right to `sign`.
///
/// # Errors
/// 403 naming the right.
pub(crate) fn admit_part(
    objects: &Objects,
    user: Option<&User>,
    resource: &Resource,
    subresource: &str,
    old: &Value,
) -> Result<(), Status> {
    let verb = match subresource {
        "approval" => "approve",
        "status" => "sign",
        _ => return Ok(()),
    };
    let (Some(user), true) = (user, is_request(resource)) else {
        return Ok(());
    };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let action = Action {
            verb: verb.into(),
            group: GROUP.into(),
            resource: "signers".into(),
            name,
            ..Action::default()
        };
        if decide(objects, user, &action).is_some() {
            return Ok(());
        }
    }
    let name = old["metadata"]["name"].as_str().unwrap_or_default();
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(resource, name, &why))
}
