//! Services at work: VIP and name, TCP and UDP, from every node, while the application is scaled and updated.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, eventually, run};
use serde_json::Value;

const SHOP: &str = "user-center.shop.svc.cluster.local";
const SETTLE: Duration = Duration::from_secs(60);

/// Waits until a pod is Ready.
pub(crate) fn pod_is_ready(cluster: &Cluster, namespace: &str, pod: &str) -> Result<Value> {
    eventually(&format!("pod {namespace}/{pod} Ready"), SETTLE, || {
        let found = cluster.json(&["pod", pod, "-n", namespace])?;
        let conditions = found["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        ensure!(ready, "status: {}", found["status"]);
        Ok(found)
    })
}

/// Runs the sample client in a pod and decodes its report.
pub(crate) fn client(
    cluster: &Cluster,
    namespace: &str,
    pod: &str,
    arguments: &[&str],
) -> Result<Value> {
    let output = cluster.exec(namespace, pod, &[&["shop-client"], arguments].concat())?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no report: {output:?}"))
}

/// The VIP of a Service.
pub(crate) fn vip(cluster: &Cluster, namespace: &str, service: &str) -> Result<String> {
    let found = cluster.json(&["service", service, "-n", namespace])?;
    Ok(found["spec"]["clusterIP"]
        .as_str()
        .context("no clusterIP")?
        .to_owned())
}

pub(crate) fn answers_on_every_node(cluster: &Cluster) -> Result<()> {
    let vip = vip(cluster, "shop", "user-center")?;
    for node in cluster.nodes() {
        let pod = format!("client-{}", node.name);
        for host in [vip.as_str(), SHOP, "user-center", "user-center.shop"] {
            for protocol in ["http", "udp"] {
                let target = format!("{host}:80");
                let report = client(cluster, "shop", &pod, &[protocol, &target, "--count", "60"])?;
                let shown = format!("{protocol} {target} from {pod}: {report}");
                ensure!(report["ok"] == 60 && report["failed"] == 0, "{shown}");
                ensure!(
                    report["pods"]
                        .as_object()
                        .is_some_and(|pods| pods.len() == 3),
                    "not spread over 3: {shown}"
                );
                // The client sees the address that it asked for, never the backend's.
                ensure!(report["peer"] == format!("{vip}:80"), "{shown}");
            }
        }
    }
    Ok(())
}

pub(crate) fn front_reaches_redis(cluster: &Cluster) -> Result<()> {
    let visits = || -> Result<i64> {
        let page = cluster
            .exec(
                "shop",
                "client-node1",
                &["wget", "-q", "-O", "-", &format!("http://{SHOP}/")],
            )?
            .ok()?;
        let page: Value =
            serde_json::from_str(&page).with_context(|| format!("no JSON: {page}"))?;
        page["visits"]
            .as_i64()
            .with_context(|| format!("no number of visits: {page}"))
    };
    let (before, after) = (visits()?, visits()?);
    ensure!(
        after > before,
        "redis does not count: {before}, then {after}"
    );
    Ok(())
}

pub(crate) fn names_resolve(cluster: &Cluster) -> Result<()> {
    cluster
        .apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: each, namespace: shop}\nspec:\n  clusterIP: None\n  \
             selector: {app: user-center}\n  ports: [{name: http, port: 8080}]\n",
        )?
        .ok()?;
    eventually("three addresses of a headless Service", SETTLE, || {
        let answer = cluster
            .exec(
                "shop",
                "client-node2",
                &["nslookup", "each.shop.svc.cluster.local"],
            )?
            .ok()?;
        let addresses = answer
            .lines()
            .filter(|line| line.starts_with("Address") && line.contains("10.244."))
            .count();
        ensure!(addresses == 3, "{answer}");
        Ok(())
    })?;
    let missing = cluster
        .exec(
            "shop",
            "client-node2",
            &["nslookup", "nobody.shop.svc.cluster.local"],
        )?
        .fault()?;
    ensure!(missing.contains("NXDOMAIN"), "{missing}");
    Ok(())
}

pub(crate) fn no_netfilter_rules(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        for (program, arguments) in [
            ("nft", vec!["list", "ruleset"]),
            ("iptables-save", vec![]),
            ("iptables-legacy-save", vec![]),
        ] {
            let rules = run(
                &mut node.command(program, &arguments),
                Duration::from_secs(10),
            )?;
            let real = rules
                .stdout
                .lines()
                .filter(|line| !line.starts_with('#'))
                .collect::<Vec<_>>();
            ensure!(real.is_empty(), "{program} on {}: {real:?}", node.name);
        }
    }
    Ok(())
}

