//! Callers outside of the cluster: node ports, load balancers' addresses, host ports. The namespace that joins the nodes
//! plays the outside: it has an address on their link and belongs to none of them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Cluster, Node, eventually, run};
use serde_json::Value;

use crate::serving::{client, pod_is_ready};

const OUTSIDE: &str = "172.30.0.1";
/// An external address of a Service, which somebody else routes to a node.
const ROUTED: &str = "198.51.100.9";
const SETTLE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);
/// Enough for one of them to be announced by each node, but for once in a thousand runs.
const BALANCERS: usize = 6;

fn address(node: &Node) -> String {
    let number: u32 = node.name.trim_start_matches("node").parse().unwrap_or(0);
    format!("172.30.0.{}", 10 + number)
}

/// Runs the sample client outside and decodes its report.
fn ask(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let binary = std::env::var_os("WAGGLE_BIN").context("WAGGLE_BIN")?;
    let program = PathBuf::from(binary).with_file_name("shop-client");
    let program = program.to_string_lossy();
    let output = run(&mut cluster.fabric().command(&program, arguments), LIMIT)?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no report: {output:?}"))
}

fn names(report: &Value, field: &str) -> Vec<String> {
    let found = report[field].as_object();
    found
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

/// Every one of 60 calls was answered.
fn answered(report: &Value, what: &str) -> Result<()> {
    ensure!(
        report["ok"] == 60 && report["failed"] == 0,
        "{what}: {report}"
    );
    Ok(())
}

fn service(name: &str, app: &str, fields: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{selector: {{app: {app}}}, {fields}, \
         ports: [{{name: http, port: 80, targetPort: 8080}}, {{name: udp, port: 80, targetPort: 8080, protocol: UDP}}]}}}}\n"
    )
}

