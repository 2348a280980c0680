//! NetworkPolicies as people write them, enforced on the sender's node and on the receiver's, from the first packet on
//! and over connections that were there before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};
use serde_json::Value;

use crate::serving::client;

const SETTLE: Duration = Duration::from_secs(10);
const SHOP: &str = "user-center.shop.svc.cluster.local:80";

/// A policy of namespace shop.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn apply(cluster: &Cluster, name: &str, spec: &str) -> Result<()> {
    cluster.apply(&policy(name, spec))?.ok().map(drop)
}

fn remove(cluster: &Cluster, name: &str) -> Result<()> {
    let arguments = ["delete", "networkpolicy", name, "-n", "shop"];
    cluster.waggle(&arguments)?.ok().map(drop)
}

/// Asks each pod of the front by its address, so that both its own node's pods and other nodes' are asked.
fn asks(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Vec<Value>> {
    let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
    let mut reports = Vec::new();
    for front in pods["items"].as_array().context("pods")? {
        let address = front["status"]["podIP"].as_str().context("podIP")?;
        let target = format!("{address}:8080");
        let arguments = ["http", &target, "--timeout", "400"];
        reports.push(client(cluster, namespace, pod, &arguments)?);
    }
    ensure!(reports.len() > 1, "several pods serve the front");
    Ok(reports)
}

fn reaches(cluster: &Cluster, namespace: &str, pod: &str, expect: bool) -> Result<()> {
    for report in asks(cluster, namespace, pod)? {
        let reached = report["failed"] == 0;
        ensure!(
            reached == expect,
            "{pod} should reach the front: {expect}: {report}"
        );
    }
    Ok(())
}

fn settles(cluster: &Cluster, pod: &str, expect: bool) -> Result<()> {
    eventually(
        &format!("{pod} reaches the front: {expect}"),
        SETTLE,
        || reaches(cluster, "shop", pod, expect),
    )
}

/// Gives a pod other labels, as `kubectl label` does.
fn label(cluster: &Cluster, pod: &str, labels: &str) -> Result<()> {
    let mut object = cluster.json(&["pod", pod, "-n", "shop"])?;
    object["metadata"]["labels"] = serde_json::from_str(labels)?;
    for field in ["resourceVersion", "managedFields"] {
        let metadata = object["metadata"].as_object_mut().context("metadata")?;
        metadata.remove(field);
    }
    object.as_object_mut().context("a pod")?.remove("status");
    cluster.apply(&object.to_string())?.ok().map(drop)
}

const FRONT: &str = "{matchLabels: {app: user-center}}";

pub(crate) fn ingress_is_governed(cluster: &Cluster) -> Result<()> {
    settles(cluster, "client-node1", true)?;
    apply(
        cluster,
        "deny",
        &format!("{{podSelector: {FRONT}, policyTypes: [Ingress]}}"),
    )?;
    for node in cluster.nodes() {
        settles(cluster, &format!("client-{}", node.name), false)?;
    }
    explained(cluster, false, "shop/deny")?;
    // By the pods' labels, and by the name of the port.
    label(cluster, "client-node1", r#"{"role": "buyer"}"#)?;
    let allow = format!(
        "{{podSelector: {FRONT}, ingress: [{{from: [{{podSelector: {{matchLabels: {{role: buyer}}}}}}], ports: [{{port: http}}]}}]}}"
    );
    apply(cluster, "allow", &allow)?;
    settles(cluster, "client-node1", true)?;
    settles(cluster, "client-node2", false)?;
    explained(cluster, true, "shop/allow, ingress rule 1")?;
    // By the namespace's labels; the wall stands above.
    let all =
        format!("{{podSelector: {FRONT}, ingress: [{{from: [{{namespaceSelector: {{}}}}]}}]}}");
    apply(cluster, "allow", &all)?;
    settles(cluster, "client-node2", true)?;
    reaches(cluster, "billing", "client-node1", false)?;
    // By address: all pods of node2, and nobody else.
    let node = cluster.json(&["node", "node2"])?;
    let range = node["spec"]["podCIDR"].as_str().context("podCIDR")?;
    let block = format!(
        "{{podSelector: {FRONT}, ingress: [{{from: [{{ipBlock: {{cidr: {range}}}}}], ports: [{{port: 8000, endPort: 9000}}]}}]}}"
    );
    apply(cluster, "allow", &block)?;
    settles(cluster, "client-node1", false)?;
    settles(cluster, "client-node2", true)?;
    remove(cluster, "allow")?;
    settles(cluster, "client-node2", false)?;
    remove(cluster, "deny")?;
    for node in cluster.nodes() {
        settles(cluster, &format!("client-{}", node.name), true)?;
    }
    Ok(())
}

/// `waggle policy why` says the same as the kernel, and why.
fn explained(cluster: &Cluster, allowed: bool, rule: &str) -> Result<()> {
    let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
    let front = pods["items"][0]["metadata"]["name"]
        .as_str()
        .context("name")?;
    let front = format!("shop/{front}");
    let arguments = ["policy", "why", "shop/client-node1", &front, "8080/tcp"];
    let output = cluster.waggle(&arguments)?;
    ensure!((output.code == 0) == allowed, "{output:?}");
    ensure!(output.stdout.contains(rule), "{output:?}");
    Ok(())
}

pub(crate) fn egress_is_governed_and_live_connections_are_cut(cluster: &Cluster) -> Result<()> {
    settles(cluster, "client-node3", true)?;
    label(cluster, "client-node3", r#"{"role": "visitor"}"#)?;
    let hold = [
        "shop-client",
        "hold",
        SHOP,
        "--count",
        "0",
        "--until",
        "/tmp/stop-hold",
        "--interval",
        "50",
        // Once it is cut, every further request waits this long.
        "--timeout",
        "700",
    ];
    let held = cluster.exec_background("shop", "client-node3", &hold)?;
    let free = cluster.exec_background(
        "shop",
        "client-node2",
        &[
            "shop-client",
            "hold",
            SHOP,
            "--count",
            "100",
            "--interval",
            "50",
        ],
    )?;
    std::thread::sleep(Duration::from_secs(1));
    apply(
        cluster,
        "stay",
        "{podSelector: {matchLabels: {role: visitor}}, policyTypes: [Egress]}",
    )?;
    settles(cluster, "client-node3", false)?;
    // A request is under way then, and the next one is not answered.
    std::thread::sleep(Duration::from_secs(1));
    let stop = ["touch", "/tmp/stop-hold"];
    cluster.exec("shop", "client-node3", &stop)?.ok()?;
    let output = held.finish(Duration::from_secs(60))?;
    let report: Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(
        report["ok"].as_u64() > Some(3) && report["failed"].as_u64() > Some(0),
        "the connection is cut: {report}"
    );
    let output = free.finish(Duration::from_secs(60))?;
    let report: Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(report["failed"] == 0, "another pod's goes on: {report}");
    // The name is still looked up (its node answers), and the call fails at once.
    let report = client(
        cluster,
        "shop",
        "client-node3",
        &["http", SHOP, "--timeout", "5000"],
    )?;
    ensure!(
        report["errors"].to_string().contains("[EACCES]"),
        "{report}"
    );
    ensure!(
        report["slowest_ms"].as_f64() < Some(2000.0),
        "at once: {report}"
    );
    remove(cluster, "stay")?;
    settles(cluster, "client-node3", true)
}

pub(crate) fn tenants_know_who_enforces(cluster: &Cluster) -> Result<()> {
    let generation = |cluster: &Cluster| -> Result<u64> {
        let tenant = cluster.json(&["tenant", "shop"])?;
        tenant["status"]["generation"]
            .as_u64()
            .context("generation")
    };
    let before = generation(cluster)?;
    apply(
        cluster,
        "nothing",
        "{podSelector: {matchLabels: {app: redis}}, ingress: [{}]}",
    )?;
    let result = eventually("every node enforces the newest policies", SETTLE, || {
        let tenant = cluster.json(&["tenant", "shop"])?;
        let status = &tenant["status"];
        ensure!(status["generation"].as_u64() > Some(before), "{status}");
        ensure!(
            status["enforcingNodes"] == cluster.nodes().len(),
            "{status}"
        );
        Ok(())
    });
    remove(cluster, "nothing")?;
    result
}