pub(crate) fn usage_logs_and_exec(cluster: &Cluster) -> Result<()> {
    eventually("usage of nodes and pods", SETTLE, || {
        let nodes = cluster.waggle(&["top", "nodes"])?.ok()?;
        ensure!(
            nodes.lines().count() == 4 && nodes.contains("node3"),
            "{nodes}"
        );
        let pods = cluster.waggle(&["top", "pods", "-n", "shop"])?.ok()?;
        ensure!(
            pods.contains("user-center-") && pods.contains("Mi"),
            "{pods}"
        );
        Ok(())
    })?;
    let logs = cluster
        .waggle(&["logs", "-n", "shop", "deployment/user-center"])?
        .ok()?;
    ensure!(logs.contains("user-center 2.0 on port 8080"), "{logs}");
    let code = cluster.exec(
        "shop",
        "client-node1",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
    )?;
    ensure!(
        code.code == 7 && code.stdout == "out\n" && code.stderr.contains("err"),
        "{code:?}"
    );
    Ok(())
}

/// A client that asks without pause until told to stop, on each of two nodes.
struct Shoppers<'a> {
    cluster: &'a Cluster,
    running: Vec<(String, harness::Background)>,
    stop: &'static str,
}

impl<'a> Shoppers<'a> {
    fn start(cluster: &'a Cluster, stop: &'static str) -> Result<Self> {
        let mut running = Vec::new();
        for pod in ["client-node1", "client-node3"] {
            cluster.exec("shop", pod, &["rm", "-f", stop])?.ok()?;
            for protocol in ["http", "udp"] {
                let target = format!("{SHOP}:80");
                let command = [
                    "shop-client",
                    protocol,
                    &target,
                    "--count",
                    "0",
                    "--interval",
                    "1",
                    "--until",
                    stop,
                ];
                running.push((
                    format!("{protocol} from {pod}"),
                    cluster.exec_background("shop", pod, &command)?,
                ));
            }
        }
        Ok(Self {
            cluster,
            running,
            stop,
        })
    }

    /// Stops them; not one request may have failed.
    fn finish(self) -> Result<Vec<Value>> {
        for pod in ["client-node1", "client-node3"] {
            self.cluster
                .exec("shop", pod, &["touch", self.stop])?
                .ok()?;
        }
        let mut reports = Vec::new();
        for (name, shopper) in self.running {
            let output = shopper.finish(SETTLE)?;
            let report: Value = serde_json::from_str(&output.stdout)
                .with_context(|| format!("{name}: {output:?}"))?;
            ensure!(
                report["failed"] == 0 && report["ok"].as_u64() > Some(30),
                "{name}: {report}"
            );
            reports.push(report);
        }
        Ok(reports)
    }
}

pub(crate) fn scaling_loses_no_request(cluster: &Cluster) -> Result<()> {
    let shoppers = Shoppers::start(cluster, "/tmp/stop-scaling")?;
    for replicas in ["10", "2"] {
        cluster
            .waggle(&[
                "scale",
                "deployment/user-center",
                "-n",
                "shop",
                "--replicas",
                replicas,
            ])?
            .ok()?;
        cluster.rolled_out("shop", "user-center")?;
        eventually(&format!("{replicas} pods"), SETTLE, || {
            let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
            let count = pods["items"].as_array().map_or(0, Vec::len);
            ensure!(count.to_string() == replicas, "{count} pods");
            Ok(())
        })?;
        // Nodes hear of backends a moment after the Deployment does.
        let mut failed = None;
        eventually(&format!("spread over {replicas}"), SETTLE, || {
            // With 200 requests, the chance that one of ten backends is never chosen is below one in ten million.
            let target = format!("{SHOP}:80");
            let request = ["http", target.as_str(), "--count", "200"];
            let report = client(cluster, "shop", "client-node2", &request)?;
            if report["failed"] != 0 {
                failed = Some(report);
                return Ok(());
            }
            let pods = report["pods"].as_object().map_or(0, serde_json::Map::len);
            ensure!(pods.to_string() == replicas, "{report}");
            Ok(())
        })?;
        ensure!(failed.is_none(), "requests failed: {failed:?}");
    }
    shoppers.finish().map(drop)
}

pub(crate) fn rolling_update_loses_no_request(cluster: &Cluster) -> Result<()> {
    cluster
        .waggle(&[
            "scale",
            "deployment/user-center",
            "-n",
            "shop",
            "--replicas",
            "3",
        ])?
        .ok()?;
    cluster.rolled_out("shop", "user-center")?;
    let shoppers = Shoppers::start(cluster, "/tmp/stop-rolling")?;
    set_version(cluster, "2.1")?;
    cluster.rolled_out("shop", "user-center")?;
    let reports = shoppers.finish()?;
    for report in &reports {
        let versions = &report["versions"];
        ensure!(
            versions["2.0"].as_u64() > Some(0) && versions["2.1"].as_u64() > Some(0),
            "versions: {report}"
        );
    }
    Ok(())
}

fn set_version(cluster: &Cluster, version: &str) -> Result<()> {
    let manifest = std::fs::read_to_string(
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/shop.yaml"),
    )?;
    cluster
        .apply(&manifest.replace(
            "shop/user-center:2.0",
            &format!("shop/user-center:{version}"),
        ))?
        .ok()
        .map(drop)
}
