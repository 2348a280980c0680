//! What a client asks of the server and waits for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use waggle_bench::server::Client;

const NAMESPACE: &str = "default";
/// Nothing here takes longer, or it is broken.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Deployments that are made at once.
const TOGETHER: usize = 16;

/// A client.
#[derive(Clone)]
pub(crate) struct Orders(Client);

fn deployment(name: &str, replicas: usize) -> Value {
    // Who leaves a silent node at once: the delay of the others is not what is measured.
    let silent = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
        "tolerationSeconds": 0});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false, "tolerations": [silent],
                "containers": [{"name": "main", "image": "shop/web:1.0", "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]}}}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": "http"}]}})
}

fn deployments(name: &str) -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments{name}")
}

impl Orders {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// `count` Deployments of `replicas` pods, each behind a Service; waits until all pods run.
    pub(crate) async fn fill(&self, count: usize, replicas: usize) -> Result<()> {
        let names: Vec<String> = (0..count).map(|number| format!("app{number}")).collect();
        let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
        for some in names.chunks(TOGETHER) {
            let mut making = JoinSet::new();
            for name in some {
                let (client, services, name) = (self.clone(), services.clone(), name.clone());
                making.spawn(async move {
                    client.0.ask("POST", &services, &service(&name)).await?;
                    client.create(&name, replicas).await
                });
            }
            while let Some(made) = making.join_next().await {
                made??;
            }
        }
        for name in &names {
            self.until_complete(name, replicas).await?;
        }
        Ok(())
    }

    pub(crate) async fn create(&self, name: &str, replicas: usize) -> Result<()> {
        let body = deployment(name, replicas);
        self.0.ask("POST", &deployments(""), &body).await
    }

    /// Another image.
    pub(crate) async fn roll(&self, name: &str) -> Result<()> {
        let path = deployments(&format!("/{name}"));
        let mut object = self.0.get(&path).await?;
        object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("shop/web:2.0");
        self.0.ask("PUT", &path, &object).await
    }

    /// Deletes a Deployment, and waits until its pods are gone.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        self.0
            .ask("DELETE", &deployments(&format!("/{name}")), &Value::Null)
            .await?;
        let pods =
            format!("/api/v1/namespaces/{NAMESPACE}/pods?limit=1&labelSelector=app%3D{name}");
        self.until(async || Ok(self.0.get(&pods).await?["items"] == json!([])))
            .await
    }

    /// Waits until every pod of a Deployment is of its newest template and available, and there are no others.
    pub(crate) async fn until_complete(&self, name: &str, replicas: usize) -> Result<()> {
        let path = deployments(&format!("/{name}"));
        self.until(async || {
            let object = self.0.get(&path).await?;
            let status = &object["status"];
            let all = ["replicas", "updatedReplicas", "availableReplicas"];
            Ok(all.iter().all(|field| status[field] == json!(replicas))
                && status["observedGeneration"] == object["metadata"]["generation"])
        })
        .await
    }

    /// How many pods are on a node.
    pub(crate) async fn pods_on(&self, node: &str) -> Result<usize> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
        let pods = self.0.get(&path).await?;
        Ok(pods["items"].as_array().map_or(0, Vec::len))
    }

    /// Waits until a node does not report any more.
    pub(crate) async fn until_unknown(&self, node: &str) -> Result<()> {
        let path = format!("/api/v1/nodes/{node}");
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let node = self.0.get(&path).await?;
            let rows = node["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten();
            let mut ready = rows.filter(|row| row["type"] == "Ready");
            if ready.any(|row| row["status"] == "Unknown") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::bail!("node {node} is not seen to be silent within {PATIENCE:?}")
    }

    async fn until(&self, done: impl AsyncFn() -> Result<bool>) -> Result<()> {
        let start = Instant::now();
        while !done().await? {
            ensure!(start.elapsed() < PATIENCE, "not done in {PATIENCE:?}");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
