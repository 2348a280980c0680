//! What nodes, pods and containers use, as their agents last measured it, and the metrics.k8s.io/v1beta1 answers made
//! from it. Kept in memory only: figures are worth nothing after a minute. Measuring is the agent's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::{Value, json};
use waggle_wire::v1;

/// Figures older than this are not shown: their node is gone or cut off.
const STALE: Duration = Duration::from_secs(90);

const API_VERSION: &str = "metrics.k8s.io/v1beta1";

/// The newest figures of every node.
#[derive(Debug, Default)]
pub struct UsageRegistry {
    nodes: Mutex<BTreeMap<String, Measured>>,
}

#[derive(Debug)]
struct Measured {
    received: Instant,
    at: Timestamp,
    usage: v1::Usage,
}

impl UsageRegistry {
    /// Takes in what the agent of `node` measured, in place of what it said before.
    pub fn record(&self, node: &str, usage: v1::Usage) {
        let at =
            Timestamp::from_nanosecond(usage.time_ns.into()).unwrap_or_else(|_| Timestamp::now());
        let measured = Measured {
            received: Instant::now(),
            at,
            usage,
        };
        self.lock().insert(node.to_owned(), measured);
    }

    /// Forgets a node that is gone.
    pub fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    /// NodeMetrics of every node with fresh figures, by name.
    pub fn node_metrics(&self) -> Vec<Value> {
        self.fresh(|name, measured| vec![node_metrics(name, measured)])
    }

