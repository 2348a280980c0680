//! The wall between tenants: denied with a clear errno, opened by an export, closed again; and sources that lie.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually};

use crate::serving::{client, pod_is_ready, vip};

const SHOP: &str = "user-center.shop.svc.cluster.local:80";
const SETTLE: Duration = Duration::from_secs(10);

pub(crate) fn wall_follows_the_export(cluster: &Cluster) -> Result<()> {
    denied(cluster)?;
    annotate(cluster, "waggle.dev/export-to: billing")?;
    eventually("billing reaches the exported shop", SETTLE, || {
        reached(cluster)
    })?;
    annotate(cluster, "{}")?;
    eventually("the wall stands again", SETTLE, || denied(cluster))?;
    // Past the VIP, straight to a pod: the wall is in the packets' way too.
    let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
    let address = pods["items"][0]["status"]["podIP"]
        .as_str()
        .context("podIP")?
        .to_owned();
    for node in cluster.nodes() {
        let report = client(
            cluster,
            "billing",
            &format!("client-{}", node.name),
            &["http", &format!("{address}:8080")],
        )?;
        ensure!(
            report["failed"] == 1,
            "billing reached a pod of shop: {report}"
        );
    }
    Ok(())
}

fn annotate(cluster: &Cluster, annotation: &str) -> Result<()> {
    let manifest = format!(
        r#"
apiVersion: v1
kind: Service
metadata:
  name: user-center
  namespace: shop
  annotations:
    {annotation}
spec:
  selector: {{app: user-center}}
  ports:
    - {{name: http, port: 80, targetPort: http}}
    - {{name: udp, port: 80, targetPort: udp, protocol: UDP}}
"#
    );
    cluster.apply(&manifest)?.ok().map(drop)
}

/// Within a second, by an errno that says what happened.
fn denied(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let pod = format!("client-{}", node.name);
        for protocol in ["http", "udp"] {
            let start = Instant::now();
            let report = client(
                cluster,
                "billing",
                &pod,
                &[protocol, SHOP, "--timeout", "5000"],
            )?;
            let errors = report["errors"].to_string();
            ensure!(
                report["failed"] == 1,
                "{protocol} from {pod} reached the shop: {report}"
            );
            ensure!(
                errors.contains("[EACCES]") || errors.contains("[EPERM]"),
                "{protocol} from {pod}: {errors}"
            );
            ensure!(
                start.elapsed() < Duration::from_secs(2),
                "{protocol} from {pod} took {:?}",
                start.elapsed()
            );
        }
    }
    Ok(())
}

fn reached(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        for protocol in ["http", "udp"] {
            let pod = format!("client-{}", node.name);
            let report = client(cluster, "billing", &pod, &[protocol, SHOP, "--count", "20"])?;
            ensure!(report["failed"] == 0, "{protocol} from {pod}: {report}");
        }
    }
    Ok(())
}

pub(crate) fn spoofed_source_is_dropped(cluster: &Cluster) -> Result<()> {
    let redis = vip(cluster, "shop", "redis")?;
    let victim = pod_is_ready(cluster, "shop", "client-node2")?;
    let (from, to) = (
        redis,
        victim["status"]["podIP"]
            .as_str()
            .context("podIP")?
            .to_owned(),
    );
    let before = invalid_sources(cluster)?;
    for _ in 0..5 {
        client(
            cluster,
            "billing",
            "client-node1",
            &["spoof", "--source", &from, &format!("{to}:9")],
        )?;
    }
    eventually("five drops with their reason", SETTLE, || {
        let after = invalid_sources(cluster)?;
        ensure!(after >= before + 5, "{before} before, {after} after");
        Ok(())
    })
}

/// Drops on node1 with the reason that the source is not the pod's.
fn invalid_sources(cluster: &Cluster) -> Result<u64> {
    let status = cluster.waggle(&["node", "drops", "node1"])?.ok()?;
    let line = status.lines().find(|line| line.contains("InvalidSource"));
    let number = line.and_then(|line| line.split_whitespace().last());
    Ok(number
        .map(str::parse)
        .transpose()
        .with_context(|| format!("no number: {status}"))?
        .unwrap_or(0))
}
