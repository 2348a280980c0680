//! `waggle cordon`, `uncordon` and `drain`: no new pods for a node, and away with those that it has.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use crate::age::parse_duration;
use crate::connect::{Api, Globals, escape, refused_with, with_query};
use crate::delete::wait_until_gone;
use crate::get::put;
use crate::kinds::Kinds;

/// How long is waited before a pod whose disruption budget forbids it is asked for again.
const PAUSE: Duration = Duration::from_secs(5);

/// Arguments of `cordon` and `uncordon`.
#[derive(Debug, clap::Args)]
pub struct CordonArgs {
    /// Nodes
    #[arg(required = true)]
    nodes: Vec<String>,
}

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// Nodes
    #[arg(required = true)]
    nodes: Vec<String>,
    /// Pods of DaemonSets stay, and are no reason to refuse
    #[arg(long)]
    ignore_daemonsets: bool,
    /// Pods with emptyDir volumes go too, with what is in them
    #[arg(long)]
    delete_emptydir_data: bool,
    /// Pods that nothing makes anew elsewhere go too
    #[arg(long)]
    force: bool,
    /// Seconds for the pods to end, instead of their own
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// How long to wait for the pods to be gone
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

/// Runs `cordon` (`true`) or `uncordon`.
pub(crate) async fn cordon(args: CordonArgs, globals: &Globals, on: bool) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    for node in &args.nodes {
        set_unschedulable(&api, node, on).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn set_unschedulable(api: &Api, node: &str, on: bool) -> Result<()> {
    let path = format!("/api/v1/nodes/{}", escape(node));
    let before = api.get(&path).await?["spec"]["unschedulable"] == true;
    let done = if on { "cordoned" } else { "uncordoned" };
    if before == on {
        return put(&format!("node/{node} already {done}\n"));
    }
    let wanted = if on { json!(true) } else { Value::Null };
    api.merge_patch(&path, &json!({"spec": {"unschedulable": wanted}}))
        .await?;
    put(&format!("node/{node} {done}\n"))
}

/// Runs `drain`.
pub(crate) async fn run(args: DrainArgs, globals: &Globals) -> Result<ExitCode> {
    let api = Api::connect(globals).await?;
    let kinds = Kinds::discover(&api).await?;
    for node in &args.nodes {
        set_unschedulable(&api, node, true).await?;
        let query = [("fieldSelector", format!("spec.nodeName={node}"))];
        let pods = api.list(&with_query("/api/v1/pods", &query)).await?;
        let pods = pods["items"].as_array().cloned().unwrap_or_default();
        let leaving = choose(&pods, &args)
            .map_err(|faults| anyhow!("node {node} is not drained:\n  {}", faults.join("\n  ")))?;
        let all = async {
            for pod in &leaving {
                evict(&api, pod, &args).await?;
            }
            let kind = kinds.targets(&["pods".to_owned()])?;
            let kind = kind
                .first()
                .ok_or_else(|| anyhow!("the server knows no pods"))?
                .kind;
            for pod in &leaving {
                let (namespace, name) = of(pod);
                let uid = pod["metadata"]["uid"].as_str();
                wait_until_gone(&api, kind, namespace, name, uid).await?;
            }
            Ok::<(), anyhow::Error>(())
        };
        match tokio::time::timeout(args.timeout, all).await {
            Ok(done) => done?,
            Err(_) => bail!(
                "node {node} still has pods after {} s; those that are told to end go on ending",
                args.timeout.as_secs()
            ),
        }
        put(&format!("node/{node} drained\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn of(pod: &Value) -> (&str, &str) {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}

/// The pods that are to go; every reason not to begin when there is one.
fn choose<'p>(pods: &'p [Value], args: &DrainArgs) -> Result<Vec<&'p Value>, Vec<String>> {
    let (mut leaving, mut faults) = (Vec::new(), Vec::new());
    for pod in pods {
        let (namespace, name) = of(pod);
        let mirror = !pod["metadata"]["annotations"][waggle_api::MIRROR].is_null();
        let over = matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        let owners = pod["metadata"]["ownerReferences"].as_array();
        let owner = owners
            .into_iter()
            .flatten()
            .find(|owner| owner["controller"] == true);
        let daemon = owner.is_some_and(|owner| owner["kind"] == "DaemonSet");
        if mirror || (daemon && args.ignore_daemonsets) {
            continue;
        }
        if daemon {
            faults.push(format!(
                "{namespace}/{name} is a DaemonSet's, which would make it again: --ignore-daemonsets leaves it"
            ));
            continue;
        }
        if owner.is_none() && !over && !args.force {
            faults.push(format!(
                "{namespace}/{name} is made by nobody, and would be gone for good: --force deletes it"
            ));
        }
        let volumes = pod["spec"]["volumes"].as_array();
        let local = volumes
            .into_iter()
            .flatten()
            .any(|volume| !volume["emptyDir"].is_null());
        if local && !over && !args.delete_emptydir_data {
            faults.push(format!(
                "{namespace}/{name} has data in an emptyDir: --delete-emptydir-data deletes it"
            ));
        }
        leaving.push(pod);
    }
    if faults.is_empty() {
        Ok(leaving)
    } else {
        Err(faults)
    }
}

/// Asks for a pod's eviction until its disruption budget permits it; deletes it where the server has no evictions.
async fn evict(api: &Api, pod: &Value, args: &DrainArgs) -> Result<()> {
    let (namespace, name) = of(pod);
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}",
        escape(namespace),
        escape(name)
    );
    let mut options = json!({"preconditions": {"uid": pod["metadata"]["uid"]}});
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace}, "deleteOptions": options,
    });
    loop {
        match api.create(&format!("{path}/eviction"), &eviction).await {
            Ok(_) => break,
            Err(error) if refused_with(&error, 429) => {
                put(&format!("pod/{name} can't go yet: {error:#}\n"))?;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if refused_with(&error, 404) || refused_with(&error, 405) => {
                match api.delete(&path, &options).await {
                    Err(error) if !refused_with(&error, 404) => return Err(error),
                    _ => break,
                }
            }
            Err(error) => return Err(error),
        }
    }
    put(&format!("pod/{name} evicted\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> DrainArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            drain: DrainArgs,
        }
        let words = ["drain", "node1"]
            .into_iter()
            .chain(line.split_whitespace());
        <Line as clap::Parser>::parse_from(words).drain
    }

    #[test]
    fn what_would_be_lost_is_named_before_anything_goes() {
        let owner = |kind: &str| json!([{"kind": kind, "name": "o", "controller": true}]);
        let pod = |name: &str, owners: Value, volumes: Value| json!({"metadata": {"name": name, "namespace": "n", "ownerReferences": owners}, "spec": {"volumes": volumes}});
        let pods = [
            pod("web", owner("ReplicaSet"), json!([])),
            pod("daemon", owner("DaemonSet"), json!([])),
            pod("alone", json!([]), json!([])),
            pod(
                "data",
                owner("StatefulSet"),
                json!([{"name": "v", "emptyDir": {}}]),
            ),
        ];
        let names = |line: &str| {
            let chosen = choose(&pods, &args(line));
            chosen.map(|all| {
                all.iter()
                    .map(|pod| of(pod).1.to_owned())
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(names("").unwrap_err().len(), 3);
        assert_eq!(names("--force --ignore-daemonsets").unwrap_err().len(), 1);
        let all = "--force --ignore-daemonsets --delete-emptydir-data";
        assert_eq!(names(all).unwrap(), ["web", "alone", "data"]);
    }
}
