//! What people see of the datapath: denied calls in the flow log with names and reason, counters that are exact, metrics
//! in Prometheus' format, and nothing of it for those who may not.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness::{Cluster, eventually};
use serde_json::Value;

use crate::serving::{client, vip};

const NODE: &str = "node2";

/// A call over the tenant wall is in the flow log within two seconds, with its reason and the names of both ends.
pub(crate) fn denied_call_is_in_the_flow_log(cluster: &Cluster) -> Result<()> {
    let shop = format!("{}:80", vip(cluster, "shop", "user-center")?);
    let follower = Follower::start(
        cluster,
        &["--verdict", "drop", "--tenant", "billing", "--node", NODE],
    )?;
    let pod = format!("client-{NODE}");
    let report = client(
        cluster,
        "billing",
        &pod,
        &["http", &shop, "--timeout", "5000"],
    )?;
    ensure!(report["failed"] == 1, "billing reached the shop: {report}");
    let called = Instant::now();
    let flow = eventually(
        "the denied call in the flow log",
        Duration::from_secs(2),
        || {
            let flows = flows(
                cluster,
                &["--verdict", "drop", "--tenant", "billing", "--since", "30s"],
            )?;
            let found = flows.into_iter().rev().find(|flow| {
                flow["source"]["name"] == pod.as_str()
                    && flow["destination"]["name"] == "user-center"
            });
            found.with_context(|| format!("not there {:?} after the call", called.elapsed()))
        },
    )?;
    for (field, expect) in [
        ("/type", "flow"),
        ("/node", NODE),
        ("/verdict", "drop"),
        ("/reason", "tenant_wall"),
        ("/protocol", "tcp"),
        ("/source/kind", "pod"),
        ("/source/namespace", "billing"),
        ("/source/tenant", "billing"),
        ("/destination/kind", "service"),
        ("/destination/namespace", "shop"),
    ] {
        let found = flow.pointer(field).and_then(Value::as_str);
        ensure!(found == Some(expect), "{field} is not {expect}: {flow}");
    }
    ensure!(flow["destination"]["port"] == 80, "{flow}");
    let elsewhere = flows(
        cluster,
        &["--tenant", "billing", "--node", "node3", "--since", "10s"],
    )?;
    ensure!(
        elsewhere.is_empty(),
        "node3 saw nothing of it: {elsewhere:?}"
    );
    let text = cluster
        .waggle(&["flows", "-n", "shop", "--reason", "tenant_wall"])?
        .ok()?;
    let line = format!("billing/{pod}");
    ensure!(text.contains(&line), "for people: {text}");
    eventually(
        "the call told to who follows",
        Duration::from_secs(5),
        || {
            let heard = follower.heard()?;
            ensure!(heard.contains(&pod), "heard: {heard}");
            Ok(())
        },
    )
}

/// Calls that are let through are told to who follows, and counted for the service that was called.
pub(crate) fn calls_are_heard_and_counted_for_their_service(cluster: &Cluster) -> Result<()> {
    const CALLS: u64 = 10;
    let shop = format!("{}:80", vip(cluster, "shop", "user-center")?);
    let pod = format!("client-{NODE}");
    let call = |count: u64| -> Result<()> {
        let arguments = ["http", &shop, "--count", &count.to_string()];
        let report = client(cluster, "shop", &pod, &arguments)?;
        ensure!(report["ok"] == count, "the shop answers: {report}");
        Ok(())
    };
    let before = calls(cluster)?;
    call(CALLS)?;
    let after = calls(cluster)?;
    ensure!(
        after >= before + CALLS,
        "{CALLS} calls: {before} before, {after} after"
    );
    let follower = Follower::start(cluster, &["--node", NODE, "--tenant", "shop"])?;
    eventually("a call is heard", Duration::from_secs(10), || {
        call(1)?;
        let heard = follower.heard()?;
        let found = heard.lines().any(|line| {
            line.contains("\"translate\"") && line.contains(&pod) && line.contains("user-center")
        });
        ensure!(found, "heard: {heard}");
        Ok(())
    })
}

