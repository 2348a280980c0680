//! Pods get more or less processor and memory while they run (`--subresource resize`), in place or by beginning anew.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};
use serde_json::Value;

use super::Kubectl;

const SETTLE: Duration = Duration::from_secs(30);

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: elastic, namespace: default}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: main
      image: shop/client:1.0
      command: [sleep, infinity]
      resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
      resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
"#;

/// A file of the container's cgroup, on either version.
fn cgroup_file(uid: &str, v1: (&str, &str), v2: &str) -> Result<String> {
    let roots = [
        (PathBuf::from("/sys/fs/cgroup").join(v1.0), v1.1),
        (PathBuf::from("/sys/fs/cgroup"), v2),
    ];
    for (root, file) in roots {
        for cluster in std::fs::read_dir(root.join("waggle")).into_iter().flatten() {
            for node in std::fs::read_dir(cluster?.path()).into_iter().flatten() {
                let path = node?.path().join("pods").join(uid).join("main").join(file);
                if let Ok(text) = std::fs::read_to_string(path) {
                    return Ok(text.trim().to_owned());
                }
            }
        }
    }
    anyhow::bail!("the container has no {v2}")
}

pub(crate) fn resources_change_in_place(cluster: &Cluster) -> Result<()> {
    let kubectl = Kubectl::new(cluster, "WAGGLE_KUBECTL")?;
    cluster.apply(POD)?.ok()?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pod/elastic",
        "--timeout=60s",
    ];
    kubectl.ok(&wait)?;
    let pod = || cluster.json(&["pod", "elastic", "-n", "default"]);
    let uid = pod()?["metadata"]["uid"]
        .as_str()
        .context("no UID")?
        .to_owned();
    let quota = || cgroup_file(&uid, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    let memory = || cgroup_file(&uid, ("memory", "memory.limit_in_bytes"), "memory.max");
    ensure!(quota()?.starts_with("10000"), "{}", quota()?);
    let patch = |resources: &str| {
        let patch = format!(
            r#"{{"spec":{{"containers":[{{"name":"main","resources":{{"limits":{resources}}}}}]}}}}"#
        );
        kubectl.ok(&[
            "patch",
            "pod",
            "elastic",
            "--subresource",
            "resize",
            "--patch",
            &patch,
        ])
    };
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    let has = |pod: &Value| pod["status"]["containerStatuses"][0]["resources"]["limits"].clone();

    patch(r#"{"cpu":"300m"}"#)?;
    eventually("the container has more of the processor", SETTLE, || {
        let pod = pod()?;
        ensure!(
            has(&pod)["cpu"] == "300m" && quota()?.starts_with("30000"),
            "{pod}"
        );
        ensure!(restarts(&pod) == 0, "{pod}");
        Ok(())
    })?;
    patch(r#"{"memory":"96Mi"}"#)?;
    eventually("the container began anew with more memory", SETTLE, || {
        let pod = pod()?;
        ensure!(
            restarts(&pod) == 1 && has(&pod)["memory"] == "96Mi",
            "{pod}"
        );
        ensure!(memory()? == (96 << 20).to_string(), "{}", memory()?);
        Ok(())
    })?;
    let refused = patch(r#"{"cpu":"50m","memory":"32Mi"}"#)
        .unwrap_err()
        .to_string();
    ensure!(refused.contains("QOS Class"), "{refused}");
    waits_for_room(cluster, &kubectl)?;
    kubectl
        .ok(&["delete", "pod", "elastic", "--wait=false"])
        .map(drop)
}

/// More than the node has is never given; more than others leave is given when one of them goes.
fn waits_for_room(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let pod = || cluster.json(&["pod", "elastic", "-n", "default"]);
    let node = pod()?["spec"]["nodeName"]
        .as_str()
        .context("no node")?
        .to_owned();
    let found = cluster.json(&["node", &node])?;
    let text = found["status"]["allocatable"]["cpu"]
        .as_str()
        .context("no processors")?;
    let whole: u64 = match text.strip_suffix('m') {
        Some(milli) => milli.parse()?,
        None => text.parse::<u64>()? * 1000,
    };
    let all = cluster.json(&[
        "pods",
        "-A",
        "--field-selector",
        &format!("spec.nodeName={node}"),
    ])?;
    let milli = |text: &str| match text.strip_suffix('m') {
        Some(milli) => milli.parse().unwrap_or(0),
        None => text.parse().unwrap_or(0) * 1000,
    };
    let containers = all["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|pod| pod["spec"]["containers"].as_array().into_iter().flatten());
    let taken: u64 = containers
        .filter_map(|c| c["resources"]["requests"]["cpu"].as_str())
        .map(milli)
        .sum();
    // Another one leaves room for 100 milli-cores.
    let other = whole.saturating_sub(taken + 100);
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: neighbour, namespace: default}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: \"shop/client:1.0\", command: [sleep, infinity], \
             resources: {{requests: {{cpu: {other}m}}}}}}]\n"
        ))?
        .ok()?;
    let wait = [
        "wait",
        "--for=condition=Ready",
        "pod/neighbour",
        "--timeout=60s",
    ];
    kubectl.ok(&wait)?;
    let ask = |milli: u64| {
        let patch = format!(
            r#"{{"spec":{{"containers":[{{"name":"main","resources":{{"requests":{{"cpu":"{milli}m"}},"limits":{{"cpu":"{milli}m"}}}}}}]}}}}"#
        );
        let command = [
            "patch",
            "pod",
            "elastic",
            "--subresource",
            "resize",
            "--patch",
            &patch,
        ];
        kubectl.ok(&command)
    };
    let pending = |pod: &Value| {
        let all = pod["status"]["conditions"].as_array().cloned();
        let of = |one: &&Value| one["type"] == "PodResizePending";
        all.iter().flatten().find(of).cloned().unwrap_or_default()
    };
    let given =
        |pod: &Value| pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"].clone();
    for (milli, reason) in [(whole + 1000, "Infeasible"), (500, "Deferred")] {
        ask(milli)?;
        eventually("the pod says why it waits", SETTLE, || {
            let pod = pod()?;
            let pending = pending(&pod);
            ensure!(pending["reason"] == reason, "{pod}");
            ensure!(
                pending["observedGeneration"] == pod["metadata"]["generation"],
                "{pod}"
            );
            ensure!(given(&pod) == "50m", "{pod}");
            Ok(())
        })?;
    }
    kubectl.ok(&["delete", "pod", "neighbour", "--wait=false"])?;
    eventually("there is room when the other went", SETTLE, || {
        let pod = pod()?;
        ensure!(pending(&pod).is_null() && given(&pod) == "500m", "{pod}");
        Ok(())
    })
}
