//! `flows` of waggle.dev/v1: what the datapaths of all nodes report, as one log. A resource that is only listed and
//! watched, of the cluster or of a namespace, so that roles say who sees it. Bringing the nodes' logs together is next
//! door.

mod line;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use waggle_api::Status;
use waggle_wire::v1;

use super::logs::flag;
use super::{Streams, refusal};
use crate::auth::User;
use crate::objects::Caller;
use crate::sessions::kind;
use line::Lines;
use merge::Merge;

/// Lines on their way to a client.
const QUEUE: usize = 256;

/// What is asked for; what is left out matters not.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Wanted {
    /// Go on with what comes.
    #[serde(deserialize_with = "flag")]
    watch: bool,
    /// Reported by this node.
    node: Option<String>,
    /// Either end, `NAMESPACE/NAME`, or a name in the namespace of the request.
    pod: Option<String>,
    /// Tenant of either end, by name.
    tenant: Option<String>,
    verdict: Option<String>,
    reason: Option<String>,
    /// Port of either end.
    port: Option<u16>,
    /// `tcp`, or a number.
    protocol: Option<String>,
    since_seconds: Option<i64>,
}

pub(super) async fn of_cluster(
    State(streams): State<Streams>,
    caller: Option<Extension<Arc<Caller>>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    serve(&streams, "", caller, wanted).await
}

pub(super) async fn of_namespace(
    State(streams): State<Streams>,
    Path(namespace): Path<String>,
    caller: Option<Extension<Arc<Caller>>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    serve(&streams, &namespace, caller, wanted).await
}

async fn serve(
    streams: &Streams,
    namespace: &str,
    caller: Option<Extension<Arc<Caller>>>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let user = caller.and_then(|Extension(caller)| caller.user().cloned());
    let opened = match (wanted, user) {
        (Err(rejection), _) => Err(Status::bad_request(rejection.body_text())),
        (_, None) => Err(Status::unauthorized("flows are shown to users only")),
        (Ok(Query(wanted)), Some(user)) => open(streams, namespace, user, &wanted),
    };
    match opened {
        Ok(body) => ([(header::CONTENT_TYPE, "application/jsonl")], body).into_response(),
        Err(status) => refusal(&status),
    }
}

fn open(streams: &Streams, namespace: &str, user: User, wanted: &Wanted) -> Result<Body, Status> {
    let sessions = streams.leading.sessions().ok_or_else(|| {
        Status::unavailable("this server does not lead: nodes are reached through the leader")
    })?;
    let registry = sessions.registry();
    let tenant = |name: &String| {
        let number = registry.tenant(name);
        number.ok_or_else(|| Status::bad_request(format!("tenant: nobody is called {name:?}")))
    };
    let tenant = wanted.tenant.as_ref().map(tenant).transpose()?;
    let since = wanted.since_seconds.map(|seconds| {
        let since = streams.objects.now().as_nanosecond() - i128::from(seconds) * 1_000_000_000;
        u64::try_from(since).unwrap_or(0)
    });
    let request = v1::FlowsRequest {
        follow: wanted.watch,
        since_ns: since.unwrap_or(0),
        filter: Some(filter(namespace, tenant.map_or(0, |id| id.0), wanted)?),
    };
    let all = nodes(streams)?;
    let nodes = match &wanted.node {
        None => all,
        Some(node) if all.contains(node) => BTreeSet::from([node.clone()]),
        Some(node) => return Err(Status::not_found(kind("v1", "Node")?, node)),
    };
    let (lines, body) = mpsc::channel(QUEUE);
    let merge = Merge {
        sessions: sessions.clone(),
        request,
        one: wanted.node.is_some(),
        nodes,
        lines: Lines::new(Arc::clone(&streams.objects), sessions.clone(), user),
        out: lines,
        patience: PATIENCE,
    };
    tokio::spawn(merge.run());
    let body = ReceiverStream::new(body).map(Ok::<Bytes, std::convert::Infallible>);
    Ok(Body::from_stream(body))
}

/// How long a node may take to open its log, and to tell what it has kept.
const PATIENCE: Duration = Duration::from_secs(4);

/// Names of all nodes that there are.
fn nodes(streams: &Streams) -> Result<BTreeSet<String>, Status> {
    let listing = streams.objects.list(kind("v1", "Node")?, None);
    let names = listing.objects.iter().map(|node| node.name.clone());
    Ok(names.collect())
}

fn filter(namespace: &str, tenant: u32, wanted: &Wanted) -> Result<v1::FlowFilter, Status> {
    let (mut namespace, mut pod) = (namespace.to_owned(), String::new());
    match wanted.pod.as_deref().map(|pod| (pod, pod.split_once('/'))) {
        None => {}
        Some((_, Some((of, name)))) if namespace.is_empty() || namespace == of => {
            (namespace, pod) = (of.to_owned(), name.to_owned());
        }
        Some((name, None)) if !namespace.is_empty() => pod = name.to_owned(),
        Some((other, _)) => {
            let hint = if namespace.is_empty() {
                "write NAMESPACE/NAME".to_owned()
            } else {
                format!("it is not in namespace {namespace:?}, which was asked for")
            };
            return Err(Status::bad_request(format!("pod {other:?}: {hint}")));
        }
    }
    let verdict = match wanted.verdict.as_deref() {
        None | Some("") => v1::FlowVerdict::Unspecified,
        Some("drop") => v1::FlowVerdict::Drop,
        Some("forward") => v1::FlowVerdict::Forward,
        Some("translate") => v1::FlowVerdict::Translate,
        Some(other) => {
            return Err(Status::bad_request(format!(
                "verdict must be drop, forward or translate, not {other:?}"
            )));
        }
    };
    let protocol = match wanted.protocol.as_deref() {
        None | Some("") => 0,
        Some(text) => line::protocol_number(text).ok_or_else(|| {
            Status::bad_request(format!(
                "protocol must be tcp, udp, sctp, icmp, icmpv6 or a number from 1 to 255, not {text:?}"
            ))
        })?,
    };
    Ok(v1::FlowFilter {
        namespace,
        pod,
        tenant,
        verdict: verdict.into(),
        reason: wanted.reason.clone().unwrap_or_default(),
        port: wanted.port.unwrap_or(0).into(),
        protocol: protocol.into(),
    })
}