/// Of the shop's front, at one node.
fn calls(cluster: &Cluster) -> Result<u64> {
    let arguments = [
        "flows",
        "--counters=services",
        "-n",
        "shop",
        "--node",
        NODE,
        "-o",
        "json",
    ];
    let text = cluster.waggle(&arguments)?.ok()?;
    let rows: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let row = rows.iter().find(|row| row["service"] == "user-center");
    row.map_or(Ok(0), |row| row["calls"].as_u64().context("calls"))
}

/// `waggle flows -f` that writes to a file; ended when dropped.
struct Follower {
    process: Child,
    output: PathBuf,
}

impl Follower {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Result<Self> {
        let output = cluster.folder().join("flows.out");
        let all = [&["flows", "-f", "-o", "json"], arguments].concat();
        let process = cluster
            .command(&all)
            .stdout(File::create(&output)?)
            .spawn()?;
        Ok(Self { process, output })
    }

    fn heard(&self) -> Result<String> {
        std::fs::read_to_string(&self.output).context("what the follower heard")
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn flows(cluster: &Cluster, arguments: &[&str]) -> Result<Vec<Value>> {
    let all = [&["flows", "-o", "json"], arguments].concat();
    let text = cluster.waggle(&all)?.ok()?;
    let lines = text.lines().map(serde_json::from_str);
    lines
        .collect::<Result<_, _>>()
        .context("flows are JSON lines")
}

/// As many as there were, no more and no less.
pub(crate) fn counters_grow_by_what_was_denied(cluster: &Cluster) -> Result<()> {
    const CALLS: u64 = 40;
    let shop = format!("{}:80", vip(cluster, "shop", "user-center")?);
    let before = denied(cluster)?;
    for protocol in ["http", "udp"] {
        let count = (CALLS / 2).to_string();
        let arguments = [protocol, &shop, "--count", &count, "--timeout", "5000"];
        let report = client(cluster, "billing", &format!("client-{NODE}"), &arguments)?;
        ensure!(report["failed"] == CALLS / 2, "{protocol}: {report}");
    }
    let after = denied(cluster)?;
    ensure!(
        after == before + CALLS,
        "{CALLS} calls were denied; {before} before, {after} after"
    );
    Ok(())
}

fn denied(cluster: &Cluster) -> Result<u64> {
    let arguments = [
        "flows",
        "--counters",
        "--node",
        NODE,
        "--reason",
        "tenant_wall",
        "-o",
        "json",
    ];
    let text = cluster.waggle(&arguments)?.ok()?;
    let count: Value =
        serde_json::from_str(&text).with_context(|| format!("no counter: {text}"))?;
    count["packets"].as_u64().context("packets")
}

/// Of the server and of a node, for whoever may. A tenant's user sees flows of the namespaces that their roles name.
pub(crate) fn metrics_are_told_to_those_who_may(cluster: &Cluster) -> Result<()> {
    let admin = std::fs::read_to_string(cluster.folder().join("server/admin-token"));
    let admin = admin.context("the administrator's token")?;
    let of_node = format!("/api/v1/nodes/{NODE}/proxy/metrics");
    let (code, text) = ask(cluster, &admin, &of_node)?;
    ensure!(code == 200, "{code}: {text}");
    let names = check_format(&text)?;
    for name in [
        "waggle_datapath_verdicts_total",
        "waggle_datapath_table_rows",
        "waggle_datapath_table_limit_rows",
        "container_memory_working_set_bytes",
        "kubelet_running_pods",
        "kube_pod_container_status_restarts_total",
    ] {
        ensure!(names.contains(name), "{name} is missing: {names:?}");
    }
    let sample = r#"waggle_datapath_verdicts_total{reason="tenant_wall",verdict="drop"} "#;
    let told = text.lines().find_map(|line| line.strip_prefix(sample));
    let told: u64 = told.context("the tenant wall's counter")?.parse()?;
    ensure!(told == denied(cluster)?, "{told}");
    let (code, text) = ask(cluster, &admin, "/metrics")?;
    ensure!(code == 200, "{code}: {text}");
    let names = check_format(&text)?;
    for name in [
        "apiserver_request_total",
        "apiserver_request_duration_seconds_bucket",
        "apiserver_storage_objects",
        "apiserver_storage_size_bytes",
        "scheduler_pending_pods",
        "scheduler_schedule_attempts_total",
        "waggle_nodes_connected",
    ] {
        ensure!(names.contains(name), "{name} is missing: {names:?}");
    }
    let nodes = format!("waggle_nodes_connected {}", cluster.nodes().len());
    ensure!(text.lines().any(|line| line == nodes), "{nodes} is missing");
    let pod = token(cluster, "shop", "default", &admin)?;
    for path in [
        "/metrics",
        &of_node,
        "/apis/waggle.dev/v1/flows",
        "/apis/waggle.dev/v1/namespaces/shop/flows",
    ] {
        let (code, text) = ask(cluster, &pod, path)?;
        ensure!(code == 403, "a pod was told {path}: {code} {text}");
        let (code, text) = ask(cluster, "", path)?;
        ensure!(code == 401, "nobody was told {path}: {code} {text}");
    }
    tenants_user_sees_their_own(cluster, &pod)
}

fn tenants_user_sees_their_own(cluster: &Cluster, token: &str) -> Result<()> {
    let binding = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewers, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: default, namespace: shop}]
"#;
    cluster.apply(binding)?.ok()?;
    let (code, text) = ask(cluster, token, "/apis/waggle.dev/v1/flows")?;
    ensure!(code == 403, "the whole cluster's: {code} {text}");
    let own = "/apis/waggle.dev/v1/namespaces/shop/flows?reason=tenant_wall";
    let (code, text) = ask(cluster, token, own)?;
    ensure!(code == 200 && text.contains("user-center"), "{code} {text}");
    ensure!(
        text.contains(r#""tenant":"billing""#) && !text.contains("client-"),
        "names of another tenant's pods are shown: {text}"
    );
    let delete = ["delete", "rolebinding/viewers", "-n", "shop"];
    cluster.waggle(&delete)?.ok().map(drop)
}

/// A token of a ServiceAccount.
fn token(cluster: &Cluster, namespace: &str, account: &str, admin: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let body = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}"#;
    let post = ["-H", "Content-Type: application/json", "-d", body];
    let (code, text) = request(cluster, admin, &path, &post)?;
    ensure!(code == 201, "{code}: {text}");
    let answer: Value = serde_json::from_str(&text)?;
    let token = answer["status"]["token"].as_str();
    Ok(token.context("no token")?.to_owned())
}

