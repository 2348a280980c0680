//! What dies comes back without its users noticing: the server, an agent, a node; and at the end nothing is left.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Background, Cluster, eventually, run};
use serde_json::Value;

use crate::serving::{client, vip};

const SETTLE: Duration = Duration::from_secs(60);
/// How long a killed agent may be away.
const BACK: Duration = Duration::from_secs(5);
const SHOP: &str = "user-center.shop.svc.cluster.local:80";

/// Connections over which requests go on each 20 ms, until [`Held::finish`].
struct Held<'a> {
    cluster: &'a Cluster,
    pod: &'static str,
    stop: &'static str,
    running: Vec<Background>,
}

impl<'a> Held<'a> {
    fn start(cluster: &'a Cluster, pod: &'static str, stop: &'static str) -> Result<Self> {
        cluster.exec("shop", pod, &["rm", "-f", stop])?.ok()?;
        let verbs = ["hold", "hold", "http", "udp"];
        let start = |verb: &&str| {
            let command = [
                "shop-client",
                verb,
                SHOP,
                "--count",
                "0",
                "--interval",
                "20",
                "--until",
                stop,
            ];
            cluster.exec_background("shop", pod, &command)
        };
        Ok(Self {
            cluster,
            pod,
            stop,
            running: verbs.iter().map(start).collect::<Result<_>>()?,
        })
    }

    fn finish(self) -> Result<()> {
        self.cluster
            .exec("shop", self.pod, &["touch", self.stop])?
            .ok()?;
        for connection in self.running {
            let output = connection.finish(SETTLE)?;
            let report: Value =
                serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
            ensure!(
                report["failed"] == 0 && report["ok"].as_u64() > Some(20),
                "{}: {report}",
                output.command
            );
        }
        Ok(())
    }
}

pub(crate) fn server_killed(cluster: &Cluster) -> Result<()> {
    let before = cluster.json(&["pods,services,deployments", "-A"])?;
    cluster
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: acknowledged, namespace: shop}\ndata: {a: b}\n")?
        .ok()?;
    let door = SocketAddr::from(([127, 0, 0, 1], harness::free_ports(1)?));
    cluster
        .waggle(&["dev", "publish", &format!("{door}=shop/user-center:80")])?
        .ok()?;
    eventually("the door answers", SETTLE, || ask(door))?;
    cluster.kill("server")?;
    // Without a server nobody can exec; the published door shows that services go on.
    for request in 0..100 {
        let page = ask(door).with_context(|| format!("request {request} without a server"))?;
        ensure!(
            page["app"] == "user-center" && page["visits"].is_i64(),
            "{page}"
        );
    }
    ensure!(
        cluster.waggle(&["get", "pods"])?.code != 0,
        "the server is still there"
    );
    cluster.start()?;
    cluster
        .waggle(&["get", "configmap", "acknowledged", "-n", "shop"])?
        .ok()?;
    let after = cluster.json(&["pods,services,deployments", "-A"])?;
    ensure!(
        uids(&before) == uids(&after),
        "objects changed:\n{:?}\n{:?}",
        uids(&before),
        uids(&after)
    );
    eventually("all nodes Ready", SETTLE, || {
        let nodes = cluster.waggle(&["get", "nodes"])?.ok()?;
        ensure!(nodes.matches(" Ready").count() == 3, "{nodes}");
        Ok(())
    })?;
    let restarts = restarts(&after);
    ensure!(restarts == 0, "{restarts} containers were restarted");
    let report = client(
        cluster,
        "shop",
        "client-node2",
        &["http", SHOP, "--count", "20"],
    )?;
    ensure!(report["failed"] == 0, "{report}");
    Ok(())
}

/// `GET /`, over a new connection.
fn ask(address: SocketAddr) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without a body")?;
    serde_json::from_str(body).with_context(|| format!("no JSON: {text}"))
}