/// The number of a Service's node port.
fn node_port(cluster: &Cluster, name: &str, port: &str) -> Result<u64> {
    let found = cluster.json(&["service", name, "-n", "shop"])?;
    let ports = found["spec"]["ports"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let port = ports.iter().find(|one| one["name"] == port);
    let port = port.with_context(|| format!("no port {port:?}: {found}"))?;
    port["nodePort"]
        .as_u64()
        .with_context(|| format!("no number: {port}"))
}

pub(crate) fn node_ports(cluster: &Cluster) -> Result<()> {
    let fields = format!("type: NodePort, externalIPs: [\"{ROUTED}\"]");
    cluster
        .apply(&service("at-nodes", "user-center", &fields))?
        .ok()?;
    // Something else than the cluster leads that address to a node.
    let second = address(&cluster.node(2));
    let route = ["route", "replace", ROUTED, "via", &second];
    run(&mut cluster.fabric().command("ip", &route), LIMIT)?.ok()?;
    let target = format!("{ROUTED}:80");
    eventually(&target, SETTLE, || {
        answered(&ask(cluster, &["http", &target, "--count", "60"])?, &target)
    })?;
    for (protocol, port) in [("http", "http"), ("udp", "udp")] {
        let number = node_port(cluster, "at-nodes", port)?;
        for node in cluster.nodes() {
            let target = format!("{}:{number}", address(&node));
            let what = format!("{protocol} {target}");
            eventually(&what, SETTLE, || {
                let report = ask(cluster, &[protocol, &target, "--count", "60"])?;
                answered(&report, &what)?;
                ensure!(names(&report, "pods").len() == 3, "not spread: {report}");
                // Who answers on another node sees the node that was called.
                let callers = names(&report, "callers");
                let known = [OUTSIDE.to_owned(), address(&node)];
                ensure!(callers.iter().all(|one| known.contains(one)), "{report}");
                Ok(())
            })?;
            let report = client(
                cluster,
                "shop",
                "client-node1",
                &[protocol, &target, "--count", "60"],
            )?;
            answered(&report, &format!("{what} from a pod"))?;
        }
    }
    Ok(())
}

/// A Service of both families, by its second virtual address and by node ports at nodes' second addresses.
pub(crate) fn both_families_are_served(cluster: &Cluster) -> Result<()> {
    let fields = "type: NodePort, ipFamilyPolicy: RequireDualStack";
    let manifest = service("both", "user-center", fields);
    cluster.apply(&manifest)?.ok()?;
    let found = cluster.json(&["service", "both", "-n", "shop"])?;
    let vip = found["spec"]["clusterIPs"][1].as_str();
    let vip = vip.with_context(|| format!("one address: {found}"))?;
    for (protocol, port) in [("http", "http"), ("udp", "udp")] {
        let number = node_port(cluster, "both", port)?;
        let target = format!("[{vip}]:80");
        eventually(&format!("{protocol} {target}"), SETTLE, || {
            for node in cluster.nodes() {
                let client_pod = format!("client-{}", node.name);
                let arguments = [protocol, &target, "--count", "60"];
                let report = client(cluster, "shop", &client_pod, &arguments)?;
                answered(&report, &target)?;
                ensure!(names(&report, "pods").len() == 3, "not spread: {report}");
                ensure!(report["peer"] == target.as_str(), "{report}");
            }
            Ok(())
        })?;
        for node in cluster.nodes() {
            let address = address(&node).replace("172.30.0.", "fd00:172:30::");
            let target = format!("[{address}]:{number}");
            let report = ask(cluster, &[protocol, &target, "--count", "60"])?;
            answered(&report, &target)?;
            let callers = names(&report, "callers");
            ensure!(
                callers.iter().all(|one| one.starts_with("fd00:172:30::")),
                "{report}"
            );
        }
    }
    Ok(())
}

/// One pod on the first node, reached by a node port that keeps callers' addresses, and by a port of its host.
pub(crate) fn callers_are_kept(cluster: &Cluster) -> Result<()> {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: lone, namespace: shop, labels: {app: lone}}, spec: {nodeName: node1, \
               containers: [{name: front, image: \"shop/user-center:2.0\", ports: [{containerPort: 8080, hostPort: 8088}]}]}}";
    let lone = service(
        "lone",
        "lone",
        "type: NodePort, externalTrafficPolicy: Local",
    );
    cluster.apply(&format!("{pod}\n---\n{lone}"))?.ok()?;
    pod_is_ready(cluster, "shop", "lone")?;
    let number = node_port(cluster, "lone", "http")?;
    for (index, node) in cluster.nodes().iter().enumerate() {
        for port in [number, 8088] {
            let target = format!("{}:{port}", address(node));
            eventually(&format!("callers of {target} are kept"), SETTLE, || {
                let report = ask(
                    cluster,
                    &["http", &target, "--count", "60", "--timeout", "2000"],
                )?;
                if index == 0 {
                    answered(&report, &target)?;
                    ensure!(names(&report, "callers") == [OUTSIDE], "{report}");
                } else {
                    // Nobody serves there, and that is said at once.
                    ensure!(report["ok"] == 0, "{report}");
                    let refused = report["errors"].to_string().contains("[ECONNREFUSED]");
                    ensure!(
                        refused && report["slowest_ms"].as_f64() < Some(1000.0),
                        "{report}"
                    );
                }
                Ok(())
            })?;
        }
    }
    cluster
        .waggle(&["delete", "pod/lone", "service/lone", "-n", "shop"])?
        .ok()?;
    Ok(())
}

pub(crate) fn load_balancers(cluster: &Cluster) -> Result<()> {
    let fields = "type: LoadBalancer, ipFamilyPolicy: PreferDualStack";
    let manifests: Vec<String> = (0..BALANCERS)
        .map(|number| service(&format!("balancer-{number}"), "user-center", fields))
        .collect();
    cluster.apply(&manifests.join("---\n"))?.ok()?;
    every_balancer_answers(cluster)?;
    let found = cluster.json(&["service", "balancer-0", "-n", "shop"])?;
    for target in balanced(&found)? {
        let arguments = ["http", &target, "--count", "60"];
        let report = client(cluster, "shop", "client-node2", &arguments)?;
        answered(&report, &format!("{target} from a pod"))?;
    }
    Ok(())
}

/// The addresses that a Service has of the pool, one of each family, with its port.
fn balanced(service: &Value) -> Result<Vec<String>> {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
    let addresses = ingress
        .into_iter()
        .flatten()
        .filter_map(|one| one["ip"].as_str());
    let targets: Vec<String> = addresses
        .map(|address| match address.contains(':') {
            true => format!("[{address}]:80"),
            false => format!("{address}:80"),
        })
        .collect();
    ensure!(targets.len() == 2, "pending: {}", service["status"]);
    Ok(targets)
}

fn every_balancer_answers(cluster: &Cluster) -> Result<()> {
    for number in 0..BALANCERS {
        let name = format!("balancer-{number}");
        eventually(&format!("{name} answers"), LIMIT, || {
            let found = cluster.json(&["service", &name, "-n", "shop"])?;
            for target in balanced(&found)? {
                let report = ask(
                    cluster,
                    &["http", &target, "--count", "60", "--timeout", "500"],
                )?;
                answered(&report, &target)?;
                ensure!(names(&report, "pods").len() == 3, "not spread: {report}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// After a node was lost: what it announced is announced by another one.
pub(crate) fn load_balancers_outlive_a_node(cluster: &Cluster) -> Result<()> {
    every_balancer_answers(cluster)
}
