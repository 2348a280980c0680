//! `waggle top`: what nodes and pods use, from metrics.k8s.io.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;
use waggle_model::{MilliCpu, Quantity};

use crate::connect::{Api, Globals, check_segment, refused_with, with_query};
use crate::get::put;
use crate::tab;

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct TopArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Nodes, beside what they have
    #[command(aliases = ["node", "no"])]
    Nodes {
        /// One node
        name: Option<String>,
    },
    /// Pods
    #[command(aliases = ["pod", "po"])]
    Pods {
        /// One pod
        name: Option<String>,
        /// In all Namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Each container by itself
        #[arg(long)]
        containers: bool,
        /// Label selector
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Option<String>,
    },
}

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Runs it.
pub(crate) async fn run(args: TopArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let text = match args.what {
        What::Nodes { name } => {
            let metrics = fetch(&api, &format!("{METRICS}/nodes"), name.as_deref()).await?;
            if metrics.is_empty() {
                bail!("no node has reported what it uses yet");
            }
            let nodes = api.list("/api/v1/nodes").await?;
            node_table(
                &metrics,
                nodes["items"]
                    .as_array()
                    .map(Vec::as_slice)
                    .unwrap_or_default(),
            )
        }
        What::Pods {
            name,
            all_namespaces,
            containers,
            selector,
        } => {
            let collection = if all_namespaces {
                format!("{METRICS}/pods")
            } else {
                format!("{METRICS}/namespaces/{}/pods", api.namespace)
            };
            let query: Vec<_> = selector
                .into_iter()
                .map(|selector| ("labelSelector", selector))
                .collect();
            let path = if name.is_some() {
                collection
            } else {
                with_query(&collection, &query)
            };
            let metrics = fetch(&api, &path, name.as_deref()).await?;
            if metrics.is_empty() {
                let place = if all_namespaces {
                    String::new()
                } else {
                    format!(" in {} namespace.", api.namespace)
                };
                eprintln!("No resources found{place}");
                return Ok(ExitCode::SUCCESS);
            }
            pod_table(&metrics, all_namespaces, containers)
        }
    };
    put(&tab::align(&text, 6, 3))?;
    Ok(ExitCode::SUCCESS)
}

async fn fetch(api: &Api, path: &str, name: Option<&str>) -> Result<Vec<Value>> {
    let answer = match name {
        Some(name) => api
            .get(&format!("{path}/{}", check_segment("name", name)?))
            .await
            .map(|item| vec![item]),
        None => api.get(path).await.map(|mut list| {
            list["items"]
                .as_array_mut()
                .map(std::mem::take)
                .unwrap_or_default()
        }),
    };
    match answer {
        Err(error) if refused_with(&error, 404) && name.is_some() => {
            bail!("no figures for {} yet: {error}", name.unwrap_or_default())
        }
        other => other,
    }
}

fn cpu(value: &Value) -> i64 {
    amount(value).map_or(0, |quantity| MilliCpu::from(quantity).0)
}

fn mebibytes(value: &Value) -> i64 {
    amount(value).map_or(0, |quantity| quantity.value() >> 20)
}

fn amount(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn share(part: i64, whole: i64) -> String {
    if whole == 0 {
        "<unknown>".to_owned()
    } else {
        format!("{}%", part * 100 / whole)
    }
}

fn node_table(metrics: &[Value], nodes: &[Value]) -> String {
    let mut text = String::from("NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\n");
    let used: BTreeMap<&str, &Value> = metrics
        .iter()
        .filter_map(|m| Some((m["metadata"]["name"].as_str()?, &m["usage"])))
        .collect();
    for (name, usage) in used {
        let node = nodes.iter().find(|node| node["metadata"]["name"] == name);
        let room = node.map_or(&Value::Null, |node| &node["status"]["allocatable"]);
        let (cpu_used, memory_used) = (cpu(&usage["cpu"]), mebibytes(&usage["memory"]));
        text.push_str(&format!(
            "{name}\t{cpu_used}m\t{}\t{memory_used}Mi\t{}\n",
            share(cpu_used, cpu(&room["cpu"])),
            share(memory_used, mebibytes(&room["memory"]))
        ));
    }
    text
}

fn pod_table(metrics: &[Value], namespaces: bool, by_container: bool) -> String {
    let mut rows: Vec<(String, String, String, i64, i64)> = Vec::new();
    for pod in metrics {
        let meta = |field: &str| {
            pod["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let containers: Vec<(String, i64, i64)> = pod["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| {
                let usage = &c["usage"];
                (
                    c["name"].as_str().unwrap_or_default().to_owned(),
                    cpu(&usage["cpu"]),
                    mebibytes(&usage["memory"]),
                )
            })
            .collect();
        if by_container {
            rows.extend(
                containers
                    .into_iter()
                    .map(|(c, cpu, mem)| (meta("namespace"), meta("name"), c, cpu, mem)),
            );
        } else {
            let (cpu, memory) = containers
                .iter()
                .fold((0, 0), |(cpu, memory), c| (cpu + c.1, memory + c.2));
            rows.push((meta("namespace"), meta("name"), String::new(), cpu, memory));
        }
    }
    rows.sort();
    let mut text = format!(
        "{}{}\tCPU(cores)\tMEMORY(bytes)\n",
        if namespaces { "NAMESPACE\t" } else { "" },
        if by_container { "POD\tNAME" } else { "NAME" }
    );
    for (namespace, pod, container, cpu, memory) in rows {
        if namespaces {
            text.push_str(&format!("{namespace}\t"));
        }
        let name = if by_container {
            format!("{pod}\t{container}")
        } else {
            pod
        };
        text.push_str(&format!("{name}\t{cpu}m\t{memory}Mi\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_shown_beside_what_they_have() {
        let metrics =
            [json!({"metadata": {"name": "node1"}, "usage": {"cpu": "250m", "memory": "512Mi"}})];
        let nodes = [
            json!({"metadata": {"name": "node1"}, "status": {"allocatable": {"cpu": "2", "memory": "2Gi"}}}),
        ];
        assert_eq!(
            node_table(&metrics, &nodes),
            "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)\nnode1\t250m\t12%\t512Mi\t25%\n"
        );
    }

    #[test]
    fn pods_add_up_their_containers() {
        let metrics = [
            json!({"metadata": {"name": "web", "namespace": "shop"}, "containers": [
            {"name": "a", "usage": {"cpu": "1500000n", "memory": "2048Ki"}}, {"name": "b", "usage": {"cpu": "10m", "memory": "1Mi"}}]}),
        ];
        assert_eq!(
            pod_table(&metrics, false, false),
            "NAME\tCPU(cores)\tMEMORY(bytes)\nweb\t12m\t3Mi\n"
        );
        assert_eq!(
            pod_table(&metrics, true, true),
            "NAMESPACE\tPOD\tNAME\tCPU(cores)\tMEMORY(bytes)\nshop\tweb\ta\t2m\t2Mi\nshop\tweb\tb\t10m\t1Mi\n"
        );
    }
}