fn uids(list: &Value) -> BTreeSet<String> {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter_map(|item| Some(item["metadata"]["uid"].as_str()?.to_owned()))
        .collect()
}

fn restarts(list: &Value) -> u64 {
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let statuses = items.iter().flat_map(|item| {
        item["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    });
    statuses
        .filter_map(|status| status["restartCount"].as_u64())
        .sum()
}

pub(crate) fn agent_killed(cluster: &Cluster) -> Result<()> {
    // Its container ends while no agent looks; the exit code must be known all the same.
    let pod = |node: &str, seconds: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: ends, namespace: shop}}\nspec:\n  restartPolicy: Never\n  nodeSelector: \
             {{kubernetes.io/hostname: {node}}}\n  containers: [{{name: main, image: shop/client:1.0, command: [sh, -c, \"sleep {seconds}; exit 42\"]}}]\n"
        )
    };
    cluster.apply(&pod("node2", 4))?.ok()?;
    eventually("the pod runs", SETTLE, || {
        let phase = cluster.json(&["pod", "ends", "-n", "shop"])?["status"]["phase"].clone();
        ensure!(phase == "Running", "{phase}");
        Ok(())
    })?;
    let before = cluster.json(&["pods", "-n", "shop"])?;
    // Client on node1, so that its exec streams live on; its backends are on the killed agent's node too.
    let held = Held::start(cluster, "client-node1", "/tmp/stop-agent")?;
    let killed = cluster.pid("node2")?;
    cluster.kill("node2")?;
    // Nobody starts it but its supervisor; its pods have names again when it answers.
    let resolve = ["nslookup", "user-center.shop.svc.cluster.local"];
    eventually("the agent is back and answers DNS", BACK, || {
        ensure!(cluster.pid("node2")? != killed, "not started");
        cluster.exec("shop", "client-node2", &resolve)?.ok()
    })?;
    cluster.start()?;
    ensure!(
        cluster.pid("node2")? != killed,
        "the agent is not where its pid file says"
    );
    eventually(
        "the exit code of a container that ended meanwhile",
        SETTLE,
        || {
            let pod = cluster.json(&["pod", "ends", "-n", "shop"])?;
            let code = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
            ensure!(*code == 42, "{}", pod["status"]);
            Ok(())
        },
    )?;
    held.finish()?;
    let after = cluster.json(&["pods", "-n", "shop"])?;
    ensure!(
        uids(&before) == uids(&after) && restarts(&after) == 0,
        "containers were not adopted: {after}"
    );
    cluster
        .waggle(&["delete", "pod", "ends", "-n", "shop"])?
        .ok()
        .map(drop)
}

pub(crate) fn upgrade_in_place(cluster: &Cluster) -> Result<()> {
    let before = cluster.json(&["pods", "-A"])?;
    cluster.start()?;
    let after = cluster.json(&["pods", "-A"])?;
    ensure!(
        uids(&before) == uids(&after) && restarts(&after) == 0,
        "{after}"
    );
    // Another program: the supervisors become it under their containers.
    let program = cluster.folder().join("another-waggle");
    let own = std::env::var_os("WAGGLE_BIN").context("WAGGLE_BIN is not set")?;
    std::fs::copy(own, &program)?;
    // What has the same content is no other program to `dev up`.
    let mut file = std::fs::OpenOptions::new().append(true).open(&program)?;
    file.write_all(b"another")?;
    drop(file);
    cluster.start_by(&program)?;
    let after = cluster.json(&["pods", "-A"])?;
    ensure!(
        uids(&before) == uids(&after) && restarts(&after) == 0,
        "{after}"
    );
    for node in cluster.nodes() {
        eventually("the node's supervisor is the new program", SETTLE, || {
            let programs = supervisors(cluster, &node.name)?;
            ensure!(programs.len() >= 2, "{programs:?}");
            ensure!(programs.iter().all(|p| *p == program), "{programs:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What the processes of a node's supervisor run.
fn supervisors(cluster: &Cluster, node: &str) -> Result<Vec<PathBuf>> {
    let folder = cluster.folder().join(node).join("runtime");
    let folder = folder.to_string_lossy().into_owned();
    let mut programs = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let process = entry?.path();
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("\0supervisor\0") && line.contains(&format!("\0{folder}\0")) {
            programs.push(std::fs::read_link(process.join("exe"))?);
        }
    }
    Ok(programs)
}

pub(crate) fn lost_node_is_replaced(cluster: &Cluster) -> Result<()> {
    let lost = cluster.node(3);
    run(
        &mut lost.command("ip", &["link", "set", "eth0", "down"]),
        Duration::from_secs(5),
    )?
    .ok()?;
    let replaced = eventually(
        "three user-centers on the other nodes, and endpoints to match",
        2 * SETTLE,
        || {
            let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
            let items = pods["items"].as_array().cloned().unwrap_or_default();
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                pod["spec"]["nodeName"] != "node3"
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && conditions.iter().any(|condition| {
                        condition["type"] == "Ready" && condition["status"] == "True"
                    })
            };
            ensure!(
                items.iter().filter(ready).count() == 3,
                "{}",
                cluster
                    .waggle(&["get", "pods", "-n", "shop", "-o", "wide"])?
                    .stdout
            );
            let slices = cluster.json(&[
                "endpointslices",
                "-n",
                "shop",
                "-l",
                "kubernetes.io/service-name=user-center",
            ])?;
            let text = slices.to_string();
            let report = client(
                cluster,
                "shop",
                "client-node1",
                &["http", SHOP, "--count", "60"],
            )?;
            ensure!(report["failed"] == 0, "{report}\n{text}");
            Ok(())
        },
    );
    run(
        &mut lost.command("ip", &["link", "set", "eth0", "up"]),
        Duration::from_secs(5),
    )?
    .ok()?;
    replaced?;
    eventually("the node is Ready again", SETTLE, || {
        let nodes = cluster.waggle(&["get", "nodes"])?.ok()?;
        ensure!(nodes.matches(" Ready").count() == 3, "{nodes}");
        Ok(())
    })?;
    // Its own view is current again too.
    let vip = vip(cluster, "shop", "user-center")?;
    eventually("the returned node serves", SETTLE, || {
        let output = run(
            &mut lost.command("ip", &["link", "show", "eth0"]),
            Duration::from_secs(5),
        )?
        .ok()?;
        ensure!(output.contains("state UP"), "{output}");
        let pods = cluster.json(&["pods", "-n", "shop", "-l", "app=user-center"])?;
        ensure!(
            pods["items"]
                .as_array()
                .is_some_and(|items| items.len() == 3),
            "{vip}: {pods}"
        );
        Ok(())
    })
}

pub(crate) fn down_leaves_no_trace(cluster: &Cluster) -> Result<()> {
    cluster.down()?;
    let mut names = std::fs::read_dir("/run/netns")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let prefixes = ["waggle-wgt-node", "waggle-wgt-fabric"];
    let left = names.find(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)));
    ensure!(left.is_none(), "namespace: {left:?}");
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let left: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains("waggle-wgt-node") || line.contains("waggle-tests/wgt/"))
        .collect();
    ensure!(left.is_empty(), "mounts: {left:?}");
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.filter_map(Result::ok) {
        let folder = hierarchy.path().join("waggle/wgt");
        ensure!(!folder.exists(), "cgroup: {}", folder.display());
    }
    ensure!(
        !cluster.folder().exists(),
        "state: {}",
        cluster.folder().display()
    );
    let mut left = Vec::new();
    for process in std::fs::read_dir("/proc")?.filter_map(Result::ok) {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command).replace('\0', " ");
        if text.contains("waggle-tests/wgt/") {
            left.push(text);
        }
    }
    ensure!(left.is_empty(), "processes: {left:?}");
    Ok(())
}
