//! Metrics as Prometheus reads them: of this server at `/metrics`, and of a node below its object, told by its agent.
//! Names are Kubernetes' where they mean the same. How they are written is next door.

mod calls;
mod text;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prost::Message as _;
use serde_json::Value;
use waggle_api::Status;
use waggle_wire::v1;
use waggle_wire::v1::open_stream::Request;
use waggle_wire::v1::stream_frame::Frame;

use crate::objects::Object;
use crate::run::ServerState;
use crate::sessions::{OpenFault, kind};
use crate::streams::refusal;
pub(crate) use calls::{Call, Calls};
pub(crate) use text::{Family, Kind, number, render};

/// How long a node may take to tell its metrics.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is counted while it happens; all else is looked up when somebody asks.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests to the API.
    pub(crate) calls: Calls,
    /// Pods that the scheduler has bound.
    bound: AtomicU64,
    /// The store's file, when it is one of this machine.
    store: Option<PathBuf>,
}

impl Metrics {
    /// Of a server whose store is in this file.
    pub fn new(store: Option<PathBuf>) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    /// Notes that so many pods were bound.
    pub(crate) fn bound(&self, pods: u64) {
        self.bound.fetch_add(pods, Ordering::Relaxed);
    }
}

/// Serves `/metrics`, and `metrics` and `proxy/metrics` of nodes. Callers are authorized before they come here.
pub(crate) fn router(state: ServerState) -> Router {
    Router::new()
        .route("/metrics", get(of_server))
        .route("/api/v1/nodes/{name}/metrics", get(of_node))
        .route("/api/v1/nodes/{name}/proxy/metrics", get(of_node))
        .with_state(state)
}

fn answer(families: &[Family]) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, render(families)).into_response()
}

async fn of_server(State(state): State<ServerState>) -> Response {
    answer(&server_families(&state))
}

fn server_families(state: &ServerState) -> Vec<Family> {
    let metrics = &state.metrics;
    let one =
        |name: &str, help: &str, value: f64| Family::new(name, help, Kind::Gauge).with(&[], value);
    let mut families = vec![
        Family::new(
            "waggle_build_info",
            "1; its label is this server's version.",
            Kind::Gauge,
        )
        .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ];
    families.extend(metrics.calls.families());
    families.extend(state.flow.families());
    families.push(stored(state));
    families.push(one(
        "waggle_store_revision",
        "Revision of the store: it grows with every write.",
        number(*state.objects.changed().borrow()),
    ));
    let file = metrics
        .store
        .as_ref()
        .and_then(|path| std::fs::metadata(path).ok());
    families.extend(file.map(|file| {
        one(
            "apiserver_storage_size_bytes",
            "Size of the store's file, bytes.",
            number(file.len()),
        )
    }));
    families.push(pending(state));
    families.push(
        Family::new(
            "scheduler_schedule_attempts_total",
            "Pods that this server has bound to a node.",
            Kind::Counter,
        )
        .with(
            &[("result", "scheduled")],
            number(metrics.bound.load(Ordering::Relaxed)),
        ),
    );
    let leads = state.leading.is_us();
    families.push(one(
        "waggle_leader",
        "1 while this server leads the cluster.",
        if leads { 1.0 } else { 0.0 },
    ));
    if let Some(sessions) = state.leading.sessions() {
        let (lowest, newest) = sessions.network_progress();
        families.push(one(
            "waggle_nodes_connected",
            "Nodes that have a session with this server.",
            number(sessions.connected().len() as u64),
        ));
        families.push(one(
            "waggle_network_generation",
            "Newest generation of the network state.",
            number(newest),
        ));
        families.extend(lowest.map(|lowest| {
            one(
                "waggle_network_generation_lowest",
                "Generation of the network state that every connected node has in its kernel.",
                number(lowest),
            )
        }));
    }
    families
}

