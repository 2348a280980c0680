//! Prometheus scrapes the server that DNS tells it of; vmagent finds servers, nodes, pods and Services through the API and tells
//! Prometheus of them. Both as a ServiceAccount.

use anyhow::{Context, Result, ensure};
use harness::eventually;
use serde_json::Value;

use crate::{SETTLE, World};

impl World {
    /// What an expression comes to: labels and value of each sample.
    fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>> {
        let url = format!("http://prometheus.monitoring.svc:9090/api/v1/query?query={expression}");
        let text = self.client(&format!("wget -qO- '{url}'"))?;
        let answer: Value = serde_json::from_str(&text)?;
        let samples = answer["data"]["result"].as_array().context(text)?;
        let sample = |sample: &Value| {
            let value = sample["value"][1].as_str()?.parse().ok()?;
            Some((sample["metric"].clone(), value))
        };
        samples
            .iter()
            .map(|one| sample(one).with_context(|| one.to_string()))
            .collect()
    }
}

pub(crate) fn scrapes(world: &World) -> Result<()> {
    world.rolled_out("monitoring", "statefulset/prometheus")?;
    let nodes = world.cluster.nodes();
    eventually("everything is scraped", SETTLE, || {
        let up = world.query("up")?;
        let of = |job: &str| -> Vec<f64> {
            let of_job = up.iter().filter(|(labels, _)| labels["job"] == job);
            of_job.map(|(_, value)| *value).collect()
        };
        let node_values = vec![1.0; nodes.len()];
        ensure!(of("waggle-nodes") == node_values, "{up:?}");
        for job in ["waggle-server", "waggle-servers", "pods", "services"] {
            ensure!(of(job) == [1.0], "{job}: {up:?}");
        }
        Ok(())
    })?;
    let connected = world.query("waggle_nodes_connected")?;
    ensure!(
        connected
            .iter()
            .any(|(_, value)| *value == nodes.len() as f64),
        "{connected:?}"
    );
    // Labels of the nodes came with them.
    let by_node = world.query("count%20by(kubernetes_io_hostname)(up{job=%22waggle-nodes%22})")?;
    let named = by_node.iter().filter(|(labels, _)| {
        nodes
            .iter()
            .any(|n| labels["kubernetes_io_hostname"] == n.name.as_str())
    });
    ensure!(named.count() == nodes.len(), "{by_node:?}");
    // It hears of pods that come and go.
    let client = world.field("default", "pod/client", ".status.podIP")?;
    let annotate = ["annotate", "pod/client", "prometheus.io/scrape=true"];
    world.kubectl.ok(&annotate)?;
    eventually("a pod that asks is tried", SETTLE, || {
        let up = world.query("up{pod=%22client%22}")?;
        ensure!(
            up.iter().any(|(labels, value)| *value == 0.0
                && labels["instance"]
                    .as_str()
                    .is_some_and(|i| i.contains(&client))),
            "{up:?}"
        );
        Ok(())
    })
}