    /// PodMetrics of every pod of `namespace` (of all when `None`) with fresh figures, by namespace and name.
    pub fn pod_metrics(&self, namespace: Option<&str>) -> Vec<Value> {
        let mut pods = self.fresh(|_, measured| pod_metrics(measured, namespace));
        pods.sort_by_key(|pod| {
            let text = |field: &str| {
                pod["metadata"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("namespace"), text("name"))
        });
        pods
    }

    /// Fresh figures of every container, by pod (namespace, name), as autoscalers read them.
    pub fn by_pod(&self) -> waggle_plan::autoscaler::Usage {
        let nodes = self.lock();
        let fresh = nodes
            .values()
            .filter(|measured| measured.received.elapsed() < STALE);
        let mut pods = waggle_plan::autoscaler::Usage::new();
        for one in fresh.flat_map(|measured| &measured.usage.containers) {
            let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let key = (one.namespace.clone(), one.pod.clone());
            pods.entry(key)
                .or_default()
                .push(waggle_plan::autoscaler::ContainerUsage {
                    name: one.container.clone(),
                    cpu_milli: whole(one.cpu_nanocores / 1_000_000),
                    memory_bytes: whole(one.memory_bytes),
                });
        }
        pods
    }

    fn fresh(&self, rows: impl Fn(&str, &Measured) -> Vec<Value>) -> Vec<Value> {
        let nodes = self.lock();
        let fresh = nodes
            .iter()
            .filter(|(_, measured)| measured.received.elapsed() < STALE);
        fresh
            .flat_map(|(name, measured)| rows(name, measured))
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Measured>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves metrics.k8s.io/v1beta1 below `/apis`: its resource list, nodes and pods.
pub fn router(usage: Arc<UsageRegistry>) -> Router {
    Router::new()
        .route(
            "/apis/metrics.k8s.io/v1beta1",
            get(async || Json(resources())),
        )
        .route("/apis/metrics.k8s.io/v1beta1/nodes", get(nodes))
        .route("/apis/metrics.k8s.io/v1beta1/nodes/{name}", get(node))
        .route("/apis/metrics.k8s.io/v1beta1/pods", get(all_pods))
        .route(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods",
            get(pods),
        )
        .route(
            "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}",
            get(pod),
        )
        .with_state(usage)
}

type Registry = State<Arc<UsageRegistry>>;

async fn nodes(State(usage): Registry) -> Json<Value> {
    list("NodeMetricsList", usage.node_metrics())
}

async fn node(State(usage): Registry, Path(name): Path<String>) -> Response {
    one("nodes", &name, usage.node_metrics())
}

async fn all_pods(State(usage): Registry) -> Json<Value> {
    list("PodMetricsList", usage.pod_metrics(None))
}

async fn pods(State(usage): Registry, Path(namespace): Path<String>) -> Json<Value> {
    list("PodMetricsList", usage.pod_metrics(Some(&namespace)))
}

async fn pod(State(usage): Registry, Path((namespace, name)): Path<(String, String)>) -> Response {
    one("pods", &name, usage.pod_metrics(Some(&namespace)))
}

fn list(kind: &str, items: Vec<Value>) -> Json<Value> {
    Json(json!({"apiVersion": API_VERSION, "kind": kind, "metadata": {}, "items": items}))
}

fn one(plural: &str, name: &str, items: Vec<Value>) -> Response {
    match items
        .into_iter()
        .find(|item| item["metadata"]["name"] == name)
    {
        Some(item) => Json(item).into_response(),
        None => {
            let message = format!("no metrics known for {plural} \"{name}\"");
            let details = json!({"group": "metrics.k8s.io", "kind": plural, "name": name});
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                "reason": "NotFound", "code": 404, "message": message, "details": details,
            });
            (StatusCode::NOT_FOUND, Json(status)).into_response()
        }
    }
}

fn resources() -> Value {
    let row = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    json!({
        "apiVersion": "v1", "kind": "APIResourceList", "groupVersion": API_VERSION,
        "resources": [row("nodes", "NodeMetrics", false), row("pods", "PodMetrics", true)],
    })
}

fn node_metrics(name: &str, measured: &Measured) -> Value {
    let usage = &measured.usage;
    json!({
        "apiVersion": API_VERSION, "kind": "NodeMetrics",
        "metadata": {"name": name, "creationTimestamp": measured.at.to_string()},
        "timestamp": measured.at.to_string(), "window": window(usage),
        "usage": amounts(usage.cpu_nanocores, usage.memory_bytes),
    })
}

fn pod_metrics(measured: &Measured, namespace: Option<&str>) -> Vec<Value> {
    let mut pods: BTreeMap<(&str, &str), Vec<Value>> = BTreeMap::new();
    for one in &measured.usage.containers {
        if namespace.is_none_or(|namespace| namespace == one.namespace) {
            let usage = amounts(one.cpu_nanocores, one.memory_bytes);
            let row = json!({"name": one.container, "usage": usage});
            pods.entry((&one.namespace, &one.pod))
                .or_default()
                .push(row);
        }
    }
    let pod = |((namespace, name), containers): ((&str, &str), Vec<Value>)| {
        json!({
            "apiVersion": API_VERSION, "kind": "PodMetrics",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": measured.at.to_string()},
            "timestamp": measured.at.to_string(), "window": window(&measured.usage),
            "containers": containers,
        })
    };
    pods.into_iter().map(pod).collect()
}

/// The window as Go prints durations: `9.998s`.
fn window(usage: &v1::Usage) -> String {
    let milliseconds = usage.window_ns / 1_000_000;
    let (seconds, rest) = (milliseconds / 1000, milliseconds % 1000);
    if rest == 0 {
        format!("{seconds}s")
    } else {
        format!("{seconds}.{rest:03}s")
    }
}

fn amounts(cpu_nanocores: u64, memory_bytes: u64) -> Value {
    json!({"cpu": format!("{cpu_nanocores}n"), "memory": format!("{}Ki", memory_bytes.div_ceil(1024))})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(namespace: &str, pod: &str, container: &str) -> v1::ContainerUsage {
        v1::ContainerUsage {
            namespace: namespace.into(),
            pod: pod.into(),
            container: container.into(),
            cpu_nanocores: 1_500_000,
            memory_bytes: 4097,
        }
    }

    #[test]
    fn figures_are_grouped_by_pod_and_namespace() {
        let usage = UsageRegistry::default();
        let containers = vec![
            container("shop", "web", "a"),
            container("shop", "web", "b"),
            container("x", "y", "z"),
        ];
        usage.record(
            "node1",
            v1::Usage {
                time_ns: 1,
                cpu_nanocores: 7,
                memory_bytes: 1,
                window_ns: 9_998_000_000,
                containers,
            },
        );
        let nodes = usage.node_metrics();
        assert_eq!(nodes[0]["usage"], json!({"cpu": "7n", "memory": "1Ki"}));
        assert_eq!(nodes[0]["window"], "9.998s");
        let pods = usage.pod_metrics(Some("shop"));
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0]["containers"].as_array().unwrap().len(), 2);
        assert_eq!(
            pods[0]["containers"][0]["usage"],
            json!({"cpu": "1500000n", "memory": "5Ki"})
        );
        assert_eq!(usage.pod_metrics(None).len(), 2);
        usage.forget("node1");
        assert!(usage.node_metrics().is_empty());
    }
}
