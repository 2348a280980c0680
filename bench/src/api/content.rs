//! The objects that are made, and the making of many of them by several clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use waggle_bench::server::{Client, Server};

/// Clients that fill a server at once.
const FILLERS: usize = 32;

/// A ConfigMap of about 0.9 kB.
pub(crate) fn config(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
        "data": {"text": "x".repeat(700)}})
}

/// A pod as a Deployment makes them, on one of `nodes` when there are any.
pub(crate) fn pod(number: usize, nodes: usize) -> Value {
    let app = format!("a{}", number % 100);
    let node = (nodes > 0).then(|| format!("n{}", number % nodes));
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("p{number}"), "namespace": "default",
            "labels": {"app": app, "pod-template-hash": "5d4f8c7b9d"}},
        "spec": {"schedulerName": "none", "nodeName": node, "containers": [{"name": "main", "image": "shop/web:1.0",
            "env": [{"name": "LISTEN", "value": "0.0.0.0:8080"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "ports": [{"containerPort": 8080, "name": "http"}]}]}})
}

/// A node by this number.
pub(crate) fn node(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("n{number}"), "labels": {"topology.kubernetes.io/zone": format!("z{}", number % 3)}},
        "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"},
            "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"}}})
}

/// Creates `count` objects below `path`; `object` makes one of its number.
pub(crate) async fn fill(
    server: &Server,
    path: &str,
    count: usize,
    object: impl Fn(usize) -> Value + Copy + Send + 'static,
) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut fillers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..FILLERS {
        let client = Client::connect(&server.door).await?;
        let (next, path) = (Arc::clone(&next), path.to_owned());
        fillers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                client.ask("POST", &path, &object(number)).await?;
            }
        });
    }
    fillers.join_all().await.into_iter().collect()
}