/// GET with a bearer token; its code and body.
fn ask(cluster: &Cluster, token: &str, path: &str) -> Result<(u16, String)> {
    request(cluster, token, path, &[])
}

fn request(
    cluster: &Cluster,
    token: &str,
    path: &str,
    arguments: &[&str],
) -> Result<(u16, String)> {
    let url = format!("https://127.0.0.1:{}{path}", cluster.api_port());
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--max-time", "10", "-w", "\n%{http_code}", &url]);
    curl.args(arguments);
    if !token.is_empty() {
        let header = format!("Authorization: Bearer {}", token.trim());
        curl.args(["-H", &header]);
    }
    let output = harness::run(&mut curl, Duration::from_secs(15))?.ok()?;
    let (body, code) = output.trim_end().rsplit_once('\n').context("no answer")?;
    Ok((code.parse().context("no code")?, body.to_owned()))
}

/// Every sample belongs to a metric with HELP and TYPE before it, has well-formed labels and a number, and is there once.
fn check_format(text: &str) -> Result<BTreeSet<String>> {
    let (mut names, mut seen, mut current) = (BTreeSet::new(), BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            current = rest.split(' ').next().unwrap_or_default().to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            ensure!(name == current, "TYPE without HELP: {line}");
            ensure!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
        ensure!(
            value == "+Inf" || value.parse::<f64>().is_ok(),
            "no number: {line}"
        );
        ensure!(seen.insert(sample.to_owned()), "told twice: {line}");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        ensure!(
            name.starts_with(&current) && !current.is_empty(),
            "no HELP before {line}"
        );
        let labels = labels.strip_suffix('}').with_context(|| line.to_owned())?;
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            if !label.contains("=\"") {
                bail!("no label {label:?}: {line}");
            }
        }
        names.insert(name.to_owned());
    }
    Ok(names)
}