fn stored(state: &ServerState) -> Family {
    let mut family = Family::new(
        "apiserver_storage_objects",
        "Objects in the store, by resource.",
        Kind::Gauge,
    );
    for resource in state.objects.kinds().stored() {
        let count = state.objects.count(resource, None, usize::MAX);
        let name = if resource.group.is_empty() {
            resource.plural.to_owned()
        } else {
            format!("{}.{}", resource.plural, resource.group)
        };
        family.add(&[("resource", &name)], number(count as u64));
    }
    family
}

fn pending(state: &ServerState) -> Family {
    let waits = |pod: &&Arc<Object>| {
        pod.value.glance(|value| {
            value["spec"]["nodeName"].as_str().is_none_or(str::is_empty)
                && value["metadata"]["deletionTimestamp"].is_null()
                && !matches!(
                    value["status"]["phase"].as_str(),
                    Some("Succeeded" | "Failed")
                )
        })
    };
    let pods = kind("v1", "Pod").map(|pods| state.objects.list(pods, None));
    let count = pods.map_or(0, |pods| pods.objects.iter().filter(waits).count());
    Family::new(
        "scheduler_pending_pods",
        "Pods that are bound to no node yet.",
        Kind::Gauge,
    )
    .with(&[("queue", "active")], number(count as u64))
}

async fn of_node(State(state): State<ServerState>, Path(name): Path<String>) -> Response {
    match node_families(&state, &name).await {
        Ok(families) => answer(&families),
        Err(status) => refusal(&status),
    }
}

async fn node_families(state: &ServerState, name: &str) -> Result<Vec<Family>, Status> {
    let nodes = kind("v1", "Node")?;
    if state.objects.get(nodes, "", name).is_none() {
        return Err(Status::not_found(nodes, name));
    }
    let sessions = state.leading.sessions().ok_or_else(|| {
        Status::unavailable("this server does not lead: nodes are reached through the leader")
    })?;
    let told = async {
        let request = Request::Metrics(v1::MetricsRequest {});
        let mut ends = sessions.open(name, request).await.map_err(|fault| {
            let message = format!("the metrics of a node can't be read: {fault}");
            match fault {
                OpenFault::NotConnected { .. } => Status::unavailable(message),
                OpenFault::NoAnswer { .. } => Status::timeout(message),
            }
        })?;
        loop {
            let frame = ends.from_agent.message().await.map_err(|status| {
                Status::internal(format!("node {name:?}: {}", status.message()))
            })?;
            match frame.and_then(|frame| frame.frame) {
                Some(Frame::Stdout(bytes)) => {
                    return v1::Metrics::decode(bytes)
                        .map_err(|error| Status::internal(format!("node {name:?}: {error}")));
                }
                Some(Frame::End(end)) if !end.fault.is_empty() => {
                    return Err(Status::internal(format!("node {name:?}: {}", end.fault)));
                }
                Some(Frame::End(_)) | None => {
                    return Err(Status::internal(format!("node {name:?} told no metrics")));
                }
                Some(_) => {}
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.map_err(|_| {
        Status::timeout(format!(
            "node {name:?} did not tell its metrics within {} seconds",
            PATIENCE.as_secs()
        ))
    })??;
    let mut families: Vec<Family> = told.families.into_iter().map(Family::from).collect();
    families.push(restarts(state, name)?);
    Ok(families)
}

/// Restarts of the containers of a node's pods.
fn restarts(state: &ServerState, node: &str) -> Result<Family, Status> {
    let mut family = Family::new(
        "kube_pod_container_status_restarts_total",
        "How often a container was started again.",
        Kind::Counter,
    );
    let pods = state.objects.list(kind("v1", "Pod")?, None);
    let here = pods
        .objects
        .iter()
        .filter(|pod| pod.value["spec"]["nodeName"] == node);
    for pod in here {
        for field in ["initContainerStatuses", "containerStatuses"] {
            let statuses = pod.value["status"][field].as_array().into_iter().flatten();
            for status in statuses {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let labels = [
                    ("container", &*text(&status["name"])),
                    ("namespace", &*pod.namespace),
                    ("pod", &*pod.name),
                ];
                let count = status["restartCount"].as_u64().unwrap_or(0);
                family.add(&labels, number(count));
            }
        }
    }
    Ok(family)
}
