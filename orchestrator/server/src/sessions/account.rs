//! Tokens of ServiceAccounts for the pods of a node: each for the account that its pod runs as, bound to the pod, and
//! only for a pod that is bound to the node that asks.

use serde_json::Value;
use tonic::Status;
use waggle_wire::v1;

use super::{Inner, kind};
use crate::auth::{Bound, TokenGrant};

/// Seconds that a token lives, at least and at most.
const SECONDS: std::ops::RangeInclusive<i64> = 600..=86_400;

/// A token for a pod of `node`.
pub(super) fn token(
    inner: &Inner,
    node: &str,
    request: &v1::TokenRequest,
) -> Result<v1::TokenReply, Status> {
    let wanted = request.pod.clone().unwrap_or_default();
    let internal = |status: waggle_api::Status| Status::internal(status.to_string());
    let pod = inner
        .objects
        .get(
            kind("v1", "Pod").map_err(internal)?,
            &wanted.namespace,
            &wanted.name,
        )
        .filter(|pod| pod.uid == wanted.uid)
        .ok_or_else(|| Status::not_found("the pod is gone"))?;
    let spec = &pod.value["spec"];
    if spec["nodeName"] != node {
        return Err(Status::permission_denied(format!(
            "pod {}/{} is not bound to node {node:?}",
            wanted.namespace, wanted.name
        )));
    }
    if !asks_for(spec, &request.audience) {
        return Err(Status::permission_denied(format!(
            "pod {}/{} mounts no token for audience {:?}",
            wanted.namespace, wanted.name, request.audience
        )));
    }
    let account = spec["serviceAccountName"].as_str().unwrap_or("default");
    let account = inner
        .objects
        .get(
            kind("v1", "ServiceAccount").map_err(internal)?,
            &wanted.namespace,
            account,
        )
        .ok_or_else(|| Status::not_found(format!("serviceaccount {account:?} not found")))?;
    let seconds = request.seconds.clamp(*SECONDS.start(), *SECONDS.end());
    let audience = Some(request.audience.clone()).filter(|audience| !audience.is_empty());
    let grant = TokenGrant {
        namespace: wanted.namespace,
        account: Bound {
            name: account.name.clone(),
            uid: account.uid.clone(),
        },
        pod: Some(Bound {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
        audiences: audience.into_iter().collect(),
        seconds,
        now: inner.objects.now(),
    };
    let token = inner.pki.tokens().issue(&grant).map_err(internal)?;
    Ok(v1::TokenReply { token, seconds })
}

/// Whether a volume of the pod projects a token for this audience.
fn asks_for(spec: &Value, audience: &str) -> bool {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let sources = volumes.flat_map(|volume| {
        volume["projected"]["sources"]
            .as_array()
            .into_iter()
            .flatten()
    });
    sources
        .map(|source| &source["serviceAccountToken"])
        .any(|token| !token.is_null() && token["audience"].as_str().unwrap_or_default() == audience)
}
